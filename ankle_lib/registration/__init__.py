"""Chapter 03: the static scan carried onto every frame, as a whole and bone by bone.

``register`` is the one call; ``multiresolution`` (with ``pyramid``, ``similarity`` and
``optimiser``) is the course's own engine, ``simpleitk`` and ``flirt`` are two others. ``moving``
carries images and masks by a pose, ``measures`` compares poses with the truth, ``scans`` serves
`ankle register`, ``cohort`` does it for all subjects.
"""

from ankle_lib.registration.cohort import experiment, judge, register_cohort
from ankle_lib.registration.high_resolution import bone_grid
from ankle_lib.registration.measures import AXES, bone_points, rotation_errors_deg, tre_mm
from ankle_lib.registration.moving import (
    SliceProfile,
    arrival,
    cut_to_mask,
    moved,
    moved_mask,
    part_of,
    slice_average,
    slice_direction,
)
from ankle_lib.registration.register import ENGINES, Registration, register
from ankle_lib.registration.sequence import Variant, sequence_images, transforms_path
from ankle_lib.registration.settings import (
    RADIUS_VOXELS,
    SIGMA_VOXELS,
    WHOLE,
    Resolution,
    Settings,
)

__all__ = [
    "AXES",
    "ENGINES",
    "RADIUS_VOXELS",
    "SIGMA_VOXELS",
    "WHOLE",
    "Registration",
    "Resolution",
    "Settings",
    "SliceProfile",
    "Variant",
    "arrival",
    "bone_grid",
    "bone_points",
    "cut_to_mask",
    "experiment",
    "judge",
    "moved",
    "moved_mask",
    "part_of",
    "register",
    "register_cohort",
    "rotation_errors_deg",
    "sequence_images",
    "slice_average",
    "slice_direction",
    "transforms_path",
    "tre_mm",
]
