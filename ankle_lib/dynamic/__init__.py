"""Chapter 07: the three bones segmented directly on the frames, and their motion.

``frames`` reads frames with accepted and true labels, ``study`` ties them to the split,
``prediction`` is what a network sees in a frame. ``experiments`` asks which design learns best and
what labels are worth (``wrong_labels``), ``specialists`` compares one network for static and
dynamic scans with two, ``robustness`` tries it on what it was not trained on (``randomised`` and
``template`` make such images). ``contest`` holds it against registration, with ``mask_poses`` and
``over_time``; ``motion`` says what the joints do (``kinematics``, ``motion_tables``).
"""

from ankle_lib.dynamic.bones import StaticBones
from ankle_lib.dynamic.contest import (
    METHODS,
    NETWORK,
    OVER_TIME,
    Contest,
    best_poses,
    hold_contest,
    method_scores,
)
from ankle_lib.dynamic.examples import (
    compared_slices,
    fullest_slice,
    predicted_slices,
    segmented_film,
    telling_frames,
)
from ankle_lib.dynamic.experiments import (
    FROM_STATIC,
    PER_BONE,
    compare_designs,
    count_labels,
    true_poses,
    value_of_labels,
)
from ankle_lib.dynamic.motion import (
    foot_of,
    is_complete,
    joint_tables,
    registered_courses,
    true_courses,
)
from ankle_lib.dynamic.motion_tables import range_of_motion, range_summary
from ankle_lib.dynamic.prediction import predict
from ankle_lib.dynamic.robustness import other_looks, robustness, template_frames
from ankle_lib.dynamic.specialists import compare_specialists, random_looks, save_one, train_last
from ankle_lib.dynamic.study import read_dynamic_study
