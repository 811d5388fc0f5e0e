"""How a training goes, while it goes: its tables are read again and again."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import ipywidgets
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ankle_lib.figures import BONE_COLOURS, new_figure
from ankle_lib.widgets.message import Message

__all__ = ["TrainingMonitor", "training_figure"]

POLL_S = 1.0
SMOOTHED = 20
"""The thick line is a mean over this part (1 / 20) of all steps."""
DPI = 80
LOSS_COLOUR = "#0072B2"


class TrainingMonitor(ipywidgets.VBox):
    """Loss and Dice of a training, from the tables that `training.train` writes as it goes.

    ``with TrainingMonitor(folder):`` shows the training inside the block and follows it; the
    picture after the block is the final one, also in a notebook that ran without a browser. A
    training of another process is followed by `follow` and `stop`, or by the button.

    Parameters
    ----------
    folder : Path
        Of one training, or a folder of many: the one written last is shown.
    """

    def __init__(self, folder: Path) -> None:
        # here, for a notebook without a training shall not depend on its code
        from ankle_lib.training.history import EPOCHS_CSV, STEPS_CSV

        self._folder, self._names = Path(folder), (STEPS_CSV, EPOCHS_CSV)
        self._seen: tuple[Any, ...] = ()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.message = Message()
        self.image = ipywidgets.Image(format="png")
        self.status = ipywidgets.HTML()
        self.again = ipywidgets.Button(description="Read again")
        self.again.on_click(lambda _: self.refresh())
        row = ipywidgets.HBox([self.again, self.status])
        super().__init__([self.image, row, self.message])
        self.refresh()

    def __enter__(self) -> TrainingMonitor:
        from IPython.display import display  # where there is a notebook, it appears at once

        display(self)
        self.follow()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

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
        steps_csv, epochs_csv = self._names
        tables = sorted(self._folder.rglob(steps_csv), key=_written)
        if not tables:
            self.message.say(f"{self._folder} holds no {steps_csv} yet: no training has ended an "
                             "epoch there.")  # fmt: skip
            return
        place = tables[-1].parent
        files = (tables[-1], place / epochs_csv)
        seen = tuple((str(path), _written(path)) for path in files)
        if seen == self._seen:
            return
        steps, epochs = _read(files[0], {"step", "loss"}), _read(files[1], {"epoch"})
        if steps is None:
            self.message.say(f"{tables[-1]} is no table of steps and losses.")
            return
        self._seen = seen
        self.message.say()
        name = place.relative_to(self._folder).as_posix()
        self.image.value = _png(training_figure(steps, epochs, "" if name == "." else name))
        self.status.value = _in_words(steps, epochs)


def training_figure(steps: pd.DataFrame, epochs: pd.DataFrame | None, title: str = "") -> Figure:
    """Show the loss of each step, and the validation's scores after each epoch.

    Parameters
    ----------
    steps, epochs : DataFrame
        As in `training.History`.
    title : str
    """
    scores = _scores(epochs)
    figure = new_figure(8.6, 3.2)
    panels = figure.subplots(1, 2) if scores else [figure.subplots()]
    axes = panels[0]
    axes.plot(steps["step"], steps["loss"], color=LOSS_COLOUR, lw=0.6, alpha=0.35)
    width = max(1, len(steps) // SMOOTHED)
    smooth = steps["loss"].rolling(width, min_periods=1, center=True).mean()
    axes.plot(steps["step"], smooth, color=LOSS_COLOUR, lw=2)
    axes.set_yscale("log")
    axes.set_xlabel("batches seen")
    axes.set_ylabel("loss")
    if epochs is not None and scores:
        for column in scores:
            name = column.removeprefix("dice_")
            style: dict[str, Any] = {"color": BONE_COLOURS.get(name, "black"), "marker": "o"}
            panels[1].plot(epochs["epoch"], epochs[column], label=name, **style)
        panels[1].set_xlabel("epoch")
        dice = scores[0].startswith("dice_")
        panels[1].set_ylabel("Dice of validation" if dice else "score of validation")
        panels[1].set_ylim(min(0.0, float(epochs[scores].min().min())), 1.02)
        panels[1].xaxis.set_major_locator(MaxNLocator(integer=True))
        panels[1].legend(frameon=False, loc="lower right")
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _scores(epochs: pd.DataFrame | None) -> list[str]:
    """Return the columns of the scores to draw: by bone, or the only one."""
    if epochs is None or epochs.empty:
        return []
    by_label = [column for column in epochs if str(column).startswith("dice_")]
    return by_label or [column for column in epochs if column == "score"]


def _in_words(steps: pd.DataFrame, epochs: pd.DataFrame | None) -> str:
    text = f"step {int(steps['step'].iloc[-1])}, loss {steps['loss'].iloc[-1]:.3g}"
    if epochs is None or epochs.empty:
        return text
    last = epochs.iloc[-1]
    text += f" · epoch {int(last['epoch'])}"
    if "score" in epochs:
        best = epochs.loc[epochs["score"].idxmax()]
        text += f", score {last['score']:.3f} (best {best['score']:.3f}, epoch {best['epoch']:.0f})"
    if "samples_per_s" in epochs:
        text += f" · {last['samples_per_s']:.3g} patches/s"
    return text


def _read(path: Path, columns: set[str]) -> pd.DataFrame | None:
    """Return a table with some columns; None if it is missing, empty or of something else."""
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError):
        return None
    return table if columns <= set(table) and len(table) else None


def _written(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # not there (yet), or just replaced
        return 0


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI)
    return stream.getvalue()
