"""The embedded cohort on disk: raw files as a scanner and a reader leave them, and the truth."""

import hashlib
import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import RigidTransform, Rotation
from torch import Tensor

from ankle_lib.cache import remembered
from ankle_lib.files import PARTIAL_PREFIX, write_csv, write_json
from ankle_lib.geometry import Grid, box_around, part_of
from ankle_lib.manifest.document import Manifest, save_manifest
from ankle_lib.manifest.schema import Cohort, Geometry, LocalSource, Subject
from ankle_lib.parallel import run_all
from ankle_lib.phantom import scanner
from ankle_lib.phantom.anatomy import Contrasts, build
from ankle_lib.phantom.faults import FAULTS, IMAGE_FAULTS, RawImage, RawImages, to_bytes
from ankle_lib.phantom.fields import Field
from ankle_lib.phantom.motion import Pose, cycle
from ankle_lib.phantom.subjects import (
    SUBJECTS,
    Recipe,
    draw_recipe,
    ideal_poses,
    sequences_of,
    usable_sequences,
)
from ankle_lib.phantom.tissues import CONTRASTS, FFE, STATIC_T1, TISSUES, signal
from ankle_lib.presets import BONES, Preset
from ankle_lib.volume import save

STATIC_CENTRE_MM = (0.0, 4.0, -14.0)
DYNAMIC_CENTRE_MM = (0.0, 20.0, -34.0)
"""Middle of the fields of view in the mean child's reference frame."""

STATIC_OBLIQUITY_DEG = 4.0
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


def simulate(
    preset: Preset,
    out: str | os.PathLike[str],
    *,
    seed: int = 2020,
    device: str = "cpu",
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
        ``"cpu"`` (a subject on each core, or on a cluster: see `parallel.run_all`) or ``"cuda"``.

    Returns
    -------
    Path
        The manifest.

    Examples
    --------
    >>> simulate(get_preset("smoke"), "cohort")
    """
    out, codes = Path(out), preset.subjects or SUBJECTS
    fitting = int(MEMORY_BYTES / (BYTES_PER_STATIC_VOXEL * np.prod(preset.static_shape)))
    # Threads, not processes: torch lets go of the interpreter, and a killed run leaves no worker
    # behind that would go on writing. Each has one core: the grids are too small for several.
    records = run_all(
        partial(_remembered_subject, preset, out, seed, device),
        codes,
        n_jobs=max(1, fitting),
        workers="threads",
        device=device,
        desc="" if all(_record(out, code).exists() for code in codes) else "simulating subjects",
    )
    return _write_manifest(out, preset, records)


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


def look_name(sequence: str, frame: int, look: str) -> str:
    """Return the file name of a frame taken in another way, beside its sharp truth."""
    return f"{sequence}_frame-{frame:02d}_look-{look}.nii.gz"


def _record(out: Path, code: str) -> Path:
    return out / "truth" / code / "done.json"


def _remembered_subject(
    preset: Preset, out: Path, seed: int, device: str, code: str
) -> dict[str, Any]:
    """Simulate a subject unless it is there; return what the manifest says of it."""
    work = partial(_simulate_subject, preset, out, seed, device, code)
    settings = [repr(preset), seed]  # without the sizes of trainings, see `Preset`
    answer = remembered(_record(out, code), work, settings=settings)
    if all((out / name).is_file() for name in answer["sha256"]):
        return answer
    _record(out, code).unlink()
    return remembered(_record(out, code), work, settings=settings)


def _simulate_subject(
    preset: Preset, out: Path, seed: int, device: str, code: str
) -> dict[str, Any]:
    if device == "cpu":
        torch.set_num_threads(1)
    finals = out / "raw" / code, out / "truth" / code
    raw, truth = (final.with_name(PARTIAL_PREFIX + final.name) for final in finals)
    for folder in (*finals, raw, truth):
        shutil.rmtree(folder, ignore_errors=True)
    raw.mkdir(parents=True)
    truth.mkdir(parents=True)

    recipe = draw_recipe(code, seed)
    examination = Examination(recipe, preset, device)
    scan, masks = examination.static(truth)
    taken = {name: examination.sequence(name, truth) for name in sequences_of(code)}
    images = RawImages(
        {f"{code}_static_3DT1.nii.gz": scan},
        {f"{code}_static_3DT1_segment_{bone}.nii.gz": mask for bone, mask in masks.items()},
        {f"{code}_MovieClear_{name}.nii.gz": image for name, (image, _) in taken.items()},
    )
    write_csv(truth / "motion.csv", pd.concat([rows for _, rows in taken.values()]))
    notes = [FAULTS[code].note] if code in FAULTS else []
    for (owner, part), fault in IMAGE_FAULTS.items():
        if owner == code:
            fault.change(images.of(part).data)
            notes.append(f"{part}: {fault.note}")
    if code in FAULTS:
        FAULTS[code].apply(images, np.random.default_rng(recipe.seed + 3))
    checksums = {}
    for name, image in images.files().items():
        content = to_bytes(image)
        checksums[f"raw/{code}/{name}"] = hashlib.sha256(content).hexdigest()
        (raw / name).write_bytes(content)
    for folder, final in zip((raw, truth), finals, strict=True):
        folder.replace(final)
    subject = {
        "code": code,
        "group": recipe.group,
        "side": recipe.side,
        "static": [f"raw/{code}/{name}" for name in images.static],
        "masks": {bone: f"raw/{code}/{n}" for n in images.masks for bone in BONES if bone in n},
        "sequences": [
            {"name": name, "kind": name.split("_")[0], "path": f"raw/{code}/{file}"}
            for name, file in zip(taken, images.sequences, strict=True)
        ],
        "notes": [f"injected: {note}" for note in notes],
    }
    return {"sha256": checksums, "subject": subject}


class Examination:
    """One subject on the table: anatomy, placement in the scanner, and the scans made of it."""

    def __init__(
        self, recipe: Recipe, preset: Preset, device: str, contrasts: Contrasts = CONTRASTS
    ) -> None:
        self.recipe, self.preset = recipe, preset
        self.draw = np.random.default_rng(recipe.seed + 1)
        self.noise = torch.Generator().manual_seed(recipe.seed + 2)
        self.anatomy = build(
            recipe.child,
            ideal_poses(recipe),
            soft_voxel_mm=preset.anatomy_voxel_mm,
            device=device,
            contrasts=contrasts,
        )
        self.placement = draw_placement(recipe, self.draw)
        self.static_pose = recipe.pose(recipe.static_dorsiflexion_deg)

    def static(self, truth: Path) -> tuple[RawImage, dict[str, RawImage]]:
        """Make the static scan and a reader's masks; write the true labels."""
        preset = self.preset
        _, affine = self.static_grid = self._grid(
            preset.static_shape, preset.static_voxel_mm, STATIC_CENTRE_MM, STATIC_OBLIQUITY_DEG
        )
        rendering = scanner.render(
            self.anatomy, self.static_pose, self.placement, self.static_grid, "static"
        )
        save(truth / "static_dseg.nii.gz", scanner.labels(rendering), affine)
        stored = scanner.image_static(rendering, preset.static_voxel_mm, self.noise)
        seen = self.static_pose, self.placement, self.static_grid
        masks = {bone: RawImage(self.outline(bone, *seen), affine) for bone in BONES}
        return RawImage(stored.cpu().numpy(), affine), masks

    def sequence(self, name: str, truth: Path) -> tuple[RawImage, pd.DataFrame]:
        """Make a sequence and a row of the table of motion for each frame; write its truth."""
        preset, voxel_mm = self.preset, self.preset.dynamic_voxel_mm
        fault = IMAGE_FAULTS.get((self.recipe.code, name))
        x, y, z = np.add(DYNAMIC_CENTRE_MM, fault.shift_mm if fault else 0.0)
        self.frame_grid = self._grid(
            preset.dynamic_shape, voxel_mm, (x, y, z), DYNAMIC_OBLIQUITY_DEG
        )
        samples, affine = preset.slice_samples, self.frame_grid[1]
        poses = self._cycle(active=name.startswith("active"))
        renderings = [
            # Between the frames' centres, where only the outer lines of k-space are seen, half
            # as many planes do.
            self._thick_slices(pose, samples if step % 2 else max(samples // 2, 2))
            for step, pose in enumerate(poses)
        ]
        frames, centres = poses[1::2], renderings[1::2]
        angles = np.array([pose.dorsiflexion_deg for pose in frames])
        gains = 1 - GAIN_LOSS * (angles - angles.min()) / max(float(np.ptp(angles)), 1.0)
        middle = renderings[len(renderings) // 2].inside
        coil = scanner.draw_coil(middle, voxel_mm, scanner.DYNAMIC_SCANNER, self.noise)
        stored = scanner.image_frames(renderings, voxel_mm, gains, coil, self.noise)
        labels = np.stack([scanner.labels(one) for one in centres], axis=-1)
        save(truth / f"{name}_dseg.nii.gz", labels, affine)
        write_json(truth / f"{name}.json", self._poses(frames))
        if name in usable_sequences(self.recipe.code):
            telling = telling_frames(angles, self.static_pose.dorsiflexion_deg)
            for n in telling:
                file = truth / f"{name}_frame-{n:02d}_sharp.nii.gz"
                self._write_sharp(file, frames[n], coil, float(gains[n]))
            n = telling[-1]
            around = renderings[2 * n : 2 * n + 3]
            for look, image in self._looks(name, frames[n], around, coil, gains[n]):
                step_size = scanner.DYNAMIC_SCANNER.rescale_slope
                values = step_size * image.cpu().numpy().astype(np.float32)
                save(truth / look_name(name, n, look), values, affine, scale=step_size)
        motion = pd.DataFrame(
            {
                "sequence": name,
                "frame": range(len(frames)),
                "dorsiflexion_deg": angles,
                "eversion_deg": [pose.eversion_deg for pose in frames],
                "gain": gains,
                "smallest_jacobian": [one.smallest_jacobian for one in centres],
            }
        )
        slope, seconds = scanner.DYNAMIC_SCANNER.rescale_slope, 18.0 / preset.n_frames
        return RawImage(stored.cpu().numpy(), affine, slope, frame_seconds=seconds), motion

    def _thick_slices(
        self, pose: Pose, samples: int, contrast: str = "dynamic"
    ) -> scanner.Rendering:
        planes = scanner.slice_planes(self.frame_grid, samples)
        fine = scanner.render(self.anatomy, pose, self.placement, planes, contrast)
        return scanner.thick(fine, samples)

    def outline(
        self, bone: str, pose: Pose, placement: NDArray[np.float64], grid: Grid
    ) -> NDArray[np.uint8]:
        """A reader's outline of a bone on a scan: the truth with an unsteady hand."""
        field = self.anatomy.bones[bone].distance
        wobble = field.noise((6.0, 6.0, 6.0), self.noise)
        drawn = Field(field.values + READER_ERROR_MM * wobble, field.origin_mm, field.spacing_mm)
        mask = scanner.mark(drawn, bone, pose, placement, grid)
        return mask.cpu().numpy().astype(np.uint8)

    def _write_sharp(self, file: Path, pose: Pose, coil: scanner.Coil, gain: float) -> None:
        """Write one frame without noise on the static grid, cut to the bones."""
        shape, affine = self.static_grid
        i, j, k = (-(-n // SHARP_SEARCH) for n in shape)
        coarse = (i, j, k), affine @ np.diag([*[float(SHARP_SEARCH)] * 3, 1.0])
        marked = [
            scanner.mark(self.anatomy.bones[bone].distance, bone, pose, self.placement, coarse) > 0
            for bone in BONES
        ]
        found = SHARP_SEARCH * torch.stack(marked).any(0).nonzero().cpu().numpy()
        margin = np.ceil(SHARP_MARGIN_MM / np.array(self.preset.static_voxel_mm)).astype(int)
        part = part_of(box_around(found, margin, shape), affine)
        rendering = scanner.render(self.anatomy, pose, self.placement, part, "dynamic")
        sharp = scanner.image_sharp(rendering, part[1], self.frame_grid, coil, gain)
        save(file, sharp.cpu().numpy(), part[1], scale=SHARP_STEP)

    def _looks(
        self,
        name: str,
        pose: Pose,
        around: list[scanner.Rendering],
        coil: scanner.Coil,
        gain: float,
    ) -> Iterator[tuple[str, Tensor]]:
        """Stored integers (X, Y, Z) of one frame taken in other ways.

        ``around`` are its renderings before, at and after its centre; under another contrast the
        foot holds still. Signals are means across a slice, so what holds for points, that fat
        suppression takes away a part of the T1 contrast, holds for slices too.
        """
        # noise of its own, so that no other file changes with the looks
        own = self.recipe.seed + 10 + sequences_of(self.recipe.code).index(name)
        noise = torch.Generator().manual_seed(own)
        usual = scanner.DYNAMIC_SCANNER
        marrow = [signal(TISSUES["marrow"], contrast) for contrast in (FFE, STATIC_T1)]
        static = self._thick_slices(pose, self.preset.slice_samples, "static").signal
        t1 = replace(around[1], signal=static * (marrow[0] / marrow[1]))
        suppressed = replace(t1, signal=around[1].signal - FAT_SUPPRESSION * t1.signal)
        for look, renderings, used in (
            ("fat-suppressed", [suppressed] * 3, usual),
            ("noisy", around, replace(usual, noise_sd=NOISY * usual.noise_sd)),
            ("t1", [t1] * 3, usual),
        ):
            size, gains = self.preset.dynamic_voxel_mm, np.array([gain])
            image = scanner.image_frames(renderings, size, gains, coil, noise, used)
            yield look, image[..., 0]

    def _cycle(self, *, active: bool) -> list[Pose]:
        """Poses at half-frame steps, from before the first frame's centre to after the last's."""
        draw, n = self.draw, self.preset.n_frames
        times = np.clip((np.arange(2 * n + 1) - 1) / (2 * (n - 1)), 0, 1)
        lowest, highest = self.recipe.lowest_deg, self.recipe.highest_deg
        angles = cycle(times, lowest_deg=lowest, highest_deg=highest, active=active, generator=draw)
        # Degrees about, and mm along, x, y and z: the child has moved between the scans; the
        # fixation gives during one; and the whole leg trembles.
        offset = np.concatenate([draw.normal(0, 2.0, 3), np.clip(draw.normal(0, 2.0, 3), -4, 4)])
        give = draw.normal(0, 1.0 if active else 0.4, 6)
        course = (angles - angles.min()) / max(float(np.ptp(angles)), 1.0)
        tremble = np.zeros((len(times), 6))
        for axis, cycles in itertools.product(range(6), (3, 5, 7)):
            phase = draw.uniform(0, 2 * np.pi)
            tremble[:, axis] += TREMBLE * np.sin(2 * np.pi * cycles * times + phase)
        movement = offset + course[:, None] * give + tremble
        pivot = np.array([0.0, 0.0, 30.0])
        poses = []
        for angle, moved in zip(angles, movement, strict=True):
            rotation = Rotation.from_rotvec(moved[:3], degrees=True)
            shift = pivot - rotation.apply(pivot) + moved[3:]
            tibia = RigidTransform.from_components(shift, rotation)
            poses.append(self.recipe.pose(float(angle), tibia))
        return poses

    def _poses(self, frames: list[Pose]) -> dict[str, Any]:
        """Poses of the bones relative to the static scan, in its world."""
        home = np.linalg.inv(self.placement)
        start = {bone: np.linalg.inv(self.static_pose.matrix(bone)) for bone in BONES}
        return {
            "convention": "world RAS mm, static to frame",
            "static_dorsiflexion_deg": self.static_pose.dorsiflexion_deg,
            "frames": [
                {
                    "frame": frame,
                    "poses": {
                        bone: (self.placement @ pose.matrix(bone) @ start[bone] @ home).tolist()
                        for bone in BONES
                    },
                    "dorsiflexion_deg": pose.dorsiflexion_deg,
                    "eversion_deg": pose.eversion_deg,
                }
                for frame, pose in enumerate(frames)
            ],
        }

    def _grid(
        self,
        shape: tuple[int, int, int],
        voxel_mm: tuple[float, float, float],
        centre_mm: tuple[float, float, float],
        obliquity_deg: float,
    ) -> Grid:
        """A sagittal-oblique field of view: axes posterior, superior, right."""
        axis = self.draw.normal(size=3)
        turn = Rotation.from_rotvec(obliquity_deg * axis / np.linalg.norm(axis), degrees=True)
        axes = turn.as_matrix() @ np.array([[0.0, 0, 1], [-1, 0, 0], [0, 1, 0]])
        affine = np.eye(4)
        affine[:3, :3] = axes * np.array(voxel_mm)
        middle = self.placement @ (*(self.recipe.child.size * np.array(centre_mm)), 1.0)
        affine[:3, 3] = middle[:3] - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
        return shape, affine


def draw_placement(recipe: Recipe, draw: np.random.Generator) -> NDArray[np.float64]:
    """Reference frame → world RAS (4, 4): how the leg lies; a right foot is a mirrored left one."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", draw.normal(0, 4, 3), degrees=True).as_matrix()
    matrix[:3, 3] = draw.normal(0, 12, 3)
    return matrix @ np.diag([1.0 if recipe.side == "left" else -1.0, 1.0, 1.0, 1.0])


def _write_manifest(out: Path, preset: Preset, records: list[dict[str, Any]]) -> Path:
    checksums = {Path(file): digest for one in records for file, digest in one["sha256"].items()}
    cohort = Cohort(
        name="phantom",
        description=f"Simulated children's ankles, preset {preset.name}",
        licence="MIT",
        source=LocalSource(type="local", root=".", sha256=checksums),
        geometry=Geometry(
            static_voxel_mm=preset.static_voxel_mm,
            dynamic_voxel_mm=preset.dynamic_voxel_mm,
            n_frames=preset.n_frames,
        ),
        subjects=[Subject.model_validate(one["subject"]) for one in records],
    )
    return save_manifest(out / "manifest.yaml", Manifest(version=1, cohorts=[cohort]))
