"""Chapter 02: where the foot is, and how much each voxel belongs to a bone.

``foot`` finds a threshold and the foot above it, ``weights`` dilates and blurs the bones,
``measures`` gives their volumes, ``cohort`` does it for all subjects and writes it.
"""

from ankle_lib.masking.cohort import cohort_histograms, mask_cohort
from ankle_lib.masking.foot import foot_mask, valley_threshold
from ankle_lib.masking.weights import BONE_RADIUS_VOXELS, bone_weights, in_mm
