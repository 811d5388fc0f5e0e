"""How much is learnt from few labelled children, and what stood before them.

Three starts are compared on equal steps: none, scans whose every label has one mean brightness and
one spread, and the phantom's scans.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ankle_lib import cache
from ankle_lib.geometry import voxel_size
from ankle_lib.learning.networks import SliceNetwork
from ankle_lib.learning.prediction import Segmenter, predict
from ankle_lib.learning.recipes import Recipe, Stage
from ankle_lib.learning.scans import FINAL_CONTEXT_MM, Scan, coarser, factor_for
from ankle_lib.learning.scoring import bone_scores
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.metrics import overlap_mm3
from ankle_lib.parallel import run_all
from ankle_lib.patches.items import dynamic_item
from ankle_lib.patches.source import Augmentation
from ankle_lib.presets import BONES, LABELS, SmallDataSizes
from ankle_lib.registration import truth as known
from ankle_lib.small_data.constraints import gap_scores
from ankle_lib.small_data.rigid_layer import Seen, fit_poses
from ankle_lib.small_data.target_scans import TargetChild
from ankle_lib.volume import canonical_voxel_size, read_header

AUGMENTATION = Augmentation(30.0, scale=1.15, gain=0.15, shading=0.2, gamma=0.2, noise=0.3)
"""Of every training alike."""
RATE, FINE_RATE = 1e-2, 5e-3
"""Largest learning rates: from random weights, and from learnt ones."""

SCRATCH, GAUSSIAN, PHANTOM, RANDOM = "from scratch", "Gaussian looks", "phantom", "random looks"
NETWORK, RIGID, JOINTS_KEPT = "network", "rigid", "rigid, joints kept"
OUTLINED = "joints kept, static scan outlined"
VOLUMES = ("volume_cm3", "true_volume_cm3", "share_cm3")


# --- what is learnt from ---


def labelled_frames(
    subjects: Sequence[CleanSubject], masked: Path, truth: Path, step: int, pixel_mm: float
) -> list[Scan]:
    """Return every so-many-th frame of the cohort with its true labels; none for real scans.

    Parameters
    ----------
    subjects : sequence of CleanSubject
    masked : Path
        Results of chapter 02.
    truth : Path
        Of a simulated cohort, see `registration.truth.truth_files`.
    step : int
    pixel_mm : float
        Of the results, about.
    """
    scans = []
    for subject in subjects:
        for sequence, paths in subject.sequences.items():
            true = known.read_true_labels(truth, subject.code, sequence)
            for frame in range(0, len(paths), step):
                item = dynamic_item(subject, sequence, frame, masked)
                # else nobody knows, or it is a field of view that was cut
                if true is not None and true.shape[:3] == item.image.shape:
                    masks = {bone: true[..., frame] == LABELS[bone] for bone in BONES}
                    voxel_mm = canonical_voxel_size(read_header(paths[frame]).affine)
                    scan = Scan(replace(item, labels=masks), subject.group, voxel_mm)
                    scans.append(coarser(scan, factor_for(scan, pixel_mm), to_learn=True))
    return scans


def labelled_scans(
    children: Sequence[TargetChild], n_frames: int, pixel_mm: float, *, labelled: bool = True
) -> list[Scan]:
    """Return of each child the static scan and some frames, evenly spread, as networks learn."""
    scans = []
    for child in children:
        frames = np.linspace(0, child.frames.n_frames - 1, n_frames + 2)[1:-1].round().astype(int)
        for frame in (None, *frames.tolist()):
            scan = child.scan(frame, labelled=labelled)
            scans.append(coarser(scan, factor_for(scan, pixel_mm), to_learn=True))
    return scans


def recipe_for(sizes: SmallDataSizes, steps: int, rate: float, seed: int = 0) -> Recipe:
    """Return how every network of the chapter is trained."""
    stages = (Stage(sizes.pixels, steps, 8, rate, "one-cycle"),)
    return Recipe(stages, width=sizes.width, loss="dice+bce", optimizer="muon", seed=seed,
                  context_mm=FINAL_CONTEXT_MM, min_fraction=0.2,
                  augmentation=AUGMENTATION)  # fmt: skip


# --- how good a network is on children of the target domain ---


def look_at(
    child: TargetChild, segmenter: Segmenter, frames: Sequence[int], *, still: bool = True
) -> Seen:
    """Segment some frames of a child and, unless nothing is carried from it, the static scan."""
    sizes, data = child.frames.voxel_size_mm, child.frames.data
    found = [predict(data[..., n], sizes, segmenter) for n in frames]
    maps, masks = np.stack([one.maps for one in found]), [one.masks() for one in found]
    affine = child.frames.affine @ found[0].grid
    if not still:
        return Seen(np.zeros((0, 0, 0, 0), np.float16), np.eye(4), maps, affine, masks)
    static = predict(child.static.data, child.static.voxel_size_mm, segmenter)
    return Seen(static.maps, child.static.affine @ static.grid, maps, affine, masks)


def score_children(
    network: SliceNetwork, children: Sequence[TargetChild], sizes: SmallDataSizes, folder: Path, *,
    step: int = 1, ways: Sequence[str] = (NETWORK,),
) -> pd.DataFrame:  # fmt: skip
    """Score a network on every so-many-th frame of children, once.

    Parameters
    ----------
    network : SliceNetwork
    children : sequence of TargetChild
    sizes : SmallDataSizes
    folder : Path
        Where scores are remembered.
    step : int
    ways : sequence of str
        `NETWORK`: its own labels. `RIGID`: its static labels, carried by `rigid_layer.fit_poses`;
        `JOINTS_KEPT`: with joints that keep their width; `OUTLINED`: the same with the reader's
        static outlines instead of the network's.

    Returns
    -------
    DataFrame
        A row for each way, subject, frame and bone: dice, hd95_mm, assd_mm, volume_cm3 and
        true_volume_cm3 (of masks), share_cm3 (sum of the probabilities, or of the parts of voxels
        that a carried bone fills), tre_mm, rotation_error_deg; overlap_mm3 and those of
        `constraints.gap_scores`, the same for all bones.
    """
    weights = cache.digest([one.cpu().numpy() for one in network.state_dict().values()])
    cpu = copy.deepcopy(network).cpu()
    segmenter = Segmenter(cpu, BONES, (sizes.pixel_mm,) * 2, FINAL_CONTEXT_MM)
    settings = [weights, [child.checksum for child in children], step, list(ways)]
    settings += [sizes.rigid_steps, sizes.pixel_mm]
    score = partial(_child_scores, segmenter, sizes.rigid_steps, step, ways)
    record = folder / f"{cache.digest(settings)[:16]}.json"
    return cache.remembered(record, partial(_all_scores, score, children), settings=settings)


def _all_scores(score: Callable[..., Any], children: Sequence[TargetChild]) -> pd.DataFrame:
    return pd.DataFrame([row for rows in run_all(score, children) for row in rows])


def _child_scores(
    segmenter: Segmenter, rigid_steps: int, step: int, ways: Sequence[str], child: TargetChild
) -> list[dict[str, Any]]:
    frames = list(range(0, child.frames.n_frames, step))
    seen = look_at(child, segmenter, frames, still=any(way != NETWORK for way in ways))
    sizes, own_pixels = child.frames.voxel_size_mm, voxel_size(seen.frame_affine)
    outlines = np.stack([mask.astype(np.float32) for mask in child.masks().values()])
    outlined = replace(seen, static=outlines, static_affine=child.static.affine)
    places = {
        bone: known.bone_points(mask, child.static.affine) for bone, mask in child.masks().items()
    }
    rows = []
    for way in ways:
        shape = outlined if way == OUTLINED else seen
        poses = [] if way == NETWORK else fit_poses(shape, rigid_steps, keep_joints=way != RIGID)
        for n, frame in enumerate(frames):
            # one label a voxel rules overlap out: it is measured on the probabilities themselves
            shares, pixels = dict(zip(BONES, seen.frames[n], strict=True)), own_pixels
            if poses:
                shares, pixels = shape.carried_shares(poses[n], child.frames.grid), sizes
            claimed = {bone: share >= 0.5 for bone, share in shares.items()}
            masks, truth = claimed if poses else seen.masks[n], child.masks(frame)
            of_all = gap_scores(masks, truth, sizes) | {"overlap_mm3": overlap_mm3(claimed, pixels)}
            for row in bone_scores(child.code, masks, truth, sizes):
                bone, tre, turned = row["bone"], np.nan, np.nan
                if poses:
                    pair = poses[n][bone], child.poses[frame][bone]
                    tre = known.tre_mm(*pair, places[bone])
                    turned = float(np.linalg.norm(known.rotation_errors_deg(*pair)))
                counted = ((masks[bone], sizes), (truth[bone], sizes), (shares[bone], pixels))
                cm3 = (float(np.prod(s) * m.sum(dtype=np.float64) / 1000) for m, s in counted)
                more = {"way": way, "frame": frame} | dict(zip(VOLUMES, cm3, strict=True))
                rows.append(row | more | {"tre_mm": tre, "rotation_error_deg": turned} | of_all)
    return rows
