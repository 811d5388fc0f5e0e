"""Chapters 05 and 07: segmentation of bones by networks.

``scans`` prepares static scans, ``recipe`` says how a network is trained and does it,
``evaluation`` scores it, ``examples`` picks slices to show, ``study`` ties them to one split. On it
build ``experiments`` (the report's), ``postmortem`` with its ``verdicts``, and ``final``, the
network to use, which ``any_scan`` applies to any scan or series (``segmenter`` reads it,
``labelling`` runs it on one image, ``frame_table`` says how far to trust it).
"""

from ankle_lib.segmentation.evaluation import segment, summary, volume_masks
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
    score_final,
    train_final,
)
from ankle_lib.segmentation.postmortem import postmortem_trials, summarised
from ankle_lib.segmentation.scans import coarser, every, factor_for, one_slice, rotation_of, turned
from ankle_lib.segmentation.study import read_study
from ankle_lib.segmentation.verdicts import judged
