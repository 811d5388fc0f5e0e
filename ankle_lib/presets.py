"""Every size of the course in one frozen dataclass, and its instances.

Each size is declared with its values at smoke, laptop and paper, side by side. A fourth instance,
rehearsal, follows from paper.
"""

from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar, cast

from ankle_lib.files import AnkleError

Value = TypeVar("Value")

BONES = ("calcaneus", "talus", "tibia")
"""The bones that a reader segments, in the order of every table."""

LABELS = {bone: number for number, bone in enumerate(BONES, 1)}
"""Their numbers in maps of labels; 0 is none of them."""


def _sizes(smoke: Value, laptop: Value, paper: Value) -> Value:
    """Declare an attribute of a dataclass by its value at each preset."""
    return cast(Value, field(metadata={"values": (smoke, laptop, paper)}))


def _instances(kind: type[Any]) -> Any:
    """Return the instances of a dataclass of sizes for smoke, laptop and paper."""
    values = {attribute.name: attribute.metadata["values"] for attribute in fields(kind)}
    return [kind(**{name: each[i] for name, each in values.items()}) for i in range(3)]


@dataclass(frozen=True)
class SegmentationSizes:
    """Trainings of chapter 05. Patches keep their size in mm, so pixels decide their cost."""

    pixel_mm: float = _sizes(2.688, 1.12, 0.28)
    """Pixels, within a slice, of the report's experiments and of the post-mortem."""
    steps: int = _sizes(2, 350, 1000)
    """Of 8 patches, for an FCN or a U-Net."""
    resnet_steps: int = _sizes(1, 40, 600)
    """The same for a ResNet, which costs 10 to 20 times as much."""
    table_steps: int = _sizes(2, 1_000, 24_000)
    """Of an FCN or a U-Net of Tables 6.1 to 6.4; the report's had 24,000 batches."""
    table_resnet_steps: int = _sizes(1, 40, 24_000)
    """The same for a ResNet."""
    n_patches: int = _sizes(4, 48, 128)
    """Per subject, on which networks are scored."""
    slice_step: int = _sizes(16, 12, 8)
    """Whole volumes are scored on every so-many-th slice."""
    unet_depths: tuple[int, ...] = _sizes((2, 4), (2, 3, 4, 5), (2, 3, 4, 5))
    resnet_depths: tuple[int, ...] = _sizes((1, 3), (2, 3), (1, 2, 3, 4))
    unet_rates: tuple[float, ...] = _sizes(
        (1e-4, 5e-4), (1e-4, 5e-4, 2e-3), (5e-5, 1e-4, 5e-4, 1e-3, 5e-3)
    )
    resnet_rates: tuple[float, ...] = _sizes((1e-4,), (1e-4, 5e-4), (5e-5, 1e-4, 5e-4, 1e-3))
    resnet_folds: bool = _sizes(False, False, True)
    """Whether the ResNet is cross-validated too."""
    followed_bones: tuple[str, ...] = _sizes(BONES[:1], BONES[:1], BONES)
    """Bones of the cross-validation and of the post-mortem, which train most networks."""
    n_seeds: int = _sizes(1, 1, 3)
    """Of every step of the post-mortem."""
    final_pixel_mm: float = _sizes(2.688, 1.68, 0.56)
    """Pixels of the network that is to be used."""
    final_stages: tuple[tuple[int, int, int, float], ...] = _sizes(
        ((48, 40, 8, 1e-2),), ((64, 2000, 8, 1e-2),), ((192, 4000, 16, 1e-2),)
    )
    """Its patches' pixels, steps, batch size and largest learning rate, one after the other."""


@dataclass(frozen=True)
class ReconstructionSizes:
    """Trainings of chapter 06."""

    pair_frame_step: int = _sizes(2, 5, 1)
    """Pairs of patches are taken from every so-many-th frame of a sequence."""
    pair_steps: int = _sizes(2, 50, 2000)
    """Of 16 pairs, for every network that the report used or proposed."""
    table_steps: int = _sizes(2, 50, 24_500)
    """The same for the two networks of the report's Table 6.5, which had 24,500."""
    depths: tuple[int, ...] = _sizes((1, 3), (1, 2, 3), (1, 2, 3, 4))
    """Stages of the ResNet (report, Fig. 6.16)."""
    n_patches: int = _sizes(4, 48, 256)
    """Per bone and part of the split, on which networks are scored."""
    n_scenes: int = _sizes(1, 2, 3)
    """Sharp scenes per control, from as many sequences as there are."""
    pixels: int = _sizes(32, 64, 96)
    """Rows and columns of the patches of sharp scenes."""
    width: int = _sizes(4, 16, 32)
    """Channels of the first level of the U-Net that makes frames sharp."""
    trial_steps: int = _sizes(2, 50, 1000)
    """Of 8 patches, for the comparison of what a network sees and makes small."""
    final_steps: int = _sizes(40, 650, 4500)
    """The same for the network that is to be used."""
    slice_step: int = _sizes(16, 6, 4)
    """Trials are scored on every so-many-th slice."""


@dataclass(frozen=True)
class DynamicSizes:
    """Trainings of chapter 07."""

    pixel_mm: float = _sizes(2.8, 1.75, 0.568)
    """Pixels, within a slice, that the networks see; of static scans too."""
    frame_step: int = _sizes(2, 5, 1)
    """Experiments train on, and are scored on, every so-many-th frame of a sequence."""
    steps: int = _sizes(2, 150, 1000)
    """Of 8 patches, for every network of the experiments."""
    errors_mm: tuple[float, ...] = _sizes((3.0,), (4.0, 8.0), (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0))
    """Errors that are put into labels, as a distance on the bone."""
    n_random: int = _sizes(1, 20, 30)
    """Scans with random looks, per control."""
    final_stages: tuple[tuple[int, int, int, float], ...] = _sizes(
        ((32, 20, 8, 5e-3),), ((64, 1300, 8, 5e-3),), ((192, 3000, 16, 5e-3),)
    )
    """As in `SegmentationSizes`, of the network that is to be used."""


@dataclass(frozen=True)
class SmallDataSizes:
    """Simulations and trainings of chapter 08."""

    anatomy_mm: float = _sizes(2.0, 1.25, 1.0)
    """Voxels in which the second generator lays a foot out."""
    target_pixel_mm: float = _sizes(2.5, 1.25, 0.7)
    """Pixels of the scans of the target domain."""
    pixel_mm: float = _sizes(2.5, 2.5, 1.4)
    """Pixels that the networks see."""
    n_labelled: tuple[int, ...] = _sizes((1, 2), (1, 2, 4, 8), (1, 2, 4, 8))
    """Labelled children of the target domain."""
    n_test: int = _sizes(2, 6, 12)
    """Children on whom everything is scored."""
    labelled_frames: int = _sizes(1, 3, 3)
    """Outlined frames of a labelled child, beside its static scan."""
    n_seeds: int = _sizes(1, 1, 5)
    frame_step: int = _sizes(2, 5, 3)
    """The curve over labelled children is scored on every so-many-th frame."""
    n_looks: int = _sizes(1, 10, 30)
    """Gaussian, and random, looks of each control."""
    pixels: int = _sizes(32, 48, 80)
    """Of the patches."""
    width: int = _sizes(4, 12, 16)
    """Channels of the first level of the U-Nets."""
    pretraining_steps: int = _sizes(4, 300, 2500)
    steps: int = _sizes(4, 200, 600)
    """Of 8 patches: before the target domain is met, and on it."""
    adaptation_steps: int = _sizes(2, 30, 200)
    rigid_steps: int = _sizes(10, 50, 80)
    """Of the fit of all poses of a sequence."""
    n_implicit: int = _sizes(1, 2, 6)
    """Test children whose sequence is also made sharp without a static scan."""
    implicit_steps: int = _sizes(20, 500, 3000)


@dataclass(frozen=True)
class ModalitySizes:
    """Children and trainings of chapter 10."""

    static_shape: tuple[int, int, int] = _sizes((72, 72, 26), (144, 144, 52), (288, 288, 104))
    static_voxel_mm: tuple[float, float, float] = _sizes(
        (2.24, 2.24, 3.2), (1.12, 1.12, 1.6), (0.56, 0.56, 0.8)
    )
    """Of the MR scans."""
    ct_voxel_mm: float = _sizes(2.24, 1.12, 0.56)
    anatomy_voxel_mm: float = _sizes(3.0, 1.5, 0.8)
    pixel_mm: float = _sizes(2.24, 2.24, 1.12)
    """Pixels, within a slice, that networks see."""
    regimes: tuple[tuple[int, int], ...] = _sizes(
        ((1, 2),), ((2, 8), (4, 4), (8, 2)), ((2, 8), (4, 4), (8, 2))
    )
    """How many children train with an MR scan, and how many others with a CT."""
    n_full: int = _sizes(1, 1, 3)
    """In so many of the regimes all arms are tried, in the others the main ones."""
    n_test: int = _sizes(2, 6, 10)
    n_random: int = _sizes(1, 6, 20)
    """Scans with random looks, per training scan."""
    pixels: int = _sizes(32, 48, 96)
    """Rows and columns of a patch."""
    batch: int = _sizes(4, 4, 8)
    """Patches of each modality in a step."""
    steps: int = _sizes(2, 450, 2000)
    """For every network that segments."""
    depth: int = _sizes(2, 3, 4)
    """Levels of the U-Nets; so many see a whole patch."""
    rate: float = _sizes(2e-2, 2e-2, 1e-2)
    """Largest learning rate of a cycle."""
    width: int = _sizes(4, 16, 16)
    """Channels of the first level."""
    pair_steps: int = _sizes(2, 400, 3000)
    """Of as many patches as two batches, for the network that learns to make CT of MR from
    pairs."""
    cycle_steps: int = _sizes(2, 120, 3000)
    """Of a batch of each modality: the same without pairs."""
    synthesis_width: int = _sizes(4, 8, 16)
    n_seeds: int = _sizes(1, 1, 3)


@dataclass(frozen=True)
class GadoliniumSizes:
    """Patients and trainings of chapter 09."""

    voxel_mm: float = _sizes(2.5, 1.25, 1.0)
    side: int = _sizes(12, 16, 24)
    """Voxels along each side of the planes through lesions."""
    n_train: int = _sizes(5, 24, 60)
    n_test: int = _sizes(3, 20, 60)
    n_even: int = _sizes(2, 8, 40)
    """Patients of the world in which all lesions are even."""
    n_made: int = _sizes(1, 12, 60)
    """Patients that the simulator adds, where the training patients are few."""
    counts: tuple[int, ...] = _sizes((3, 5), (4, 8, 16, 24), (4, 8, 16, 24, 60))
    """So few training patients."""
    steps: int = _sizes(4, 200, 1500)
    """Of 32 lesions, for every network."""
    few_steps: int = _sizes(4, 100, 600)
    """The same where patients are few."""
    width: int = _sizes(4, 16, 32)
    """Channels of the first level."""
    members: int = _sizes(2, 3, 5)
    """Of the ensemble."""
    draws: int = _sizes(3, 20, 50)
    """Answers of a network with dropout."""
    n_explained: int = _sizes(2, 24, 100)
    """Lesions for which it is asked which voxels mattered."""
    n_seeds: int = _sizes(1, 2, 3)
    """Networks whose answers are averaged, where patients are few."""


@dataclass(frozen=True)
class StrokeSizes:
    """Heads and trainings of chapter 11."""

    voxel_mm: float = _sizes(4.8, 2.4, 1.6)
    plane: tuple[int, int] = _sizes((32, 64), (64, 96), (96, 128))
    """Voxels of an axial slice from left to right and from back to front, multiples of 32."""
    z_mm: tuple[float, float] | None = _sizes((0.0, 48.0), (-20.0, 60.0), None)
    """Heights of the lowest and the highest slice in MNI space; None is the whole brain."""
    n_train: tuple[int, ...] = _sizes((2, 4), (8, 32), (8, 32, 128))
    """People, of the learning curve; the contest has the last number."""
    n_validation: int = _sizes(1, 12, 16)
    n_test: int = _sizes(3, 16, 60)
    width: int = _sizes(4, 8, 16)
    """Half of the channels of the first level of the U-Nets; the others' follow."""
    steps: int = _sizes(2, 200, 1200)
    """For every network, also for a try of the learning rate."""
    batch: int = _sizes(4, 8, 16)
    """Slices of a step."""
    n_seeds: int = _sizes(1, 1, 3)
    with_mednext: bool = _sizes(False, False, True)
    tunes: bool = _sizes(False, False, True)
    """Whether each network has tries to find its learning rate."""
    n_ankles: tuple[int, int] = _sizes((2, 2), (6, 4), (10, 10))
    """Children who train and who test, in the same contest on the ankle."""
    ankle_shape: tuple[int, int, int] = _sizes((72, 72, 26), (72, 72, 26), (288, 288, 104))
    ankle_voxel_mm: tuple[float, float, float] = _sizes(
        (2.24, 2.24, 3.2), (2.24, 2.24, 3.2), (0.56, 0.56, 0.8)
    )
    ankle_anatomy_mm: float = _sizes(3.0, 2.0, 0.8)
    ankle_pixel_mm: float = _sizes(2.24, 2.24, 1.12)
    """Pixels, within a slice, that networks see."""
    ankle_steps: int = _sizes(2, 120, 1200)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Sizes of the cohort and its grids.

    Shapes count voxels along the sagittal acquisition's own axes: posterior, superior, right.
    """

    name: str = _sizes("smoke", "laptop", "paper")
    subjects: tuple[str, ...] | None = _sizes(
        ("T01", "T02", "T03", "E01", "E02", "E09", "E12"), None, None
    )
    """Codes of the simulated subjects; ``None`` is the whole cohort."""
    static_shape: tuple[int, int, int] = _sizes((120, 120, 48), (288, 288, 104), (576, 576, 110))
    static_voxel_mm: tuple[float, float, float] = _sizes(
        (1.344, 1.344, 1.8), (0.56, 0.56, 0.8), (0.28, 0.28, 0.8)
    )
    dynamic_shape: tuple[int, int, int] = _sizes((132, 132, 6), (220, 220, 6), (352, 352, 6))
    dynamic_voxel_mm: tuple[float, float, float] = _sizes(
        (1.5147, 1.5147, 8.0), (0.9088, 0.9088, 8.0), (0.568, 0.568, 8.0)
    )
    n_frames: int = _sizes(5, 15, 15)
    anatomy_voxel_mm: float = _sizes(1.5, 1.0, 0.6)
    """Grid on which the phantom's soft tissue is laid out; its bones use half of it."""
    slice_samples: int = _sizes(4, 4, 8)
    """Sample planes that the phantom's scanner integrates across one dynamic slice."""
    # not in the repr, which tells whether a simulated cohort is still that of its preset
    segmentation: SegmentationSizes = field(
        metadata={"values": _instances(SegmentationSizes)}, repr=False
    )
    reconstruction: ReconstructionSizes = field(
        metadata={"values": _instances(ReconstructionSizes)}, repr=False
    )
    dynamic: DynamicSizes = field(metadata={"values": _instances(DynamicSizes)}, repr=False)
    small_data: SmallDataSizes = field(metadata={"values": _instances(SmallDataSizes)}, repr=False)
    modality: ModalitySizes = field(metadata={"values": _instances(ModalitySizes)}, repr=False)
    gadolinium: GadoliniumSizes = field(
        metadata={"values": _instances(GadoliniumSizes)}, repr=False
    )
    stroke: StrokeSizes = field(metadata={"values": _instances(StrokeSizes)}, repr=False)


PRESETS: dict[str, Preset] = {preset.name: preset for preset in _instances(Preset)}


def _few_steps(sizes: Any) -> Any:
    """Return sizes with a hundredth of their steps, between two and four, and with one seed."""
    changes: dict[str, Any] = {}
    for name in (one.name for one in fields(sizes)):
        value = getattr(sizes, name)
        if is_dataclass(value):
            changes[name] = _few_steps(value)
        elif name.endswith("steps"):
            changes[name] = _few(value)
        elif name == "final_stages":
            changes[name] = tuple((side, _few(n), *rest) for side, n, *rest in value)
        elif name == "n_seeds":
            changes[name] = 1
    return replace(sizes, **changes)


def _few(steps: int) -> int:
    return min(max(steps // 100, 2), 4)


REHEARSAL: Preset = replace(
    _few_steps(PRESETS["paper"]), name="rehearsal", subjects=("T01", "T02", "E02")
)
"""The grids of paper on three subjects: a CPU meets every size, and most of the memory, of a run
that takes days there, before a GPU does. Its networks have learnt nothing."""


def get_preset(name: str) -> Preset:
    """Return the preset called ``name``: one of `PRESETS`, or "rehearsal".

    Raises
    ------
    AnkleError
        If there is no such preset; the message lists the ones there are.
    """
    presets = PRESETS | {REHEARSAL.name: REHEARSAL}
    try:
        return presets[name]
    except KeyError:
        known = ", ".join(presets)
        raise AnkleError(f"there is no preset {name!r}: choose one of {known}") from None
