"""What continuous integration is told to do: valid, bounded, and by commands that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from ankle_lib.cli import app
from ankle_lib.presets import PRESETS

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEXTS = (*WORKFLOWS, ROOT / "Makefile", ROOT / "Containerfile")


def workflow(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())


def steps(job: dict[str, Any]) -> str:
    return "\n".join(str(step.get("run", step.get("uses"))) for step in job["steps"])


def test_workflows_obey_the_schema_of_github() -> None:
    pytest.importorskip("check_jsonschema", reason="a development tool is not installed")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    done = subprocess.run(
        [*command, "vendor.github-workflows", *map(str, WORKFLOWS)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_jobs_end_write_nothing_and_are_pinned(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    assert content["permissions"] == {"contents": "read"}
    assert "concurrency" in content
    for name, job in content["jobs"].items():
        assert 0 < job["timeout-minutes"] <= 240, name
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/checkout@v4"))


def test_every_push_is_checked_tested_and_compared() -> None:
    content = workflow("ci.yml")
    assert content[True].keys() == {"push", "pull_request"}  # YAML 1.1 reads "on" as true
    assert content["jobs"].keys() == {"lint", "tests", "lower-bounds", "smoke"}
    for tool in ("ruff check .", "ruff format --check .", "mypy"):
        assert f".venv/bin/{tool}" in steps(content["jobs"]["lint"])
    smoke = steps(content["jobs"]["smoke"])
    assert smoke.index("PRESET=smoke") < smoke.index(
        "ankle compare reference/smoke results/smoke --other-machine"
    )
    # as on a laptop without bfloat16, and as the reference was made
    processor = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    assert content["jobs"]["smoke"]["env"] == processor


def test_the_site_is_made_and_kept() -> None:
    job = workflow("ci.yml")["jobs"]["smoke"]
    assert steps(job).index("figures beyond") < steps(job).index("make site PRESET=smoke")
    uploads = [one for one in job["steps"] if "upload-artifact" in one.get("uses", "")]
    assert "results/site-smoke" in [one["with"]["path"].strip() for one in uploads]


def test_paper_runs_weekly_alone_on_a_gpu_and_keeps_everything() -> None:
    content = workflow("paper.yml")
    assert content[True].keys() == {"workflow_dispatch", "schedule"}
    (when,) = content[True]["schedule"]
    assert re.fullmatch(r"\d+ \d+ \* \* \d", when["cron"])
    assert content["concurrency"] == {"group": "paper", "cancel-in-progress": False}
    job = content["jobs"]["figures"]
    assert {"self-hosted", "gpu"} <= set(job["runs-on"])
    assert "--preset paper --device cuda" in steps(job)
    (kept,) = (step for step in job["steps"] if "upload-artifact" in step.get("uses", ""))
    assert kept["if"] == "always()"
    for what in ("notebook*.ipynb", "figures", "tables", "run.json", "log.txt", "comparison.html"):
        assert what in kept["with"]["path"]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_commands_and_scripts_exist(path: Path) -> None:
    text = path.read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?<![\w-])make ([a-z]+)", text)) <= targets
    for script in re.findall(r"\.ci/[\w-]+", text):
        assert (ROOT / script).stat().st_mode & 0o111, script
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for name, rest in re.findall(r"(?:bin|BIN\))/ankle ([a-z]+)(.*)", text):
        command = commands[name]
        for word in rest.split():
            command = getattr(command, "commands", {}).get(word, command)
        known = {option for one in command.params for option in one.opts}
        assert set(re.findall(r"(?<= )--[a-z-]+", rest)) <= known, rest
    assert set(re.findall(r"PRESET=([a-z]+)|--preset ([a-z]+)", text)) <= {
        pair for name in PRESETS for pair in ((name, ""), ("", name))
    }


def test_figures_take_preset_and_device() -> None:
    command = ["make", "-n", "-o", "env", "figures", "DEVICE=cuda", "PRESET=paper"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "ankle run --preset paper --device cuda" in done.stdout


def test_the_container_has_the_exact_versions_and_says_which_driver() -> None:
    recipe = (ROOT / "Containerfile").read_text()
    assert re.search(r"^FROM docker.io/nvidia/cuda:", recipe, re.MULTILINE)
    assert '-c constraints.txt -e ".[dev]"' in recipe
    python = re.search(r"Python (\d+\.\d+)", (ROOT / "constraints.txt").read_text())
    assert python
    assert f"--python {python[1]} " in recipe
    assert re.search(r'NVIDIA_REQUIRE_CUDA="cuda>=\d+\.\d+"', recipe)
    assert "--shm-size" in recipe
    hidden = set((ROOT / ".dockerignore").read_text().split())
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    rooms = {Path(name).parts[0] for name in tracked.stdout.splitlines()}
    assert len(rooms) > 10
    assert not hidden & rooms  # chapters read what the repository holds


def test_references_are_small_tables() -> None:
    tables = sorted((ROOT / "reference").rglob("*"))
    files = [path for path in tables if path.is_file()]
    assert {path.suffix for path in files if path.name != "run.json"} <= {".csv"}
    assert sum(path.stat().st_size for path in files) < 2e6
    presets = {path.relative_to(ROOT / "reference").parts[0] for path in files}
    assert presets == {"smoke", "laptop", "laptop-postmortem", "laptop-report"}
