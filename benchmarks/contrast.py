"""Compare the phantom's dynamic frames with a real sequence.

Simulates some subjects on the report's grids and compares their raw frames with figures measured
once on a real sequence of this kind (352×352×6×15, 0.568×0.568×8 mm, T1-FFE):

    python benchmarks/contrast.py [--subjects T02 T09 E02] [--cohort DIR]

Exit status 1 if a mark fails.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.manifest.document import load_manifest
from ankle_lib.phantom.simulate import simulate
from ankle_lib.phantom.tissues import FFE, TISSUES, signal
from ankle_lib.presets import PRESETS
from ankle_lib.volume import load

THRESHOLD = 250.0
REAL_PERCENTILES = {1: 273, 5: 355, 25: 791, 50: 1064, 75: 1283, 95: 1583, 99: 1801}
REAL_NOISE_SD = 125.0

Range = tuple[float, float]


def main() -> int:
    """Simulate, measure, print; 1 if a mark fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", nargs="+", default=["T02", "T09", "E02"])
    parser.add_argument("--cohort", type=Path, help="a simulated cohort to measure instead")
    arguments = parser.parse_args()
    if arguments.cohort:
        return report(arguments.cohort / "manifest.yaml")
    preset = dataclasses.replace(PRESETS["paper"], subjects=tuple(arguments.subjects))
    with tempfile.TemporaryDirectory() as folder:
        return report(simulate(preset, folder))


def report(manifest: Path) -> int:
    """Print the table of one cohort; 1 if a mark fails."""
    cohort = load_manifest(manifest).cohort()
    files = [
        (sequence.path, cohort.root / "truth" / subject.code / f"{sequence.name}_dseg.nii.gz")
        for subject in cohort.subjects
        for sequence in subject.sequences
    ]
    series = [measure(load(path).data, load(truth).data) for path, truth in files]
    print(f"{len(series)} sequences: mean (smallest to largest of a sequence)")
    passed = [
        row("voxels that are 0", [s["zeros"] for s in series], (0.42, 0.62), "0.52"),
        row("voxels above 250", [s["above"] for s in series], (0.21, 0.33), "0.27 to 0.28"),
    ]
    for q, real in REAL_PERCENTILES.items():
        values = [s[f"p{q}"] for s in series]
        passed.append(row(f"percentile {q}", values, (0.8 * real, 1.2 * real), f"{real}", ".0f"))
    noise = [s["noise"] for s in series]
    passed += [
        row("noise sd", noise, (0.7 * REAL_NOISE_SD, 1.3 * REAL_NOISE_SD), "125", ".0f"),
        row("frame-to-frame r", [s["r"] for s in series], (0.85, 0.97), "0.87 to 0.96"),
        row("cortex / marrow", [s["rim"] for s in series], (0.0, 0.8), "dark line"),
        row("joint / marrow", [s["joint"] for s in series], (1.15, 9.0), "bright line"),
    ]
    levels = {name: signal(tissue, FFE) for name, tissue in TISSUES.items() if name != "air"}
    ratio = levels["marrow"] / levels["muscle"]
    passed.append(row("marrow / muscle", [ratio], (0.85, 1.15), "about 1"))
    passed.append(mark("brightest tissue", max(levels, key=lambda t: levels[t]), "cartilage"))
    passed.append(mark("darkest tissue", min(levels, key=lambda t: levels[t]), "cortex"))
    return 0 if all(passed) else 1


def measure(data: NDArray, labels: NDArray) -> dict[str, float]:
    """Figures of one sequence (X, Y, Z, frames), with its true labels."""
    tissue = data[data > THRESHOLD]
    frames = np.moveaxis(data, 3, 0)
    steps = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in itertools.pairwise(frames)]
    first, truth = frames[0], labels[..., 0]
    noise = [noise_sd(frame) for frame in (first, frames[len(frames) // 2])]
    bones = (truth >= 1) & (truth <= 3)
    marrow = first[in_plane(ndimage.binary_erosion, bones, 5)]
    rim = first[bones & ~in_plane(ndimage.binary_erosion, bones, 2)]
    grown = [in_plane(ndimage.binary_dilation, truth == label, 3) for label in (1, 2, 3)]
    joint = first[(np.sum(grown, axis=0) > 1) & ~bones]
    return {
        "zeros": float((data == 0).mean()),
        "above": float((data > THRESHOLD).mean()),
        **{f"p{q}": float(np.percentile(tissue, q)) for q in REAL_PERCENTILES},
        "noise": float(np.mean(noise)),
        "r": float(np.mean(steps)),
        "rim": float(rim.mean() / marrow.mean()),
        "joint": float(joint.mean() / marrow.mean()),
    }


def noise_sd(frame: NDArray) -> float:
    """Standard deviation of what a Gaussian of two pixels leaves, well inside the tissue."""
    high_pass = frame - ndimage.gaussian_filter(frame, (2, 2, 0))
    body = ndimage.gaussian_filter((frame > 400).astype(np.float32), (3, 3, 0)) > 0.9
    inner = in_plane(ndimage.binary_erosion, body, 5)
    return float(np.mean([high_pass[..., k][inner[..., k]].std() for k in range(frame.shape[2])]))


def in_plane(
    operation: Callable[..., NDArray[np.bool_]], mask: NDArray[np.bool_], times: int
) -> NDArray[np.bool_]:
    """Erode or dilate within slices."""
    cross = ndimage.generate_binary_structure(3, 1)
    cross[:, :, (0, 2)] = False
    return operation(mask, cross, iterations=times)


def row(name: str, values: list[float], marks: Range, real: str, form: str = ".2f") -> bool:
    """Print a line of the table and say whether the mean passes."""
    mean, low, high = np.mean(values), np.min(values), np.max(values)
    passed = bool(marks[0] <= mean <= marks[1])
    spread = f"{mean:{form}} ({low:{form}} to {high:{form}})"
    print(
        f"{name:18} {spread:28} mark {marks[0]:{form}} to {marks[1]:{form}}   "
        f"real {real:14} {'pass' if passed else 'FAIL'}"
    )
    return passed


def mark(name: str, found: str, wanted: str) -> bool:
    """Print a line about a name and say whether it is the wanted one."""
    passed = found == wanted
    print(f"{name:18} {found:28} mark {wanted:19} {'pass' if passed else 'FAIL':>25}")
    return passed


if __name__ == "__main__":
    sys.exit(main())
