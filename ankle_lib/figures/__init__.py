"""Every figure of the course: data in, matplotlib Figure out."""

from ankle_lib.figures.images import Slice, centre_voxel, middle_slice, slice_of, window
from ankle_lib.figures.style import BONE_COLOURS
