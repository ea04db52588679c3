"""The tests of single functions: no program is started, and it is always the same time."""

from __future__ import annotations

import pytest
from hypothesis import settings
from shown import NOW

# A machine that is busy may take its time.
settings.register_profile("patient", deadline=None, max_examples=60)
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def _frozen_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is NOW: what docker shows has an age."""
    monkeypatch.setattr("time.time", NOW.timestamp)
