"""The embedded cohort on disk: raw files as a scanner and a reader leave them, and the truth."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, cpu_count, delayed
from numpy.typing import NDArray
from scipy.spatial.transform import RigidTransform, Rotation
from torch import Tensor
from tqdm.auto import tqdm

from ankle_lib import motion_fields
from ankle_lib.files import PARTIAL_PREFIX, AnkleError, write_csv, write_json
from ankle_lib.manifest.document import Manifest, save_manifest
from ankle_lib.manifest.schema import Cohort, Geometry, LocalSource, Sequence, Subject
from ankle_lib.phantom import scanner
from ankle_lib.phantom.anatomy import Anatomy, Child, build
from ankle_lib.phantom.faults import FAULTS, RawImage, RawImages, to_bytes
from ankle_lib.phantom.fields import Field
from ankle_lib.phantom.motion import Joints, Pose, cycle
from ankle_lib.phantom.skeleton import foot_point
from ankle_lib.phantom.tissues import FFE, STATIC_T1, TISSUES, signal
from ankle_lib.presets import BONES, Preset
from ankle_lib.volume import save

SUBJECTS = (*(f"T{n:02}" for n in range(1, 11)), *(f"E{n:02}" for n in range(1, 14)))
"""Ten controls and thirteen children with equinus, coded as in the report."""

PAIR = ("active_run-01", "passive_run-01")
TRIPLE = (*PAIR, "passive_run-02")
SEQUENCES = {
    **dict.fromkeys(("T01", "T02", "T05", "T07", "T09", "E03"), TRIPLE),
    **dict.fromkeys(("T03", "T04", "E01", "E02", "E04", "E05", "E07", "E08"), PAIR),
}
"""Sequences by subject; the others have :data:`ONE_SEQUENCE`. 18 of controls and 14 of children
with equinus are free of faults, as in the report."""

ONE_SEQUENCE = ("passive_run-01",)

SHORT_RANGE_SUBJECT = "T03"
"""The control that plantar-flexes much less than the others."""

EVERSION_PER_DORSIFLEXION = (0.08, 0.22)
"""Range between subjects of the subtalar turn per degree of dorsiflexion."""

STATIC_CENTRE_MM = (0.0, 4.0, -14.0)
DYNAMIC_CENTRE_MM = (0.0, 20.0, -34.0)
"""Middle of the fields of view in the mean child's reference frame."""

DYNAMIC_OBLIQUITY_DEG = 11.0
READER_ERROR_MM = 0.25
"""Spread of a reader's outline about the bone's true surface, smooth over some millimetres."""

TREMBLE = 0.3
"""Amplitude, in degrees or mm, of each of three waves: no two real frames are alike."""

GAIN_LOSS = 0.13
"""How much weaker the image is when the foot is dorsiflexed: measured on a real sequence."""

MEMORY_BYTES = 5.4e9
BYTES_PER_STATIC_VOXEL = 70
"""What the subjects in work may take together, and about what one takes: measured at its peak."""

SHARP_MARGIN_MM = 12.0
"""Of the sharp truth around the bones."""
SHARP_SEARCH = 3
"""The bones are looked for at every so-many-th voxel, which moves the margin by 2 mm at most."""
SHARP_STEP = 2.0
"""Image units per stored integer of the sharp truth: a fiftieth of the frames' noise."""

FAT_SUPPRESSION = 0.6
"""Share of the marrow's signal that fat suppression takes away: more, and no bone has an edge."""
NOISY = 3.0
"""Times the noise of a frame."""

DONE = "done.json"


@dataclass(frozen=True)
class Recipe:
    """All that is random about a subject, drawn from the cohort's seed and the subject's code."""

    code: str
    group: str
    side: str
    child: Child
    joints: Joints
    eversion_offset_deg: float
    eversion_per_dorsiflexion: float
    static_dorsiflexion_deg: float
    lowest_deg: float
    highest_deg: float
    seed: int

    def pose(self, dorsiflexion_deg: float, tibia: RigidTransform | None = None) -> Pose:
        """The subject's ankle at one angle; the subtalar joint follows the talocrural one."""
        eversion = self.eversion_offset_deg + self.eversion_per_dorsiflexion * dorsiflexion_deg
        return self.joints.pose(dorsiflexion_deg, eversion, tibia)


def draw_recipe(code: str, seed: int) -> Recipe:
    """Draw who the subject is: age, size, shape, side, joint axes and range of motion."""
    if code not in SUBJECTS:
        raise AnkleError(
            f"there is no subject {code!r}: choose from {SUBJECTS[0]} to {SUBJECTS[-1]}"
        )
    own_seed = int.from_bytes(hashlib.sha256(f"{seed}/{code}".encode()).digest()[:4], "little")
    draw = np.random.default_rng(own_seed)
    control = code.startswith("T")
    age = draw.uniform(7, 14)
    size = 1 + 0.028 * (age - 10.5) + np.clip(draw.normal(0, 0.02), -0.04, 0.04)
    stretch = 1 + np.clip(draw.normal(0, 0.02, 3), -0.04, 0.04)
    child = Child(
        age_years=age,
        size=float(size),
        stretch=(float(stretch[0]), float(stretch[1]), float(stretch[2])),
        roughness_mm=0.7,
        bone_radius=0.02,
        fat_mm=float(draw.uniform(2.5, 4.5)),
        seed=own_seed % 1_000_003,
    )
    if code == SHORT_RANGE_SUBJECT:
        lowest, highest, static = -4.0, 12.0, 0.0
    elif control:
        lowest = draw.uniform(-25, -17)
        highest = lowest + draw.uniform(24, 30)
        static = lowest + draw.uniform(2, 7)
    else:
        lowest, highest = draw.uniform(-35, -30), draw.uniform(-10, -3)
        static = lowest + draw.uniform(1, 6)
    return Recipe(
        code=code,
        group="control" if control else "equinus",
        side=str(draw.choice(["left", "right"])),
        child=child,
        joints=_draw_joints(size * stretch, draw),
        eversion_offset_deg=float(draw.normal(0 if control else -1.0, 1.0)) + 2.0,
        eversion_per_dorsiflexion=float(draw.uniform(*EVERSION_PER_DORSIFLEXION)),
        static_dorsiflexion_deg=float(static),
        lowest_deg=float(lowest),
        highest_deg=float(highest),
        seed=own_seed,
    )


def ideal_poses(recipe: Recipe, count: int = 9) -> list[Pose]:
    """Poses that cover the subject's range with a margin, static pose included."""
    angles = np.linspace(recipe.lowest_deg - 3, recipe.highest_deg + 1, count)
    return [recipe.pose(float(a)) for a in (*angles, recipe.static_dorsiflexion_deg)]


def simulate(
    preset: Preset,
    out: str | os.PathLike[str],
    *,
    seed: int = 2020,
    device: str = "cpu",
    progress: bool = True,
) -> Path:
    """Write the cohort below ``out``; subjects that are there, made by the same code, are kept.

    ``raw/<subject>/`` holds what a study would have; ``truth/<subject>/`` what only a simulation
    knows: poses of the bones (static → frame, world RAS mm, the world being that of the static
    scan before any injected fault), joint angles, labels of every voxel, and two frames of every
    usable sequence as they would be without noise on the static scan's grid
    (``active_run-01_frame-07_sharp.nii.gz``, see `scanner.image_sharp`). The second of the two
    was also taken in other ways (``active_run-01_frame-04_look-t1.nii.gz`` etc., on the sequence's
    grid): with the static scan's contrast (``t1``), with most of the fat's signal taken away
    (``fat-suppressed``), and with three times the noise (``noisy``). ``manifest.yaml`` describes
    the raw files and names the injected faults.

    Parameters
    ----------
    preset : Preset
        Grids, frames, and which subjects.
    out : path
        Folder of the cohort.
    seed : int
        The same seed gives the same bytes on one machine and device.
    device : str
        ``"cpu"`` (two subjects at a time) or ``"cuda"``.

    Returns
    -------
    Path
        The manifest.
    """
    out = Path(out)
    codes = preset.subjects or SUBJECTS
    made_from = {"preset": repr(preset), "seed": seed, "code": _code()}
    missing = [code for code in codes if _finished(out, code, made_from) is None]
    # Threads, not processes: torch lets go of the interpreter, and a killed run leaves no worker
    # behind that would go on writing. Each has one core: the grids are too small for several.
    voxels = int(np.prod(preset.static_shape))
    fitting = max(1, int(MEMORY_BYTES / (BYTES_PER_STATIC_VOXEL * voxels)))
    workers = 1 if device != "cpu" else min(cpu_count(), fitting)
    jobs = (delayed(_simulate_subject)(code, preset, out, made_from, device) for code in missing)
    parallel = Parallel(workers, backend="threading", return_as="generator_unordered")
    for _ in tqdm(
        parallel(jobs), total=len(missing), desc="simulating", disable=not (progress and missing)
    ):
        pass
    records = [_finished(out, code, made_from) for code in codes]
    return _write_manifest(out, preset, [r for r in records if r is not None])


def telling_frames(angles_deg: NDArray[np.float64], static_deg: float) -> tuple[int, ...]:
    """Return the frame farthest from the static pose, and one about half way out to it.

    Parameters
    ----------
    angles_deg : (F,) array
        Dorsiflexion in each frame.
    static_deg : float
        That of the static scan.
    """
    out = np.abs(angles_deg - static_deg)
    farthest = int(out.argmax())
    if farthest == 0:
        return (farthest,)
    return farthest, int(np.abs(out[:farthest] - out[farthest] / 2).argmin())


def sharp_name(sequence: str, frame: int) -> str:
    """Return the file name of a frame's sharp truth, beside the poses of the sequence."""
    return f"{sequence}_frame-{frame:02d}_sharp.nii.gz"


def look_name(sequence: str, frame: int, look: str) -> str:
    """Return the file name of a frame taken in another way, beside its sharp truth."""
    return f"{sequence}_frame-{frame:02d}_look-{look}.nii.gz"


def _code() -> str:
    """Digest of the phantom's source: a cohort is made again when it changes."""
    digest = hashlib.sha256()
    for source in (*sorted(Path(__file__).parent.glob("*.py")), Path(motion_fields.__file__)):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _finished(out: Path, code: str, made_from: dict[str, Any]) -> dict[str, Any] | None:
    """What was recorded of a subject that is complete and made from the same settings."""
    record = out / "truth" / code / DONE
    if not record.is_file():
        return None
    content: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    complete = all((out / "raw" / code / name).is_file() for name in content["sha256"])
    return content if complete and content["made_from"] == made_from else None


def _simulate_subject(
    code: str, preset: Preset, out: Path, made_from: dict[str, Any], device: str
) -> None:
    if device == "cpu":
        torch.set_num_threads(1)
    recipe = draw_recipe(code, made_from["seed"])
    raw, truth = out / "raw" / code, out / "truth" / code
    partial = [folder.with_name(PARTIAL_PREFIX + folder.name) for folder in (raw, truth)]
    for folder in (raw, truth, *partial):
        shutil.rmtree(folder, ignore_errors=True)
    for folder in partial:
        folder.mkdir(parents=True)
    subject = _Subject(recipe, preset, device)
    images, motion = subject.acquire(partial[1])
    if code in FAULTS:
        FAULTS[code].apply(images, np.random.default_rng(recipe.seed + 3))
    checksums = {}
    for name, image in images.files().items():
        content = to_bytes(image)
        checksums[name] = hashlib.sha256(content).hexdigest()
        (partial[0] / name).write_bytes(content)
    write_csv(partial[1] / "motion.csv", pd.DataFrame(motion))
    record = {
        "made_from": made_from,
        "sha256": checksums,
        "static": list(images.static),
        "masks": {bone: n for n in images.masks for bone in BONES if bone in n},
        "sequences": {name: _sequence_file(code, name) for name in _sequences(code)},
        "group": recipe.group,
        "side": recipe.side,
        "age_years": recipe.child.age_years,
    }
    write_json(partial[1] / DONE, record)
    # The record goes with the truth, which is moved last: it vouches for both.
    for folder, final in zip(partial, (raw, truth), strict=True):
        folder.replace(final)


class _Subject:
    """One subject on the table: anatomy, placement in the scanner, and the scans made of it."""

    def __init__(self, recipe: Recipe, preset: Preset, device: str) -> None:
        self.recipe, self.preset = recipe, preset
        self.draw = np.random.default_rng(recipe.seed + 1)
        self.noise = torch.Generator().manual_seed(recipe.seed + 2)
        self.anatomy: Anatomy = build(
            recipe.child,
            recipe.joints,
            ideal_poses(recipe),
            soft_voxel_mm=preset.anatomy_voxel_mm,
            device=device,
        )
        self.placement = _placement(recipe, self.draw)
        self.static_pose = recipe.pose(recipe.static_dorsiflexion_deg)

    def acquire(self, truth: Path) -> tuple[RawImages, list[dict[str, Any]]]:
        """Make all scans; write their truth below ``truth`` and return the raw images."""
        code = self.recipe.code
        images = RawImages({}, {}, {})
        scan, masks = self._static(truth)
        images.static[f"{code}_static_3DT1.nii.gz"] = scan
        for bone, mask in masks.items():
            images.masks[f"{code}_static_3DT1_segment_{bone}.nii.gz"] = mask
        motion: list[dict[str, Any]] = []
        for name in _sequences(code):
            images.sequences[_sequence_file(code, name)] = self._sequence(name, truth, motion)
        return images, motion

    def _static(self, truth: Path) -> tuple[RawImage, dict[str, RawImage]]:
        preset = self.preset
        affine = self._affine(
            preset.static_shape, preset.static_voxel_mm, STATIC_CENTRE_MM, obliquity_deg=4.0
        )
        rendering = scanner.render(
            self.anatomy, self.static_pose, self.placement, affine, preset.static_shape, "static"
        )
        self.static_affine = affine
        save(truth / "static_dseg.nii.gz", scanner.labels(rendering), affine)
        stored = scanner.image_static(rendering, preset.static_voxel_mm, self.noise)
        masks = {
            bone: RawImage(self._read(bone, affine, preset.static_shape), affine) for bone in BONES
        }
        return RawImage(stored.cpu().numpy(), affine), masks

    def _read(
        self, bone: str, affine: NDArray[np.float64], shape: tuple[int, int, int]
    ) -> NDArray[np.uint8]:
        """A reader's outline of a bone on the static scan: the truth with an unsteady hand."""
        field = self.anatomy.bones[bone].distance
        wobble = field.noise((6.0, 6.0, 6.0), self.noise)
        drawn = Field(field.values + READER_ERROR_MM * wobble, field.origin_mm, field.spacing_mm)
        mask = scanner.mark(drawn, bone, self.static_pose, self.placement, affine, shape)
        return mask.cpu().numpy().astype(np.uint8)

    def _sequence(self, name: str, truth: Path, motion: list[dict[str, Any]]) -> RawImage:
        preset, code = self.preset, self.recipe.code
        affine = self._affine(
            preset.dynamic_shape,
            preset.dynamic_voxel_mm,
            DYNAMIC_CENTRE_MM,
            obliquity_deg=DYNAMIC_OBLIQUITY_DEG,
        )
        samples = preset.slice_samples
        poses = self._cycle(active=name.startswith("active"))
        renderings = [
            # Between the frames' centres, where only the outer lines of k-space are seen, half
            # as many planes do.
            self._thick_slices(pose, affine, samples if step % 2 else max(samples // 2, 2))
            for step, pose in enumerate(poses)
        ]
        labels = np.stack([scanner.labels(r) for r in renderings[1::2]], axis=-1)
        frames = poses[1::2]
        angles = np.array([pose.dorsiflexion_deg for pose in frames])
        gains = 1 - GAIN_LOSS * (angles - angles.min()) / max(float(np.ptp(angles)), 1.0)
        middle = renderings[len(renderings) // 2]
        coil = scanner.draw_coil(
            middle.inside, preset.dynamic_voxel_mm, scanner.DYNAMIC_SCANNER, self.noise
        )
        stored = scanner.image_frames(renderings, preset.dynamic_voxel_mm, gains, coil, self.noise)
        save(truth / f"{name}_dseg.nii.gz", labels, affine)
        write_json(truth / f"{name}.json", self._truth(frames))
        if name in _usable(code):
            telling = telling_frames(angles, self.static_pose.dorsiflexion_deg)
            for frame in telling:
                sharp, grid = self._sharp(frames[frame], affine, coil, float(gains[frame]))
                save(truth / sharp_name(name, frame), sharp, grid, scale=SHARP_STEP)
            last = telling[-1]
            taken = renderings[2 * last : 2 * last + 3]
            # noise of its own, so that no other file changes with the looks
            own = torch.Generator().manual_seed(
                self.recipe.seed + 10 + _sequences(code).index(name)
            )
            looks = self._looks(frames[last], affine, taken, coil, gains[last : last + 1], own)
            step = scanner.DYNAMIC_SCANNER.rescale_slope
            for look, image in looks.items():
                values = step * image.cpu().numpy().astype(np.float32)
                save(truth / look_name(name, last, look), values, affine, scale=step)
        motion += [
            {
                "sequence": name,
                "frame": frame,
                "dorsiflexion_deg": pose.dorsiflexion_deg,
                "eversion_deg": pose.eversion_deg,
                "gain": gains[frame],
                "smallest_jacobian": renderings[2 * frame + 1].smallest_jacobian,
            }
            for frame, pose in enumerate(frames)
        ]
        return RawImage(
            stored.cpu().numpy(),
            affine,
            slope=scanner.DYNAMIC_SCANNER.rescale_slope,
            frame_seconds=18.0 / preset.n_frames,
        )

    def _sharp(
        self, pose: Pose, image_affine: NDArray[np.float64], coil: scanner.Coil, gain: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """One frame without noise on the static grid, cut to the bones; and its affine."""
        shape, affine = np.array(self.preset.static_shape), self.static_affine
        coarse = affine @ np.diag([*[float(SHARP_SEARCH)] * 3, 1.0])
        i, j, k = (int(n) for n in -(-shape // SHARP_SEARCH))
        bones = np.zeros((i, j, k), dtype=bool)
        for bone in BONES:
            field = self.anatomy.bones[bone].distance
            mask = scanner.mark(field, bone, pose, self.placement, coarse, (i, j, k))
            bones |= mask.cpu().numpy() > 0
        margin = np.ceil(SHARP_MARGIN_MM / np.array(self.preset.static_voxel_mm)).astype(int)
        found = SHARP_SEARCH * np.argwhere(bones)
        low = np.maximum(found.min(axis=0) - margin, 0)
        i, j, k = (int(n) for n in np.minimum(found.max(axis=0) + margin + 1, shape) - low)
        grid = affine.copy()
        grid[:3, 3] += affine[:3, :3] @ low
        rendering = scanner.render(self.anatomy, pose, self.placement, grid, (i, j, k), "dynamic")
        sharp = scanner.image_sharp(
            rendering, grid, image_affine, self.preset.dynamic_shape, coil, gain
        )
        return sharp.cpu().numpy(), grid

    def _looks(
        self,
        pose: Pose,
        affine: NDArray[np.float64],
        taken: list[scanner.Rendering],
        coil: scanner.Coil,
        gain: NDArray[np.float64],
        noise: torch.Generator,
    ) -> dict[str, Tensor]:
        """Stored integers (X, Y, Z) of one frame taken in other ways.

        ``taken`` are its renderings before, at and after its centre; under another contrast the
        foot holds still. Signals are means across a slice, so what holds for points, that fat
        suppression takes away a part of the T1 contrast, holds for slices too.
        """
        centre, samples = taken[1], self.preset.slice_samples
        marrow = [signal(TISSUES["marrow"], contrast) for contrast in (FFE, STATIC_T1)]
        static = self._thick_slices(pose, affine, samples, "static").signal
        t1 = static * (marrow[0] / marrow[1])
        usual = scanner.DYNAMIC_SCANNER
        noisy = replace(usual, noise_sd=NOISY * usual.noise_sd)
        ways = {
            "fat-suppressed": ([centre.signal - FAT_SUPPRESSION * t1] * 3, usual),
            "noisy": ([rendering.signal for rendering in taken], noisy),
            "t1": ([t1] * 3, usual),
        }
        size = self.preset.dynamic_voxel_mm
        return {
            look: scanner.image_frames(
                [replace(centre, signal=one) for one in signals], size, gain, coil, noise, used
            )[..., 0]
            for look, (signals, used) in ways.items()
        }

    def _thick_slices(
        self,
        pose: Pose,
        affine: NDArray[np.float64],
        samples: int,
        contrast: str = "dynamic",
    ) -> scanner.Rendering:
        planes = scanner.slice_planes(affine, samples)
        shape = (*self.preset.dynamic_shape[:2], self.preset.dynamic_shape[2] * samples)
        fine = scanner.render(self.anatomy, pose, self.placement, planes, shape, contrast)
        return scanner.thick(fine, samples)

    def _cycle(self, *, active: bool) -> list[Pose]:
        """Poses at half-frame steps, from before the first frame's centre to after the last's."""
        recipe, draw, n = self.recipe, self.draw, self.preset.n_frames
        times = np.clip((np.arange(2 * n + 1) - 1) / (2 * (n - 1)), 0, 1)
        angles = cycle(
            times,
            lowest_deg=recipe.lowest_deg,
            highest_deg=recipe.highest_deg,
            active=active,
            generator=draw,
        )
        # The child has moved between the scans; the fixation gives during one, and trembles.
        offset = np.concatenate([draw.normal(0, 2.0, 3), np.clip(draw.normal(0, 2.0, 3), -4, 4)])
        give = draw.normal(0, 1.0 if active else 0.4, 6)
        course = (angles - angles.min()) / max(float(np.ptp(angles)), 1.0)
        movement = offset + course[:, None] * give + _tremble(times, draw)
        pivot = np.array([0.0, 0.0, 30.0])
        poses = []
        for angle, moved in zip(angles, movement, strict=True):
            rotation = Rotation.from_rotvec(moved[:3], degrees=True)
            shift = pivot - rotation.apply(pivot) + moved[3:]
            tibia = RigidTransform.from_components(shift, rotation)
            poses.append(recipe.pose(float(angle), tibia))
        return poses

    def _truth(self, frames: list[Pose]) -> dict[str, Any]:
        """Poses of the bones relative to the static scan, in its world."""
        home = np.linalg.inv(self.placement)

        def static_to_frame(pose: Pose, bone: str) -> list[list[float]]:
            from_static = np.linalg.inv(self.static_pose.matrix(bone))
            world = self.placement @ pose.matrix(bone) @ from_static @ home
            matrix: list[list[float]] = world.tolist()
            return matrix

        return {
            "convention": "world RAS mm, static to frame",
            "static_dorsiflexion_deg": self.static_pose.dorsiflexion_deg,
            "frames": [
                {
                    "frame": frame,
                    "poses": {bone: static_to_frame(pose, bone) for bone in BONES},
                    "dorsiflexion_deg": pose.dorsiflexion_deg,
                    "eversion_deg": pose.eversion_deg,
                }
                for frame, pose in enumerate(frames)
            ],
        }

    def _affine(
        self,
        shape: tuple[int, int, int],
        voxel_mm: tuple[float, float, float],
        centre_mm: tuple[float, float, float],
        obliquity_deg: float,
    ) -> NDArray[np.float64]:
        """Voxel → world of a sagittal-oblique field of view: axes posterior, superior, right."""
        axis = self.draw.normal(size=3)
        turn = Rotation.from_rotvec(obliquity_deg * axis / np.linalg.norm(axis), degrees=True)
        axes = turn.as_matrix() @ np.array([[0.0, 0, 1], [-1, 0, 0], [0, 1, 0]])
        affine = np.eye(4)
        affine[:3, :3] = axes * np.array(voxel_mm)
        middle = self.placement @ (*(self.recipe.child.size * np.array(centre_mm)), 1.0)
        affine[:3, 3] = middle[:3] - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
        return affine


def _draw_joints(scale: NDArray[np.float64], draw: np.random.Generator) -> Joints:
    """Hinges of one child.

    Talocrural: through the middle of the talar dome's circle, its lateral end lower and further
    back. Subtalar: rising towards the toes by 42° (sd 9°) and running medially by 23° (sd 11°),
    after Inman (The Joints of the Ankle, 1976), the spread halved for children of one clinic.
    """
    talocrural = np.array([1.0, draw.normal(0.12, 0.03), draw.normal(0.12, 0.03)])
    rise = np.deg2rad(np.clip(draw.normal(42, 4.5), 33, 51))
    medial = np.deg2rad(np.clip(draw.normal(23, 5.5), 12, 34))
    subtalar = np.array(
        foot_point(
            float(np.cos(rise) * np.sin(medial)),
            float(np.cos(rise) * np.cos(medial)),
            float(np.sin(rise)),
        )
    )
    return Joints(
        talocrural_point=scale * np.array([3.0, 0.0, -19.7]),
        talocrural_axis=talocrural / np.linalg.norm(talocrural),
        subtalar_point=scale * np.array([2.0, -5.0, -22.5]),
        subtalar_axis=subtalar / np.linalg.norm(subtalar),
    )


def _tremble(times: NDArray[np.float64], draw: np.random.Generator) -> NDArray[np.float64]:
    """Small movements of the whole leg (N, 6): degrees about, and mm along, x, y and z."""
    movement = np.zeros((len(times), 6))
    for axis in range(6):
        for cycles in (3, 5, 7):
            phase = draw.uniform(0, 2 * np.pi)
            movement[:, axis] += TREMBLE * np.sin(2 * np.pi * cycles * times + phase)
    return movement


def _placement(recipe: Recipe, draw: np.random.Generator) -> NDArray[np.float64]:
    """Reference frame → world RAS (4, 4): how the leg lies; a right foot is a mirrored left one."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", draw.normal(0, 4, 3), degrees=True).as_matrix()
    matrix[:3, 3] = draw.normal(0, 12, 3)
    return matrix @ np.diag([1.0 if recipe.side == "left" else -1.0, 1.0, 1.0, 1.0])


def _sequences(code: str) -> tuple[str, ...]:
    return SEQUENCES.get(code, ONE_SEQUENCE)


def _usable(code: str) -> tuple[str, ...]:
    """Sequences without faults of the subjects that a study would keep."""
    names = SEQUENCES.get(code, ())
    spoilt = code in FAULTS and FAULTS[code].spoils_last_sequence
    return names[:-1] if spoilt else names


def _sequence_file(code: str, name: str) -> str:
    return f"{code}_MovieClear_{name}.nii.gz"


def _write_manifest(out: Path, preset: Preset, records: list[dict[str, Any]]) -> Path:
    subjects = []
    checksums: dict[Path, str] = {}
    for code, record in zip(preset.subjects or SUBJECTS, records, strict=True):
        folder = Path("raw") / code
        checksums |= {folder / name: digest for name, digest in record["sha256"].items()}
        subjects.append(
            Subject(
                code=code,
                group=record["group"],
                side=record["side"],
                static=[folder / name for name in record["static"]],
                masks={bone: folder / name for bone, name in record["masks"].items()},
                sequences=[
                    Sequence(name=name, kind=name.split("_")[0], path=folder / file)
                    for name, file in record["sequences"].items()
                ],
                notes=[f"injected: {FAULTS[code].note}"] if code in FAULTS else [],
            )
        )
    geometry = Geometry(
        static_voxel_mm=preset.static_voxel_mm,
        dynamic_voxel_mm=preset.dynamic_voxel_mm,
        n_frames=preset.n_frames,
    )
    cohort = Cohort(
        name="phantom",
        description=f"Simulated children's ankles, preset {preset.name}",
        licence="MIT",
        source=LocalSource(type="local", root=".", sha256=checksums),
        geometry=geometry,
        subjects=subjects,
    )
    return save_manifest(out / "manifest.yaml", Manifest(version=1, cohorts=[cohort]))
