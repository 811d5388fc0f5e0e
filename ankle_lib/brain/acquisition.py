"""What a scanner adds to the signals: a person's and a scanner's offsets, shading, noise."""

from dataclasses import dataclass, replace

import numpy as np

from ankle_lib.brain.heads import Map, smooth_noise
from ankle_lib.brain.signals import SEQUENCES, TISSUES, Tissue, signal

BIAS = (0.8, 1.2)
"""Darkest and brightest shading by the coils."""

BIAS_GRAIN_MM = 90.0
NORMAL = ("white matter", "grey matter", "csf")


@dataclass(frozen=True)
class Scanner:
    """One session: gains and noise per sequence, and tissues as they are in this person.

    ``noise`` is the standard deviation as a part of the white matter's signal.
    """

    gains: dict[str, float]
    noise: dict[str, float]
    tissues: dict[str, Tissue]

    @classmethod
    def draw(cls, rng: np.random.Generator, noise: float = 0.03, spread: float = 0.04) -> "Scanner":
        """Draw a session; ``spread`` is that of ln T1 and ln T2 of normal tissue."""
        gains = {one: float(np.exp(rng.normal(0, 0.2))) for one in SEQUENCES}
        noises = {one: float(noise * rng.uniform(0.8, 1.25)) for one in SEQUENCES}
        tissues = dict(TISSUES)
        for name in NORMAL:
            t1, t2 = np.exp(rng.normal(0, spread, 2))
            own = TISSUES[name]
            tissues[name] = replace(own, t1_s=own.t1_s * t1, t2_ms=own.t2_ms * t2)
        return cls(gains, noises, tissues)

    @property
    def normal(self) -> list[Tissue]:
        """White matter, grey matter and fluid, in the order of a head's fractions."""
        return [self.tissues[name] for name in NORMAL]

    def noise_level(self, sequence: str) -> float:
        """Return the noise's standard deviation in the units of the image."""
        white = float(signal(self.tissues["white matter"], sequence))
        return self.noise[sequence] * self.gains[sequence] * white


def bias_field(shape: tuple[int, ...], voxel_mm: float, rng: np.random.Generator) -> Map:
    """Return a smooth shading (X, Y, Z) that runs from 0.8 to 1.2."""
    smooth = smooth_noise(shape, voxel_mm, BIAS_GRAIN_MM, rng)
    low, high = float(smooth.min()), float(smooth.max())
    return (BIAS[0] + (BIAS[1] - BIAS[0]) * (smooth - low) / max(high - low, 1e-6)).astype("f4")


def acquire(image: Map, noise: float, rng: np.random.Generator) -> Map:
    """Return the magnitude of an image with noise in both of its parts (Rician).

    Parameters
    ----------
    image : array
        Without noise, shading included.
    noise : float
        Standard deviation in the units of the image.
    """
    real, imaginary = rng.standard_normal((2, *image.shape), dtype=np.float32) * np.float32(noise)
    return np.hypot(image + real, imaginary)
