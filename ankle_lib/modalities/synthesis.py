"""CT images made of MR scans, from pairs and without any, and what they are worth.

From pairs a U-Net learns Hounsfield units pixel by pixel. Without pairs two generators learn from
two judges: each makes images that its judge cannot tell from real ones, and both together lead
back to where they began (CycleGAN, Zhu et al. 2017, arXiv:1703.10593).
"""

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ankle_lib import cache
from ankle_lib.files import write_csv
from ankle_lib.learning.checkpoints import load_checkpoint, save_checkpoint
from ankle_lib.learning.networks import SliceNetwork, build, ready_to_predict
from ankle_lib.learning.recipes import Recipe, Stage
from ankle_lib.learning.scans import (
    FINAL_FRACTION,
    Scan,
    coarser,
    factor_for,
    patch_source,
)
from ankle_lib.learning.slices import whole_slices
from ankle_lib.learning.training import Trained, train_once
from ankle_lib.metrics import dice
from ankle_lib.modalities.arms import AUGMENTATION, ModalityStudy, segment
from ankle_lib.modalities.unpaired_scans import HU_PER_UNIT, Child
from ankle_lib.parallel import run_all
from ankle_lib.patches.rules import PatchRule
from ankle_lib.patches.source import PatchSource
from ankle_lib.presets import BONES

BATCH, RATE = 8, 5e-3
"""Patches in a step, of both modalities together; the rate is the largest of a cycle."""

GAN_RATE, GAN_BETAS = 1e-3, (0.5, 0.999)
"""Of Adam; the rate is five times the paper's, for trainings that are much shorter."""

CYCLE_WEIGHT = 10.0
"""As in the paper. Its identity loss makes no sense where the units differ, and is left out."""

JUDGE_WIDTH = 16

GAN_NAMES = ("mr to ct", "ct to mr")

LEAKY_SLOPE = 0.2

AIR = -1000.0 / HU_PER_UNIT

LINE, PAIRED, UNPAIRED = "straight line", "U-Net, from pairs", "CycleGAN, without pairs"
METHODS = (LINE, PAIRED, UNPAIRED)


def scan_pair(child: Child, pixel_mm: float) -> tuple[Scan, NDArray[np.float32]]:
    """Return a child's MR scan with the pixels of the networks, and the CT of the same pixels.

    The CT is in thousands of Hounsfield units, as scanned.
    """
    mr = child.scans["mr"]
    factor = factor_for(mr, pixel_mm)
    ct = replace(mr, item=replace(mr.item, image=child.hounsfield))
    return coarser(mr, factor), np.asarray(coarser(ct, factor).item.image, np.float32)


def true_hounsfield(child: Child, pixel_mm: float) -> NDArray[np.float32]:
    """Return the CT without noise in Hounsfield units, with the pixels of the networks."""
    mr = child.scans["mr"]
    scan = replace(mr, item=replace(mr.item, image=child.noiseless))
    return HU_PER_UNIT * np.asarray(coarser(scan, factor_for(mr, pixel_mm)).item.image, np.float32)


# --- from pairs ---


def train_from_pairs(study: ModalityStudy, codes: Sequence[str]) -> Trained:
    """Train a U-Net on registered pairs of some children to tell the CT's value of each pixel.

    Parameters
    ----------
    study : ModalityStudy
    codes : sequence of str
        Children of whom both scans are used, and no label.
    """
    sizes = study.sizes
    stage = Stage(sizes.pixels, sizes.pair_steps, BATCH, RATE, "one-cycle")
    recipe = Recipe(
        (stage,),
        labels=("intensity",),
        width=sizes.synthesis_width,
        loss="l1",
        optimizer="muon",
        min_fraction=FINAL_FRACTION,
        augmentation=replace(AUGMENTATION, gain=0.0, shading=0.0, gamma=0.0),
    )
    pairs = [scan_pair(study.children[code], sizes.pixel_mm) for code in codes]

    def draws(stage: Stage) -> Any:
        assert stage.pixels is not None
        items = [replace(mr.item, labels={}, target=ct) for mr, ct in pairs]
        rule = PatchRule((stage.pixels, stage.pixels), 1, FINAL_FRACTION)
        source = PatchSource(items, rule, device=study.device)
        return lambda n, generator: source.draw(n, generator, recipe.augmentation)

    decides = [[mr.checksum, cache.digest(ct)] for mr, ct in pairs]
    return train_once(recipe, draws, study.folder, decides=decides, device=study.device)


# --- without pairs ---


class Judge(nn.Module):
    """Tells real patches from made ones, in overlapping parts (PatchGAN, Isola et al. 2017)."""

    def __init__(self, width: int = JUDGE_WIDTH) -> None:
        super().__init__()
        channels = [1, width, 2 * width, 4 * width]
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(itertools.pairwise(channels)):
            layers.append(nn.Conv2d(before, after, 4, stride=2, padding=1, bias=number == 0))
            if number:
                layers.append(nn.InstanceNorm2d(after, affine=True))
            layers.append(nn.LeakyReLU(LEAKY_SLOPE, inplace=True))
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels[-1], 1, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        """Return how real each part of the images (n, 1, h, w) looks: 1 is real, 0 made."""
        answers: Tensor = self.layers(images)
        return answers


def train_without_pairs(
    study: ModalityStudy, children: Mapping[str, Sequence[str]]
) -> dict[str, SliceNetwork]:
    """Train a CycleGAN on MR scans of some children and CT scans of others, once.

    Parameters
    ----------
    study : ModalityStudy
    children : mapping of modality to codes
        See `unpaired_scans.Regime.children`.

    Returns
    -------
    mapping of "mr to ct" and "ct to mr" to the generators
        Of single slices: z-scores to thousands of Hounsfield units, and back.
    """
    sizes, pixel_mm = study.sizes, study.sizes.pixel_mm
    mr = [scan_pair(study.children[code], pixel_mm)[0] for code in children["mr"]]
    ct = [scan_pair(study.children[code], pixel_mm) for code in children["ct"]]
    ct_scans = [replace(one, item=replace(one.item, image=image)) for one, image in ct]
    settings = [sizes, [one.checksum for one in (*mr, *ct_scans)]]
    place = cache.folder_for(study.folder, "cyclegan", train_without_pairs, settings)
    files = {name: place / f"{name.replace(' ', '-')}.ckpt" for name in GAN_NAMES}
    if not all(file.exists() for file in files.values()):
        options: Any = {"min_fraction": FINAL_FRACTION, "device": study.device}
        sources = [patch_source(scans, BONES, sizes.pixels, **options) for scans in (mr, ct_scans)]
        made, losses = _adversarial(sources, sizes.synthesis_width, sizes.cycle_steps)
        write_csv(place / "losses.csv", losses)
        for name, network in zip(GAN_NAMES, made, strict=True):
            save_checkpoint(files[name], network, labels=("intensity",))
    return {
        name: ready_to_predict(load_checkpoint(file).network, study.device)
        for name, file in files.items()
    }


def _adversarial(
    sources: Sequence[PatchSource], width: int, steps: int
) -> tuple[list[SliceNetwork], pd.DataFrame]:
    """Train two generators and their judges; return the generators and the losses of each step."""
    device = sources[0].device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        makers = [build("unet", head="intensity", width=width, depth=3) for _ in GAN_NAMES]
        judges = [Judge() for _ in GAN_NAMES]
    optimisers = []
    for networks in (makers, judges):
        weights = [one for network in networks for one in network.to(device).train().parameters()]
        optimisers.append(torch.optim.Adam(weights, GAN_RATE, GAN_BETAS))
    moved = replace(AUGMENTATION, gain=0.0, shading=0.0, gamma=0.0, noise=0.0)
    generator, rows, began = torch.Generator(device), [], time.perf_counter()
    for step in range(steps):
        generator.manual_seed(step)
        for optimiser in optimisers:  # the rate falls linearly over the second half
            optimiser.param_groups[0]["lr"] = GAN_RATE * min(1.0, 2 * (1 - step / steps))
        real = [source.draw(BATCH // 2, generator, moved).image for source in sources]
        # what is made of MR is judged as CT, and leads back to MR through the other maker
        made = [maker.logits(images) for maker, images in zip(makers, real, strict=True)]
        back = [makers[1 - n].logits(made[n]) for n in range(2)]
        fooled = torch.stack([(judges[n](made[n]) - 1).square().mean() for n in range(2)]).sum()
        cycle = torch.stack([(back[n] - real[n]).abs().mean() for n in range(2)]).sum()
        _stepped(optimisers[0], fooled + CYCLE_WEIGHT * cycle)
        found = [
            (judges[n](real[1 - n]) - 1).square().mean()
            + judges[n](made[n].detach()).square().mean()
            for n in range(2)
        ]
        seen = torch.stack(found).sum()
        _stepped(optimisers[1], seen)
        rows.append([step + 1, float(fooled.detach()), float(cycle.detach()), float(seen.detach())])
    table = pd.DataFrame(rows, columns=["step", "fooled", "cycle", "judges"])
    table["seconds"] = (time.perf_counter() - began) / max(steps, 1)
    return [maker.cpu().eval() for maker in makers], table


def _stepped(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


# --- what they are worth ---


def made_ct(network: SliceNetwork, mr: Scan) -> NDArray[np.float32]:
    """Return the CT that a network makes of an MR scan, in Hounsfield units; air around the foot.

    Parameters
    ----------
    network : SliceNetwork
    mr : Scan
        With the pixels of the networks.
    """
    maps = whole_slices(network, mr.item.image, foot=mr.item.region)[0]
    return np.where(mr.item.region, HU_PER_UNIT * maps, -1000.0).astype(np.float32)


def fit_line(study: ModalityStudy, codes: Sequence[str]) -> tuple[float, float]:
    """Return slope and offset of the straight line from MR to CT inside the foot, from pairs."""
    pairs = [scan_pair(study.children[code], study.sizes.pixel_mm) for code in codes]
    x = np.concatenate([mr.item.image[mr.item.region] for mr, _ in pairs])
    y = np.concatenate([ct[mr.item.region] for mr, ct in pairs])
    slope, offset = np.polyfit(x.astype(np.float64), y.astype(np.float64), 1)
    return float(slope), float(offset)


def make_all(
    study: ModalityStudy, codes: Sequence[str], children: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Return the CT of each test child as every method makes it.

    Parameters
    ----------
    study : ModalityStudy
    codes : sequence of str
        Of whom pairs are used, where a method needs any.
    children : mapping of modality to codes
        Whose scans are used where none are needed.

    Returns
    -------
    mapping of method to mapping of code to (i, j, K) array
        Hounsfield units, with the pixels of the networks.
    """
    slope, offset = fit_line(study, codes)
    trainings: list[Callable[[], Any]] = [
        partial(train_from_pairs, study, codes),
        partial(train_without_pairs, study, children),
    ]
    run_all(_done, trainings)  # side by side, in processes of their own; then both are read
    paired = train_from_pairs(study, codes).network
    unpaired = train_without_pairs(study, children)[GAN_NAMES[0]]
    found: dict[str, dict[str, NDArray[np.float32]]] = {method: {} for method in METHODS}
    for code in study.test:
        mr, _ = scan_pair(study.children[code], study.sizes.pixel_mm)
        line = HU_PER_UNIT * (slope * mr.item.image + offset)
        found[LINE][code] = np.where(mr.item.region, line, -1000.0).astype(np.float32)
        found[PAIRED][code] = made_ct(paired, mr)
        found[UNPAIRED][code] = made_ct(unpaired, mr)
    return found


def judge_synthesis(
    study: ModalityStudy,
    made: Mapping[str, Mapping[str, NDArray[np.float32]]],
    segmenters: Mapping[str, Trained],
) -> pd.DataFrame:
    """Return how wrong made images are in bone, and how well they can be segmented.

    Parameters
    ----------
    study : ModalityStudy
    made : mapping of method to mapping of code to image
        From `make_all`.
    segmenters : mapping of modality to Trained
        Networks of one modality each; that for CT segments what was made.

    Returns
    -------
    DataFrame
        Columns method, subject, hu_error_bone, hu_error_foot (mean absolute errors against the CT
        without noise), hu_bias_bone, and dice (mean over bones). Besides the methods: the real CT
        registered to the MR scan, the MR scan as it is given to the network for CT, and given to
        the network for MR.
    """
    tasks = [
        (study.children[code], {method: of[code] for method, of in made.items()})
        for code in study.test
    ]
    work = partial(_judged, study.sizes.pixel_mm, segmenters)
    found = run_all(work, tasks, device=study.device)
    return pd.DataFrame([row for rows in found for row in rows])


def _judged(
    pixel_mm: float,
    segmenters: Mapping[str, Trained],
    task: tuple[Child, Mapping[str, NDArray[np.float32]]],
) -> list[dict[str, Any]]:
    child, made = task
    mr, ct = scan_pair(child, pixel_mm)
    truth, region, labels = true_hounsfield(child, pixel_mm), mr.item.region, mr.item.labels
    bone = np.logical_or.reduce([*labels.values()])
    images: dict[str, tuple[NDArray, str]] = {
        "real CT, registered": (HU_PER_UNIT * ct, "ct"),
        **{method: (image, "ct") for method, image in made.items()},
        "MR to the network for CT": (mr.item.image, "ct"),
        "MR to the network for MR": (mr.item.image, "mr"),
    }
    rows = []
    for method, (image, modality) in images.items():
        trained = segmenters[modality]
        scan = replace(mr, item=replace(mr.item, image=image.astype(np.float32)))
        found = segment(trained.network, scan, pixel_mm, trained.recipe.context_mm).masks()
        error = image - truth if method in made else np.full(truth.shape, math.nan)
        rows.append(
            {
                "method": method,
                "subject": child.code,
                "hu_error_bone": float(np.abs(error[bone]).mean()),
                "hu_bias_bone": float(error[bone].mean()),
                "hu_error_foot": float(np.abs(error[region]).mean()),
                "dice": float(np.mean([dice(found[one], labels[one]) for one in labels])),
            }
        )
    return rows


def _done(training: Callable[[], Any]) -> None:
    training()
