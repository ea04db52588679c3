"""Here the programs that the script starts are real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stubs import Stubs


@pytest.fixture
def stubs(fp: Any, surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubs]:
    """Stubs of `aws` and `docker`, alone on PATH."""
    with Stubs(fp) as stubs:
        monkeypatch.setenv("PATH", str(stubs.bin))
        yield stubs
    stubs.check()


@pytest.fixture
def programs(stubs: Stubs) -> Stubs:
    """For the fixtures that all tests share."""
    return stubs
