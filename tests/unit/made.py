"""Services of the script's own model, made by hand for tables of single functions.

A task is written as its state, with "STATE AGE" as docker writes it, and "/DESIRED", "@NODE" where
they are not as usual; "*" marks one that has an older spec: "Pending 7 hours", "Running/Shutdown",
"Running*@a". A slot is a list of its tasks, the newest first, or a task alone.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, Union

import ecr_swarm_login as script
from ecr_swarm_login import Service

ECR = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
Slot = Union[str, list[str]]

# Kinds of services of which tasks may end for good.
ONE_SHOT = {"condition": "none"}
ON_FAILURE = {"condition": "on-failure"}
THREE_ATTEMPTS = {"max_attempts": 3}
GLOBAL = {"mode": "Global"}

STARTING = ("New", "Allocated", "Pending", "Assigned", "Accepted", "Preparing")
SERVING = ("Ready", "Starting", "Running")
OVER = ("Complete", "Failed")
STOPPED = ("Shutdown", "Remove", "Orphaned")


def task_row(name: str, text: str, number: str) -> dict[str, Any]:
    """A row of `docker service ps`; the task's ID is that of its slot, and a letter if former."""
    found = re.fullmatch(r"([A-Z]\w+)( [^/@*]+)?(/\w+)?(\*)?(@\w+)?", text)
    assert found, text
    state, age, desired, _, node = (part or "" for part in found.groups())
    usual = "Running" if state in (*STARTING, *SERVING) else "Shutdown"
    return {
        "ID": number,
        "Name": name,
        "Node": node[1:] or f"node{number}",
        "DesiredState": desired[1:] or usual,
        "CurrentState": f"{state}{age or ' 2 hours'} ago",
        "Error": "",
    }


def made(*slots: Slot, difference: str = "", is_sorted: bool = True, **facts: Any) -> Service:
    """A healthy service that runs on and on, but for its tasks and the facts.

    The difference is that of all tasks that serve. A global service's slots are its nodes n1, n2.
    """
    plain: dict[str, Any] = {
        "id": "id", "name": "web", "image": f"{ECR}/app:1@sha256:0", "mode": "Replicated",
        "replicas": len(slots), "condition": "any", "max_attempts": 0,
        "rollout": "", "began": "", "hours": 24.0, "quiet_hours": 1.0, "version": 1, "rolls_back": False, "changed": set(),
        "template": {"ContainerSpec": {}},
    }  # fmt: skip
    it = Service(**{**plain, **facts})
    if not is_sorted:
        it.template = {"ContainerSpec": {"Mounts": [{"Source": "b"}, {"Source": "a"}]}}
    letter = "n" if it.mode == "Global" else ""
    rows = []
    older = set()
    for slot, texts in enumerate(slots, 1):
        for age, text in enumerate([texts] if isinstance(texts, str) else texts):
            number = f"{slot}{'abc'[age - 1] if age else ''}"
            rows.append(task_row(f"{it.id}.{letter}{slot}", text, number))
            older.update([number] if "*" in text else [])
    script.attach([it], rows)
    for task in it.tasks(script.SERVING):
        task.difference = difference or task.difference
    for task in (task for tasks in it.slots.values() for task in tasks if task.id in older):
        task.difference = script.OLDER
    return it


def options(**chosen: Any) -> Any:
    """The options that the policy looks at."""
    none = {"all_services": False, "no_restart": False, "keep_rollback": 0}
    return SimpleNamespace(**{**none, **chosen})
