"""Score the networks of the package, or another one, on scans that they were not made for.

The simulated cohort's children with equinus (static scans, frames, and frames taken in other
ways, all without faults), a second cohort, and the bones of the public template in flesh of noise:
Dice and the Hausdorff distance (95th percentile, mm) of each bone against the truth, means over
subjects with 95 % intervals. A cohort is simulated where it is not there yet:

    python benchmarks/networks.py [--checkpoint FILE] [--preset laptop] [--cohorts DIR]
        [--template DIR] [--contrasts DIR]
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ankle_lib.learning.prediction import THICKEST_MM, THIN_MM, Segmenter, predict, read_segmenter
from ankle_lib.learning.random_scans import draw_contrast, take
from ankle_lib.metrics import mask_scores, over_subjects
from ankle_lib.phantom.faults import FAULTS, IMAGE_FAULTS
from ankle_lib.phantom.simulate import simulate
from ankle_lib.phantom.subjects import SEQUENCES, SUBJECTS
from ankle_lib.presets import BONES, get_preset
from ankle_lib.registration.truth import read_looks
from ankle_lib.volume import Volume, load, to_orientation
from ankle_lib.weights.feet import noise_foot
from ankle_lib.weights.making import RANGES
from ankle_lib.weights.shipped import named, shipped_network

COHORTS = {"test children": 2020, "second cohort": 2021}
N_TEMPLATE = 30

Case = tuple[str, str, Volume, NDArray[np.uint8]]
"""Kind of scan, subject, scan and true labels, both axes P, S, R."""


def main() -> None:
    """Simulate what is missing, segment, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="default: the package's own")
    parser.add_argument("--preset", default="laptop")
    parser.add_argument("--cohorts", type=Path, default=Path("results/benchmark-networks"))
    parser.add_argument("--template", type=Path, help="folder of the public template's masks")
    parser.add_argument("--contrasts", type=Path, help="cohorts of benchmarks/contrasts.py")
    parser.add_argument("--frames", type=int, default=3, help="of each sequence")
    parser.add_argument("--subjects", nargs="*", help="instead of all")
    options = parser.parse_args()
    pair = [options.checkpoint or shipped_network(one) for one in (THIN_MM, THICKEST_MM)]
    print(*dict.fromkeys(map(named, pair)), sep="\n")
    segmenters = tuple(map(read_segmenter, pair))
    codes = tuple(options.subjects or [s for s in SUBJECTS if s in SEQUENCES and s[0] == "E"])
    for name, seed in COHORTS.items():
        sizes = dataclasses.replace(get_preset(options.preset), subjects=codes)
        folder = options.cohorts / f"{options.preset}-{seed}"
        with mock.patch.dict(FAULTS, clear=True), mock.patch.dict(IMAGE_FAULTS, clear=True):
            simulate(sizes, folder, seed=seed)
        show(name, score(cases_of(folder, codes, options.frames), segmenters))
    for folder in sorted(options.contrasts.iterdir()) if options.contrasts else []:
        codes = tuple(path.name for path in (folder / "raw").iterdir())
        cases = cases_of(folder, codes, options.frames)
        show(f"contrasts: {folder.name}", score(cases, segmenters))
    if options.template:
        show("template", score(template_cases(options.template, segmenters[0]), segmenters))


def cases_of(cohort: Path, codes: tuple[str, ...], n_frames: int) -> Iterator[Case]:
    """Read the scans of a simulated cohort with their true labels."""
    for code in codes:
        raw, truth = cohort / "raw" / code, cohort / "truth" / code
        still = to_orientation(load(next(raw.glob("*_static_3DT1.nii.gz"))))
        yield "static", code, still, to_orientation(load(truth / "static_dseg.nii.gz")).data
        for path in sorted(raw.glob("*_MovieClear_*")):
            sequence = path.name.split("_MovieClear_")[1].removesuffix(".nii.gz")
            film, labels = (
                to_orientation(load(one)) for one in (path, truth / f"{sequence}_dseg.nii.gz")
            )
            for number in np.linspace(0, film.n_frames - 1, n_frames).round().astype(int):
                yield "frames", code, film.frame(number), labels.frame(number).data
            for (number, look), scan in read_looks(cohort / "truth", code, sequence).items():
                yield f"frames, {look}", code, scan, labels.frame(number).data


def template_cases(folder: Path, segmenter: Segmenter) -> Iterator[Case]:
    """Render the template's bones in flesh of noise, as random scans see them."""
    masks = {bone: to_orientation(load(folder / f"{bone}.nii.gz")) for bone in BONES}
    spacing = 1.0
    for number in range(N_TEMPLATE):
        rng = np.random.default_rng([7, number])
        step = round(spacing / masks[BONES[0]].voxel_size_mm[0])
        bones = {bone: mask.data[::step, ::step, ::step] > 0 for bone, mask in masks.items()}
        foot = noise_foot(bones, np.zeros_like(bones[BONES[0]]), rng, spacing)
        ranges = dataclasses.replace(RANGES, thick=float(number % 2), red=0.0)
        contrast = draw_contrast(ranges, foot.marrow_class, rng)
        scan = take(foot, contrast, ranges, rng, segmenter.pixel_mm[0], ("template", "", ""))
        labels = np.zeros(scan.item.image.shape, np.uint8)
        for label, bone in enumerate(BONES, 1):
            labels[scan.item.labels[bone]] = label
        air = float(scan.item.image.min())
        image = np.where(scan.item.image > air, scan.item.image - air, 0)
        kind = "frames" if number % 2 else "static"
        volume = Volume(image, np.diag([*scan.voxel_size_mm, 1.0]))
        yield f"template, {kind}", str(number), volume, labels


def score(cases: Iterator[Case], segmenters: tuple[Segmenter, Segmenter]) -> pd.DataFrame:
    """Return Dice and distance of each bone of each case; thick slices are the second's."""
    rows = []
    for kind, code, scan, labels in cases:
        size = tuple(float(np.linalg.norm(column)) for column in scan.affine[:3, :3].T)
        found = predict(scan.data, size, segmenters[size[2] > THIN_MM])
        for label, bone in enumerate(BONES, 1):
            made = mask_scores(found.mask(bone), labels == label, size)
            rows.append((kind, code, bone, made.dice, made.hd95_mm))
    return pd.DataFrame(rows, columns=["scans", "subject", "bone", "dice", "hd95_mm"])


def show(name: str, table: pd.DataFrame) -> None:
    """Print the means over subjects."""
    print(f"\n{name}")
    by_subject = table.groupby(["scans", "subject", "bone"], as_index=False).mean()
    print(
        over_subjects(by_subject, ["scans", "bone"], ["dice", "hd95_mm"])
        .round(3)
        .to_string(index=False),
        flush=True,
    )


if __name__ == "__main__":
    main()
