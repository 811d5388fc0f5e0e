"""The same U-Net trained as in 2020 and by ours: samples per second and Dice side by side.

    python benchmarks/training.py --results results/laptop --steps 300

As in 2020: patches extracted beforehand and stored, read by a DataLoader, probabilities into the
binary cross-entropy. Ours: patches drawn from the volumes on the training device, channels last,
bfloat16 where the device is fast in it; once with Adam and its rate of 2020, once with Muon and
the rate and schedule of the course's final networks. Same subjects, same distribution of patches,
same number of steps and batches, same first weights; all are judged on the same patches of the
validation subject. Wall time of the training steps alone: extraction is printed apart.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ankle_lib.learning.networks import SliceNetwork, build
from ankle_lib.learning.recipes import Recipe, Stage
from ankle_lib.learning.scoring import patch_validation
from ankle_lib.learning.training import train
from ankle_lib.manifest.layouts import read_clean_cohort
from ankle_lib.patches.items import Item, static_items
from ankle_lib.patches.rules import STATIC_SEGMENTATION, PatchRule, rejection_sampling
from ankle_lib.patches.source import PatchSource
from ankle_lib.patches.split import report_split
from ankle_lib.volume import load, to_orientation

ARGUMENTS = {"out_channels": 1}
OURS = "ours"
STAGE = Stage(None, 1)
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    OURS: ("adam", {}),
    "ours, with Muon": ("muon", {"learning_rate": 1e-2, "schedule": "one-cycle"}),
}
"""Optimiser, and what of the stage is otherwise."""
LAST_STEPS = 50
"""Over which the loss is averaged."""


@dataclass(frozen=True)
class Result:
    """What one way of training reached."""

    name: str
    samples_per_s: float
    loss: float
    dice: float


def main() -> int:
    """Train all ways and print; 1 if ours is slower than the loop of 2020."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results/laptop"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--bone", default="calcaneus")
    parser.add_argument("--subjects", type=int, default=6, help="how many to train on, at most")
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; its default if 0")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    people = read_clean_cohort(arguments.results / "01_data_cleaning")
    split = report_split(people)
    masked, device = arguments.results / "02_masking", torch.device(arguments.device)
    rule = STATIC_SEGMENTATION.rule(to_orientation(load(people[0].static)).voxel_size_mm[0])
    train_items, validation_items = (
        [one_bone(item, arguments.bone) for item in static_items(group, masked)]
        for group in (
            split.pick(people, "train")[: arguments.subjects],
            split.pick(people, "validation"),
        )
    )
    labels = (arguments.bone,)
    judge = patch_validation(PatchSource(validation_items, rule, labels=labels, device=device), 400)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        store(Path(folder), train_items, rule, arguments.steps * arguments.batch)
        print(f"patches extracted and stored in {time.perf_counter() - start:.1f} s")
        for workers in (0, 2):
            results.append(
                as_in_2020(Path(folder), workers, arguments.steps, arguments.batch, device, judge)
            )
        start = time.perf_counter()
        source = PatchSource(train_items, rule, labels=labels, device=device)
        print(f"volumes laid out on the device in {time.perf_counter() - start:.1f} s")
        for name, (optimizer, chosen) in WAYS.items():
            stage = replace(STAGE, steps=arguments.steps, batch_size=arguments.batch, **chosen)
            recipe = Recipe((stage,), labels=labels, epochs=1, optimizer=optimizer)
            steps, epochs = train(
                fresh(),
                recipe,
                source.draw,
                Path(folder) / name,
                validate=judge,
                device=arguments.device,
            )
            row = epochs.iloc[-1]
            loss = float(steps.loss.iloc[-LAST_STEPS:].mean())
            results.append(Result(name, row.samples_per_s, loss, row.score))
    ours = next(result for result in results if result.name == OURS)
    print(f"{'':24s} samples/s   loss  patch Dice   {OURS} is faster by")
    for result in results:
        ratio = ours.samples_per_s / result.samples_per_s
        print(
            f"{result.name:24s} {result.samples_per_s:9.1f} {result.loss:6.3f} {result.dice:8.3f}"
            f" {ratio:12.2f} x"
        )
    before = [result.samples_per_s for result in results if result.name not in WAYS]
    return 0 if ours.samples_per_s >= max(before) else 1


class StoredPatches(Dataset):
    """Patches in two arrays on the disk, read into memory."""

    def __init__(self, folder: Path) -> None:
        self.images = np.load(folder / "x.npy", allow_pickle=False)
        self.masks = np.load(folder / "y.npy", allow_pickle=False)

    def __len__(self) -> int:
        """Return the number of patches."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return image and mask, shape (1, h, w)."""
        return torch.from_numpy(self.images[index]), torch.from_numpy(self.masks[index])


def store(folder: Path, items: list[Item], rule: PatchRule, n: int) -> None:
    """Extract as in 2020, and store ``n`` of the patches."""
    random = np.random.default_rng(0)
    places = []
    for number, item in enumerate(items):
        for k in range(item.image.shape[2]):
            kept = rejection_sampling(item.region[:, :, k], rule, random)
            places += [(number, k, row, column) for row, column in kept]
    chosen = random.choice(len(places), n, replace=n > len(places))
    images, masks = [], []
    for number, k, row, column in (places[index] for index in chosen):
        cut = np.s_[row : row + rule.size[0], column : column + rule.size[1], k]
        images.append(items[number].image[cut].astype(np.float32)[None])
        masks.append(next(iter(items[number].labels.values()))[cut].astype(np.float32)[None])
    np.save(folder / "x.npy", np.stack(images))
    np.save(folder / "y.npy", np.stack(masks))


def as_in_2020(
    folder: Path, workers: int, steps: int, batch: int, device: torch.device, judge: object
) -> Result:
    """Train from stored patches with a plain loop."""
    network = fresh().to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-4)
    criterion = nn.BCELoss()
    torch.manual_seed(0)
    loader = DataLoader(StoredPatches(folder), batch, shuffle=True, num_workers=workers)
    start, losses = time.perf_counter(), []
    for images, masks in loader:
        images, masks = images.to(device), masks.to(device)
        loss = criterion(network(images), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    seconds = time.perf_counter() - start
    network.eval()
    with torch.inference_mode():
        dice = judge(network)["score"]  # type: ignore[operator]
    name = f"as in 2020, {workers} workers"
    return Result(name, steps * batch / seconds, float(np.mean(losses[-LAST_STEPS:])), dice)


def one_bone(item: Item, bone: str) -> Item:
    """Keep one label: the report trains one network per bone."""
    return Item(item.subject, item.name, item.image, item.region, {bone: item.labels[bone]})


def fresh() -> SliceNetwork:
    """Return the same first weights every time."""
    torch.manual_seed(0)
    return build("unet", **ARGUMENTS)


if __name__ == "__main__":
    sys.exit(main())
