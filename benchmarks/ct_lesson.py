"""Can the package's network for static scans learn CT without loss on MRI?

Goes on training it on random scans, a part of which show attenuation as CT does, writes the result
as a checkpoint and scores both on the MRI and CT of two simulated children who neither train nor
test in chapter 10: mean Dice over the bones. `benchmarks/networks.py --checkpoint` scores the
result on other MRI. Give it a machine of its own:

    python benchmarks/ct_lesson.py [--share 0.33] [--feet 60] [--steps 4000]
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from ankle_lib.learning.prediction import THIN_MM, predict, read_segmenter, save_segmenter
from ankle_lib.learning.scans import train_on_scans
from ankle_lib.learning.scoring import bone_scores
from ankle_lib.modalities.unpaired_scans import MODALITIES, VALIDATION, read_scan
from ankle_lib.phantom.tomography import simulate_pairs
from ankle_lib.presets import get_preset
from ankle_lib.weights.making import FULL, Lesson, NetworkSizes, recipe_of, scans_to_learn
from ankle_lib.weights.shipped import STATIC, shipped_network


def main() -> None:
    """Train, write, score, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=0.33, help="of the scans that look like CT")
    parser.add_argument("--feet", type=int, default=60, help="with six scans each")
    parser.add_argument("--steps", type=int, default=4000, help="batches of eight patches")
    parser.add_argument("--out", type=Path, default=Path("results/benchmark-ct"))
    options = parser.parse_args()
    first = FULL.lessons[STATIC][0]
    stages = ((96, options.steps, 8, 3e-3),)
    lesson = Lesson(dataclasses.replace(first.ranges, ct=options.share), options.feet, 6, stages)
    sizes = NetworkSizes(FULL.pixel_mm, {STATIC: (first, lesson)})
    known = read_segmenter(shipped_network(THIN_MM))
    trained = train_on_scans(
        recipe_of(stages),
        scans_to_learn(sizes, STATIC, 1),
        options.out / "training",
        start=known.network,
    )
    new = options.out / STATIC
    who = [f"{options.feet} feet of seed 0"]
    save_segmenter(new, trained, FULL.pixel_mm, who, thickest_mm=THIN_MM, half=True)
    print("written:", new)

    preset = get_preset("laptop")
    grids = {
        name: getattr(preset.modality, name)
        for name in ("static_shape", "static_voxel_mm", "anatomy_voxel_mm")
    }
    children = simulate_pairs(
        dataclasses.replace(preset, **grids),
        preset.modality.ct_voxel_mm,
        VALIDATION,
        options.out / "children",
    )
    rows = []
    for name, segmenter in {"package": known, "with CT": read_segmenter(new)}.items():
        for code, modality in np.ndindex(len(VALIDATION), len(MODALITIES)):
            scan = read_scan(children, VALIDATION[code], MODALITIES[modality])
            item = scan.item
            found = predict(item.image, scan.voxel_size_mm, segmenter, foot=item.region)
            scores = bone_scores(scan.code, found.masks(), item.labels, scan.voxel_size_mm)
            rows += [{"network": name, "modality": MODALITIES[modality], **one} for one in scores]
    table = pd.DataFrame(rows).pivot_table("dice", ["network", "modality"], "bone")
    print(table.round(3).to_string())


if __name__ == "__main__":
    main()
