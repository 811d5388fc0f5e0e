from __future__ import annotations

import pytest

from tests.toy_ankle import ToyAnkle, toy_ankle


@pytest.fixture(scope="module")
def ankle() -> ToyAnkle:
    return toy_ankle()
