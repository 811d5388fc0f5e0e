"""How bright each tissue of the brain is: signal equations of three sequences, at 3 tesla.

Times and proton densities are round numbers for 3 T from the usual reviews (Stanisz et al., Magn.
Reson. Med. 2005, doi:10.1002/mrm.20605; Wansapura et al., JMRI 1999); those of lesions are our
estimates between normal white matter and fluid. Relaxivities are those in blood at 3 T
(Rohrer et al., Invest. Radiol. 2005, doi:10.1097/01.rli.0000184756.66360.d3).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ankle_lib.files import AnkleError

Map = NDArray[np.float32]


@dataclass(frozen=True)
class Tissue:
    """Proton density (water = 1), T1 in seconds, T2 in milliseconds; each a number or a map."""

    proton_density: Any
    t1_s: Any
    t2_ms: Any


TISSUES = {
    "white matter": Tissue(0.70, 0.85, 70.0),
    "grey matter": Tissue(0.82, 1.35, 90.0),
    "csf": Tissue(1.00, 4.0, 1000.0),
    "chronic lesion": Tissue(0.80, 1.18, 110.0),
    "active lesion": Tissue(0.80, 1.33, 130.0),
    "oedema": Tissue(0.75, 1.02, 90.0),
    "gliosis": Tissue(0.80, 1.45, 150.0),
    "cavity": Tissue(0.97, 3.2, 600.0),
}
"""Both kinds of lesions of multiple sclerosis have one proton density: a second one would tell them
apart without any scatter. The first three are in the order of all fractions."""

T1W = {"repetition_s": 0.018, "echo_ms": 5.0, "flip_deg": 20.0}
T2W = {"repetition_s": 4.0, "echo_ms": 90.0}
FLAIR = {"repetition_s": 9.0, "inversion_s": 2.5, "echo_ms": 120.0}
T2_STAR = 0.6
"""T2* as a part of T2 (our estimate)."""

SEQUENCES = ("T1w", "T2w", "FLAIR")


def signal(tissue: Tissue, sequence: str) -> Any:
    """Return the magnitude of a tissue's signal, as a part of that of water at full relaxation.

    - T1w, a spoiled gradient echo: PD sin(a) (1 - E1) / (1 - cos(a) E1) exp(-TE / T2*),
      E1 = exp(-TR / T1).
    - T2w, a spin echo: PD (1 - exp(-TR / T1)) exp(-TE / T2).
    - FLAIR: PD abs(1 - 2 exp(-TI / T1) + exp(-TR / T1)) exp(-TE / T2), which fluid leaves dark.

    Raises
    ------
    AnkleError
        If there is no such sequence.
    """
    pd, t1, t2 = tissue.proton_density, tissue.t1_s, tissue.t2_ms
    if sequence == "T1w":
        flip = math.radians(T1W["flip_deg"])
        e1 = np.exp(-T1W["repetition_s"] / t1)
        steady = math.sin(flip) * (1 - e1) / (1 - math.cos(flip) * e1)
        return pd * steady * np.exp(-T1W["echo_ms"] / (T2_STAR * t2))
    if sequence == "T2w":
        recovery = 1 - np.exp(-T2W["repetition_s"] / t1)
        return pd * recovery * np.exp(-T2W["echo_ms"] / t2)
    if sequence == "FLAIR":
        inverted = np.exp(-FLAIR["inversion_s"] / t1)
        recovery = abs(1 - 2 * inverted + np.exp(-FLAIR["repetition_s"] / t1))
        return pd * recovery * np.exp(-FLAIR["echo_ms"] / t2)
    raise AnkleError(f"there is no sequence {sequence!r}: choose one of {', '.join(SEQUENCES)}")


def with_agent(tissue: Tissue, mmol_per_l: Any, relaxivity: float = 4.97) -> Tissue:
    """Return the tissue with contrast agent in it: 1/T1 grows by relaxivity times concentration.

    The relaxivity is in L/mmol/s at 3 T: gadobutrol has 4.97, gadoterate 3.00. What the agent does
    to T2 is small at these concentrations and left out.
    """
    return replace(tissue, t1_s=1 / (1 / tissue.t1_s + relaxivity * mmol_per_l))


def mixed(fractions: Map, tissues: Sequence[Tissue], sequence: str) -> Map:
    """Return an image (X, Y, Z): in each voxel the tissues' signals, mixed by their fractions.

    Parameters
    ----------
    fractions : (N, X, Y, Z) array
    tissues : N Tissues
        Values are numbers or maps (X, Y, Z).

    Raises
    ------
    AnkleError
        If there are not as many tissues as fractions.
    """
    if len(fractions) != len(tissues):
        raise AnkleError(f"{len(fractions)} fractions of {len(tissues)} tissues")
    image = np.zeros(fractions.shape[1:], dtype=np.float32)
    for fraction, tissue in zip(fractions, tissues, strict=True):
        image += fraction * signal(tissue, sequence)
    return image


def put_in(fractions: Map, amount: Map) -> Map:
    """Return fractions (N + 1, X, Y, Z): a new tissue takes so much of the place of all others."""
    return np.concatenate([fractions * (1 - amount), amount[None]]).astype(np.float32)
