"""A recorded story of the walk, told to the script: what docker showed then is shown again."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any
from unittest import mock

from real.walk.judging import Count, Said, judge_decision

import ecr_swarm_login as script

Story = dict[str, Any]


def decision(story: Story) -> tuple[str, str]:
    """The outcome, and why: all that depends on the script's own functions."""
    data = story["service"]
    host = script.ecr_host(data["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"])
    row = script.Row(data["ID"], data["Spec"]["Name"], host)
    programs = SimpleNamespace(run=lambda *command, **_: answer(story, command))
    [service] = script.look(programs, "", [row]).services
    outcome, reason = script.decide(service, host, script.parse([]))
    return outcome, reason


def answer(story: Story, command: tuple[str, ...]) -> str:
    """What a program prints."""
    return "\n".join(map(json.dumps, shown(story, command)))


def shown(story: Story, command: tuple[str, ...]) -> list[Any]:
    """What docker showed then of what the command asks for. AssertionError if that was not kept."""
    if command[:3] == ("docker", "service", "inspect"):
        return [story["service"]]
    if command[:3] == ("docker", "service", "ps"):
        return story["history"] or story.get("tasks", [])  # as older records call them
    kinds = {
        ("docker", "inspect", "--type", "task"): "specs",
        ("docker", "node", "inspect"): "nodes",
    }
    [kind] = (kind for words, kind in kinds.items() if command[: len(words)] == words)
    found = [each for each in story[kind] if each["ID"] in command]
    ids = {word for word in command if re.fullmatch("[0-9a-z]{25}", word)}
    assert ids == {each["ID"] for each in found}, f"{title(story)} lacks some {kind}"
    return found


def told(story: Story) -> Said:
    """What the script of today says of it, at the moment at which it was recorded."""
    clock = SimpleNamespace(time=lambda: story["now"], monotonic=lambda: 0.0)
    with mock.patch.object(script, "time", clock):
        outcome, reason = decision(story)
    said = Said(lines=((outcome, reason),))
    return Said(said.promises, said.lines)


def category(story: Story) -> str:
    """What would come of that; of a story without counts what came of it, if the same is said."""
    said = told(story)
    if "counts" in story:
        counts = {twin: Count(**counts) for twin, counts in story["counts"].items()}
        return judge_decision(said, counts)
    former = Said(story["refreshed"], tuple(map(tuple, story["said"])))
    return story["category"] if said.decides_like(former) else f"no longer {story['category']}"


def title(story: Story) -> str:
    return f"{story['engine']} {story['session']}/{story['story']}"
