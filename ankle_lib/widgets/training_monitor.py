"""How a training goes, while it goes: its tables are read again and again."""

import io
import os
import threading
from pathlib import Path
from typing import Any, Self

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ankle_lib.figures.charts import log_axis
from ankle_lib.figures.style import BONE_COLOURS, new_figure
from ankle_lib.widgets.view import View, button

KEPT_CSV = "losses.csv"
"""What `training.train_once` keeps of all steps when a training is finished."""
POLL_S = 1.0
SMOOTHED = 20
"""The thick line is a mean over this part (1 / 20) of all steps."""
DPI = 80
LOSS_COLOUR = "#0072B2"


class TrainingMonitor(View):
    """Loss and Dice of a training, from the tables that `training.train` writes as it goes.

    ``with TrainingMonitor(folder):`` shows the training inside the block and follows it; the
    picture after the block is the final one, also in a notebook that ran without a browser. A
    training of another process is followed by `follow` and `stop`, or by the button.

    Parameters
    ----------
    folder : Path
        Of one training, or a folder of many: the one written last is shown, and inside a ``with``
        block only what is written there.
    """

    def __init__(self, folder: Path) -> None:
        # here, for a notebook without a training shall not depend on its code
        from ankle_lib.learning.training import EPOCHS_CSV, STEPS_CSV

        self._names, self._epochs = (STEPS_CSV, KEPT_CSV), EPOCHS_CSV
        self._known: tuple[Any, ...] = ()
        self._one_at_a_time = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        super().__init__()
        self.image = ipywidgets.Image(format="png")
        self.image.layout.align_self = "flex-start"  # in its own size, or it would be blurred
        self.status = ipywidgets.HTML()
        self.again = button("Read again", lambda: self.refresh())
        self.show_rows(self.image, ipywidgets.HBox([self.again, self.status]))
        self._start(Path(folder), 0)

    def __enter__(self) -> Self:
        from IPython.display import display  # where there is a notebook, it appears at once

        self._start(self._folder, max(map(_written, self._tables()), default=0))
        display(self)
        self.follow()
        return self

    def __exit__(self, *_: object) -> None:
        self._since = 0
        self.stop()

    def look_at(self, folder: Path) -> None:
        """Show the training of another folder, whenever that was."""
        self._start(Path(folder), 0)

    def follow(self, poll_s: float = POLL_S) -> None:
        """Look for news every so many seconds until `stop`."""
        self.stop()
        self._stop.clear()

        def watch() -> None:
            while not self._stop.wait(poll_s):
                self.refresh()

        self._thread = threading.Thread(target=watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Follow no longer; what is there now is shown."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self.refresh()

    def refresh(self) -> None:
        """Read the tables and draw them, if there are new ones."""
        with self._one_at_a_time:
            tables = [table for table in self._tables() if _written(table) > self._since]
            if tables:
                self._show(max(tables, key=_written))
            else:
                self.message.say(f"No training in {self._folder} has ended an epoch yet: it has no "
                                 f"new {self._names[0]}.")  # fmt: skip

    def _show(self, table: Path) -> None:
        files = (table, table.parent / self._epochs)
        known = tuple((str(path), _written(path)) for path in files)
        if known == self._known:
            return
        steps, epochs = _read(files[0], {"step", "loss"}), _read(files[1], {"epoch", "step"})
        if steps is None:
            if table.exists():  # a finished training tidies up
                self.message.say(f"{table} is no table of steps and losses.")
            return
        self._known = known
        odd = steps.loc[~np.isfinite(steps["loss"]), "step"]
        self.message.say(
            f"The loss is no number but NaN or infinite at {len(odd)} of {len(steps)} steps, first "
            f"at step {int(odd.iloc[0])}: not drawn." if len(odd) else ""
        )  # fmt: skip
        name = table.parent.relative_to(self._folder).as_posix()
        stream = io.BytesIO()
        figure = training_figure(steps, epochs, "" if name == "." else name)
        figure.savefig(stream, format="png", dpi=DPI)
        self.image.value = stream.getvalue()
        self.status.value = _in_words(steps, epochs)

    def _tables(self) -> list[Path]:
        """Return all tables of steps; folders may vanish while they are looked for."""
        return [Path(place) / name for place, _, files in os.walk(self._folder)
                for name in self._names if name in files]  # fmt: skip

    def _start(self, folder: Path, since: int) -> None:
        """Look at a folder's tables that were written after ``since``, and forget the others."""
        with self._one_at_a_time:
            self._folder, self._since = folder, since
            self._known = ()
            self.image.value, self.status.value = b"", ""
            self.refresh()


def training_figure(steps: pd.DataFrame, epochs: pd.DataFrame | None, title: str = "") -> Figure:
    """Show the loss of each step, and beside it the validation's scores or the learning rate.

    Parameters
    ----------
    steps, epochs : DataFrame
        As in `training.train`, or as `training.train_once` keeps them: where ``stage``
        changes, the patches grow.
    title : str
    """
    known = pd.DataFrame(index=range(0)) if epochs is None else epochs
    scores = list(known.filter(like="dice_")) or list(known.filter(items=["score"]))
    beside = bool(scores) or "learning_rate" in steps
    figure = new_figure(8.6, 3.2)
    panels = figure.subplots(1, 1 + beside, squeeze=False)[0]

    loss = steps["loss"].where(np.isfinite(steps["loss"]))
    width = max(1, len(steps) // SMOOTHED)
    smooth = loss.rolling(width, min_periods=1, center=True).mean()
    panels[0].plot(steps["step"], loss, color=LOSS_COLOUR, lw=0.6, alpha=0.35)
    panels[0].plot(steps["step"], smooth, color=LOSS_COLOUR, lw=2)
    panels[0].set_ylabel("loss")
    if loss.min() > 0:  # some losses may fall below 0
        log_axis(panels[0], "y")
    if scores:
        for column in scores:
            name = column.removeprefix("dice_")
            colour = BONE_COLOURS.get(name, "black")
            panels[1].plot(known["step"], known[column], "o-", color=colour, label=name)
        measure = "score" if scores == ["score"] else "Dice"
        panels[1].set_ylabel(f"{measure} of validation")
        lowest = float(known[scores].where(np.isfinite(known[scores])).min().min())
        panels[1].set_ylim(min(0.0, lowest), 1.02)  # 0 where there is none but NaN
        panels[1].legend(frameon=False, loc="lower right")
    elif beside:
        panels[1].plot(steps["step"], steps["learning_rate"], color=LOSS_COLOUR, lw=2)
        panels[1].set(ylabel="learning rate", ylim=(0, None))
    new_stages = steps.groupby("stage")["step"].min().iloc[1:] if "stage" in steps else ()
    for panel in panels:
        for step in new_stages:
            panel.axvline(step, color="#999999", lw=1, ls=":")
        panel.set_xlabel("batches seen")
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    return figure


def _in_words(steps: pd.DataFrame, epochs: pd.DataFrame | None) -> str:
    text = f"step {int(steps['step'].iloc[-1])}, loss {steps['loss'].iloc[-1]:.3g}"
    if epochs is None or epochs.empty:
        return text
    last = epochs.iloc[-1]
    text += f" · stage {int(last['stage']) + 1}," if "stage" in epochs else " ·"
    text += f" epoch {int(last['epoch'])}"
    if "score" in epochs and epochs["score"].notna().any():
        best = epochs.loc[epochs["score"].idxmax()]
        text += f", score {last['score']:.3f} (best {best['score']:.3f}, epoch {best['epoch']:.0f})"
    if "samples_per_s" in epochs:
        text += f" · {last['samples_per_s']:.3g} patches/s"
    return text


def _read(path: Path, columns: set[str]) -> pd.DataFrame | None:
    """Return the columns of numbers; None if a table is missing, empty or of something else.

    Rows that do not tell their step, epoch or stage are left out.
    """
    try:
        table = pd.read_csv(path).select_dtypes("number")
    except (OSError, ValueError):
        return None
    if not columns <= set(table):
        return None
    table = table[np.isfinite(table.filter(["step", "epoch", "stage"])).all(axis=1)]
    return None if table.empty else table


def _written(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # not there (yet), or just replaced
        return 0
