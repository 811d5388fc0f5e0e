from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ankle_lib import cli, pipeline
from ankle_lib.files import AnkleError
from tests.course import two_chapters, write_notebook

COMMAND = [sys.executable, "-c", "from ankle_lib.cli import main; main()"]


def ankle(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """Return exit status, output and errors of a command."""
    monkeypatch.setattr(sys, "argv", ["ankle", *arguments])
    status = 0
    try:
        cli.main()
    except SystemExit as end:
        status = int(end.code or 0)
    shown = capsys.readouterr()
    return status, shown.out, shown.err


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda *arguments: ankle(monkeypatch, capsys, *map(str, arguments))


def test_the_script_is_declared() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"ankle": "ankle_lib.cli:main"}


def test_help_names_the_commands_without_waiting_for_torch() -> None:
    code = "import sys; from ankle_lib import cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "run" in done.stdout
    assert "data" in done.stdout


def test_options_reach_the_pipeline(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(
        pipeline, "run", lambda preset, **options: asked.update(options, preset=preset)
    )
    status, _, _ = command(
        *("run", "--preset", "smoke", "--from", "01", "--cohort", "mine", "--results", "out"),
        *("--device", "cpu", "--force", "-p", "radius_mm=2.5", "-p", "fast=true", "-p", "name=x"),
    )
    assert status == 0
    assert asked == {
        "preset": "smoke",
        "only": None,
        "start": "01",
        "cohort": "mine",
        "results": Path("out"),
        "device": "cpu",
        "force": True,
        "parameters": {"radius_mm": 2.5, "fast": True, "name": "x"},
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "--cohort", "toy", "--preset", "huge"],
            "there is no preset 'huge': choose one of smoke",
        ),
        (["run", "-p", "radius"], "'radius' is not NAME=VALUE"),
        (["run", "-p", "radius={"], "the value cannot be read"),
        (["run", "--cohort", "nobody"], "there is no cohort 'nobody'"),
        (["data", "verify", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["data", "manifest", "nowhere", "-o", "x.yaml"], "nowhere"),
        (["data", "simulate", "--preset", "huge", "--out", "x"], "there is no preset 'huge'"),
        (["data", "fetch", "nobody"], "there is no cohort 'nobody'"),
    ],
)
def test_a_refusal_is_one_line_and_status_1(
    command: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(two_chapters(tmp_path))
    status, out, errors = command(*arguments)
    assert status == 1
    assert message in errors
    assert errors.startswith("ankle: ")
    assert errors.count("\n") == 1
    assert out == ""


def test_a_wrong_option_is_status_2(command: Any) -> None:
    assert command("run", "--wrong")[0] == 2


def test_a_failed_chapter_is_status_1(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = two_chapters(tmp_path)
    write_notebook(root / "notebooks" / "01_first.ipynb", "1 / 0")
    monkeypatch.chdir(root)
    status, out, errors = command("run", "--preset", "smoke", "--cohort", "toy")
    assert status == 1
    assert "ankle: 01_first failed: In [3]: ZeroDivisionError: division by zero; see " in errors
    assert "Traceback" not in errors
    assert "failed" in out


def test_verify_lists_what_it_finds(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = two_chapters(tmp_path)
    monkeypatch.chdir(root)
    (root / "scans" / "static.txt").unlink()
    status, out, errors = command("data", "verify")
    assert status == 1
    assert "toy, T01: static.txt: missing" in out
    assert errors.endswith("findings as listed: 1\n")


def test_simulate_passes_its_options(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def simulate(preset: Any, out: Path, *, seed: int, device: str) -> Path:
        asked.append((preset.name, out, seed, device))
        return out / "manifest.yaml"

    monkeypatch.setattr("ankle_lib.phantom.cohort.simulate", simulate)
    options = ("--preset", "smoke", "--out", tmp_path, "--seed", "5", "--device", "cpu")
    status, out, _ = command("data", "simulate", *options)
    assert status == 0
    assert out.strip() == str(tmp_path / "manifest.yaml")
    assert asked == [("smoke", tmp_path, 5, "cpu")]


def test_a_manifest_of_a_folder_can_be_verified(command: Any, tmp_path: Path) -> None:
    import numpy as np

    from ankle_lib import volume

    scans = tmp_path / "lab" / "sourcedata" / "sub_T01"
    affine = np.array(
        [[0, 0, 0.8, 0], [-0.28, 0, 0, 0], [0, 0.28, 0, 0], [0, 0, 0, 1]]  # axes P, S, R
    )
    volume.save(scans / "sub_T01_static_3DT1.nii.gz", np.ones((8, 8, 4), np.int16), affine)

    manifest = tmp_path / "mine.yaml"
    status, out, _ = command("data", "manifest", tmp_path / "lab", "-o", manifest)
    assert status == 0
    assert "1 subjects" in out
    assert manifest.exists()
    status, out, errors = command("data", "verify", manifest)
    assert (status, errors) == (0, "")
    assert "nothing to report" in out


def test_errors_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise AnkleError("no")

    monkeypatch.setattr(pipeline, "run", fails)
    monkeypatch.setattr(sys, "argv", ["ankle", "run"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
