"""The report's networks (its section 6.1), and their checkpoints.

``fcn``, ``unet`` and ``resnet`` are the architectures, ``catalogue`` builds them by name, ``base``
holds what they share, ``checkpoint`` writes and reads trained ones, ``precision`` knows how they
compute fastest.
"""

from ankle_lib.networks.catalogue import build
from ankle_lib.networks.checkpoint import load_checkpoint
