"""Stories of the walk of twins, told again: what real engines showed, and what is made of it.

Each was judged on a real swarm when it was recorded, by what an update did to its twin. So what is
said of it has to stay; see tests/real/walk.py, --record.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

STORIES = [
    json.loads(line)
    for line in gzip.decompress(Path(__file__).with_name("recorded.jsonl.gz").read_bytes())
    .decode()
    .splitlines()
]
GOOD = ("right", "foreseen", "in vain", "waits")


def answer(script: Any, story: dict[str, Any], *command: str) -> Any:
    """What docker showed then."""
    if command[: len(script.INSPECT)] == script.INSPECT:
        found = [story["service"]]
    elif command[: len(script.TASKS)] == script.TASKS:
        found = story["history"] or story.get("tasks", [])
    elif command[: len(script.SPECS)] == script.SPECS:
        found = [each for each in story["specs"] if each["ID"] in command]
    else:
        assert command[: len(script.NODES)] == script.NODES
        found = [each for each in story["nodes"] if each["ID"] in command]
    return script.Result(None, "\n".join(map(json.dumps, found)))


def made_of(script: Any, story: dict[str, Any]) -> tuple[str, str]:
    """The outcome, and why."""
    data = story["service"]
    host = script.ecr_host(data["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"])
    row = script.Row(data["ID"], data["Spec"]["Name"], host)
    programs = SimpleNamespace(run=lambda *command, **_: answer(script, story, *command))
    [service], _ = script.look(programs, {row.name: row}, {})
    outcome, reason = script.decide(service, host, script.parse([]))
    return outcome, reason


def said_of(script: Any, story: dict[str, Any]) -> tuple[str, str]:
    """The same as it was said then."""
    if not story["refreshed"]:
        [(outcome, reason)] = story["said"]
        return outcome, reason
    foreseen = [reason for outcome, reason in story["said"] if outcome == script.DUE]
    return script.DUE, foreseen[0] if foreseen else script.PULLS


def title(story: dict[str, Any]) -> str:
    return f"{story['engine']} {story['session']}/{story['story']}"


def test_what_is_made_of_them(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    differences = []

    for story in STORIES:
        clock = SimpleNamespace(time=lambda now=story["now"]: now, monotonic=lambda: 0.0)
        monkeypatch.setattr(script, "time", clock)
        if made_of(script, story) != said_of(script, story):
            differences.append((title(story), made_of(script, story), said_of(script, story)))

    assert differences == []


def test_they_are_stories_in_which_all_went_well() -> None:
    assert {story["category"] for story in STORIES} <= set(GOOD)
