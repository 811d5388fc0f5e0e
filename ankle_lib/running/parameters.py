"""Parameters of notebooks, checked before anything runs (papermill would only warn)."""

from __future__ import annotations

import ast
import difflib
from pathlib import Path
from typing import Any

import papermill

from ankle_lib.files import AnkleError

COMMON_PARAMETERS = ("preset", "results", "cohort", "device")
"""Every notebook has these."""


def spread_parameters(
    parameters: dict[str, Any], notebooks: list[Path]
) -> dict[Path, dict[str, Any]]:
    """Give each notebook those of ``parameters`` that it knows; refuse what none knows."""
    known = {notebook: _known_parameters(notebook) for notebook in notebooks}
    everything = {name: default for names in known.values() for name, default in names.items()}
    for name, value in parameters.items():
        if name in COMMON_PARAMETERS:
            raise AnkleError(f"parameter {name!r} has its own option: use --{name}")
        if name not in everything:
            close = difflib.get_close_matches(name, everything, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(everything)}"
            raise AnkleError(f"no chapter that would run has a parameter {name!r}: {hint}")
        _check_type(name, value, everything[name])
    return {
        notebook: {name: value for name, value in parameters.items() if name in known[notebook]}
        for notebook in notebooks
    }


def _known_parameters(notebook: Path) -> dict[str, Any]:
    """Return names and default values (None if not a literal) of a notebook's parameters."""
    found = papermill.inspect_notebook(notebook)
    missing = [name for name in COMMON_PARAMETERS if name not in found]
    if missing:
        raise AnkleError(
            f"{notebook} has no parameter {', '.join(missing)}: "
            "define it in a cell tagged 'parameters'"
        )
    return {name: _literal(parameter["default"]) for name, parameter in found.items()}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None


def _check_type(name: str, value: Any, default: Any) -> None:
    same = isinstance(value, type(default)) and isinstance(value, bool) == isinstance(default, bool)
    number = isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool)
    if default is not None and not same and not number:
        raise AnkleError(
            f"parameter {name!r} is {value!r}, but its default is {default!r}: "
            f"give a {type(default).__name__}"
        )
