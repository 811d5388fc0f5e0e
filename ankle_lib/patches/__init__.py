"""Chapter 04: what networks see of a scan.

``normalise`` makes intensities comparable, ``split`` decides who trains, validates and tests,
``tasks`` holds the report's sizes and thresholds, ``positions`` finds where a patch may be taken,
``items`` lays images out, ``source`` draws a ``batch`` on the training device, ``augmentation``
changes them, ``cohort`` reads what earlier chapters wrote, ``counting`` tells how many there are.
"""

from ankle_lib.patches.augmentation import Augmentation
from ankle_lib.patches.cohort import dynamic_items, pixel_mm, reconstruction_items, static_items
from ankle_lib.patches.counting import Extraction, count_cohort, count_patches, counts_by_group
from ankle_lib.patches.normalise import zscore
from ankle_lib.patches.positions import rejection_sampling
from ankle_lib.patches.source import PatchSource
from ankle_lib.patches.split import Split, report_split
from ankle_lib.patches.tasks import DYNAMIC_SEGMENTATION, RECONSTRUCTION, STATIC_SEGMENTATION, TASKS
