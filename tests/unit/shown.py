"""What docker shows of a service that a test describes, and a docker that shows it.

The documents are those that docker prints: in Spec each default is filled in; PreviousSpec and the
specs of tasks are as swarm stores them, without; "Runtime" is shown of the former alone.

A task is written as in all tests, see pretend.services.parts_of; here there are more marks:

    "Preparing 7 hours", "Running/Shutdown", "Running@a"  its age, its desired state, its node
    "Running*"    it has an older spec: the former one, if that is another one for tasks
    "Running~"    it has another placement
    "Running<"    it is of today's spec, and older than the rollout
    "Running-"    it has gone before anybody could inspect it

A slot is a task alone, or a list of its tasks, the newest first. The tasks of the first slot have
the IDs 1, 1a, 1b; those of the second 2, 2a, 2b.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, Union
from unittest import mock

from pretend.services import parts_of

import ecr_swarm_login as script

ECR = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
IMAGE = f"{ECR}/app:1@sha256:0"
Document = dict[str, Any]
Slot = Union[str, list[str]]

# Kinds of services of which tasks may end for good.
ONE_SHOT = {"condition": "none"}
ON_FAILURE = {"condition": "on-failure"}
THREE_ATTEMPTS = {"max_attempts": 3}
GLOBAL = {"mode": "Global"}

# States, by what they are to an update.
PREPARING = ("New", "Allocated", "Pending", "Assigned", "Accepted", "Preparing")
SERVING = ("Ready", "Starting", "Running")
ENDED = ("Complete", "Failed")
STOPPED = ("Shutdown", "Remove", "Orphaned")

# What the last update changed: paths in the spec, and what was there before.
OLDER = ["PART=old"]
A_DEPLOY = {"TaskTemplate.ContainerSpec.Env": OLDER}
A_REFRESH: Document = {}
PORTS = {"EndpointSpec.Ports": [{"TargetPort": 80}]}

NOW = datetime(2026, 11, 26, 12, tzinfo=timezone.utc)


def moment(hours: float) -> str:
    """So many hours ago, as docker writes it."""
    return (NOW - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%S.%f789Z")


def changed(document: Document, changes: Mapping[str, Any]) -> Document:
    """A copy of a document in which something else is at some paths: "Spec.Name"; None for nothing."""
    document = copy.deepcopy(document)
    for path, value in changes.items():
        *parents, field = path.split(".")
        inner = document
        for key in parents:
            inner = inner.setdefault(key, {})
        inner[field] = value
        if value is None:
            del inner[field]
    return document


def template(condition: str, max_attempts: int, image: str) -> Document:
    """A TaskTemplate as swarm stores it."""
    stored: Document = {
        "ContainerSpec": {"Image": image, "Init": False, "Isolation": "default"},
        "Resources": {"Limits": {}, "Reservations": {}},
        "Placement": {"Platforms": [{"Architecture": "amd64", "OS": "linux"}]},
        "ForceUpdate": 0,
    }
    if condition != "any" or max_attempts:
        stored["RestartPolicy"] = {"Condition": condition, "MaxAttempts": max_attempts}
    return stored


def with_defaults(spec: Document) -> Document:
    """A spec as docker shows it under Spec."""
    shown = copy.deepcopy(spec)
    task = shown["TaskTemplate"]
    policy = {"Condition": "any", "Delay": 5000000000, "MaxAttempts": 0}
    task["RestartPolicy"] = {**policy, **task.get("RestartPolicy", {})}
    container = {"StopGracePeriod": 10000000000, "DNSConfig": {}}
    task["ContainerSpec"] = {**container, **task["ContainerSpec"]}
    for field in ("Resources", "Placement"):
        task.setdefault(field, {})
    rollout = {"Parallelism": 1, "FailureAction": "pause", "Monitor": 5000000000}
    for field in ("UpdateConfig", "RollbackConfig"):
        shown[field] = {**rollout, **shown.get(field, {})}
    return shown


class Shown:
    """All that docker shows of one service: its document, its tasks, listed and inspected."""

    def __init__(
        self,
        *slots: Slot,
        name: str = "web",
        key: str = "id",
        image: str = IMAGE,
        mode: str = "Replicated",
        replicas: int = -1,  # as many as there are slots
        condition: str = "any",
        max_attempts: int = 0,
        spec: Mapping[str, Any] = {},  # what else is otherwise, by its path
        former: Mapping[str, Any]
        | None = None,  # how its former spec is otherwise, if there is one
        older: Mapping[str, Any] | None = None,  # how the spec of tasks with a * is otherwise
        rollout: str = "",
        hours: float = 24,  # since the rollout began, or ended if it has; or the service was made
        unchanged_hours: float = 1,
        service: Mapping[str, Any] = {},  # what is otherwise beside its spec, by its path
    ) -> None:
        self.name, self.key, self.mode = name, key, mode
        told = {"Replicated": {"Replicas": len(slots) if replicas < 0 else replicas}}
        stored = {
            "Name": name,
            "Labels": {},
            "TaskTemplate": template(condition, max_attempts, image),
            "Mode": {mode: told.get(mode, {})},
            "EndpointSpec": {"Mode": "vip"},
        }
        self.spec = changed(stored, spec)
        tasks = [path for path in former or {} if path.startswith("TaskTemplate.")]
        self.older = older or {path: (former or {})[path] for path in tasks} or A_DEPLOY
        self.since = moment(hours if rollout else unchanged_hours)
        self.document = {
            "ID": key,
            "Version": {"Index": 7},
            "CreatedAt": moment(hours),
            "UpdatedAt": moment(unchanged_hours),
            "Spec": named(with_defaults(self.spec)),
            "Endpoint": {"Spec": {}},
        }
        if former is not None:
            self.document["PreviousSpec"] = named(changed(self.spec, former))
        if rollout:
            self.document["UpdateStatus"] = {"State": rollout, "StartedAt": self.since}
            if rollout in ("completed", "rollback_completed"):
                self.document["UpdateStatus"]["CompletedAt"] = self.since
        self.document = changed(self.document, service)
        self.rows: list[Document] = []
        self.tasks: dict[str, Document] = {}
        for number, texts in enumerate(slots, 1):
            for age, text in enumerate([texts] if isinstance(texts, str) else texts):
                self.add(number, f"{number}{' abc'[age].strip()}", text)

    @property
    def nodes(self) -> list[str]:
        """The nodes of a global service, by ID."""
        return [row["Node"] for row in self.rows]

    def add(self, slot: int, key: str, text: str) -> None:
        """A task, as docker service ps and docker inspect show it."""
        state, age, desired, node, mark = parts_of(text)
        usual = "Running" if state in (*PREPARING, *SERVING) else "Shutdown"
        is_global = self.mode == "Global"
        self.rows.append({
            "CurrentState": f"{state} {age or '2 hours'} ago",
            "DesiredState": desired or usual,
            "Error": "",
            "ID": key,
            "Image": self.spec["TaskTemplate"]["ContainerSpec"]["Image"],
            "Name": f"{self.key}.{'n' if is_global else ''}{slot}",
            "Node": node or (f"n{slot}" if is_global else f"node{key}"),
        })  # fmt: skip
        changes = {
            "*": self.older,
            "~": {"TaskTemplate.Placement": {"Constraints": ["node.role==worker"]}},
        }
        since = datetime.fromisoformat(f"{self.since[:26]}+00:00")
        created = since + timedelta(seconds=-30 if mark in ("*", "~", "<") else 30)
        if mark != "-":
            self.tasks[key] = {
                "ID": key,
                "CreatedAt": f"{created.replace(tzinfo=None).isoformat()}Z",
                "Spec": changed(self.spec, changes.get(mark, {}))["TaskTemplate"],
            }


def named(spec: Document) -> Document:
    """A spec as docker service inspect shows it: with the runtime of its tasks."""
    return changed(spec, {"TaskTemplate.Runtime": "container"})


# How the questions begin, and what is asked for.
QUESTIONS = {
    ("docker", "service", "inspect", "--format", "{{json .}}"): "services",
    ("docker", "service", "ps", "--no-trunc", "--no-resolve", "--format", "{{json .}}"): "rows",
    ("docker", "inspect", "--type", "task", "--format", "{{json .}}"): "tasks",
    ("docker", "inspect", "--type", "service"): "sent",
    ("docker", "node", "inspect", "--format", "{{json .}}"): "nodes",
}


class Docker:
    """Stands in for Programs, and shows services.

    All nodes of global services can be used, but those that are said not to be, and are there, but
    those of which it is said that they are None.
    """

    def __init__(self, *shown: Shown, nodes: dict[str, Any] | None = None) -> None:
        self.shown = shown
        here = {key: True for each in shown for key in each.nodes}
        self.nodes = {**here, **(nodes or {})}
        self.sent: Mapping[str, Any] = {}  # what the daemon sends besides, by its path in a service
        self.asked: dict[str, list[str]] = {}  # what was asked for, by the question's name

    def run(self, *command: str, **how: Any) -> str:
        """Answer a question, which may take its time but not for long."""
        assert how == {"seconds": script.QUESTION_SECONDS}
        [begins] = [each for each in QUESTIONS if command[: len(each)] == each]
        question, ids = QUESTIONS[begins], list(command[len(begins) :])
        assert ids and question not in self.asked, command
        self.asked[question] = ids
        return str(getattr(self, f"show_{question}")(ids))

    def those_of(self, ids: list[str]) -> list[Shown]:
        return [each for each in self.shown if each.key in ids]

    def show_services(self, ids: list[str]) -> str:
        return lines(each.document for each in self.those_of(ids))

    def show_rows(self, ids: list[str]) -> str:
        return lines(row for each in self.those_of(ids) for row in each.rows)

    def show_sent(self, ids: list[str]) -> str:
        return json.dumps([changed(each.document, self.sent) for each in self.those_of(ids)])

    def show_tasks(self, ids: list[str]) -> str:
        tasks = {key: task for each in self.shown for key, task in each.tasks.items()}
        return all_of(ids, tasks)

    def show_nodes(self, ids: list[str]) -> str:
        nodes = {}
        for key, can_be_used in self.nodes.items():
            availability = "active" if can_be_used else "drain"
            node = {"ID": key, "Spec": {"Availability": availability}, "Status": {"State": "ready"}}
            nodes[key] = can_be_used if isinstance(can_be_used, dict) else node
        here = {key: node for key, node in nodes.items() if self.nodes[key] is not None}
        return all_of(ids, here)


def lines(documents: Any) -> str:
    """As docker prints them."""
    return "\n".join(map(json.dumps, documents))


def all_of(ids: list[str], things: dict[str, Document]) -> str:
    """As docker prints them; it names those that are not there, and fails."""
    printed = lines(things[key] for key in ids if key in things)
    missing = [f"Error: No such object: {key}" for key in ids if key not in things]
    if missing:
        raise script.Problem("docker failed", stdout=printed, stderr="\n".join(missing))
    return printed


def look(*shown: Shown, docker: Docker | None = None, versions: str = "") -> list[script.Service]:
    """What the script makes of what docker shows of these services NOW."""
    rows = [script.Row(each.key, each.name, ECR) for each in shown]
    with mock.patch("time.time", NOW.timestamp):
        snapshot = script.look(docker or Docker(*shown), versions, rows)
    return list(snapshot.services)


def seen(*slots: Slot, nodes: dict[str, Any] | None = None, **facts: Any) -> script.Service:
    """What the script makes of one service."""
    shown = Shown(*slots, **facts)
    [service] = look(shown, docker=Docker(shown, nodes=nodes))
    return service


def options(**chosen: Any) -> argparse.Namespace:
    """The options that the policy looks at."""
    none = {"all_services": False, "no_restart": False, "keep_rollback": 0}
    return argparse.Namespace(**{**none, **chosen})
