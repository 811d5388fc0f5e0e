"""How long `ankle register` and `ankle foot` take on scans of the report's size, and how exact.

One simulated subject on the report's grids: a static scan of 576 x 576 x 110 and a sequence of
352 x 352 x 6 x 15. `ankle register` gets the reader's masks, `ankle foot` nothing but the scans.
Prints wall and CPU seconds and peak memory of each command, all files included, the target
registration error (TRE) of accepted poses, and the error of the joint angles. Ends with 1 if a
command fails. Give it a machine of its own:

    python benchmarks/commands.py [--preset paper] [--subject T02] [--sharp]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from ankle_lib.dynamic.kinematics import ANGLES, anatomical_frame, angle_table
from ankle_lib.phantom.simulate import simulate
from ankle_lib.pose_files import read_transforms
from ankle_lib.presets import BONES, get_preset
from ankle_lib.registration.truth import bone_points, tre_mm
from ankle_lib.volume import Volume, load

SEQUENCE = "active_run-01"
ANKLE = [sys.executable, "-c", "from ankle_lib.cli import main; main()"]


def main() -> int:
    """Simulate, run both commands, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--subject", default="T02")
    parser.add_argument("--sharp", action="store_true", help="`ankle foot` makes frames sharp, too")
    parser.add_argument("--out", type=Path, default=Path("results/benchmark-commands"))
    options = parser.parse_args()
    name = options.subject
    cohort = options.out / options.preset
    sizes = dataclasses.replace(get_preset(options.preset), subjects=(name,))
    simulate(sizes, cohort)
    raw = cohort / "raw" / name
    static, frames = (
        raw / f"{name}_static_3DT1.nii.gz",
        raw / f"{name}_MovieClear_{SEQUENCE}.nii.gz",
    )
    masks = {bone: raw / f"{name}_static_3DT1_segment_{bone}.nii.gz" for bone in BONES}
    folders = {command: cohort / f"ankle-{command}" for command in ("register", "foot")}
    given = [word for bone, path in masks.items() for word in ("--mask", f"{bone}={path}")]
    arguments = {
        "register": [
            "register",
            "--static",
            static,
            "--dynamic",
            frames,
            *given,
            "--out",
            folders["register"],
        ],
        "foot": ["foot", static, frames, "--out", folders["foot"], *["--sharp"] * options.sharp],
    }
    sizes_found = [load(path).data.shape for path in (frames, static)]
    shapes = " against ".join("x".join(map(str, shape)) for shape in sizes_found)
    print(f"{options.preset} grid, {name}: {shapes}")
    rows, failed = [], False
    for command, words in arguments.items():
        shutil.rmtree(folders[command], ignore_errors=True)
        row = timed([*ANKLE, *map(str, words)])
        failed |= row["status"] != 0
        rows.append({"command": f"ankle {command}"} | row)
    print(pd.DataFrame(rows).round(1).to_string(index=False))
    bones = {bone: load(path) for bone, path in masks.items()}
    truth = json.loads((cohort / "truth" / name / f"{SEQUENCE}.json").read_text())
    poses = {bone: np.array([f["poses"][bone] for f in truth["frames"]]) for bone in BONES}
    found = {"register": folders["register"], "foot": folders["foot"] / frames.name[:-7]}
    for command, folder in found.items():
        print(f"ankle {command}: {exactness(folder / 'transforms.json', bones, poses)}")
    wanted = angle_table(poses, anatomical_frame(bones, side_of(cohort, name)))
    got = pd.read_csv(found["foot"] / "angles.csv")
    rms = np.sqrt(((got[[*ANGLES]] - wanted[[*ANGLES]]) ** 2).groupby(got["joint"]).mean())
    print("error of the joint angles of ankle foot, degrees rms:")
    print(rms.round(2).to_string())
    return int(failed)


def timed(command: list[str]) -> dict[str, float]:
    """Run a command; return its status, seconds and peak memory."""
    begun = time.perf_counter()
    process = os.spawnv(os.P_NOWAIT, command[0], command)
    _, status, used = os.wait4(process, 0)
    return {
        "status": os.waitstatus_to_exitcode(status),
        "wall_s": time.perf_counter() - begun,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_gb": used.ru_maxrss / 1e6,
    }


def exactness(file: Path, bones: dict[str, Volume], truth: dict[str, np.ndarray]) -> str:
    """Say how many poses are accepted, and how far they carry the bones' voxels astray."""
    points = {bone: bone_points(mask.data > 0, mask.affine) for bone, mask in bones.items()}
    poses = [pose for pose in read_transforms(file) if pose.bone in bones]
    errors = [
        tre_mm(pose.matrix, truth[pose.bone][pose.frame], points[pose.bone])
        for pose in poses
        if pose.accepted
    ]
    if not errors:  # as it should be where a raw file is at fault
        return f"none of {len(poses)} poses accepted"
    return (
        f"{len(errors)} of {len(poses)} poses accepted; TRE {np.median(errors):.2f} mm in the "
        f"median, {max(errors):.2f} mm at most"
    )


def side_of(cohort: Path, name: str) -> str:
    """Return the side of a subject, as the manifest has it."""
    (phantom,) = yaml.safe_load((cohort / "manifest.yaml").read_text())["cohorts"]
    return next(one["side"] for one in phantom["subjects"] if one["code"] == name)


if __name__ == "__main__":
    sys.exit(main())
