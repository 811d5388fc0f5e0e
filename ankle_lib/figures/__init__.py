"""Every figure of the course: data in, matplotlib Figure out."""

from ankle_lib.figures.anatomy import (
    bone_surfaces,
    filmstrip,
    joint_angles,
    orthogonal_slices,
    render_bones,
    static_beside_frame,
)
from ankle_lib.figures.cleaning import (
    before_and_after,
    inclusion_flow,
    left_beside_right,
    sequence_overview,
)
from ankle_lib.figures.masking import (
    bone_volumes,
    dilation_balls,
    foot_masks,
    intensity_histograms,
    mask_agreement,
    weight_gallery,
)
from ankle_lib.figures.style import (
    BONE_COLOURS,
    GROUP_COLOURS,
    Slice,
    centre_voxel,
    draw_slice,
    new_figure,
    scale_bar,
    slice_of,
    window,
)

__all__ = [
    "BONE_COLOURS",
    "GROUP_COLOURS",
    "Slice",
    "before_and_after",
    "bone_surfaces",
    "bone_volumes",
    "centre_voxel",
    "dilation_balls",
    "draw_slice",
    "filmstrip",
    "foot_masks",
    "inclusion_flow",
    "intensity_histograms",
    "joint_angles",
    "left_beside_right",
    "mask_agreement",
    "new_figure",
    "orthogonal_slices",
    "render_bones",
    "scale_bar",
    "sequence_overview",
    "slice_of",
    "static_beside_frame",
    "weight_gallery",
    "window",
]
