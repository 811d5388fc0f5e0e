"""Volumes on the training device, and patches drawn from them on the fly.

Nothing is extracted beforehand: all slices lie one after the other in one long tensor, and a batch
is one look-up in it. Drawing uniformly from the admissible positions is the same distribution as
the report's, which tries positions at random and keeps the admissible ones, without end and without
storage.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ankle_lib.files import AnkleError
from ankle_lib.patches.items import Item, Rules, Slices, as_slices, rule_of
from ankle_lib.presets import BONES

GREATEST_SCALE = 1.4
"""A patch shrunk further and turned by 45 degrees would look beyond what a source stores."""


@dataclass(frozen=True)
class Augmentation:
    """How far each change may go; the default changes nothing. Each patch gets its own."""

    rotation_deg: float = 0.0
    """Turned by up to this angle either way; 180 is any direction."""
    scale: float = 1.0
    """Anatomy enlarged up to this factor or shrunk down to its inverse; at most 1.4."""
    gain: float = 0.0
    """Brightness above air times exp(±gain)."""
    shading: float = 0.0
    """Smooth gain across the patch: each term of a parabola of the logarithm up to ±shading."""
    gamma: float = 0.0
    """Brightness, as part of the brightest, to the power exp(±gamma)."""
    noise: float = 0.0
    """Gaussian noise with a standard deviation of up to this, in units of the z-score."""

    def __post_init__(self) -> None:
        """Refuse negative ranges."""
        if not 1 <= self.scale <= GREATEST_SCALE or not min(asdict(self).values()) >= 0:
            raise AnkleError(
                f"{self}: give the largest sizes, 0 or more, and a scale of 1 to {GREATEST_SCALE}"
            )

    @property
    def moves(self) -> bool:
        """Whether patches are turned or scaled."""
        return self.rotation_deg > 0 or self.scale > 1


@dataclass(frozen=True)
class Batch:
    """Patches and what to learn from them.

    Attributes
    ----------
    image : (n, channels, h, w) float32 tensor
        One channel, or one for each slice of `Item.context`.
    target : (n, channels, h, w) float32 tensor
        0 and 1, one channel per label; or intensities, one channel.
    valid : (n, channels) bool tensor
        False where a label is unknown.
    correlation : (n,) float32 tensor
        Of image and target where the target is an intensity, 1 otherwise.
    where : (n, 3) int64 tensor
        Slice of the source, first row and first column in it.
    describe : callable
        Turns a row of ``where`` into words.
    """

    image: Tensor
    target: Tensor
    valid: Tensor
    correlation: Tensor
    where: Tensor
    describe: Callable[[Sequence[int]], str]


def pair_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Pearson's correlation of each pair of patches, shape (n,); 0 where one is constant.

    Parameters
    ----------
    first, second : (n, channels, h, w) float tensors
    """
    one = first.flatten(1) - first.flatten(1).mean(1, keepdim=True)
    two = second.flatten(1) - second.flatten(1).mean(1, keepdim=True)
    norm = torch.linalg.vector_norm(one, dim=1) * torch.linalg.vector_norm(two, dim=1)
    return torch.where(norm > 0, (one * two).sum(1) / norm.clamp_min(1e-12), 0.0)


class PatchSource:
    """Images of many subjects on one device, and every position of an admissible patch.

    Parameters
    ----------
    items : iterable of Item
        Of any shapes, with square pixels of one size; consumed one at a time.
    rules : PatchRule or mapping from bone to PatchRule
        All of one size.
    labels : sequence of str
        Channels of the target, up to 8.
    device : torch device
    dtype : torch.dtype
        In which intensities are stored; float16 halves the memory at three digits.

    Attributes
    ----------
    size : (int, int)
        Rows and columns of a patch.
    subjects : tuple of str
        Codes of the subjects with at least one admissible patch.
    of_labels : bool
        Whether targets are labels, not intensities.
    expected : float
        Patches that the report's extraction would keep, on average: the length of its epoch.

    Raises
    ------
    AnkleError
        If there is no admissible patch, or the items do not belong together.
    """

    def __init__(
        self,
        items: Iterable[Item],
        rules: Rules,
        *,
        labels: Sequence[str] = BONES,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float16,
    ) -> None:
        self.labels = tuple(labels)
        self.device = torch.device(device)
        kinds: set[tuple[tuple[int, int], bool, int]] = set()
        parts: list[dict[str, Tensor]] = []
        self._names: list[tuple[str, int, tuple[int, int]]] = []
        subjects: list[str] = []
        for item in items:
            rule = rule_of(item, rules)
            kinds.add((rule.size, item.target is None, len(item.context)))
            slices = as_slices(item, rule, labels, device)
            part = _parts_of(item, slices, labels, dtype)
            if len(part["counts"]):
                part["shown"] = part["shown"] + len(self._names)
                parts.append(part)
                subjects.append(item.subject)
                name = f"{item.subject} {item.name}" + (f" {item.bone}" if item.bone else "")
                self._names += [(name, k, slices.corner) for k in part["number"].tolist()]
        if len(kinds) > 1:
            raise AnkleError(
                "use one source for each size of patches, for labels and targets, and for each "
                f"number of slices; found (size, labels, slices) {sorted(kinds)}"
            )
        if not parts:
            raise AnkleError(f"no patch obeys {rules}: check the masks, or lower the fraction")
        ((self.size, self.of_labels, _),) = kinds
        self.subjects = tuple(dict.fromkeys(subjects))

        def joined(name: str) -> Tensor:
            """Lay the parts of all items one after the other."""
            return torch.cat([part.pop(name) for part in parts]).to(self.device)

        expected = joined("expected")
        self.expected = float(expected.sum())
        self._shares = expected.cumsum(0) / expected.sum()
        self._images, self._targets = joined("images"), joined("targets")
        self._positions, self._counts = joined("positions"), joined("counts")
        self._widths, self._heights = joined("widths"), joined("heights")
        self._black, self._valid, self._shown = joined("black"), joined("valid"), joined("shown")
        self._firsts = self._counts.cumsum(0) - self._counts
        sizes = self._widths * self._heights
        self._bases = sizes.cumsum(0) - sizes
        self._bits = torch.arange(len(self.labels), dtype=torch.uint8, device=self.device)
        self._rows = torch.arange(self.size[0], device=self.device)[:, None]
        self._columns = torch.arange(self.size[1], device=self.device)

    @property
    def n_positions(self) -> int:
        """Number of different upright patches."""
        return len(self._positions)

    @property
    def n_bytes(self) -> int:
        """Memory of images, targets and positions on the device."""
        return sum(kept.nbytes for kept in (self._images, self._targets, self._positions))

    def draw(
        self, n: int, generator: torch.Generator, augmentation: Augmentation | None = None
    ) -> Batch:
        """Draw ``n`` patches at random, with replacement.

        A slice is drawn in proportion to the patches that the report would keep of it, a position
        uniformly from the slice's admissible ones. Turned or scaled patches keep their centre, and
        are interpolated from the whole slice: nothing is cut off at their corners.

        Parameters
        ----------
        n : int
        generator : torch.Generator
            On the source's device; the same state gives the same patches.
        augmentation : Augmentation, optional

        Returns
        -------
        Batch
            On the source's device.
        """
        luck = torch.rand((2, n), generator=generator, device=self.device, dtype=torch.float64)
        slices = torch.searchsorted(self._shares, luck[0], right=True)
        slices = slices.clamp_max(len(self._shares) - 1)
        count = self._counts[slices]
        chosen = (luck[1] * count).long().minimum(count - 1)
        positions = self._positions[self._firsts[slices] + chosen].long()
        width = self._widths[slices]
        where = torch.stack([slices, positions // width, positions % width], dim=1)
        return self.at(where, augmentation, generator)

    def at(
        self,
        where: Tensor,
        augmentation: Augmentation | None = None,
        generator: torch.Generator | None = None,
    ) -> Batch:
        """Return the patches at given places (see `Batch`), augmented if a generator is given."""
        slices = where[:, 0]
        black = self._black[slices]
        if augmentation is not None and augmentation.moves and generator is not None:
            turns = random_geometry(len(where), augmentation, generator)
            image, target = self._turned(where, turns)
        else:
            image = torch.stack(
                [self._images.take(self._upright(seen)).float() for seen in self._channels(where)],
                dim=1,
            )
            target = self._targets.take(self._upright(where))
        if self.of_labels:
            target = (target[:, None] >> self._bits[:, None, None] & 1).float()
            correlation = torch.ones_like(black)
        else:
            target = target[:, None].float()
            correlation = pair_correlation(image, target)
        if augmentation is not None and generator is not None:
            image = distort_intensities(image, black, augmentation, generator)
        return Batch(image, target, self._valid[slices], correlation, where, self.describe)

    def describe(self, where: Sequence[int]) -> str:
        """Return subject, image, slice and position in words; indices count from 0."""
        name, k, (top, left) = self._names[int(where[0])]
        row, column = int(where[1]) + top, int(where[2]) + left
        return f"{name}, slice {k}, row {row}, column {column}"

    def _channels(self, where: Tensor) -> Iterator[Tensor]:
        """Yield the same places on the slice of each channel."""
        for slices in self._shown[where[:, 0]].unbind(1):
            yield torch.cat([slices[:, None], where[:, 1:]], dim=1)

    def _upright(self, where: Tensor) -> Tensor:
        """Return the index of every pixel in the long tensor, shape (n, h, w)."""
        slices, row, column = where.unbind(1)
        width = self._widths[slices]
        first = self._bases[slices] + row * width + column
        return first[:, None, None] + self._rows * width[:, None, None] + self._columns

    def _turned(self, where: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
        """Interpolate turned patches: intensities linearly, labels from the nearest pixel."""
        slices = where[:, 0]
        middle = [(length - 1) / 2 for length in self.size]
        y, x = self._rows - middle[0], self._columns - middle[1]
        turn = turns[:, :, :, None, None]
        rows = turn[:, 0, 0] * y + turn[:, 0, 1] * x + (where[:, 1, None, None] + middle[0])
        columns = turn[:, 1, 0] * y + turn[:, 1, 1] * x + (where[:, 2, None, None] + middle[1])
        shown = self._shown[slices]
        image = self._linear(self._images, shown, rows, columns, self._black[slices])
        if self.of_labels:
            index, inside = self._index(slices, rows.round().long(), columns.round().long())
            return image, self._targets.take(index + self._base(slices)) * inside
        # the target's air is not stored: where a turned patch leaves the image, its edge goes on
        target = self._linear(self._targets, slices[:, None], rows, columns, None)
        return image, target[:, 0]

    def _linear(
        self, values: Tensor, slices: Tensor, rows: Tensor, columns: Tensor, outside: Tensor | None
    ) -> Tensor:
        """Interpolate at one place in several slices of an image, (n, channels), alike."""
        top, left = rows.floor(), columns.floor()
        down, right = rows - top, columns - left
        first = self._base(slices)
        result = torch.zeros((*slices.shape, *rows.shape[1:]), device=self.device)
        for row, weight_row in ((top, 1 - down), (top + 1, down)):
            for column, weight_column in ((left, 1 - right), (left + 1, right)):
                index, inside = self._index(slices[:, 0], row.long(), column.long())
                value = values.take(index[:, None] + first).float()
                if outside is not None:
                    value = torch.where(inside[:, None], value, outside[:, None, None, None])
                result += (weight_row * weight_column)[:, None] * value
        return result

    def _base(self, slices: Tensor) -> Tensor:
        """Return where slices begin in the long tensor, as (..., 1, 1)."""
        return self._bases[slices][..., None, None]

    def _index(self, slices: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return the place of pixels in their slice, moved into it, and whether they were in it."""
        heights, widths = (table[slices][:, None, None] for table in (self._heights, self._widths))
        inside = (rows >= 0) & (rows < heights) & (columns >= 0) & (columns < widths)
        rows = rows.clamp_min(0).minimum(heights - 1)
        columns = columns.clamp_min(0).minimum(widths - 1)
        return rows * widths + columns, inside


def _parts_of(
    item: Item, slices: Slices, labels: Sequence[str], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return what drawing needs of an item: pixels, positions, and tables with a row per slice."""
    counts = slices.kept.flatten(1).sum(1)
    used = _with_context(torch.nonzero(counts).flatten().cpu(), item)
    images = slices.image[used].to(dtype)
    if not bool(torch.isfinite(images).all()):
        raise AnkleError(f"{item}: values too large for {dtype}: normalise with zscore first")
    targets = slices.target[used]
    _, row, column = torch.nonzero(slices.kept, as_tuple=True)
    beside = used[:, None] + torch.tensor(item.context) if len(used) else used[:, None]
    height, width = slices.image.shape[1:]
    known = [True] if item.target is not None else [label in item.labels for label in labels]
    n = len(used)
    return {
        "images": images.flatten(),
        "targets": targets.flatten().to(targets.dtype if item.target is None else dtype),
        "positions": (row * width + column).int(),
        "expected": slices.expected[used],
        "number": used,
        "widths": torch.full((n,), width),
        "heights": torch.full((n,), height),
        "counts": counts[used],
        "black": torch.full((n,), slices.black, dtype=torch.float32),
        "valid": torch.tensor(known).expand(n, -1),
        # the slice that each channel shows, counted from the item's first
        "shown": torch.searchsorted(used, beside.clamp(used[:1], used[-1:]).contiguous()),
    }


def _with_context(used: Tensor, item: Item) -> Tensor:
    """Return the slices with patches and, if patches show other slices too, all that these need."""
    if not len(used) or item.context == (0,):
        return used
    first = max(int(used[0]) + min(item.context), 0)
    last = min(int(used[-1]) + max(item.context), item.image.shape[2] - 1)
    return torch.arange(min(first, int(used[0])), max(last, int(used[-1])) + 1)


# --- random changes that a network should not mind ---


def random_geometry(n: int, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Return how each patch lies in its slice.

    Returns
    -------
    (n, 2, 2) float32 tensor
        Maps (row, column) from the patch's centre, in pixels, to the slice.
    """
    angle = _uniform((n,), math.radians(augmentation.rotation_deg), generator)
    step = torch.exp(_uniform((n,), math.log(augmentation.scale), generator))
    cosine, sine = step * torch.cos(angle), step * torch.sin(angle)
    return torch.stack([cosine, -sine, sine, cosine], dim=1).unflatten(1, (2, 2))


def distort_intensities(
    images: Tensor, black: Tensor, augmentation: Augmentation, generator: torch.Generator
) -> Tensor:
    """Return images with other gain, shading, gamma and noise.

    Parameters
    ----------
    images : (n, channels, h, w) float tensor
    black : (n,) float tensor
        Intensity of air, from which brightness is counted.
    augmentation : Augmentation
    generator : torch.Generator
        On the images' device.
    """
    n, _, height, width = images.shape
    floor = black[:, None, None, None]
    light = (images - floor).clamp_min(0.0)
    if augmentation.gamma > 0:
        power = torch.exp(_uniform((n, 1, 1, 1), augmentation.gamma, generator))
        brightest = light.amax((1, 2, 3), keepdim=True).clamp_min(1e-6)
        light = brightest * (light / brightest) ** power
    if augmentation.gain > 0:
        light = light * torch.exp(_uniform((n, 1, 1, 1), augmentation.gain, generator))
    if augmentation.shading > 0:
        y = torch.linspace(-1, 1, height, device=images.device)[:, None].expand(height, width)
        x = torch.linspace(-1, 1, width, device=images.device).expand(height, width)
        terms = torch.stack([y, x, y * x, y * y - 1 / 3, x * x - 1 / 3])
        coefficients = _uniform((n, len(terms)), augmentation.shading, generator)
        light = light * torch.exp(torch.einsum("nt,thw->nhw", coefficients, terms))[:, None]
    if augmentation.noise > 0:
        sd = _uniform((n, 1, 1, 1), augmentation.noise, generator).abs()
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        light = light + sd * noise
    return light + floor


def _uniform(shape: tuple[int, ...], reach: float, generator: torch.Generator) -> Tensor:
    """Return random numbers between -reach and reach."""
    uniform = torch.rand(shape, generator=generator, device=generator.device)
    return reach * (2 * uniform - 1)
