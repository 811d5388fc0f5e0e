"""The files of `ankle reconstruct`: a series, and beside it how far to trust it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from ankle_lib.files import FIGURE_DPI, atomic_path, check_replaceable, nifti_stem
from ankle_lib.reconstruction.any_scan import COLUMNS, ScanReconstruction
from ankle_lib.volume import save


@dataclass(frozen=True)
class Outputs:
    """Where the result of one sequence goes."""

    series: Path
    table: Path
    """Consistency, smallest Jacobian and rigidity of each frame."""
    residual: Path
    """What the worst frame and its reconstruction, averaged again, differ by, in noise units."""
    filmstrip: Path
    """A picture to look at first."""


def check_outputs(out: Path, *inputs: Path) -> Outputs:
    """Return the files to write, before any work is done for them.

    Parameters
    ----------
    out : Path
        The series, ``.nii`` or ``.nii.gz``. An earlier result is replaced.
    inputs : Paths
        Files that must not be overwritten.

    Raises
    ------
    AnkleError
        If ``out`` is a folder, has another suffix, is one of the inputs, or exists and is no
        result of this command.
    """
    stem = nifti_stem(out, "frames", "sharp.nii.gz")
    outputs = Outputs(
        out,
        out.with_name(f"{stem}_consistency.csv"),
        out.with_name(f"{stem}_residual.nii.gz"),
        out.with_name(f"{stem}_filmstrip.png"),
    )
    written, sign = [out, outputs.residual], outputs.table
    check_replaceable(
        written, inputs, sign, ours=_is_ours(sign), thing="series", by="ankle reconstruct"
    )
    return outputs


@contextmanager
def written_together(outputs: Outputs) -> Iterator[Outputs]:
    """Yield temporary paths; if the block succeeds, all become the final files, else none."""
    with ExitStack() as together:
        # renamed in reverse: the series comes last, when all the rest is there
        series, table, residual, filmstrip = (
            together.enter_context(atomic_path(path))
            for path in (outputs.series, outputs.table, outputs.residual, outputs.filmstrip)
        )
        yield Outputs(series, table, residual, filmstrip)


def write_beside(outputs: Outputs, found: ScanReconstruction, filmstrip: Figure) -> None:
    """Write what belongs to a series."""
    found.table.to_csv(outputs.table, index=False, float_format="%.6g")
    assert found.residual is not None  # at least one frame has a pose
    save(outputs.residual, found.residual.data, found.residual.affine)
    filmstrip.savefig(outputs.filmstrip, dpi=FIGURE_DPI, bbox_inches="tight")


def _is_ours(table: Path) -> bool:
    try:
        with open(table, encoding="utf-8") as file:
            return file.readline().strip() == ",".join(COLUMNS)
    except (OSError, UnicodeDecodeError):
        return False
