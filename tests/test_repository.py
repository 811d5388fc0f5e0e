"""What the repository promises about itself: versions, imports, notebooks."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distributions, packages_distributions
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from ankle_lib.running.chapter import earlier_chapters

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MODULES = sorted((ROOT / "ankle_lib").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# rooms from the ground up: a module imports from its own floor or from those below
FLOORS = (
    ("files", "parallel", "presets", "cache"),
    (
        "geometry",
        "volume",
        "pose_files",
        "motion_fields",
        "metrics",
        "privacy",
    ),
    ("manifest", "phantom", "brain"),
    ("cleaning", "masking", "registration", "quality"),
    ("patches", "learning"),
    (
        "segmentation",
        "reconstruction",
        "dynamic",
        "small_data",
        "gadolinium",
        "modalities",
        "stroke",
        "weights",
    ),
    ("figures", "widgets"),
    ("foot",),
    ("running", "summary"),
    ("cli",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def constraints() -> dict[str, Version]:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pins[canonicalize_name(name)] = Version(version)
    return pins


def requirements(extra: str | None = None) -> list[Requirement]:
    lines = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    return [Requirement(line) for line in lines]


# --- versions ---


@pytest.mark.parametrize("extra", [None, "cluster", "site", "dev"])
def test_pins_satisfy_the_bounds(extra: str | None) -> None:
    pins = constraints()
    for requirement in requirements(extra):
        if requirement.name == PROJECT["name"]:
            continue
        assert requirement.specifier, f"{requirement} has no bound"
        pin = pins[canonicalize_name(requirement.name)]
        assert pin in requirement.specifier, f"{requirement}, pinned {pin}"


def test_pins_can_be_installed_with_the_oldest_python_that_is_promised() -> None:
    oldest, pins = Version(PROJECT["requires-python"].removeprefix(">=")), constraints()
    wanted = {
        one.name: SpecifierSet(one.metadata.get("Requires-Python") or "")
        for one in distributions()
        if pins.get(canonicalize_name(one.name)) == Version(one.version.split("+")[0])
    }
    assert wanted
    newer = {name: str(python) for name, python in wanted.items() if oldest not in python}
    assert not newer, f"these pins cannot be installed with Python {oldest}: {newer}"


def test_every_bound_has_its_reason() -> None:
    block = re.search(
        r"\ndependencies = \[(.*?)\n\]\n(.*)\n\[project.scripts\]",
        (ROOT / "pyproject.toml").read_text(),
        re.DOTALL,
    )
    assert block
    lines = [line for line in "\n".join(block.groups()).splitlines() if line.startswith('    "')]
    extras = ("cluster", "site", "dev")
    assert len(lines) == len(requirements()) + sum(len(requirements(e)) for e in extras)
    for line in lines:
        assert re.search(r"# \S.{5}", line), line


def test_conda_takes_the_versions_of_pip() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, packages = environment["dependencies"]
    assert packages == {"pip": ["-c constraints.txt", "-e .[dev]"]}
    assert pip == "pip"
    version = Version(python.removeprefix("python="))
    assert version in Requirement(f"python{PROJECT['requires-python']}").specifier
    header = (ROOT / "constraints.txt").read_text().splitlines()[0]
    assert f"Python {version}" in header
    makefile = (ROOT / "Makefile").read_text()
    assert '-c constraints.txt -e ".[dev]"' in makefile


def test_wide_enough_for_a_machine_with_its_own_torch() -> None:
    torch = next(r for r in requirements() if r.name == "torch")
    assert Version("2.8.0") in torch.specifier
    assert Version("3.11") in Requirement(f"python{PROJECT['requires-python']}").specifier


# --- imports ---


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a module imports, wherever in the module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(path: Path) -> str:
    return path.relative_to(ROOT / "ankle_lib").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_run_downward(path: Path) -> None:
    own = room(path)
    if own == "__init__":
        return
    assert own in FLOOR, f"give {own} a floor in this test"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "ankle_lib" or len(parts) < 2 or parts[1] not in FLOOR:
            continue
        assert FLOOR[parts[1]] <= FLOOR[own], f"{own} imports {name}, which is above it"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_name_has_one_home(path: Path) -> None:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    names = [getattr(t, "id", "") for node in body for t in getattr(node, "targets", [])]
    assert "__all__" not in names
    if path.name == "__init__.py" and path.parent.name != "ankle_lib":
        assert all(isinstance(node, ast.Expr) for node in body), "only a docstring: no re-exports"


def test_no_two_modules_share_a_name() -> None:
    names = [path.stem for path in MODULES if path.name != "__init__.py"]
    assert sorted(names) == sorted(set(names)), "name modules by their content"


def test_what_is_imported_is_declared() -> None:
    providers = packages_distributions()
    wanted = [*requirements(), *requirements("cluster")]
    declared = {canonicalize_name(r.name) for r in wanted}
    for path in MODULES:
        for name in imports(path):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top == "ankle_lib":
                continue
            found = {canonicalize_name(n) for n in providers.get(top, [top])}
            assert found & declared, f"{path.name} imports {top}, which pyproject does not declare"


# --- notebooks ---


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_stripped_and_has_parameters(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "papermill" not in notebook.metadata
    assert "widgets" not in notebook.metadata
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs, f"{path.name} holds outputs: run nbstripout"
            assert cell.execution_count is None
            assert len(cell.source.splitlines()) <= 30, f"{path.name} {cell.id} is too long"
        tags = cell.metadata.get("tags", [])
        assert "injected-parameters" not in tags
    tagged = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    names = {
        target.id
        for node in ast.parse(tagged[0].source).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert {"preset", "results", "cohort", "device"} <= names


def test_the_hook_would_strip_nothing() -> None:
    command = [sys.executable, "-m", "nbstripout", "--keep-id", "--verify", *map(str, NOTEBOOKS)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_notebooks_are_numbered_without_gaps() -> None:
    primers = [path.name for path in NOTEBOOKS if path.name.startswith("A")]
    numbers = [path.name[:2] for path in NOTEBOOKS if path.name not in primers]
    assert numbers[:8] == [f"{n:02d}" for n in range(8)]  # Part I
    assert len(set(numbers)) == len(numbers)
    assert [name[:2] for name in primers] == [f"A{n}" for n in range(1, len(primers) + 1)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_sections_are_numbered_and_solutions_hidden(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    sections = [int(number) for number in re.findall(r"^## (\d+) · ", text, re.MULTILINE)]
    assert sections == list(range(1, len(sections) + 1))
    for linked in re.findall(r"\(([\dA]\d_\w+\.ipynb)\b", text):
        assert (path.parent / linked).exists(), linked
    for cell in cells:
        if cell.source.startswith("# Solution:"):
            assert cell.metadata.jupyter.source_hidden
            assert cell.metadata.tags == ["solution"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_every_figure_is_seen(path: Path) -> None:
    # Jupyter shows the value of a cell's last line; what stands before it or inside a block is lost
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            body = ast.parse(cell.source).body
            for node in ast.walk(ast.Module(body, [])):
                if isinstance(node, ast.Expr) and ast.unparse(node).startswith("chapter.show("):
                    assert node is body[-1], f"wrap in display(): {ast.unparse(node)}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_chapter_is_finished_in_its_last_cell_of_code(path: Path) -> None:
    code = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert code[-1].startswith("chapter.finish()")


# --- texts ---

TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *NOTEBOOKS]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_links_within_the_repository_hold(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = nbformat.reads(text, as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for linked, anchor in re.findall(
        r"\]\(([\w./-]+?\.(?:md|ipynb|csv|png))(?:#([\w-]+))?\)", text
    ):
        target = path.parent / linked
        assert target.is_file(), f"{path.name} links to {linked}"
        assert not anchor or f'<a id="{anchor}">' in target.read_text(encoding="utf-8"), anchor


def test_every_figure_and_table_of_the_report_has_an_answer() -> None:
    lines = (ROOT / "docs" / "report.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    assert all(all(row) for row in rows)
    answered = [number for row in rows for number in re.findall(r"\b[3-6A]\.\d+\b", row[0])]
    figures = {"3": 1, "4": 8, "5": 12, "6": 20, "A": 7}
    for part, count in figures.items():
        assert {f"{part}.{n}" for n in range(1, count + 1)} <= set(answered)
    assert all(answered.count(f"6.{n}") >= 2 for n in range(1, 6))  # figures and tables


def test_citation_names_the_report_and_the_motion_model() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    families = [work["authors"][0]["family-names"] for work in citation["references"]]
    assert families == ["Coupeau", "Makki"]
    import ankle_lib

    assert ankle_lib.__version__ == PROJECT["version"]


def test_teachers_are_told_what_chapters_read() -> None:
    text = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[\w\w\]\(\.\./notebooks/(\w+)\.ipynb\)[^|]*\| ([^|]+) \|", text, re.M)
    assert len(rows) >= 11
    for name, told in rows:
        read = sorted(chapter[:2] for chapter in earlier_chapters(ROOT, name))
        assert told == (", ".join(read) or "–"), name
