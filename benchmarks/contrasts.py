"""Registration when the frames have another contrast than the static scan.

One simulated subject on the report's grids, whose frames are made in six relations to its static
scan. Bones start near the truth (turned by 5° about left-right, shifted by 2 mm) and far from it
(30°, 10 mm), and are registered as the course does and, with ``any_contrast``, as `ankle register`
does. Prints the target registration error of what was accepted, the rotation error, what was
accepted though wrong and refused though right, and CPU seconds per bone and frame:

    python benchmarks/contrasts.py [--subject T02] [--frames 15] [--preset paper]
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from registration import FAILED_MM, bad_starts, read_case

from ankle_lib.masking.mask_images import BONE_RADIUS_VOXELS
from ankle_lib.phantom import anatomy, scanner
from ankle_lib.phantom.simulate import NOISY, simulate
from ankle_lib.phantom.tissues import FFE, STATIC_T1, TISSUES, Contrast, Tissue, signal
from ankle_lib.presets import get_preset
from ankle_lib.registration.engines import Settings, register
from ankle_lib.registration.regions import weights_of
from ankle_lib.registration.truth import bone_points, rotation_errors_deg, tre_mm
from ankle_lib.volume import Volume

NAMES = {id(tissue): name for name, tissue in TISSUES.items()}
LEVEL = signal(TISSUES["marrow"], FFE) / signal(TISSUES["marrow"], STATIC_T1)
"""Brings the static contrast to the frames' brightness."""
MUSCLE = signal(TISSUES["muscle"], FFE)
ALIKE = {"marrow": 1.0, "cartilage": 1.7, "growth_plate": 1.6, "joint_fluid": 1.6, "cortex": 0.2}
"""Marrow as bright as muscle, with bright cartilage; in units of muscle."""


def bright_cartilage(tissue: Tissue) -> Any:
    """Signal where marrow looks like muscle."""
    name = NAMES.get(id(tissue), "marrow")  # whose maps differ from bone to bone
    return ALIKE[name] * MUSCLE if name in ALIKE else signal(tissue, FFE)


def linear(tissue: Tissue) -> Any:
    """Signal in the static scan's contrast."""
    return LEVEL * signal(tissue, STATIC_T1)


def inverted(tissue: Tissue) -> Any:
    """Signal where bright is dark; air stays dark."""
    return (
        torch.as_tensor(1500 - 0.8 * linear(tissue)).clamp_min(0) if tissue.proton_density else 0.0
    )


def fat_suppressed(tissue: Tissue) -> Any:
    """Signal of today's contrast without most of the fat's."""
    return signal(tissue, dataclasses.replace(FFE, fat=0.1))


def today(tissue: Tissue) -> Any:
    """Signal of the simulated frames."""
    return signal(tissue, FFE)


RELATIONS: dict[str, tuple[Callable[[Tissue], Any], float]] = {
    "today's": (today, 1.0),
    "marrow as muscle": (bright_cartilage, 1.0),
    "inverted": (inverted, 1.0),
    "fat suppressed": (fat_suppressed, 1.0),
    "linear": (linear, 1.0),
    "three times the noise": (today, NOISY),
}
"""Signal of each tissue in the frames, and times the usual noise."""

STARTS = {"near": (5.0, 2.0), "far": (30.0, 10.0)}


def main() -> None:
    """Simulate, register, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subject", default="T02")
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--frames", type=int, default=15)
    parser.add_argument("--cohort", type=Path, default=Path("results/benchmark-contrasts"))
    options = parser.parse_args()
    sizes = dataclasses.replace(
        get_preset(options.preset), subjects=(options.subject,), n_frames=options.frames
    )
    rows = []
    for relation, (look, noise) in RELATIONS.items():
        folder = options.cohort / f"{relation.replace(' ', '_')}_{options.frames}"
        take(sizes, folder, look, noise)
        case = read_case(folder, options.subject)
        masks = {bone: Volume(mask, case.static.affine) for bone, mask in case.masks.items()}
        points = [bone_points(mask, case.static.affine) for mask in case.masks.values()]
        for any_contrast in (False, True):
            radius = dict.fromkeys(masks, 0.0) if any_contrast else BONE_RADIUS_VOXELS
            soft, settings = weights_of(masks, radius), Settings(any_contrast=any_contrast)
            for name, error in STARTS.items():
                start = bad_starts(case, *error)
                begun = time.process_time()
                found = register(case.frames, case.static, soft, start=start, settings=settings)
                seconds = (time.process_time() - begun) / found.failed.size
                places = list(np.ndindex(found.failed.shape))
                pairs = [(found.poses[f, r], case.truth[f, r], points[r]) for f, r in places]
                errors = np.array([tre_mm(*pair) for pair in pairs])
                turns = [np.linalg.norm(rotation_errors_deg(*pair[:2])) for pair in pairs]
                turned = np.array(turns)
                kept = ~found.failed.ravel()
                rows.append(
                    {
                        "relation": relation,
                        "any contrast": any_contrast,
                        "start": name,
                        "tre_median": np.median(errors[kept]) if kept.any() else np.nan,
                        "tre_max": errors[kept].max(initial=0),
                        "rotation_median": np.median(turned[kept]) if kept.any() else np.nan,
                        "right": int((errors <= FAILED_MM).sum()),
                        "of": errors.size,
                        "accepted, wrong": int((kept & (errors > FAILED_MM)).sum()),
                        "refused, right": int((~kept & (errors <= FAILED_MM)).sum()),
                        "cpu_s": seconds,
                    }
                )
                print(
                    pd.DataFrame(rows[-1:]).round(2).to_string(index=False, header=len(rows) == 1)
                )


def take(sizes, folder: Path, look: Callable[[Tissue], Any], noise: float) -> None:
    """Simulate the subject with frames of another look."""

    def levels(tissue: Tissue, contrast: Contrast) -> Any:
        return look(tissue) if contrast is FFE else signal(tissue, contrast)

    usual = scanner.DYNAMIC_SCANNER
    noisy = dataclasses.replace(usual, noise_sd=noise * usual.noise_sd)
    defaults = scanner.image_frames.__defaults__
    with mock.patch.object(anatomy, "signal", levels):
        scanner.image_frames.__defaults__ = (noisy,)
        try:
            simulate(sizes, folder)
        finally:
            scanner.image_frames.__defaults__ = defaults


if __name__ == "__main__":
    main()
