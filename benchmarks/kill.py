"""Kill runs at random moments with SIGKILL; the next run must complete with the same tables.

    python benchmarks/kill.py --preset smoke --kills 10

Each kill has a results folder of its own. After it, no file under a final name may be broken;
after the next run, all tables must equal those of an undisturbed run.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from PIL import Image

TIMINGS = ("seconds", "wall_s", "time", "samples_per_s")
"""Columns that differ between runs."""

ROOT = Path(__file__).resolve().parents[1]


def start(results: Path, *options: str, root: Path = ROOT) -> subprocess.Popen[bytes]:
    """Start ``ankle run`` with these options, without output, in the course ``root``."""
    code = "from ankle_lib.cli import main; main()"
    command = [sys.executable, "-c", code, "run", *options, "--results", str(results)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with open(results.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            command,
            cwd=root,
            env={**os.environ, "PYTHONPATH": path},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def complete(results: Path, *options: str, root: Path = ROOT) -> float:
    """Run to the end, or raise with what the run printed; return the seconds it took."""
    began = time.perf_counter()
    if start(results, *options, root=root).wait() != 0:
        raise RuntimeError(results.with_suffix(".log").read_text(encoding="utf-8")[-3000:])
    return time.perf_counter() - began


def kill_after(seconds: float, results: Path, *options: str, root: Path = ROOT) -> bool:
    """Start a run and kill it; return False if it ended before. Check what it left."""
    process = start(results, *options, root=root)
    try:
        process.wait(timeout=seconds)
        return False
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    broken = broken_files(results)
    if broken:
        raise AssertionError(f"killed after {seconds:.2f} s: broken under final names: {broken}")
    return True


def broken_files(folder: Path) -> list[Path]:
    """Files under final names that cannot be read to their end; injected faults excepted."""
    return [path for path in sorted(folder.rglob("*")) if _is_result(path) and not _readable(path)]


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """All tables of a run but for columns of times, by path."""
    return {
        path.relative_to(folder).as_posix(): pd.read_csv(path).drop(
            columns=list(TIMINGS), errors="ignore"
        )
        for path in sorted(folder.rglob("*.csv"))
        if _is_result(path)
    }


def differences(folder: Path, expected: Path) -> list[str]:
    """Names of the tables that two runs do not share or that differ."""
    here, there = tables(folder), tables(expected)
    shared = here.keys() & there.keys()
    return sorted(here.keys() ^ there.keys()) + sorted(
        name for name in shared if not here[name].equals(there[name])
    )


def _is_result(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and "raw" not in path.parts


def _readable(path: Path) -> bool:
    try:
        if path.suffix == ".csv":
            pd.read_csv(path)
        elif path.suffix in (".json", ".ipynb"):
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".gz":
            with gzip.open(path) as stream:
                while stream.read(1 << 20):
                    pass
        elif path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".svg":
            return path.read_text(encoding="utf-8").rstrip().endswith("</svg>")
    except (OSError, ValueError, EOFError):
        # a notebook that was being executed is written in place, under a temporary name only
        return False
    return True


def main() -> None:
    """Measure, print one line per kill, and exit with 1 at the first difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="smoke")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results, expected = folder / "killed", folder / "undisturbed"
        chosen = ("--preset", options.preset)
        seconds = complete(expected, *chosen)
        print(f"undisturbed: {seconds:.1f} s, {len(tables(expected))} tables", flush=True)
        kills = 0
        while kills < options.kills:
            moment = draw.uniform(0, seconds)
            if kill_after(moment, results, *chosen):
                kills += 1
                took = complete(results, *chosen)
                wrong = differences(results, expected)
                print(f"killed at {moment:.1f} s, next run {took:.1f} s, different: {wrong}")
                if wrong:
                    sys.exit(1)
            else:
                seconds = moment  # the machine has become faster: it ended before
            shutil.rmtree(results)


if __name__ == "__main__":
    main()
