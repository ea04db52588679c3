"""The tests of single functions: no program is started, and it is always the same time."""

from __future__ import annotations

import pytest
from shown import NOW


@pytest.fixture(autouse=True)
def _frozen_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is NOW: what docker shows has an age."""
    monkeypatch.setattr("time.time", NOW.timestamp)
