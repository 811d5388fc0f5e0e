"""The report's networks (its section 6.1), and their checkpoints.

``fcn``, ``unet`` and ``resnet`` are the architectures, ``catalogue`` builds them by name, ``base``
holds what they share, ``checkpoint`` writes and reads trained ones, ``precision`` knows how they
compute fastest.
"""

from ankle_lib.networks.base import Head, SliceNetwork, parameter_count
from ankle_lib.networks.catalogue import NETWORKS, REPORT_PARAMETERS, build
from ankle_lib.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ankle_lib.networks.precision import (
    fast_autocast,
    is_fast_in_bfloat16,
    is_ready_to_predict,
    ready_to_predict,
)

__all__ = [
    "NETWORKS",
    "REPORT_PARAMETERS",
    "Checkpoint",
    "Head",
    "SliceNetwork",
    "build",
    "fast_autocast",
    "is_fast_in_bfloat16",
    "is_ready_to_predict",
    "load_checkpoint",
    "parameter_count",
    "ready_to_predict",
    "save_checkpoint",
]
