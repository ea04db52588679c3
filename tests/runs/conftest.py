"""What whole runs are asked about."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

import ecr_swarm_login as script


@pytest.fixture
def reason() -> Callable[[str], str]:
    """A regular expression for the reason of a row of the policy, by the row's name; any other text
    for itself. The words are compared in unit/test_words.py.
    """
    rows = {row[0]: row[-1] for row in script.POLICY}

    def reason(name: str) -> str:
        parts = re.split(r"\{.*?\}", rows.get(name, name))
        return ".*".join(map(re.escape, parts))

    return reason
