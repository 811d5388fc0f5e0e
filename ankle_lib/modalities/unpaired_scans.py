"""MR and CT scans of different children as one kind of input, and who is seen in what.

Whoever is not told the modality cannot normalise by it. So both go the same way: an offset of all
intensities is taken off, the foot is the largest piece brighter than air, without holes, and what
is inside it gets mean 0 and standard deviation 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ankle_lib.files import AnkleError
from ankle_lib.learning.prediction import tidy_labels
from ankle_lib.learning.scans import Scan, coarser, factor_for
from ankle_lib.masking.foot import find_foot, without_padding
from ankle_lib.parallel import run_all
from ankle_lib.patches.items import Item, zscore
from ankle_lib.presets import BONES
from ankle_lib.volume import canonical_voxel_size, load, to_orientation

MODALITIES = ("mr", "ct")
"""Their places are the numbers that networks are told."""

NAMES = {"mr": "MR", "ct": "CT"}
FILES = {"mr": "static_3DT1", "ct": "CT"}
PAIRED, NOISELESS = "static_CT", "static_CT_noiseless"

VALIDATION = ("T41", "E41")
"""Children on whom settings were chosen; no preset trains or tests with them."""

HU_PER_UNIT = 1000.0
"""Hounsfield units are learnt in thousands."""


@dataclass(frozen=True)
class Regime:
    """How many children train with an MR scan, and how many others with a CT."""

    mr: int
    ct: int

    @property
    def name(self) -> str:
        """As tables have it."""
        return f"{self.mr} MR + {self.ct} CT"

    def children(self, codes: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return who is seen in which modality: the first in MR, the next ones in CT.

        Raises
        ------
        AnkleError
            If there are too few.
        """
        if len(codes) < self.mr + self.ct:
            raise AnkleError(
                f"{self.name} needs {self.mr + self.ct} children, there are {len(codes)}: nobody "
                "may be seen in both modalities"
            )
        return {"mr": tuple(codes[: self.mr]), "ct": tuple(codes[self.mr : self.mr + self.ct])}


@dataclass(frozen=True, eq=False)
class Child:
    """Both scans of one child; what is used of them is decided elsewhere.

    Attributes
    ----------
    scans : mapping of modality to Scan
        On their own grids, normalised, with a reader's labels.
    registered : Scan
        The CT on the grid of the MR scan, normalised like the others.
    hounsfield : (I, J, K) float32 array
        The same CT in thousands of Hounsfield units, as scanned.
    noiseless : (I, J, K) float32 array
        Without its noise, which only a simulation knows.
    """

    scans: Mapping[str, Scan]
    registered: Scan
    hounsfield: NDArray[np.float32]
    noiseless: NDArray[np.float32]

    @property
    def code(self) -> str:
        """Code of the child."""
        return self.scans["mr"].code


def codes_for(n_train: int, n_test: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return codes of simulated children who train and who test; none is in the course's cohort.

    Controls and children with equinus take turns.
    """
    codes = [f"{group}{number}" for number in range(31, 99) for group in "TE"]
    return tuple(codes[:n_train]), tuple(codes[n_train : n_train + n_test])


def read_children(folder: Path, codes: Sequence[str]) -> dict[str, Child]:
    """Read what `tomography.simulate_pairs` wrote of some children."""
    children = run_all(partial(_read_child, folder), codes, workers="threads")
    return {child.code: child for child in children}


def _read_child(folder: Path, code: str) -> Child:
    truth = folder / "truth" / code
    scans = {one: read_scan(folder, code, one) for one in MODALITIES}
    mr = scans["mr"]
    volumes = [to_orientation(load(truth / f"{name}.nii.gz")) for name in (PAIRED, NOISELESS)]
    hounsfield, noiseless = (
        (one.data / np.float32(HU_PER_UNIT)).astype(np.float32) for one in volumes
    )
    item = replace(mr.item, name="registered CT", image=zscore(hounsfield, mr.item.region))
    return Child(scans, replace(mr, item=item), hounsfield, noiseless)


def read_scan(folder: Path, code: str, modality: str) -> Scan:
    """Read one scan of a child with its labels, normalised without being told what it is.

    Parameters
    ----------
    folder : Path
        Of the cohort: ``raw/<code>/<code>_CT.nii.gz`` etc.
    code : str
    modality : {"mr", "ct"}
        Which file; nothing else depends on it.
    """
    stem = folder / "raw" / code / f"{code}_{FILES[modality]}"
    volume = to_orientation(load(stem.with_name(f"{stem.name}.nii.gz")))
    data, _ = without_padding(volume.data)
    foot = tidy_labels(find_foot(data).astype(np.uint8)) > 0
    masks = {bone: stem.with_name(f"{stem.name}_segment_{bone}.nii.gz") for bone in BONES}
    labels = {bone: to_orientation(load(path)).data > 0 for bone, path in masks.items()}
    item = Item(code, NAMES[modality], zscore(data, foot), foot, labels)
    group = "control" if code.startswith("T") else "equinus"
    return Scan(item, group, canonical_voxel_size(volume.affine))


def to_learn(scan: Scan, pixel_mm: float) -> Scan:
    """Return a scan with the pixels that networks see, and labels to learn from."""
    return coarser(scan, factor_for(scan, pixel_mm), to_learn=True)


def stacked(child: Child) -> Scan:
    """Return the MR scan with the registered CT as further slices behind its last one.

    So a network sees both at once if its context reaches so far: see `arms.both_context_mm`.
    """
    mr, ct = child.scans["mr"].item, child.registered.item
    nothing = np.zeros_like(mr.region)

    def with_none(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.concatenate([mask, nothing], axis=2)

    item = replace(
        mr,
        name="MR and CT",
        image=np.concatenate([mr.image, ct.image], axis=2),
        region=with_none(mr.region),
        labels={bone: with_none(mask) for bone, mask in mr.labels.items()},
    )
    return replace(child.scans["mr"], item=item)
