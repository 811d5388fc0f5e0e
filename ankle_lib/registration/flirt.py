"""Engine "flirt": FSL FLIRT with the options of the report (section 5.2.4).

The foot as a whole: six degrees of freedom, correlation ratio, FLIRT's own search. A bone: the
same, weighted by its blurred mask, from the pose of the whole, without a search. FSL is neither
part of this package nor needed by the rest of it: https://fsl.fmrib.ox.ac.uk/fsl.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ankle_lib.files import AnkleError
from ankle_lib.geometry import Matrix, nearest_rigid, slice_direction
from ankle_lib.pose_files import read_flirt, write_flirt
from ankle_lib.registration.regions import WHOLE, Fits, cut_region, fit_each
from ankle_lib.volume import Volume, save


def fit(
    fixed: Volume,
    moving: Volume,
    weights: Mapping[str, NDArray[Any]],
    start: NDArray[np.float64],
) -> Fits:
    """Register every region to every frame; see `register.register`.

    Parameters
    ----------
    fixed, moving : Volume
        Frames (3D or 4D) and static scan (3D).
    weights : mapping of R names to (I, J, K) arrays
        Those of the region ``whole`` are not used: the report gave FLIRT the whole image.
    start : (F, R, 4, 4) array
        Static world to frame world, RAS mm. Not used for ``whole``.

    Raises
    ------
    AnkleError
        If ``flirt`` is not on the PATH, fails, or leaves no rigid matrix.
    """
    program = _flirt()
    margin_mm = slice_direction(fixed.affine).thickness_mm
    regions = [cut_region(moving, array, name, margin_mm) for name, array in weights.items()]
    with tempfile.TemporaryDirectory(prefix="ankle-flirt-") as temporary:
        folder = Path(temporary)
        _write_images(folder, fixed, moving, weights)

        def fit_one(frame: int, index: int) -> tuple[Matrix, float]:
            region = regions[index].name
            image, stem = f"frame-{frame:02d}.nii", f"frame-{frame:02d}_{region}"
            options = ["-in", "static.nii", "-ref", image, "-dof", "6"]
            if region != WHOLE:
                first = f"{stem}_init.mat"
                write_flirt(folder / first, start[frame, index], moving.grid, fixed.grid)
                options += ["-inweight", f"{region}_weights.nii", "-init", first, "-nosearch"]
            seconds = _run([program, *options, "-omat", f"{stem}.mat", "-out", stem], folder)
            return _pose(folder / f"{stem}.mat", moving, fixed), seconds

        return fit_each(fixed, regions, fit_one)


def _write_images(
    folder: Path, fixed: Volume, moving: Volume, weights: Mapping[str, NDArray[Any]]
) -> None:
    """Write what FLIRT reads, uncompressed, because it does so for every fit."""
    save(folder / "static.nii", moving.data, moving.affine)
    for frame in range(fixed.n_frames):
        save(folder / f"frame-{frame:02d}.nii", fixed.frame(frame).data, fixed.affine)
    for name, array in weights.items():
        if name != WHOLE:
            save(folder / f"{name}_weights.nii", array.astype(np.float32), moving.affine)


def _flirt() -> str:
    command = shutil.which("flirt")
    if command is None:
        raise AnkleError(
            "engine 'flirt' needs FSL's program flirt on the PATH: install FSL "
            "(https://fsl.fmrib.ox.ac.uk/fsl/docs/#/install) and source its setup, or choose "
            "engine 'torch'"
        )
    return os.path.abspath(command)  # it runs in a folder of its own


def _run(command: list[str], folder: Path) -> float:
    """Run FLIRT in a folder and return how many seconds it took; it has one thread."""
    environment = {**os.environ, "FSLOUTPUTTYPE": "NIFTI_GZ"}
    begun = time.perf_counter()
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace"
    )
    if ended.returncode != 0:
        *_, last = ["it said nothing", *ended.stderr.strip().splitlines()]
        raise AnkleError(f"flirt failed with status {ended.returncode}: {last.strip()}")
    return time.perf_counter() - begun


def _pose(matrix: Path, moving: Volume, fixed: Volume) -> Matrix:
    """Read FLIRT's matrix as a pose; it is rounded, so it is rigid only nearly."""
    if not matrix.exists():
        raise AnkleError(f"flirt ended without an error but wrote no matrix {matrix.name}")
    return nearest_rigid(read_flirt(matrix, moving.grid, fixed.grid))
