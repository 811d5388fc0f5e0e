"""Chapter 03: the static scan carried onto every frame, as a whole and bone by bone.

``register`` is the one call; ``multiresolution`` (with ``pyramid``, ``similarity`` and
``optimiser``) is the course's own engine, ``simpleitk`` and ``flirt`` are two others. ``moving``
carries images and masks by a pose, ``measures`` compares poses with the truth, ``scans`` serves
`ankle register`, ``cohort`` does it for all subjects.
"""

from ankle_lib.registration.cohort import experiment, judge, register_cohort
from ankle_lib.registration.high_resolution import bone_grid
from ankle_lib.registration.measures import AXES, bone_points, rotation_errors_deg, tre_mm
from ankle_lib.registration.moving import moved, moved_mask
from ankle_lib.registration.register import Registration, register
from ankle_lib.registration.sequence import Variant, sequence_images
from ankle_lib.registration.settings import Settings
