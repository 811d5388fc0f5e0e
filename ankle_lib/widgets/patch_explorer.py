"""Where the patches of a slice come from, which are rejected, and why."""

import html
from collections.abc import Iterable
from dataclasses import replace

import ipywidgets
import numpy as np
import torch
from numpy.typing import NDArray

from ankle_lib.figures.images import Slice
from ankle_lib.files import AnkleError
from ankle_lib.patches.items import Item, Rules, rule_of
from ankle_lib.patches.rules import PatchRule, box_sums, local_correlation
from ankle_lib.widgets.picture import Layer, Mark, Panel
from ankle_lib.widgets.view import Mask, View, legend, not_finite, slider

KEPT_COLOUR, REJECTED_COLOUR, UNLIKE_COLOUR = "#009E73", "#D55E00", "#F0E442"
SHOWN_SD = (-2.0, 3.0)
"""Normalised intensities that are shown as black and white."""
SIDE_PX = 480
OPACITY = 0.4
REGION_COLOUR = "#FFFFFF"
MOST_TRIES = 40


class PatchExplorer(View):
    """See at every position whether the report's extraction keeps a patch there.

    Coloured are the centres of patches: green ones are kept, yellow ones are unlike their target,
    elsewhere too little of the patch lies in the region (white outline). A click shows the patch
    around that place and says what becomes of it. Thresholds can be moved; ``tries`` throws
    squares at random, as the report did. Bad input is said in the view.

    Parameters
    ----------
    items : iterable of Item
        From `items.static_items` and others; a few are enough.
    rules : PatchRule or mapping of bone to PatchRule
        As for `PatchSource`.
    pixel_mm : float
        Of the sagittal slices, for the scale bar.

    Examples
    --------
    >>> PatchExplorer(items, PatchRule((128, 128), tries=300, min_fraction=0.75), 0.28)
    """

    def __init__(self, items: Iterable[Item], rules: Rules, pixel_mm: float = 1.0) -> None:
        super().__init__()
        self._pixel_mm = pixel_mm
        self._place: tuple[int, int] | None = None
        self._alike: NDArray[np.float32] | None = None
        with self.refusals():
            self._items = list(items)
            if not self._items:
                raise AnkleError("There is no image to take patches from.")
            for item in self._items:
                if not item.image.size:
                    raise AnkleError(f"{item}: has no voxels to take patches from.")
            self._rules = [rule_of(item, rules) for item in self._items]
            self._build()
            self._choose_item()

    @property
    def item(self) -> Item:
        """The image that is shown."""
        return self._items[self.chosen.value]

    @property
    def rule(self) -> PatchRule:
        """The rule of extraction, with the thresholds of the sliders."""
        rule = self._rules[self.chosen.value]
        unlike = None if rule.min_correlation is None else self.correlation.value
        return replace(rule, min_fraction=self.fraction.value, min_correlation=unlike)

    def judge(self, row: int, column: int) -> str:
        """Say what becomes of the patch whose first voxel is (row, column), and why."""
        rule, share = self.rule, float(self._share[row, column])
        enough, alike = (one[row, column] for one in self._judged())
        text = f"patch at {row}, {column}: {share:.0%} of it in the region"
        if not enough:
            return f"{text}, {rule.min_fraction:.0%} are needed: rejected"
        if self._alike is not None:
            text += f", correlation with its target {self._alike[row, column]:.2f}"
        if not alike:
            text += f", more than {rule.min_correlation:.2f} is needed"
        return f"{text}: {'kept' if alike else 'rejected'}"

    def draw(self) -> None:
        """Show the slice with the centres of patches, their number, and the sentence on one."""
        if self._share.size == 0:
            return
        item, rule, k = self.item, self.rule, self.slice.value
        target = item.target
        enough, alike = self._judged()
        kept = enough & alike
        image, region = item.image[:, :, k].T, item.region[:, :, k].T
        layers = [
            Layer(region, REGION_COLOUR),
            Layer(self._centres(enough & ~alike), UNLIKE_COLOUR, OPACITY, outline=False),
            Layer(self._centres(kept), KEPT_COLOUR, OPACITY, outline=False),
        ]
        height, width = (n * self._pixel_mm for n in image.shape)
        self.panel.draw(Slice(image, (width, height)), SHOWN_SD, layers, self._marks(kept))
        self.count.value = (
            f"{kept.mean():.1%} of all positions are kept; of the report's {rule.tries} tries in "
            f"this slice, about {kept.mean() * rule.tries:.0f}"
        )
        text = self.judge(*self._place) if self._place else "click on the picture for one patch"
        self.verdict.value = html.escape(text)
        self.message.say(
            "" if region.any() else "The region is empty in this slice: every patch is rejected.",
            not_finite(image, "slice"),
            "" if target is None else not_finite(target[:, :, k], "target", "compared as 0"),
        )

    def _judged(self) -> tuple[Mask, Mask]:
        """Return where enough of a patch is in the region, and where it is like its target."""
        enough = self._share >= self.rule.min_fraction - 1e-9
        if self._alike is None:
            return enough, np.ones_like(enough)
        return enough, self._alike > self.correlation.value

    def _build(self) -> None:
        names = [(f"{item.subject} {item.name} {item.bone or ''}".strip(), number)
                 for number, item in enumerate(self._items)]  # fmt: skip
        wide = 360  # beside the picture, at 1280 pixels
        layout = ipywidgets.Layout(width=f"{wide}px")
        self.chosen = ipywidgets.Dropdown(options=names, description="image", layout=layout)
        self.slice = slider("slice", 0, 0, width=wide)
        self.fraction = slider("in region", 0.0, 1.0, step=0.05, width=wide, readout_format=".0%")
        self.correlation = slider("correlation", 0.0, 1.0, step=0.05, width=wide)
        self.tries = slider("tries", 0, MOST_TRIES, width=wide)
        self.panel = Panel("centres of patches", SIDE_PX)
        self.count, self.verdict = ipywidgets.HTML(), ipywidgets.HTML()
        self.panel.on_mouse(self._on_mouse)
        self.watch(self.chosen, work=self._choose_item)
        self.watch(self.slice, work=self._measure)
        self.watch(self.fraction, self.correlation, self.tries)
        colours = {"kept": KEPT_COLOUR, "unlike its target": UNLIKE_COLOUR,
                   "a try that is rejected": REJECTED_COLOUR}  # fmt: skip
        right = [self.chosen, self.slice, self.fraction, self.correlation, self.tries,
                 legend(colours), self.count, self.verdict, self.message]  # fmt: skip
        self.children = (ipywidgets.HBox([self.panel, ipywidgets.VBox(right)]),)

    def _choose_item(self) -> None:
        rule, region = self._rules[self.chosen.value], self.item.region
        self._place = None
        with self.silence():
            self.slice.max = region.shape[2] - 1
            self.slice.value = int(np.argmax(region.sum(axis=(0, 1))))
            self.fraction.value = rule.min_fraction
            self.correlation.value = rule.min_correlation or 0.0
            self.correlation.disabled = rule.min_correlation is None
        self._measure()

    def _measure(self) -> None:
        """Measure every position of the slice, and draw."""
        item, rule, k = self.item, self.rule, self.slice.value
        self._share, self._alike = np.zeros((0, 0)), None
        if any(side < patch for side, patch in zip(item.region.shape, rule.size, strict=False)):
            self.panel.clear()
            self.count.value = self.verdict.value = ""
            self.message.say(
                f"Patches of {rule.size[0]} × {rule.size[1]} pixels are larger than the slices of "
                f"{item.region.shape[0]} × {item.region.shape[1]}: there is no position to show."
            )
            return
        self._share = box_sums(_slice(item.region, k), rule.size)[0].numpy() / np.prod(rule.size)
        if item.target is not None and rule.min_correlation is not None:
            image, target = (_slice(one, k).nan_to_num() for one in (item.image, item.target))
            self._alike = local_correlation(image, target, rule.size)[0].numpy()
        self.draw()

    def _on_mouse(self, kind: str, row: int, column: int) -> None:
        if kind == "click" and self._share.size:
            sides = zip((column, row), self.rule.size, self._share.shape, strict=True)
            i, j = (min(max(at - side // 2, 0), n - 1) for at, side, n in sides)
            self._place = (i, j)
            self.draw()

    def _centres(self, positions: Mask) -> Mask:
        """Return positions (first voxels) as a picture of patches' centres, rows upward."""
        rows, columns = self.rule.size
        full = np.zeros(self.item.region.shape[:2], dtype=bool)
        top, left = rows // 2, columns // 2
        full[top : top + positions.shape[0], left : left + positions.shape[1]] = positions
        return full.T

    def _marks(self, kept: Mask) -> list[Mark]:
        """Return the squares: random tries, and the patch that was clicked."""
        random = np.random.default_rng(self.slice.value)
        tries = random.integers(0, kept.shape, (MOST_TRIES, 2))[: self.tries.value]
        marks = [self._square(int(i), int(j), KEPT_COLOUR if kept[i, j] else REJECTED_COLOUR, 1)
                 for i, j in tries]  # fmt: skip
        if self._place is not None:
            marks.append(self._square(*self._place, "white", 2))
        return marks

    def _square(self, i: int, j: int, colour: str, width_px: int) -> Mark:
        columns, rows = self.item.region.shape[:2]
        height, width = self.rule.size  # along the first and the second axis of the array
        return Mark(
            i / columns, (i + height) / columns, j / rows, (j + width) / rows, colour, width_px
        )


def _slice(volume: NDArray, k: int) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(volume[None, :, :, k]))
