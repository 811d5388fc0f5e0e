"""The networks by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import get_args

from ankle_lib.files import AnkleError
from ankle_lib.networks.base import Head, SliceNetwork
from ankle_lib.networks.fcn import FCN
from ankle_lib.networks.resnet import STAGE_BLOCKS, ResNet
from ankle_lib.networks.unet import UNet

REPORT_PARAMETERS = {
    "fcn": 390_609,
    "unet": 1_179_569,
    "resnet-basic": 8_161_729,
    "resnet-bottleneck": 8_535_489,
}
"""Parameters of each network with one input and one output (the report's Table 6.1)."""

NETWORKS = tuple(REPORT_PARAMETERS)

_CLASSES: dict[str, Callable[..., SliceNetwork]] = {
    "fcn": FCN,
    "unet": UNet,
    "resnet-basic": ResNet,
    "resnet-bottleneck": partial(ResNet, bottleneck=True),
}
_GREATEST_DEPTH = {"fcn": 6, "unet": 6}
_GREATEST_WIDTH = 256
_MOST_CHANNELS = 64
_STEMS = range(3, 16, 2)


def build(
    name: str,
    in_channels: int = 1,
    out_channels: int = 1,
    head: Head = "probability",
    depth: int | None = None,
    width: int | None = None,
    stem: int | None = None,
) -> SliceNetwork:
    """Return a network with fresh weights (PyTorch's default initialisation).

    Parameters
    ----------
    name : {"fcn", "unet", "resnet-basic", "resnet-bottleneck"}
    in_channels, out_channels : int
        Images per slice and maps per slice, 1 to 64.
    head : {"probability", "intensity"}
        A sigmoid per output channel, for segmentation, or nothing, for reconstruction.
    depth : int, optional
        Levels of resolution (of width for the FCN): 1 to 6, 1 to 4 for a ResNet. The report's by
        default: 4, and 3 for a ResNet.
    width : int, optional
        Channels of the first level, doubled at every further one; 1 to 256. The report's by
        default: 16, and 64 for a ResNet.
    stem : int, optional
        Rows and columns of the first filters of a ResNet: odd, 3 to 15. The report's 3 by default.

    Raises
    ------
    AnkleError
        If there is no such network, or an argument is outside its range.
    """
    if name not in _CLASSES:
        raise AnkleError(f"there is no network {name!r}: choose one of {', '.join(NETWORKS)}")
    if head not in get_args(Head):
        raise AnkleError(f"there is no head {head!r}: choose probability or intensity")
    greatest = _GREATEST_DEPTH.get(name, len(STAGE_BLOCKS))
    sizes = {"in_channels": in_channels, "out_channels": out_channels}
    for argument, value in sizes.items():
        _check_range(name, argument, value, _MOST_CHANNELS)
    if depth is not None:
        sizes["depth"] = _check_range(name, "depth", depth, greatest)
    if width is not None:
        sizes["width"] = _check_range(name, "width", width, _GREATEST_WIDTH)
    if stem is not None:
        if not name.startswith("resnet"):
            raise AnkleError(f"{name} has no stem: only a ResNet's first filters can be chosen")
        if type(stem) is not int or stem not in _STEMS:
            raise AnkleError(f"{name}: stem is {stem!r}: choose an odd number, 3 to {_STEMS[-1]}")
        sizes["stem"] = stem
    return _CLASSES[name](head=head, **sizes)


def _check_range(name: str, argument: str, value: int, greatest: int) -> int:
    if type(value) is not int or not 1 <= value <= greatest:
        raise AnkleError(f"{name}: {argument} is {value!r}: choose a whole number, 1 to {greatest}")
    return value
