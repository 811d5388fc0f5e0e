from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import pytest

from ankle_lib.files import AnkleError
from ankle_lib.running.student_copy import asked_for, write_exercises
from tests.course import FINISH, OPEN, execute_here, solved, write_course

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_only_what_is_asked_for_is_left_of_a_solution() -> None:
    solution = '''# Solution: secret
import math
twice = 2
def area(side):
    """Return the area."""
    return side**twice
def helper():
    pass
for a, b in [(1, 2)]:
    found = a + b
found = found or None
'''
    assert asked_for(solution, "check.exercise_1(area, found, material=known)") == (
        '# your answer\n\n\ndef area(side):\n    """Return the area."""\n    ...\n\n\nfound = ...'
    )
    assert asked_for(solution, "") == "# your answer"


def is_solution(cell: nbformat.NotebookNode) -> bool:
    return "solution" in cell.metadata.get("tags", [])


def test_copies_hold_no_solution(tmp_path: Path) -> None:
    copies = write_exercises(tmp_path / "mine", ROOT)
    assert [copy.name for copy in copies] == [path.name for path in NOTEBOOKS]
    for copy, path in zip(copies, NOTEBOOKS, strict=True):
        ours, theirs = (nbformat.read(one, as_version=4) for one in (path, copy))
        nbformat.validate(theirs)
        text = "\n".join(cell.source for cell in theirs.cells)
        elsewhere = "\n".join(cell.source for cell in ours.cells if not is_solution(cell))
        for solution, check in solved(path):
            left = asked_for(solution, check)
            for line in solution.splitlines():
                if len(line.strip()) > 12 and line not in left and line not in elsewhere:
                    assert line not in text
        for cell, answer in zip(ours.cells, theirs.cells, strict=True):
            assert cell.id == answer.id
            if is_solution(cell):
                assert answer.source.startswith("# your answer")
                assert not answer.metadata.get("jupyter")
            if answer.cell_type == "code":
                assert not answer.outputs
                ast.parse(answer.source)
        for linked in re.findall(r"\]\((?!http)([\w./-]+?\.(?:md|ipynb))", text):
            assert (copy.parent / linked).is_file(), linked
    checks = (ROOT / "notebooks" / "checks").glob("*.py")
    assert all((tmp_path / "mine" / "checks" / path.name).is_file() for path in checks)


def names(source: str) -> tuple[set[str], set[str]]:
    """Return what a cell gives a name to, and the names that it reads."""
    nodes = list(ast.walk(ast.parse(source)))
    read = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    given = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    given |= {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    given |= {n.arg for n in nodes if isinstance(n, ast.arg)}
    imported = (n for n in nodes if isinstance(n, ast.alias))
    return given | {(n.asname or n.name).split(".")[0] for n in imported}, read


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_no_later_cell_reads_what_a_solution_made(path: Path) -> None:
    by_solutions: set[str] = set()
    answered = False
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        given, read = names(cell.source)
        if is_solution(cell):
            by_solutions |= given
        elif not answered:  # the cell after a solution checks it
            assert not (read - given) & by_solutions, cell.source
        answered = is_solution(cell)


def test_nobodys_answers_are_overwritten(tmp_path: Path) -> None:
    root = write_course(tmp_path, {"01_first": [OPEN.format(name="01_first"), FINISH]})
    write_exercises(tmp_path / "mine", root)
    for folder in (tmp_path / "mine", root / "notebooks"):
        with pytest.raises(AnkleError, match=r"holds 01_first\.ipynb already"):
            write_exercises(folder, root)


SOLUTION, CHECK = "# Solution: known\nside = 3\narea = side**2", "check.exercise_1(area)"
TOY_CHECK = """\
from ankle_lib.running.answers import exercise, expect
@exercise
def exercise_1(area):
    expect("area", area, 9)
    return "Good."
"""


def test_a_copy_runs_to_the_end_unanswered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [OPEN.format(name="01_first"), SOLUTION, f"import toy_check as check\n{CHECK}", FINISH]
    root = write_course(tmp_path / "course", {"01_first": cells})
    original = root / "notebooks" / "01_first.ipynb"
    notebook = nbformat.read(original, as_version=4)
    notebook.cells[2].metadata.tags = ["solution"]
    nbformat.write(notebook, original)
    (tmp_path / "toy_check.py").write_text(TOY_CHECK)
    monkeypatch.syspath_prepend(str(tmp_path))
    (copy,) = write_exercises(root / "mine", root)
    values = {"preset": "smoke", "results": "results", "cohort": "toy", "device": "cpu"}
    kernel = {"ANKLE_CHAPTER": "01_first"}
    for path, told in ((original, "right. Good."), (copy, "not answered yet")):
        execute_here(path, tmp_path / "done.ipynb", values, environment=kernel)
        assert f"Exercise 1: {told}\n" in capsys.readouterr().out
