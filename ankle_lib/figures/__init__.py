"""Every figure of the course: data in, matplotlib Figure out."""

from ankle_lib.figures.images import Slice, centre_voxel, middle_slice, slice_of, window
from ankle_lib.figures.patch_galleries import label_gallery, pair_gallery
from ankle_lib.figures.patch_statistics import (
    compared_samples,
    correlation_histogram,
    intensity_curves,
    patch_numbers,
)
from ankle_lib.figures.patches import foot_positions, normalised_slices, pair_positions, patch_sizes
from ankle_lib.figures.style import BONE_COLOURS
