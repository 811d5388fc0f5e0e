"""All files of a subject in one frame of reference, that of the static scan, by evidence."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.cleaning.checks import Findings, Scan
from ankle_lib.geometry import (
    corner_distance_mm,
    in_words,
    is_rigid,
    rigid,
    rotation_angle_deg,
    same_grid,
    weighted_centre,
)
from ankle_lib.masking.foot import REPORT_THRESHOLD, find_foot, foot_mask
from ankle_lib.metrics import dice
from ankle_lib.volume import Header, Volume, resample, to_orientation

CLEAR_OVERLAP = 0.02
"""Least difference of foot overlap (Dice) that decides between two affines."""

COARSE_MM = 3.0
"""Spacing at which feet are compared: they are large and smooth."""

MIN_FOOT_OVERLAP = 0.3
"""A sequence whose foot overlaps the static one by less (Dice) shows another place."""

CLEARLY_TURNED = 0.15
"""Least difference of foot overlap by which half a turn is better than none."""

CLEAR_FRAME = 0.05
"""Least difference of foot overlap by which a sequence tells qform from sform."""


def coarse(volume: Volume) -> Volume:
    """Average a 3D scan over about 3 mm and keep every few voxels of it."""
    steps = tuple(max(1, round(COARSE_MM / size)) for size in volume.voxel_size_mm)
    averaged = ndimage.uniform_filter(volume.data.astype(np.float32), steps)
    i, j, k = (slice(None, None, step) for step in steps)
    return Volume(averaged[i, j, k], volume.affine @ np.diag([*steps, 1.0]))


def choose_static_affine(
    static: Scan, masks: dict[str, Scan], sequences: list[Scan], log: Findings
) -> Scan:
    """Settle a qform and an sform that disagree by what agrees with the other files."""
    affines = affines_of(static.header)
    shape = static.volume.shape
    if len(affines) < 2 or same_grid((shape, affines["sform"]), (shape, affines["qform"])):
        return static
    apart = f"{corner_distance_mm(shape, affines['sform'], affines['qform']):.1f} mm apart"
    votes = {
        name: sum(_placed_by(mask, static, affine) for mask in masks.values())
        for name, affine in affines.items()
    }
    witness = "the masks"
    if min(votes.values()) > 0 or max(votes.values()) == 0:
        witness = "the sequences"
        votes = _votes_of_sequences(static, affines, sequences)
    if votes["sform"] == votes["qform"]:
        sform, qform = (affines[name][:3].round(3).tolist() for name in ("sform", "qform"))
        log.exclude(
            "reference frame unclear",
            f"static scan: qform {qform} and sform {sform} are {apart}, and neither masks nor "
            "sequences tell which is right",
        )
        return static
    chosen = max(votes, key=lambda name: votes[name])
    text = f"qform and sform are {apart}: {chosen} kept, it agrees with {witness}"
    log.correct(static.path, "qform and sform disagree", text)
    return static.with_image(static.volume.data, affines[chosen])


def _placed_by(mask: Scan, static: Scan, affine: NDArray) -> bool:
    shape = static.volume.shape
    return mask.volume.shape == shape and any(
        same_grid((shape, affine), (shape, own)) for own in affines_of(mask.header).values()
    )


def _votes_of_sequences(
    static: Scan, affines: dict[str, NDArray], sequences: list[Scan]
) -> dict[str, int]:
    votes = dict.fromkeys(affines, 0)
    foot = coarse(Volume(static.volume.data, affines["sform"]))
    # Moving the foot to the qform and moving the sequence the other way are the same.
    back = affines["sform"] @ np.linalg.inv(affines["qform"])
    for sequence in sequences:
        own = sequence.volume.affine
        name, overlaps = best_affine(
            time_mean(sequence.volume), foot, {"sform": own, "qform": back @ own}
        )
        if max(overlaps.values()) - min(overlaps.values()) >= CLEAR_FRAME:
            votes[name] += 1
    return votes


def masks_on_static(
    static: Scan, masks: dict[str, Scan], log: Findings
) -> tuple[dict[str, Volume], list[NDArray]]:
    """Give the masks the static scan's affine.

    Returns
    -------
    masks : dict of bone to Volume
        Those that lie on the static grid.
    carries : list of (4, 4) array
        Rigid world transforms from other frames of reference, in which masks were found, to the
        static one.
    """
    target, on_grid = static.volume, {}
    carries: list[NDArray] = []
    for bone, mask in masks.items():
        found = mask.volume
        turned = to_orientation(found, "".join(target.axis_codes))
        if _placed_by(mask, static, target.affine):
            on_grid[bone] = Volume(found.data, target.affine)
        elif same_grid(turned.grid, target.grid):
            log.correct(mask.path, "axes reordered", "axes reordered to those of the static scan")
            on_grid[bone] = Volume(turned.data, target.affine)
        elif found.shape != target.shape:
            text = f"{bone} mask: {found.shape} voxels, static scan {target.shape}"
            log.exclude("mask on another grid", text)
        else:
            carry = target.affine @ np.linalg.inv(found.affine)
            if not is_rigid(carry, tolerance=1e-2):
                own, wanted = (
                    f"{''.join(one.axis_codes)} voxels of {in_words(one.voxel_size_mm)}"
                    for one in (found, target)
                )
                log.exclude(
                    "mask on another grid",
                    f"{bone} mask: {own}, static scan {wanted}: no rigid motion leads from one to "
                    "the other",
                )
                continue
            text = f"given the static header: {_moved(carry)}"
            log.correct(mask.path, "another reference frame", text)
            on_grid[bone] = Volume(found.data, target.affine)
            here, *places = ((target.shape, one @ target.affine) for one in (carry, *carries))
            if not any(same_grid(here, other) for other in places):
                carries.append(carry)
    return on_grid, carries


def sequences_in_frame(
    static: Scan, sequences: list[Scan], carries: list[NDArray], log: Findings
) -> list[Scan]:
    """Give each sequence the affine that lays its foot onto the static foot."""
    foot = coarse(static.volume)
    placed = []
    for sequence in sequences:
        own = affines_of(sequence.header)
        candidates = {**own}
        for number, carry in enumerate(carries):
            candidates |= {f"carried {number} {name}": carry @ own[name] for name in own}
        name, overlaps = best_affine(time_mean(sequence.volume), foot, candidates)
        if overlaps[name] < MIN_FOOT_OVERLAP:
            text = f"its foot overlaps the static one by {overlaps[name]:.2f} (Dice) only"
            log.drop(sequence.path, text)
            continue
        chosen = candidates[name]
        if not same_grid(sequence.volume.grid, (sequence.volume.shape, chosen)):
            log.correct(
                sequence.path,
                "another reference frame",
                f"carried over to the static frame: "
                f"{_moved(chosen @ np.linalg.inv(sequence.volume.affine))}, overlap of the feet "
                f"{overlaps[next(iter(own))]:.2f} before, {overlaps[name]:.2f} after",
            )
        placed.append(sequence.with_image(sequence.volume.data, chosen))
    return placed


def affines_of(header: Header) -> dict[str, NDArray[np.float64]]:
    """Return the usable affines of a header by name (sform first): one, or two that may differ."""
    return header.affines or {header.affine_source: header.affine}


def best_affine(
    frame: Volume, foot: Volume, candidates: Mapping[str, NDArray[np.float64]]
) -> tuple[str, dict[str, float]]:
    """Return the name of the affine that lays a dynamic frame best onto the static foot.

    The overlap (Dice) of both thresholded feet decides. Where two candidates differ by less than
    0.02, the correlation of the images within either foot decides between them.

    Parameters
    ----------
    frame : Volume
        One frame of a sequence; its own affine is not used.
    foot : Volume
        The `coarse` static scan.
    candidates : mapping of name to (4, 4) array
        Affines to try, voxel to world RAS mm, the preferred one first.

    Returns
    -------
    name : str
    overlaps : dict of name to Dice
    """
    overlaps, correlations = {}, {}
    for name, affine in candidates.items():
        overlaps[name], correlations[name] = _agreement(coarse(Volume(frame.data, affine)), foot)
    best = max(overlaps.values())
    close = [name for name, overlap in overlaps.items() if overlap >= best - CLEAR_OVERLAP]
    return max(close, key=lambda name: correlations[name]), overlaps


def _agreement(frame: Volume, foot: Volume) -> tuple[float, float]:
    """Return Dice and correlation of a coarse frame with the static foot, on the frame's grid."""
    mask = foot_mask(foot.data, REPORT_THRESHOLD).astype(np.float32)
    static_foot = resample(Volume(mask, foot.affine), *frame.grid).data > 0.5
    dynamic_foot = foot_mask(frame.data, REPORT_THRESHOLD)
    overlap = dice(static_foot, dynamic_foot)
    either = static_foot | dynamic_foot
    first, second = resample(foot, *frame.grid).data[either], frame.data[either]
    if len(first) < 2 or first.std() == 0 or second.std() == 0:
        return float(np.nan_to_num(overlap)), 0.0  # NaN where there is no foot at all
    return overlap, float(np.corrcoef(first, second)[0, 1])


def turned_against(static: Volume, series: Volume) -> str:
    """Say about which axis the foot of a series is turned by half a circle; empty if it is not.

    Thresholded feet are compared where both scans look: the static one as its header places it,
    and turned about left-right, front-back and up-down so that the feet's centres agree.
    """
    foot = coarse(static)
    mean = coarse(time_mean(series))
    own, other = (
        Volume(find_foot(one.data).astype(np.float32), one.affine) for one in (foot, mean)
    )
    centres = [weighted_centre(one.data, one.affine) for one in (own, other)]
    shift = centres[1] - centres[0]
    poses = {"": [np.eye(4), rigid((0, 0, 0), shift)]}
    for name, axis in (("left-right", 0), ("front-back", 1), ("up-down", 2)):
        half_turn = 180.0 * np.eye(3)[axis]
        poses[f"about the {name} axis"] = [rigid(half_turn, shift, centres[0])]
    there_too = other.data > 0
    seen = Volume(np.ones(own.shape, dtype=np.float32), own.affine)

    def overlap(pose: NDArray[np.float64]) -> float:
        both = resample(seen, *other.grid, pose=pose).data > 0.5
        if np.count_nonzero(there_too[both]) < 0.5 * np.count_nonzero(there_too):
            return 0.0  # too little is seen to say anything
        there = resample(own, *other.grid, pose=pose).data > 0.5
        return float(np.nan_to_num(dice(there[both], there_too[both])))

    overlaps = {name: max(map(overlap, ways)) for name, ways in poses.items()}
    best = max(overlaps, key=overlaps.__getitem__)
    return best if overlaps[best] > overlaps[""] + CLEARLY_TURNED else ""


def time_mean(series: Volume) -> Volume:
    """Return the mean of a 4D volume over time; a 3D one as it is."""
    data = series.data if series.data.ndim == 3 else series.data.mean(axis=3, dtype=np.float32)
    return Volume(data, series.affine)


def _moved(carry: NDArray) -> str:
    shift = float(np.linalg.norm(carry[:3, 3]))
    return f"turned by {rotation_angle_deg(carry):.1f} degrees and shifted by {shift:.1f} mm"
