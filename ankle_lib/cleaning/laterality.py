"""Left or right? The side told by the bones, and whether masks and image are mirror images."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.cleaning.checks import Findings, Scan
from ankle_lib.files import AnkleError
from ankle_lib.geometry import apply
from ankle_lib.manifest.schema import Subject
from ankle_lib.presets import BONES
from ankle_lib.volume import Volume, flip_left_right

SURE_MM = 2.0
"""Both landmarks must lie this far to the same side. The mean child's bones give 9.1 and 13.2 mm,
and never less than 2.6 mm in poses of -50 to 25 degrees of flexion and 20 of inversion."""

FEWEST_POINTS = 50
"""Of a bone, to see which way it lies."""
CLEARLY = 0.3
"""Part of a unit vector; a foot flexed by up to 70 degrees still points this far to the front."""

CORTEX_MM = 2.0
"""Rim of a bone that holds its dark cortex (1 to 2 mm thick)."""

MARROW_DEPTH_MM = 4.0
"""Voxels deeper than this are marrow for certain."""

FIT_MARGIN = 0.5
"""Least difference of the two fits (in standard deviations of the image) that decides."""

MAX_POINTS = 20_000
"""Voxels per bone that are enough for centroids and layers."""


@dataclass(frozen=True)
class BoneSide:
    """The side that the bones' shape tells."""

    side: str | None
    """``"left"``, ``"right"``, or ``None`` when the two landmarks do not agree clearly."""
    talar_head_mm: float
    """How far the talar head lies to the right of the calcaneus's front end, in mm."""
    malleolus_mm: float
    """How far the lowest part of the tibia lies to the right of its shaft, in mm."""


@dataclass(frozen=True)
class MaskFit:
    """How well bone masks sit on an image, as they are and mirrored left to right."""

    as_is: float
    """Marrow minus cortex in standard deviations of the image, mean over the bones."""
    flipped: float
    """The same after reversing the masks along the left-right axis."""

    @property
    def verdict(self) -> str | None:
        """``"as is"``, ``"flipped"``, or ``None`` when neither is clearly better."""
        if self.as_is > self.flipped + FIT_MARGIN:
            return "as is"
        if self.flipped > self.as_is + FIT_MARGIN:
            return "flipped"
        return None

    @property
    def mirrored(self) -> bool:
        """Whether the bones show in the image where the mirrored masks are, bright or dark."""
        return abs(self.flipped) > abs(self.as_is) + FIT_MARGIN


def fix_left_right(
    static: Scan, masks: dict[str, Volume], subject: Subject, log: Findings
) -> tuple[Scan, dict[str, Volume], str | None]:
    """Mirror image and masks where needed; return them and the side of the foot."""
    if not all(mask.data.any() for mask in masks.values()):
        return static, masks, subject.side
    bones = side_from_bones({bone: mask.data for bone, mask in masks.items()}, static.volume.affine)
    fit = masks_fit_image(static.volume, masks)
    mirror_image, mirror_masks = decide_flip(fit, bones, subject.side, log)
    wrong = {"image": mirror_image, "masks": mirror_masks}
    kind = f"{' and '.join(name for name in wrong if wrong[name])} mirrored"
    if mirror_image:
        log.correct(static.path, kind, f"mirrored left to right: a {subject.side} foot")
        other = flip_left_right(static.volume)
        static = static.with_image(other.data, other.affine)
    if mirror_masks:
        text = f"mirrored left to right: the bones were those of a {bones.side} foot"
        for bone in masks:
            log.correct(subject.masks[bone], kind, text)
        masks = {bone: flip_left_right(mask) for bone, mask in masks.items()}
    return static, masks, subject.side or bones.side


def side_from_bones(masks: Mapping[str, NDArray[np.bool_]], affine: NDArray) -> BoneSide:
    """Tell a left foot from a right one by the shape and place of its bones.

    Forward is the long axis of the calcaneus, from the heel towards the talus; up leads from the
    calcaneus to the tibia; forward x up is then the right-hand side, whichever foot it is. Two
    landmarks lie medially: the talar head, beside the front end of the calcaneus, and the medial
    malleolus, the lowest part of the tibia. Axes of the body are not used, so the pose of the
    foot and of the child in the scanner do not matter.

    Parameters
    ----------
    masks : mapping of bone to (I, J, K) bool array
        Calcaneus, talus and tibia on one grid.
    affine : (4, 4) array
        Voxel to world (RAS mm).

    Raises
    ------
    AnkleError
        If a bone is missing or empty.
    """
    points = {bone: _world_points(masks, bone, affine) for bone in BONES}
    forward, up = _forward_and_up(points)
    right = np.cross(forward, up)
    shaft = _unit(points["tibia"].mean(axis=0) - points["talus"].mean(axis=0))
    right_of_shaft = _unit(np.cross(forward, shaft))

    head = _end(points["talus"], forward) @ right - _end(points["calcaneus"], forward) @ right
    malleolus = _malleolus(points["tibia"], shaft) @ right_of_shaft
    sure = head * malleolus > 0 and min(abs(head), abs(malleolus)) >= SURE_MM
    # Medial to the right: the foot is a left one.
    side = ("left" if head > 0 else "right") if sure else None
    return BoneSide(side, float(head), float(malleolus))


def wrong_way_up(masks: Mapping[str, NDArray[np.bool_]], affine: NDArray) -> str:
    """Say if a foot lies in the world as none can, by its heel, toes and sole; empty if not.

    Arguments as of `side_from_bones`. Where a scanner was told head first for feet first, or
    supine for prone, the world of all its scans is turned by half a circle.
    """
    points = {bone: _world_points(masks, bone, affine) for bone in BONES}
    if min(map(len, points.values())) < FEWEST_POINTS:
        return ""
    forward, up = _forward_and_up(points)
    wrong = {"the toes point backwards": -forward[1], "the sole lies above": -up[2]}
    found = " and ".join(text for text, size in wrong.items() if size > CLEARLY)
    return found and f"by its bones, {found}: is the patient's position wrong in the header?"


def masks_fit_image(image: Volume, masks: Mapping[str, Volume]) -> MaskFit:
    """Score how well the masks sit on the image, as they are and mirrored.

    On both contrasts marrow is brighter than the thin cortex around it. Under a mask that
    belongs to the image, the outer 2 mm are therefore darker than the inside; under a mirrored
    mask they are not.

    Parameters
    ----------
    image : Volume
        3D scan.
    masks : mapping of bone to Volume
        Boolean masks on the image's grid.
    """
    as_is, flipped = (
        float(np.mean([_bone_contrast(image, mask.data) for mask in variant]))
        for variant in (masks.values(), [flip_left_right(mask) for mask in masks.values()])
    )
    return MaskFit(as_is, flipped)


def decide_flip(
    fit: MaskFit, bones: BoneSide, expected: str | None, log: Findings
) -> tuple[bool, bool]:
    """Decide whether image and masks have to be mirrored to agree with the documented side.

    ============== ==================== ==========================================
    masks fit      masks' side          so
    ============== ==================== ==========================================
    as they are    as documented        nothing to do
    as they are    the other            image and masks are mirrored: flip both
    only flipped   as documented        the image is mirrored: flip it
    only flipped   the other            the masks are mirrored: flip them
    ============== ==================== ==========================================

    What cannot be told is reported, never guessed: a reason to exclude the subject where something
    is wrong for certain, and a note where nothing contradicts.
    """
    mirrored, wrong_side = fit.verdict == "flipped", bones.side != expected
    if bones.side and expected and fit.verdict:
        return wrong_side != mirrored, wrong_side
    reason = "masks fit the image only when mirrored, and " if mirrored else ""
    if bones.side is None:
        doubt = (
            f"side not clear from the bones (talar head {bones.talar_head_mm:+.1f} mm, "
            f"malleolus {bones.malleolus_mm:+.1f} mm)"
        )
        reason += doubt if mirrored else ""
    elif expected is None:
        doubt = f"no side is documented: {bones.side}, from the bones"
        reason += "no side is documented" if mirrored else ""
    else:
        fits = (
            f"masks fit the image no better (contrast {fit.as_is:.2f}) than mirrored "
            f"({fit.flipped:.2f})"
        )
        doubt = f"{fits}: agreement of image and masks not verified"
        if wrong_side:
            reason = f"the bones are those of a {bones.side} foot, documented is {expected}: {fits}"
    if reason:
        log.exclude("left or right unclear", reason)
    else:
        log.notes.append(doubt)
    return False, False


def _forward_and_up(
    points: Mapping[str, NDArray[np.float64]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return unit vectors along the calcaneus to its front, and at right angles to the tibia."""
    centre = {bone: places.mean(axis=0) for bone, places in points.items()}
    forward = np.linalg.eigh(np.cov(points["calcaneus"].T))[1][:, -1]
    if forward @ (centre["talus"] - centre["calcaneus"]) < 0:
        forward = -forward
    up = centre["tibia"] - centre["calcaneus"]
    return forward, _unit(up - (up @ forward) * forward)


def _world_points(
    masks: Mapping[str, NDArray[np.bool_]], bone: str, affine: NDArray
) -> NDArray[np.float64]:
    mask = masks.get(bone)
    voxels = np.argwhere(mask) if mask is not None else np.empty((0, 3))
    if len(voxels) == 0:
        raise AnkleError(f"the side needs calcaneus, talus and tibia, but the {bone} is empty")
    # A prime step does not beat with the grid.
    step = 1 if len(voxels) <= MAX_POINTS else 2 * (len(voxels) // MAX_POINTS // 2) + 3
    return apply(affine, voxels[::step])


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector / np.linalg.norm(vector)


def _end(points: NDArray[np.float64], direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the centroid of the last 15 % of the points along a direction."""
    along = points @ direction
    return points[along >= np.quantile(along, 0.85)].mean(axis=0)


def _malleolus(tibia: NDArray[np.float64], shaft: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the vector from the shaft (15 to 25 mm above the tip) to the lowest 6 mm."""
    height = tibia @ shaft
    height -= height.min()
    tip = tibia[height <= 6.0].mean(axis=0)
    above = tibia[(height >= 15.0) & (height <= 25.0)]
    return tip - (above if len(above) else tibia).mean(axis=0)


def _bone_contrast(image: Volume, mask: NDArray[np.bool_]) -> float:
    """Return (marrow - rim) / sd of the image inside one bone; 0 where there is no image."""
    if not mask.any():
        return 0.0
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    inside = np.pad(mask[box], 1)
    depth = ndimage.distance_transform_edt(inside, sampling=image.voxel_size_mm)
    depth = depth[1:-1, 1:-1, 1:-1]
    values = image.data[box].astype(np.float32)
    rim = values[(depth > 0) & (depth <= max(CORTEX_MM, 1.01 * max(image.voxel_size_mm)))]
    marrow = values[depth > MARROW_DEPTH_MM]
    spread = float(values[mask[box]].std())
    if marrow.size == 0 or rim.size == 0 or spread == 0:
        return 0.0
    return float(marrow.mean() - rim.mean()) / spread
