from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.kill import undisturbed


@pytest.fixture(scope="session")
def smoke_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``results/smoke`` of one run of all chapters; look, do not write."""
    return undisturbed("smoke", tmp_path_factory.mktemp("undisturbed"))[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep all tests that look at the smoke run in one worker, so that it runs once."""
    for item in items:
        if "smoke_results" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("smoke"))
