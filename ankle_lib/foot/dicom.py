"""DICOM folders made NIfTI files, by the dcm2niix program."""

import shutil
import subprocess
import tempfile
from pathlib import Path

from ankle_lib.files import PARTIAL_PREFIX, AnkleError


def converted(path: Path, folder: Path) -> Path:
    """Return a NIfTI file as it is; of a DICOM folder the NIfTI file made of it, done once.

    Parameters
    ----------
    path : Path
        A file, or a folder with the DICOM files of one series.
    folder : Path
        For the NIfTI file, which is named after the DICOM folder.

    Raises
    ------
    AnkleError
        If there is no such file, or the folder holds no series that dcm2niix can read, or several.
    """
    if not path.is_dir():
        return path
    made = folder / f"{path.resolve().name}.nii.gz"
    if made.exists() and made.stat().st_mtime > _newest(path):
        return made
    import dcm2niix

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=PARTIAL_PREFIX, dir=folder) as temporary:
        command = [dcm2niix.bin, "-z", "y", "-b", "n", "-f", "%s", "-o", temporary, str(path)]
        answer = subprocess.run(command, capture_output=True, text=True)
        files = sorted(Path(temporary).glob("*.nii.gz"))
        if not files:
            last = (answer.stdout + answer.stderr).strip().splitlines()
            reason = last[-1] if last else f"dcm2niix ended with {answer.returncode}"
            raise AnkleError(f"{path}: no image in this folder ({reason}): give a DICOM series")
        if len(files) > 1:
            raise AnkleError(
                f"{path}: {len(files)} series in this folder: put each into a folder of its own"
            )
        shutil.move(files[0], made)
    return made


def _newest(folder: Path) -> float:
    return max((file.stat().st_mtime for file in folder.rglob("*") if file.is_file()), default=0.0)
