"""Chapter 01: which subjects are usable and why not, and everything that can be set right.

`clean_cohort` is the chapter, `clean_subject` its heart. The story in order: ``reading`` looks at
each file for itself, ``placing`` brings all files of a subject into one frame of reference (by the
evidence of ``reference``), ``bones`` sees that the bones are there and settles left and right (by
``laterality``), ``subject`` puts it together, ``cohort`` writes it.
"""

from ankle_lib.cleaning.cohort import clean_cohort
from ankle_lib.cleaning.laterality import masks_fit_image, side_from_bones
from ankle_lib.cleaning.scenes import clean_scene, frame_means, raw_scene
from ankle_lib.cleaning.subject import clean_subject
