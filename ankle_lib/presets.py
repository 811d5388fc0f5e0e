"""Every size of the course in one frozen dataclass, and its three instances."""

from __future__ import annotations

from dataclasses import dataclass, field

from ankle_lib.files import AnkleError

BONES = ("calcaneus", "talus", "tibia")
"""The bones that a reader segments, in the order of every table."""


@dataclass(frozen=True)
class SegmentationSizes:
    """Trainings of chapter 05. Patches keep their size in mm, so pixels decide their cost."""

    pixel_mm: float
    """Pixels, within a slice, of the report's experiments and of the post-mortem."""
    steps: int
    """Of 8 patches, for an FCN or a U-Net."""
    resnet_steps: int
    """The same for a ResNet, which costs 10 to 20 times as much."""
    n_patches: int
    """Per subject, on which networks are scored."""
    slice_step: int
    """Whole volumes are scored on every so-many-th slice."""
    unet_depths: tuple[int, ...]
    resnet_depths: tuple[int, ...]
    unet_rates: tuple[float, ...]
    resnet_rates: tuple[float, ...]
    resnet_folds: bool
    """Whether the ResNet is cross-validated too."""
    followed_bones: tuple[str, ...]
    """Bones of the cross-validation and of the post-mortem, which train most networks."""
    n_seeds: int
    """Of every step of the post-mortem."""
    final_pixel_mm: float
    """Pixels of the network that is to be used."""
    final_stages: tuple[tuple[int, int, int, float], ...]
    """Its patches' pixels, steps, batch size and largest learning rate, one after the other."""


@dataclass(frozen=True)
class ReconstructionSizes:
    """Trainings of chapter 06."""

    pair_frame_step: int
    """Pairs of patches are taken from every so-many-th frame of a sequence."""
    pair_steps: int
    """Of 16 pairs, for every network that the report used or proposed."""
    depths: tuple[int, ...]
    """Stages of the ResNet (report, Fig. 6.16)."""
    n_patches: int
    """Per bone and part of the split, on which networks are scored."""
    n_scenes: int
    """Sharp scenes per control, from as many sequences as there are."""
    pixels: int
    """Rows and columns of the patches of sharp scenes."""
    width: int
    """Channels of the first level of the U-Net that makes frames sharp."""
    trial_steps: int
    """Of 8 patches, for the comparison of what a network sees and makes small."""
    final_steps: int
    """The same for the network that is to be used."""
    slice_step: int
    """Trials are scored on every so-many-th slice."""


@dataclass(frozen=True)
class DynamicSizes:
    """Trainings of chapter 07."""

    pixel_mm: float
    """Pixels, within a slice, that the networks see; of static scans too."""
    frame_step: int
    """Experiments train on, and are scored on, every so-many-th frame of a sequence."""
    steps: int
    """Of 8 patches, for every network of the experiments."""
    errors_mm: tuple[float, ...]
    """Errors that are put into labels, as a distance on the bone."""
    n_random: int
    """Scans with random looks, per control."""
    n_template: int
    """Renderings of the bone template, to be tested on."""
    final_stages: tuple[tuple[int, int, int, float], ...]
    """As in `SegmentationSizes`, of the network that is to be used."""


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
    # not in the repr, which tells whether a simulated cohort is still that of its preset
    segmentation: SegmentationSizes = field(repr=False)
    reconstruction: ReconstructionSizes = field(repr=False)
    dynamic: DynamicSizes = field(repr=False)


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
            segmentation=SegmentationSizes(
                pixel_mm=2.688,
                steps=2,
                resnet_steps=1,
                n_patches=4,
                slice_step=16,
                unet_depths=(2, 4),
                resnet_depths=(1, 3),
                unet_rates=(1e-4, 5e-4),
                resnet_rates=(1e-4,),
                resnet_folds=False,
                followed_bones=BONES[:1],
                n_seeds=1,
                final_pixel_mm=2.688,
                final_stages=((48, 40, 8, 1e-2),),
            ),
            reconstruction=ReconstructionSizes(
                pair_frame_step=2,
                pair_steps=2,
                depths=(1, 3),
                n_patches=4,
                n_scenes=1,
                pixels=32,
                width=4,
                trial_steps=2,
                final_steps=40,
                slice_step=16,
            ),
            dynamic=DynamicSizes(
                pixel_mm=2.8,
                frame_step=2,
                steps=2,
                errors_mm=(3.0,),
                n_random=1,
                n_template=1,
                final_stages=((32, 20, 8, 5e-3),),
            ),
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
            segmentation=SegmentationSizes(
                pixel_mm=1.12,
                steps=350,
                resnet_steps=40,
                n_patches=48,
                slice_step=12,
                unet_depths=(2, 3, 4, 5),
                resnet_depths=(2, 3),
                unet_rates=(1e-4, 5e-4, 2e-3),
                resnet_rates=(1e-4, 5e-4),
                resnet_folds=False,
                followed_bones=BONES[:1],
                n_seeds=1,
                final_pixel_mm=1.68,
                final_stages=((64, 2000, 8, 1e-2),),
            ),
            reconstruction=ReconstructionSizes(
                pair_frame_step=5,
                pair_steps=50,
                depths=(1, 2, 3),
                n_patches=48,
                n_scenes=2,
                pixels=64,
                width=16,
                trial_steps=50,
                final_steps=650,
                slice_step=6,
            ),
            dynamic=DynamicSizes(
                pixel_mm=1.75,
                frame_step=5,
                steps=150,
                errors_mm=(4.0, 8.0),
                n_random=20,
                n_template=12,
                final_stages=((64, 1300, 8, 5e-3),),
            ),
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
            segmentation=SegmentationSizes(
                pixel_mm=0.28,
                steps=1000,
                resnet_steps=600,
                n_patches=128,
                slice_step=8,
                unet_depths=(2, 3, 4, 5),
                resnet_depths=(1, 2, 3, 4),
                unet_rates=(5e-5, 1e-4, 5e-4, 1e-3, 5e-3),
                resnet_rates=(5e-5, 1e-4, 5e-4, 1e-3),
                resnet_folds=True,
                followed_bones=BONES,
                n_seeds=3,
                final_pixel_mm=0.56,
                final_stages=((192, 4000, 16, 1e-2),),
            ),
            reconstruction=ReconstructionSizes(
                pair_frame_step=1,
                pair_steps=2000,
                depths=(1, 2, 3, 4),
                n_patches=256,
                n_scenes=3,
                pixels=96,
                width=32,
                trial_steps=1000,
                final_steps=4500,
                slice_step=4,
            ),
            dynamic=DynamicSizes(
                pixel_mm=0.568,
                frame_step=1,
                steps=1000,
                errors_mm=(0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0),
                n_random=30,
                n_template=24,
                final_stages=((192, 3000, 16, 5e-3),),
            ),
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
