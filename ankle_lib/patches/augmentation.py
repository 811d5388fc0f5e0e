"""Random changes of patches that a network should not mind."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ankle_lib.files import AnkleError

GREATEST_SCALE = 1.4
"""A patch shrunk further and turned by 45 degrees would look beyond what a source stores."""


@dataclass(frozen=True)
class Augmentation:
    """How far each change may go; the default changes nothing. Each patch gets its own."""

    rotation_deg: float = 0.0
    """Turned by up to this angle either way; 180 is any direction."""
    scale: float = 1.0
    """Anatomy enlarged up to this factor or shrunk down to its inverse; at most 1.4."""
    mirror: bool = False
    """Half the patches with anterior and posterior exchanged. Off: no foot looks like that."""
    gain: float = 0.0
    """Brightness above air times exp(±gain)."""
    shading: float = 0.0
    """Smooth gain across the patch: each term of a parabola of the logarithm up to ±shading."""
    gamma: float = 0.0
    """Brightness, as part of the brightest, to the power exp(±gamma)."""
    noise: float = 0.0
    """Gaussian noise with a standard deviation of up to this, in units of the z-score."""

    def __post_init__(self) -> None:
        """Refuse negative ranges."""
        if not 1 <= self.scale <= GREATEST_SCALE:
            raise AnkleError(
                f"scale is {self.scale}: give the largest factor, 1 to {GREATEST_SCALE}"
            )
        for name in ("rotation_deg", "gain", "shading", "gamma", "noise"):
            if not getattr(self, name) >= 0:
                raise AnkleError(f"{name} is {getattr(self, name)}: give the largest size, >= 0")

    @property
    def moves(self) -> bool:
        """Whether patches are turned, scaled or mirrored."""
        return self.rotation_deg > 0 or self.scale > 1 or self.mirror


def random_geometry(n: int, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Return how each patch lies in its slice.

    Returns
    -------
    (n, 2, 2) float32 tensor
        Maps (row, column) from the patch's centre, in pixels, to the slice.
    """
    angle = _uniform((n,), math.radians(augmentation.rotation_deg), generator)
    step = torch.exp(_uniform((n,), math.log(augmentation.scale), generator))
    cosine, sine = step * torch.cos(angle), step * torch.sin(angle)
    side = torch.ones_like(angle)
    if augmentation.mirror:  # rows run along posterior
        side = torch.where(_uniform((n,), 1.0, generator) < 0, -side, side)
    rows = torch.stack([cosine * side, -sine], dim=1)
    columns = torch.stack([sine * side, cosine], dim=1)
    return torch.stack([rows, columns], dim=1)


def distort_intensities(
    images: Tensor, black: Tensor, augmentation: Augmentation, generator: torch.Generator
) -> Tensor:
    """Return images with other gain, shading, gamma and noise.

    Parameters
    ----------
    images : (n, channels, h, w) float tensor
    black : (n,) float tensor
        Intensity of air, from which brightness is counted.
    augmentation : Augmentation
    generator : torch.Generator
        On the images' device.
    """
    n, _, height, width = images.shape
    floor = black[:, None, None, None]
    light = (images - floor).clamp_min(0.0)
    if augmentation.gamma > 0:
        power = torch.exp(_uniform((n, 1, 1, 1), augmentation.gamma, generator))
        brightest = light.amax((1, 2, 3), keepdim=True).clamp_min(1e-6)
        light = brightest * (light / brightest) ** power
    if augmentation.gain > 0:
        light = light * torch.exp(_uniform((n, 1, 1, 1), augmentation.gain, generator))
    if augmentation.shading > 0:
        y = torch.linspace(-1, 1, height, device=images.device)[:, None].expand(height, width)
        x = torch.linspace(-1, 1, width, device=images.device).expand(height, width)
        terms = torch.stack([y, x, y * x, y * y - 1 / 3, x * x - 1 / 3])
        coefficients = _uniform((n, len(terms)), augmentation.shading, generator)
        light = light * torch.exp(torch.einsum("nt,thw->nhw", coefficients, terms))[:, None]
    if augmentation.noise > 0:
        sd = _uniform((n, 1, 1, 1), augmentation.noise, generator).abs()
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        light = light + sd * noise
    return light + floor


def _uniform(shape: tuple[int, ...], reach: float, generator: torch.Generator) -> Tensor:
    """Return random numbers between -reach and reach."""
    uniform = torch.rand(shape, generator=generator, device=generator.device)
    return reach * (2 * uniform - 1)
