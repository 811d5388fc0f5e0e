"""The report's networks (its section 6.1), and their checkpoints.

``fcn``, ``unet`` and ``resnet`` are the architectures, ``catalogue`` builds them by name, ``base``
holds what they share, ``checkpoint`` writes and reads trained ones.
"""

from ankle_lib.networks.base import Head, SliceNetwork, parameter_count
from ankle_lib.networks.catalogue import NETWORKS, REPORT_PARAMETERS, build
from ankle_lib.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

__all__ = [
    "NETWORKS",
    "REPORT_PARAMETERS",
    "Checkpoint",
    "Head",
    "SliceNetwork",
    "build",
    "load_checkpoint",
    "parameter_count",
    "save_checkpoint",
]
