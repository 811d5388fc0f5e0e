"""Every size of the course in one frozen dataclass, and its three instances."""

from __future__ import annotations

from dataclasses import dataclass

from ankle_lib.files import AnkleError

__all__ = ["BONES", "PRESETS", "Preset", "get_preset"]

BONES = ("calcaneus", "talus", "tibia")
"""The bones that a reader segments, in the order of every table."""


@dataclass(frozen=True)
class Preset:
    """Sizes of the cohort and its grids.

    Shapes count voxels along the sagittal acquisition's own axes: posterior, superior, right.
    """

    name: str
    subjects: tuple[str, ...] | None
    """Codes of the simulated subjects; ``None`` is the whole cohort."""
    static_shape: tuple[int, int, int]
    static_voxel_mm: tuple[float, float, float]
    dynamic_shape: tuple[int, int, int]
    dynamic_voxel_mm: tuple[float, float, float]
    n_frames: int
    anatomy_voxel_mm: float
    """Grid on which the phantom's soft tissue is laid out; its bones use half of it."""
    slice_samples: int
    """Sample planes that the phantom's scanner integrates across one dynamic slice."""


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="smoke",
            subjects=("T01", "T02", "T03", "E01", "E02", "E09", "E12"),
            static_shape=(120, 120, 48),
            static_voxel_mm=(1.344, 1.344, 1.8),
            dynamic_shape=(132, 132, 6),
            dynamic_voxel_mm=(1.5147, 1.5147, 8.0),
            n_frames=5,
            anatomy_voxel_mm=1.5,
            slice_samples=4,
        ),
        Preset(
            name="laptop",
            subjects=None,
            static_shape=(288, 288, 104),
            static_voxel_mm=(0.56, 0.56, 0.8),
            dynamic_shape=(220, 220, 6),
            dynamic_voxel_mm=(0.9088, 0.9088, 8.0),
            n_frames=15,
            anatomy_voxel_mm=1.0,
            slice_samples=4,
        ),
        Preset(
            name="paper",
            subjects=None,
            static_shape=(576, 576, 110),
            static_voxel_mm=(0.28, 0.28, 0.8),
            dynamic_shape=(352, 352, 6),
            dynamic_voxel_mm=(0.568, 0.568, 8.0),
            n_frames=15,
            anatomy_voxel_mm=0.6,
            slice_samples=8,
        ),
    )
}


def get_preset(name: str) -> Preset:
    """Return the preset called ``name``.

    Raises
    ------
    AnkleError
        If there is no such preset; the message lists the ones there are.
    """
    try:
        return PRESETS[name]
    except KeyError:
        known = ", ".join(PRESETS)
        raise AnkleError(f"there is no preset {name!r}: choose one of {known}") from None
