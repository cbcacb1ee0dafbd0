"""What every test starts from."""

from __future__ import annotations

import pytest

import tinygen as tg


@pytest.fixture(autouse=True)
def default_randomness():
    """The default generator at its start, whatever ran before."""
    tg.manual_seed(0)
