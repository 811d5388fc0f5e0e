"""What happens when a machine or a file does its worst; the README's table is made from here.

``python -m tests.test_hard_knocks`` writes it.
"""

from __future__ import annotations

import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ankle_lib.files import PARTIAL_PREFIX, AnkleError
from ankle_lib.learning import scoring
from ankle_lib.learning.slices import whole_slices
from ankle_lib.learning.training import train
from ankle_lib.manifest.document import load_manifest, verify
from ankle_lib.reconstruction import report_networks
from ankle_lib.reconstruction.moving_foot import MovingFoot, moved_static
from ankle_lib.reconstruction.refiner import Refiner, refine
from ankle_lib.registration import search
from ankle_lib.registration.engines import Resolution, Settings, register
from benchmarks.kill import broken_files, differences
from tests.chapter_steps import STEPS, Step
from tests.reconstruction.toy_scene import toy_scene
from tests.registration.scene import scene, turned
from tests.running.test_records import Course
from tests.test_cli import ankle, own_scans, own_static_scan
from tests.toy_motion import motion
from tests.toy_scans import small_recipe

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- hard knocks -->", "<!-- end of hard knocks -->"

KNOCKS = {
    "the disk is full": (
        "one line, status 1; the earlier result or none, never half of one",
        "test_hard_knocks.py::test_a_full_disk_leaves_no_half_of_a_result",
    ),
    "the disk is full, in every chapter": (
        "nothing half; with space again the chapter goes on, to the same results",
        "test_hard_knocks.py::test_a_full_disk_leaves_whole_files_in_every_chapter",
    ),
    "a folder cannot be written": (
        "one line, status 1",
        "test_hard_knocks.py::test_a_folder_that_cannot_be_written_is_one_line",
    ),
    "a folder cannot be written, in every chapter": (
        "the folder is named",
        "test_hard_knocks.py::test_a_folder_that_cannot_be_written_is_named_by_every_chapter",
    ),
    "the memory of the GPU is full": (
        "smaller batches, and said so; what does not fit at all ends with advice",
        "test_hard_knocks.py::test_a_full_gpu_takes_smaller_batches_and_says_so",
    ),
    "two runs at once": (
        "the second is told who writes",
        "running/test_records.py::test_a_second_writer_is_refused_and_told_who_writes",
    ),
    "`kill -9` at any moment": (
        "the next run goes on, and ends with the same tables",
        "running/test_kill.py::test_a_run_that_was_killed_gives_the_same_tables",
    ),
    "`kill -9` in a step of every chapter": (
        "nothing half; the chapter goes on, to the same results",
        "test_hard_knocks.py::test_every_chapter_goes_on_after_a_kill",
    ),
    "a training is killed": (
        "it ends as if it had never stopped",
        "learning/test_training.py::test_a_killed_training_ends_as_if_it_had_never_stopped",
    ),
    "a result is corrupted later": (
        "known by its digest; the chapter makes it again",
        "running/test_records.py::test_a_corrupted_output_is_made_again",
    ),
    "a download breaks off": (
        "nothing is left of it; it is fetched again",
        "manifest/test_document.py::"
        "test_a_download_that_breaks_off_leaves_nothing_and_is_done_again",
    ),
    "a hostile manifest": (
        "paths and links that lead out, and YAML that unfolds without end, are refused",
        "test_hard_knocks.py::test_yaml_that_unfolds_without_end_is_refused",
    ),
    "a manifest of 10,000 subjects": (
        "read and checked like any other",
        "test_hard_knocks.py::test_ten_thousand_subjects_are_no_matter",
    ),
    "a hostile checkpoint": (
        "nothing in it is executed",
        "learning/test_checkpoints.py::test_code_in_a_checkpoint_is_not_run",
    ),
    "a header that declares 20 GB": (
        "refused before memory is taken",
        "test_fuzz_nifti.py::test_huge_promises_are_refused_before_memory_is_taken",
    ),
    "a gzip bomb": (
        "not unpacked beyond what its header promises",
        "test_fuzz_nifti.py::test_a_decompression_bomb_is_not_unpacked",
    ),
    "1,500 damaged NIfTI files": (
        "refused in one line, or read right",
        "test_fuzz_nifti.py::test_a_damaged_file_is_refused_or_read_right",
    ),
    "spaces, braces, letters of any language in paths": (
        "a path is a path",
        "running/test_execution.py::test_braces_in_a_path_are_no_template",
    ),
    "JupyterLab on loopback, behind its token": (
        "the views work",
        "browser/test_views.py::test_slide_play_and_point",
    ),
    "a clock that jumps": (
        "what is finished stays finished",
        "test_hard_knocks.py::test_a_clock_that_jumps_makes_nothing_run_again",
    ),
}
"""What happens to the course: what it does, and a test of it."""


@contextmanager
def full_disk(after: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: the system refuses to write them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def visible(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder that are not hidden, with their content."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("after", [0, 1000, 12_000])
def test_a_full_disk_leaves_no_half_of_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], after: int
) -> None:
    scan, *options = map(str, own_static_scan(tmp_path))
    out = tmp_path / "results" / "seg.nii.gz"
    words = ("segment", scan, *options, "--out", str(out))
    with full_disk(after):
        status, _, errors = ankle(monkeypatch, capsys, *words)
    assert status == 1
    assert errors.count("\n") == 1
    assert errors.startswith("ankle: ")
    assert not out.parent.exists() or visible(out.parent) == {}
    assert ankle(monkeypatch, capsys, *words)[0] == 0
    before = visible(out.parent)
    with full_disk(after):
        assert ankle(monkeypatch, capsys, *words)[0] == 1
    assert visible(out.parent) == before


@pytest.mark.parametrize("command", ["segment", "register"])
def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    if command == "segment":
        words = [*map(str, own_static_scan(tmp_path)), "--out", "/proc/ankle/seg.nii.gz"]
    else:
        words = [*own_scans(tmp_path, 1, ("talus",)), "--out", "/proc/ankle"]
    status, shown, errors = ankle(monkeypatch, capsys, command, *words)
    assert (status, shown) == (1, "")
    lines = [line for line in errors.splitlines() if line.startswith("ankle: ")]
    assert len(lines) == 1
    assert "/proc" in lines[0]
    assert "Traceback" not in errors


@pytest.fixture(scope="module", params=STEPS)
def chapter(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Step, Path]:
    """A step of a chapter, and what it leaves undisturbed."""
    given, expected = (tmp_path_factory.mktemp(name) for name in ("given", "expected"))
    step = STEPS[request.param](given)
    step(expected)
    return step, expected


def assert_whole(out: Path, expected: Path) -> None:
    """Check that all files of a step are whole and as they would be undisturbed, as far as it got.

    Tables and records tell seconds too; a training has files that are gone when it is finished.
    """
    assert broken_files(out) == []
    found, wanted = visible(out), visible(expected)
    for name in found.keys() & wanted.keys():
        assert name.endswith((".csv", ".json")) or found[name] == wanted[name], name


def assert_goes_on(step: Step, out: Path, expected: Path) -> None:
    """Check that a step that was stopped ends as if it had not been."""
    step(out)
    assert_whole(out, expected)
    assert visible(out).keys() == visible(expected).keys()
    assert differences(out, expected) == []


@pytest.mark.usefixtures("capsys")  # or what pytest catches would be on the full disk, too
def test_a_full_disk_leaves_whole_files_in_every_chapter(
    chapter: tuple[Step, Path], tmp_path: Path
) -> None:
    step, expected = chapter
    sizes = sorted(map(len, visible(expected).values()))
    with full_disk(sizes[len(sizes) // 2] - 1), pytest.raises(OSError, match="File too large"):
        step(tmp_path)
    assert not list(tmp_path.rglob(f"{PARTIAL_PREFIX}*"))
    assert visible(expected).keys() - visible(tmp_path).keys()
    assert_whole(tmp_path, expected)
    assert_goes_on(step, tmp_path, expected)


def test_a_folder_that_cannot_be_written_is_named_by_every_chapter(
    chapter: tuple[Step, Path],
) -> None:
    with pytest.raises(OSError, match=r"'/proc/ankle"):
        chapter[0](Path("/proc/ankle"))


def test_every_chapter_goes_on_after_a_kill(chapter: tuple[Step, Path], tmp_path: Path) -> None:
    step, expected = chapter
    number = max(1, len(visible(expected)) // 2)
    command = [sys.executable, "-m", "tests.chapter_steps", str(number)]
    killed = subprocess.run(command, input=pickle.dumps((step, tmp_path)), cwd=README.parent)
    assert killed.returncode == -signal.SIGKILL
    assert list(tmp_path.rglob(f"{PARTIAL_PREFIX}*"))
    assert_whole(tmp_path, expected)
    assert_goes_on(step, tmp_path, expected)


FULL = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB of "
    "which 1.00 GiB is free. Including non-PyTorch memory, this process has 7.00 GiB in use."
)
IMAGES = torch.randn(7, 2, 16, 16, generator=torch.Generator().manual_seed(0))


class Hungry(torch.nn.Module):
    """A network that fits into the memory of a GPU with few images only."""

    head = "intensity"

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.light = most, torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > self.most:
            raise torch.OutOfMemoryError(FULL)
        return self.light * images[:, :1]


BATCHES: dict[str, Any] = {
    "slices": lambda network: whole_slices(network, IMAGES[:, 0].numpy().T),
    "patches": lambda network: scoring.outputs_of(network, IMAGES),
    "the report's patches": lambda network: report_networks.outputs_of(network, IMAGES),
}


@pytest.mark.parametrize("what", BATCHES)
def test_a_full_gpu_takes_smaller_batches_and_says_so(what: str) -> None:
    with pytest.warns(UserWarning, match="the GPU's memory is full: now 3 at a time"):
        found = BATCHES[what](Hungry(4))
    assert np.array_equal(found, BATCHES[what](Hungry(7)))
    with pytest.raises(AnkleError, match=r"CUDA out of memory. .* end what else uses it"):
        BATCHES[what](Hungry(0))


def test_a_moved_scan_that_a_gpu_does_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = motion()
    foot = MovingFoot.prepare(scene.static, scene.masks)

    def hungry(*_: Any) -> Any:
        raise torch.OutOfMemoryError(FULL)

    monkeypatch.setattr(MovingFoot, "sample", hungry)
    with pytest.raises(AnkleError, match=r"CUDA out of memory. .* end what else uses it"):
        moved_static(foot, scene.poses[1], scene.static.shape, scene.static.affine)


def test_a_registration_on_a_full_gpu_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = scene([turned(angle) for angle in (0, 4, 8)])
    coarse = Settings(resolutions=(Resolution(3.0, (3.0, 3.0), 3, 8),))
    bone = (seen.frames, seen.static, {"talus": seen.weights})
    expected, minimise = register(*bone, settings=coarse), search.minimise

    def hungry(level: Any, frame: torch.Tensor, *rest: Any, **how: Any) -> Any:
        if len(frame) > 2:
            raise torch.OutOfMemoryError(FULL)
        return minimise(level, frame, *rest, **how)

    monkeypatch.setattr(search, "minimise", hungry)
    with pytest.warns(UserWarning, match="the GPU's memory is full: now 1 at a time"):
        found = register(*bone, settings=coarse)
    np.testing.assert_allclose(found.poses, expected.poses, atol=1e-3)


def test_a_training_that_does_not_fit_says_what_to_do(tmp_path: Path) -> None:
    recipe = small_recipe()

    def draw(n: int, generator: torch.Generator) -> Any:
        raise torch.OutOfMemoryError(FULL)

    with pytest.raises(AnkleError, match=r"memory.*: let the recipe have smaller batches"):
        train(recipe.fresh(), recipe, draw, tmp_path)


def test_a_sharp_frame_that_does_not_fit_says_what_to_do() -> None:
    frame = toy_scene("T01")
    with pytest.raises(AnkleError, match=r"or compute on device cpu$"):
        refine(Refiner(Hungry(0)), frame.measured, frame.moved_static, frame.region)


def manifest(path: Path, subjects: str, before: str = "") -> Path:
    path.write_text(
        f"{before}version: 1\ncohorts:\n- name: mine\n  licence: none\n"
        f"  source: {{type: local, root: .}}\n  subjects: {subjects}\n"
    )
    return path


def test_yaml_that_unfolds_without_end_is_refused(tmp_path: Path) -> None:
    bomb = "x0: &x0 [a, a, a, a, a, a, a, a, a, a]\n"
    for n in range(1, 10):  # ten billion letters
        bomb += f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]\n"
    for subjects in ("*x9", "[{code: A1, notes: *x9}]", "[{code: A1, static: *x9}]"):
        began = time.perf_counter()
        with pytest.raises(AnkleError) as refusal:
            load_manifest(manifest(tmp_path / "m.yaml", subjects, bomb))
        assert time.perf_counter() - began < 5
        assert len(str(refusal.value)) < 1000


def test_ten_thousand_subjects_are_no_matter(tmp_path: Path) -> None:
    subjects = ", ".join(f"{{code: S{n}, static: [S{n}.nii]}}" for n in range(10_000))
    found = verify(load_manifest(manifest(tmp_path / "m.yaml", f"[{subjects}]")).cohort())
    assert sum(finding.problem == "missing" for finding in found) == 10_000


@pytest.mark.parametrize("year", [1, 4_000_000_000])
def test_a_clock_that_jumps_makes_nothing_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, year: float
) -> None:
    monkeypatch.setattr(time, "time", lambda: year)
    scan = tmp_path / "scans" / "static.txt"
    course = Course(tmp_path)
    assert course.up_to_date()
    os.utime(scan, (year, year))
    course.prepare()
    course.finish()
    assert course.up_to_date()
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert course.up_to_date()


@pytest.mark.parametrize("knock", KNOCKS)
def test_every_knock_has_its_test(knock: str) -> None:
    place, _, name = KNOCKS[knock][1].partition("::")
    text = (Path(__file__).parent / place).read_text(encoding="utf-8")
    assert re.search(rf"^def {name}\(", text, re.MULTILINE)


def table() -> str:
    """Return the table of the README, between its marks."""
    rows = [
        f"| {knock} | {then} | `{test.rpartition('::')[0]}` |"
        for knock, (then, test) in KNOCKS.items()
    ]
    return "\n".join([BEGIN, "", "| what happens | then | tried in `tests/` |", "|---|---|---|",
                      *rows, "", END])  # fmt: skip


def test_the_readme_has_this_table() -> None:
    assert table() in README.read_text(encoding="utf-8")


def write(readme: Any = README) -> None:
    """Replace the table of the README."""
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    readme.write_text(before + table() + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    write()
