"""What each tissue is made of, and how bright that makes it in MR sequences and in CT.

Relaxation times are round numbers for 1.5 T from the usual reviews (Stanisz et al., Magn. Reson.
Med. 2005, doi:10.1002/mrm.20605; Bottomley et al., Med. Phys. 1984, doi:10.1118/1.595535).
Tissue is a mixture of a water and a fat pool. At the short echo time of the dynamic sequence the
two point almost opposite ways, which is why a child's marrow, a mixture of both, is no
brighter there than muscle, while it is the brightest tissue of the static scan.

X-rays see the same mixtures otherwise: what counts is fat, the rest, and mineral. Hounsfield units
are those of the tissues' compositions (ICRU Report 46; as CT numbers in Schneider et al., Phys.
Med. Biol. 2000, doi:10.1088/0031-9155/45/2/314), rounded; how much mineral a child's bones hold is
our estimate, such that the cortex has about 1200 and the marrow's trabeculae about 240.
"""

import math
from dataclasses import dataclass
from typing import Any

FAT_T1_MS = 290.0
FAT_WATER_SHIFT_HZ = 220.0
"""Methylene fat against water at 1.5 T (3.4 ppm)."""

FAT_HU, COMPACT_BONE_HU = -105.0, 1500.0


@dataclass(frozen=True)
class Tissue:
    """Proton density (water = 1), fat fraction of it, water T1 and T2* in milliseconds.

    For X-rays, Hounsfield units of what is neither fat nor mineral, and the part of compact bone.
    Fat fraction, T2* and mineral may be maps (tensors of one shape).
    """

    proton_density: float
    fat_fraction: Any
    water_t1_ms: float
    t2_star_ms: Any
    lean_hu: float = 0.0
    mineral: Any = 0.0


@dataclass(frozen=True)
class Contrast:
    """A spoiled gradient echo: times in milliseconds, flip angle in degrees, receiver gain."""

    repetition_time_ms: float
    echo_time_ms: float
    flip_angle_deg: float
    gain: float
    fat: float = 1.0
    """Part of the fat's signal that a suppression leaves."""
    texture: float = 1.0
    """How much of the texture of fat and muscle is seen, as an exponent."""


@dataclass(frozen=True)
class XRays:
    """A CT image: attenuation in thousandths of water's, that is Hounsfield units plus 1000."""

    texture: float = 0.15
    """As in `Contrast`: fibres and lobules differ in relaxation, hardly in density."""


STATIC_T1 = Contrast(repetition_time_ms=20.0, echo_time_ms=4.6, flip_angle_deg=25.0, gain=8600.0)
"""3D T1: fat and water in phase (4.6 ms at 1.5 T), so fat and marrow are bright."""

FFE = Contrast(repetition_time_ms=5.4, echo_time_ms=1.78, flip_angle_deg=4.0, gain=36500.0)
"""Dynamic T1-FFE: the echo time is the one in a real sequence's header."""

CONTRASTS = {"static": STATIC_T1, "dynamic": FFE}

CT = XRays()

TISSUES = {
    "air": Tissue(0.0, 0.0, 1000.0, 50.0, lean_hu=-1000.0),
    "skin": Tissue(0.62, 0.15, 900.0, 12.0, lean_hu=75.0),
    "fat": Tissue(0.85, 0.83, 700.0, 40.0, lean_hu=20.0),
    "muscle": Tissue(0.80, 0.04, 900.0, 30.0, lean_hu=60.0),
    "septum": Tissue(0.75, 0.25, 800.0, 20.0, lean_hu=60.0),
    "tendon": Tissue(0.35, 0.0, 700.0, 1.5, lean_hu=100.0),
    "vessel": Tissue(0.90, 0.0, 500.0, 60.0, lean_hu=50.0),
    "cortex": Tissue(0.16, 0.0, 600.0, 1.2, lean_hu=60.0, mineral=0.8),
    "marrow": Tissue(0.90, 0.80, 900.0, 14.0, lean_hu=40.0, mineral=0.2),
    "cartilage": Tissue(1.00, 0.0, 560.0, 25.0, lean_hu=100.0),
    "growth_plate": Tissue(1.00, 0.0, 600.0, 22.0, lean_hu=100.0),
    "joint_fluid": Tissue(0.92, 0.0, 700.0, 100.0, lean_hu=15.0),
}
"""``vessel`` has a short apparent T1: fresh blood flows into the slice."""


def signal(tissue: Tissue, contrast: Contrast | XRays) -> Any:
    """Magnitude of the spoiled gradient-echo signal of a water-fat mixture, times the gain.

    It is a number, or a map where the tissue is one; for X-rays the attenuation, mixed by volume.

    Steady state of Ernst's equation for each pool, added with the phase that the chemical shift
    gathers until the echo, then damped by T2*.
    """
    if isinstance(contrast, XRays):
        soft = tissue.fat_fraction * FAT_HU + (1 - tissue.fat_fraction) * tissue.lean_hu
        return 1000 + (1 - tissue.mineral) * soft + tissue.mineral * COMPACT_BONE_HU
    phase = 2 * math.pi * FAT_WATER_SHIFT_HZ * contrast.echo_time_ms / 1000
    water = (1 - tissue.fat_fraction) * _steady_state(tissue.water_t1_ms, contrast)
    fat = contrast.fat * tissue.fat_fraction * _steady_state(FAT_T1_MS, contrast)
    decay = math.e ** (-contrast.echo_time_ms / tissue.t2_star_ms)
    both = ((water + fat * math.cos(phase)) ** 2 + (fat * math.sin(phase)) ** 2) ** 0.5
    return contrast.gain * tissue.proton_density * decay * both


def _steady_state(t1_ms: float, contrast: Contrast) -> float:
    flip = math.radians(contrast.flip_angle_deg)
    recovery = math.exp(-contrast.repetition_time_ms / t1_ms)
    return math.sin(flip) * (1 - recovery) / (1 - math.cos(flip) * recovery)
