"""Training the networks of chapters 05 to 07.

``loop`` is the loop, ``settings`` what can be chosen, ``losses`` what is made small,
``optimisers`` how weights are changed, ``validation`` how a network is judged after each epoch,
``watching`` looks at the losses, ``history`` and ``checkpoints`` are what is written down.
"""

from ankle_lib.training.checkpoints import BEST, LAST
from ankle_lib.training.history import History
from ankle_lib.training.loop import train
from ankle_lib.training.losses import LOSSES, report_weight
from ankle_lib.training.settings import (
    REPORT_RECONSTRUCTION,
    REPORT_SEGMENTATION,
    TrainingSettings,
    epoch_steps,
    settings_from,
)
from ankle_lib.training.validation import patch_validation

__all__ = [
    "BEST",
    "LAST",
    "LOSSES",
    "REPORT_RECONSTRUCTION",
    "REPORT_SEGMENTATION",
    "History",
    "TrainingSettings",
    "epoch_steps",
    "patch_validation",
    "report_weight",
    "settings_from",
    "train",
]
