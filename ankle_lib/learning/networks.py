"""The networks by name, and how they compute fastest."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, get_args

import torch
from torch import nn

from ankle_lib.files import AnkleError
from ankle_lib.learning.architectures import FCN, STAGE_BLOCKS, Head, ResNet, SliceNetwork, UNet

Network = TypeVar("Network", bound=nn.Module)

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
    sizes: dict[str, Any] = {"in_channels": in_channels, "out_channels": out_channels}
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
    network = _CLASSES[name](head=head, **sizes)
    network.name, network.arguments = name, {"head": head, **sizes}
    return network


def _check_range(name: str, argument: str, value: int, greatest: int) -> int:
    if type(value) is not int or not 1 <= value <= greatest:
        raise AnkleError(f"{name}: {argument} is {value!r}: choose a whole number, 1 to {greatest}")
    return value


def parameter_count(network: nn.Module) -> int:
    """Return the number of trained parameters, as the report's Table 6.1 counts them."""
    return sum(parameter.numel() for parameter in network.parameters())


def is_fast_in_bfloat16(device_type: str) -> bool:
    """Tell whether a kind of device multiplies bfloat16 itself; else float32 is faster there.

    A processor does if it can and if PyTorch uses all of it: ``ATEN_CPU_CAPABILITY=avx2`` makes it
    compute as older ones.
    """
    if device_type == "cuda":
        return True
    uses_it = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return uses_it and bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def fast_autocast(device: torch.device) -> torch.autocast:
    """Return the context in which a trained network computes fastest on a device.

    Convolutions then take bfloat16, of which 8 bits count, where the device is fast in it.
    """
    enabled = is_fast_in_bfloat16(device.type)
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def ready_to_predict(network: Network, device: torch.device | str | None = None) -> Network:
    """Bring a network, in place, to a device and into evaluation mode, with channels last.

    Results differ from those of other layouts by rounding.
    """
    if device is not None:
        network.to(device)
    # the U-Net runs 1.6 times as fast on a CPU with channels last
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval()
