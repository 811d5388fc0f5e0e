"""Chapters 05 and 07: segmentation of bones by networks.

``scans`` prepares static scans, ``recipe`` says how a network is trained and does it,
``evaluation`` scores it, ``examples`` picks slices to show, ``study`` ties them to one split. On it
build ``experiments`` (the report's), ``postmortem`` with its ``verdicts``, and ``final``, the
network to use, which ``any_scan`` applies to any scan or series (``segmenter`` reads it,
``labelling`` runs it on one image, ``frame_table`` says how far to trust it).
"""

from ankle_lib.segmentation.evaluation import finer_labels, segment, summary, volume_masks
from ankle_lib.segmentation.examples import (
    middle_slice_of,
    patch_examples,
    reader_slice,
    slice_example,
)
from ankle_lib.segmentation.experiments import (
    chosen_networks,
    compare_architectures,
    cross_validate,
    depths,
    learning_rates,
    on_test_patches,
    on_whole_slices,
    trained_and_validated,
)
from ankle_lib.segmentation.final import (
    final_recipe,
    final_slices,
    save_final,
    save_segmenter,
    score_final,
    score_scan,
    train_final,
)
from ankle_lib.segmentation.postmortem import postmortem_trials, summarised
from ankle_lib.segmentation.recipe import Fitted, Recipe, Stage, Task, fit, fit_side_by_side
from ankle_lib.segmentation.scans import (
    Scan,
    coarser,
    every,
    factor_for,
    one_slice,
    read_scans,
    rotation_of,
    turned,
)
from ankle_lib.segmentation.study import Study, read_study
from ankle_lib.segmentation.verdicts import judged

__all__ = [
    "Fitted",
    "Recipe",
    "Scan",
    "Stage",
    "Study",
    "Task",
    "chosen_networks",
    "coarser",
    "compare_architectures",
    "cross_validate",
    "depths",
    "every",
    "factor_for",
    "final_recipe",
    "final_slices",
    "finer_labels",
    "fit",
    "fit_side_by_side",
    "judged",
    "learning_rates",
    "middle_slice_of",
    "on_test_patches",
    "on_whole_slices",
    "one_slice",
    "patch_examples",
    "postmortem_trials",
    "read_scans",
    "read_study",
    "reader_slice",
    "rotation_of",
    "save_final",
    "save_segmenter",
    "score_final",
    "score_scan",
    "segment",
    "slice_example",
    "summarised",
    "summary",
    "train_final",
    "trained_and_validated",
    "turned",
    "volume_masks",
]
