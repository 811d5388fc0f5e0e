"""Chapter 01: which subjects are usable and why not, and everything that can be set right.

`clean_cohort` is the chapter, `clean_subject` its heart. The story in order: ``reading`` looks at
each file for itself, ``placing`` brings all files of a subject into one frame of reference (by the
evidence of ``reference``), ``bones`` sees that the bones are there and settles left and right (by
``laterality``), ``subject`` puts it together, ``cohort`` writes it.
"""

from ankle_lib.cleaning.cohort import CleanCohort, clean_cohort
from ankle_lib.cleaning.findings import Correction, Reason
from ankle_lib.cleaning.laterality import (
    BoneSide,
    Flip,
    MaskFit,
    decide_flip,
    masks_fit_image,
    side_from_bones,
)
from ankle_lib.cleaning.repairs import binarise, fill_missing
from ankle_lib.cleaning.scenes import Scene, clean_scene, frame_means, raw_scene
from ankle_lib.cleaning.subject import Cleaned, CleanScan, clean_subject

__all__ = [
    "BoneSide",
    "CleanCohort",
    "CleanScan",
    "Cleaned",
    "Correction",
    "Flip",
    "MaskFit",
    "Reason",
    "Scene",
    "binarise",
    "clean_cohort",
    "clean_scene",
    "clean_subject",
    "decide_flip",
    "fill_missing",
    "frame_means",
    "masks_fit_image",
    "raw_scene",
    "side_from_bones",
]
