"""The notebooks as a student gets them: exercises without solutions, made from those with them."""

import ast
import os
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from ankle_lib.files import AnkleError, write_text
from ankle_lib.running.chapter import find_root, list_chapters

SOLUTION = "solution"
"""Tag of a cell that solves an exercise; the next cell of code checks what it defines."""

CHECKS = "checks"
"""Folder of the exercises' checks, beside the notebooks."""


def write_exercises(folder: Path, root: Path | None = None) -> list[Path]:
    """Write all notebooks without solutions and outputs, and their checks, into a folder.

    They run there: results go where those of the course go.

    Parameters
    ----------
    folder
        Need not exist; in the repository or elsewhere.
    root
        The repository; default `chapter.find_root`.

    Returns
    -------
    list of Path
        The notebooks.

    Raises
    ------
    AnkleError
        If a notebook is there already: it may hold somebody's answers.

    Examples
    --------
    >>> write_exercises(Path("exercises"))
    """
    folder, root = folder.absolute(), root or find_root()
    chapters = list_chapters(root)
    there = [chapter.name for chapter in chapters if (folder / chapter.name).exists()]
    if there:
        raise AnkleError(
            f"{folder} holds {there[0]} already, perhaps with answers: give another folder"
        )
    for path in sorted((root / "notebooks" / CHECKS).glob("*.py")):
        write_text(folder / CHECKS / path.name, path.read_text("utf-8"))
    up = Path(os.path.relpath(root, folder)).as_posix()
    copies = []
    for chapter in chapters:
        notebook = student_copy(nbformat.read(chapter, as_version=4))
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = cell.source.replace("](../", f"]({up}/")
        copies.append(write_text(folder / chapter.name, nbformat.writes(notebook) + "\n"))
    return copies


def student_copy(notebook: NotebookNode) -> NotebookNode:
    """Empty the solutions of a notebook, and remove all outputs; it is changed and returned."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell, following in zip(code, [*code[1:], None], strict=True):
        cell.outputs, cell.execution_count = [], None
        if SOLUTION in cell.metadata.get("tags", []):
            cell.source = asked_for(cell.source, following.source if following else "")
            cell.metadata = NotebookNode(tags=["answer"])
    return notebook


def asked_for(solution: str, check: str) -> str:
    """Return what a solution leaves to be written: the names that its check is given.

    Examples
    --------
    >>> print(asked_for("longest_mm = max(sides)", "check.exercise_1(longest_mm)"))
    # your answer
    longest_mm = ...
    """
    asked = [node.id for node in ast.walk(ast.parse(check)) if isinstance(node, ast.Name)]
    lines = ["# your answer"]
    for statement in ast.parse(solution).body:
        if isinstance(statement, ast.FunctionDef):
            if statement.name in asked:
                docstring = statement.body[: ast.get_docstring(statement) is not None]
                statement.body = [*docstring, ast.Expr(ast.Constant(...))]
                lines += ["", "", *ast.unparse(statement).splitlines(), "", ""]
            continue
        names = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
        for name in (node.id for node in names if isinstance(node.ctx, ast.Store)):
            if name in asked and f"{name} = ..." not in lines:
                lines.append(f"{name} = ...")
    return "\n".join(lines).strip()
