"""Children who have been in the MR scanner and, on another day, in the CT scanner.

A CT image shows attenuation: bones as bright as nothing else, everything soft alike. It is taken
in axial slices of a leg that lies on a table, with a point spread, and with the noise of a filtered
back-projection, which has no low frequencies and falls with the dose. What it lacks: beam
hardening, streaks, motion.
"""

import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ankle_lib.cache import remembered
from ankle_lib.geometry import Grid
from ankle_lib.parallel import run_all
from ankle_lib.phantom import scanner
from ankle_lib.phantom.simulate import Examination, draw_placement
from ankle_lib.phantom.subjects import draw_recipe
from ankle_lib.phantom.tissues import CT, STATIC_T1
from ankle_lib.presets import BONES, Preset
from ankle_lib.volume import save

CT_FIELD_MM = (104.0, 180.0, 160.0)
CT_CENTRE_MM = (0.0, -8.0, -14.0)
"""Field of view along right, anterior and superior, and its middle in the mean child."""

POINT_SPREAD_MM = 0.9
"""Full width at half maximum, of a kernel for bones; a round number."""

NOISE_HU = 25.0
"""Standard deviation in slices of 1 mm at the usual dose; a round number."""

DOSES = (0.5, 2.0)
"""Each child's dose lies between these multiples of the usual one."""

LEAST_HU, MOST_HU = -1024, 3071
"""What 12 bits hold."""

MAT_MM, SHELL_MM, CORE_MM = 12.0, 2.5, 18.0
TABLE_RADIUS_MM = 320.0
MAT, SHELL, CORE = 45.0, 880.0, 80.0
"""The leg lies on a mat of foam, on a hollow table of carbon fibre around a core of foam.
Attenuation in thousandths of water's."""


@dataclass(frozen=True)
class Tomogram:
    """A CT image in Hounsfield units, as scanned and as it would be without noise, (X, Y, Z)."""

    scanned: Tensor
    noiseless: Tensor


def simulate_pairs(
    preset: Preset,
    ct_voxel_mm: float,
    codes: Sequence[str],
    out: str | os.PathLike[str],
    *,
    seed: int = 2020,
    device: str = "cpu",
) -> Path:
    """Write an MR and a CT scan of each child below ``out``; those that are there are kept.

    ``raw/<code>/`` holds ``<code>_static_3DT1.nii.gz``, ``<code>_CT.nii.gz`` (Hounsfield units),
    each with a reader's masks (``<code>_CT_segment_talus.nii.gz``). The two were taken on different
    days, with another placement and another angle of the ankle. ``truth/<code>/`` holds
    what only a simulation has: a CT of the pose and on the grid of the MR scan,
    ``static_CT.nii.gz``, and the same without noise, ``static_CT_noiseless.nii.gz``.

    Parameters
    ----------
    preset : Preset
        Grids of the static scan and of the anatomy.
    ct_voxel_mm : float
        Sides of the CT's voxels, which are cubes.
    codes : sequence of str
        Who; a code decides with the seed who the child is, see `subjects.draw_recipe`.
    out : path
    seed : int
    device : str

    Returns
    -------
    Path
        ``out``.

    Examples
    --------
    >>> simulate_pairs(get_preset("smoke"), 2.0, ["T31", "E31"], "pairs")
    """
    work = partial(_remembered_child, preset, ct_voxel_mm, Path(out), seed, device)
    run_all(work, codes, device=device, desc="simulating children")
    return Path(out)


def _remembered_child(
    preset: Preset, ct_voxel_mm: float, out: Path, seed: int, device: str, code: str
) -> None:
    record = out / "truth" / code / "pair.json"
    work = partial(_simulate_child, preset, ct_voxel_mm, out, seed, device, code)
    grids = [preset.static_shape, preset.static_voxel_mm, preset.anatomy_voxel_mm, ct_voxel_mm]
    files = remembered(record, work, settings=[grids, seed])
    if not all((out / name).is_file() for name in files):
        record.unlink()
        remembered(record, work, settings=[grids, seed])


def _simulate_child(
    preset: Preset, ct_voxel_mm: float, out: Path, seed: int, device: str, code: str
) -> list[str]:
    if device == "cpu":
        torch.set_num_threads(1)
    raw, truth = out / "raw" / code, out / "truth" / code
    for folder in (raw, truth):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    recipe = draw_recipe(code, seed)
    child = Examination(recipe, preset, device, {"static": STATIC_T1, "ct": CT})
    scan, masks = child.static(truth)
    save(raw / f"{code}_static_3DT1.nii.gz", scan.data, scan.affine)
    for bone, mask in masks.items():
        save(raw / f"{code}_static_3DT1_segment_{bone}.nii.gz", mask.data, mask.affine)

    # draws of its own, so that the MR scan does not depend on the CT
    draw = np.random.default_rng(recipe.seed + 4)
    noise = torch.Generator().manual_seed(recipe.seed + 5)
    dose = float(np.exp(draw.uniform(*np.log(DOSES))))
    paired = scanner.render(
        child.anatomy, child.static_pose, child.placement, child.static_grid, "ct"
    )
    together = tomogram(paired.signal, preset.static_voxel_mm, dose, noise, axial=(0, 2))
    affine = child.static_grid[1]
    save(truth / "static_CT.nii.gz", _stored(together.scanned), affine)
    save(truth / "static_CT_noiseless.nii.gz", _stored(together.noiseless), affine)

    placement = draw_placement(recipe, draw)
    pose = recipe.pose(float(draw.uniform(recipe.lowest_deg, recipe.highest_deg)))
    middle = placement @ (*(recipe.child.size * np.array(CT_CENTRE_MM)), 1.0)
    grid = _axial_grid(middle[:3].tolist(), ct_voxel_mm)
    alone = scanner.render(child.anatomy, pose, placement, grid, "ct")
    lying = torch.maximum(alone.signal, _table(alone.inside, grid))
    taken = tomogram(lying, (ct_voxel_mm,) * 3, dose, noise, axial=(0, 1))
    save(raw / f"{code}_CT.nii.gz", _stored(taken.scanned), grid[1])
    for bone in BONES:
        outline = child.outline(bone, pose, placement, grid)
        save(raw / f"{code}_CT_segment_{bone}.nii.gz", outline, grid[1])
    return [str(file.relative_to(out)) for file in sorted([*raw.iterdir(), *truth.glob("*CT*")])]


def tomogram(
    attenuation: Tensor,
    voxel_mm: Sequence[float],
    dose: float,
    generator: torch.Generator,
    *,
    axial: tuple[int, int],
) -> Tomogram:
    """Return what a CT scanner makes of an attenuation.

    Parameters
    ----------
    attenuation : (X, Y, Z) tensor
        In thousandths of water's.
    voxel_mm : three floats
    dose : float
        Multiple of the usual one; the noise's variance is its inverse.
    generator : torch.Generator
        On the CPU.
    axial : two ints
        Axes of the planes that are reconstructed; across them, noise is independent.
    """
    sigma = [POINT_SPREAD_MM / (2 * math.sqrt(2 * math.log(2))) / one for one in voxel_mm]
    blurred = ndimage.gaussian_filter(attenuation.cpu().numpy(), sigma, mode="nearest")
    noiseless = torch.from_numpy(blurred).to(attenuation) - 1000
    across = ({0, 1, 2} - set(axial)).pop()
    noise = _noise(attenuation.shape, voxel_mm, axial, generator)
    sd = NOISE_HU / math.sqrt(dose * voxel_mm[across])
    return Tomogram(noiseless + sd * noise.to(noiseless), noiseless)


def _noise(
    shape: Sequence[int],
    voxel_mm: Sequence[float],
    axial: tuple[int, int],
    generator: torch.Generator,
) -> Tensor:
    """Return noise of unit variance (X, Y, Z) with the spectrum of a filtered back-projection.

    Its power rises with the frequency, as the ramp filter's, until the point spread ends it
    (Riederer et al., Phys. Med. Biol. 1978, doi:10.1088/0031-9155/23/3/008).
    """
    squared = torch.zeros(1, 1, 1)
    for axis in axial:
        frequency = torch.fft.fftfreq(shape[axis], voxel_mm[axis])
        squared = squared + frequency.reshape([-1 if n == axis else 1 for n in range(3)]) ** 2
    sigma = POINT_SPREAD_MM / (2 * math.sqrt(2 * math.log(2)))
    gain = squared**0.25 * torch.exp(-2 * (math.pi * sigma) ** 2 * squared)
    spectrum = torch.fft.fftn(torch.randn(*shape, generator=generator), dim=axial) * gain
    noise = torch.fft.ifftn(spectrum, dim=axial).real
    return noise / noise.std()


def _axial_grid(middle_mm: Sequence[float], voxel_mm: float) -> Grid:
    """Return a grid along the world's axes with a given middle."""
    x, y, z = (round(length / voxel_mm) for length in CT_FIELD_MM)
    affine = np.diag([voxel_mm] * 3 + [1.0])
    affine[:3, 3] = np.array(middle_mm) - voxel_mm * (np.array([x, y, z]) - 1) / 2
    return (x, y, z), affine


def _table(inside: Tensor, grid: Grid) -> Tensor:
    """Return the attenuation of mat and table (X, Y, 1) below the lowest point of the leg."""
    (n_x, n_y, _), affine = grid
    x, y = (
        affine[axis, axis] * torch.arange(n, device=inside.device) + affine[axis, 3]
        for axis, n in enumerate((n_x, n_y))
    )
    seen = (inside > 0.5).any(dim=2).any(dim=0).nonzero()
    lowest = y[seen[0, 0]] if len(seen) else y[0]
    top = lowest - MAT_MM + (x - x.mean())[:, None] ** 2 / (2 * TABLE_RADIUS_MM)
    depth = top - y[None, :]  # below the table's surface
    inner = torch.where((depth > SHELL_MM) & (depth < CORE_MM + SHELL_MM), CORE, SHELL)
    table = torch.where((depth > 0) & (depth < CORE_MM + 2 * SHELL_MM), inner, 0.0)
    above = (depth <= 0) & (y[None, :] < lowest)
    return torch.where(above, MAT, table)[..., None]


def _stored(hounsfield: Tensor) -> np.ndarray:
    stored: np.ndarray = hounsfield.round().clamp(LEAST_HU, MOST_HU).to(torch.int16).cpu().numpy()
    return stored
