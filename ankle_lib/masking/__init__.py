"""Chapter 02: where the foot is, and how much each voxel belongs to a bone.

``foot`` finds a threshold and the foot above it, ``weights`` dilates and blurs the bones,
``measures`` gives their volumes, ``cohort`` does it for all subjects and writes it.
"""

from ankle_lib.masking.cohort import MaskedCohort, cohort_histograms, mask_cohort
from ankle_lib.masking.foot import (
    CODE_STATIC_THRESHOLD,
    REPORT_THRESHOLD,
    Histogram,
    foot_mask,
    pooled_histogram,
    smoothed,
    valley_threshold,
)
from ankle_lib.masking.measures import bone_volumes_cm3
from ankle_lib.masking.weights import (
    BONE_RADIUS_VOXELS,
    REPORT_SIGMA_VOXELS,
    REPORT_VOXEL_MM,
    ball_voxels,
    bone_weights,
    in_mm,
)

__all__ = [
    "BONE_RADIUS_VOXELS",
    "CODE_STATIC_THRESHOLD",
    "REPORT_SIGMA_VOXELS",
    "REPORT_THRESHOLD",
    "REPORT_VOXEL_MM",
    "Histogram",
    "MaskedCohort",
    "ball_voxels",
    "bone_volumes_cm3",
    "bone_weights",
    "cohort_histograms",
    "foot_mask",
    "in_mm",
    "mask_cohort",
    "pooled_histogram",
    "smoothed",
    "valley_threshold",
]
