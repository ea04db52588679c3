"""What the script makes of docker's documents: it believes nothing that it does not know."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any, cast

import pytest
from made import ECR, GLOBAL, ON_FAILURE, STARTING, made

import ecr_swarm_login as script
from ecr_swarm_login import OLDER, PLACED, UNSORTED, Problem, Service, Task

NOW = "2026-11-26T12:00:00.123456789Z"
EPOCH = 1795694400.5  # the same in seconds, and some
LONG_AGO = "2001-01-01T00:00:00Z"

# As docker service inspect shows them.
TEMPLATE = {
    "ContainerSpec": {"Image": f"{ECR}/app:1"},
    "RestartPolicy": {"Condition": "any", "Delay": 5000000000, "MaxAttempts": 0},
    "Placement": {},
}
SPEC = {
    "Name": "web",
    "Labels": {},
    "TaskTemplate": TEMPLATE,
    "Mode": {"Replicated": {"Replicas": 1}},
}
DATES = {"CreatedAt": LONG_AGO, "UpdatedAt": LONG_AGO}
WHOLE = {"ID": "id", "Version": {"Index": 1}, **DATES, "Spec": SPEC}


@pytest.fixture(autouse=True)
def _frozen_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is NOW."""
    monkeypatch.setattr("time.time", lambda: EPOCH)


def shown(path: str = "", value: Any = None, whole: Any = WHOLE) -> Any:
    """A document with one field that is otherwise: "Spec.TaskTemplate.RestartPolicy"."""
    document = copy.deepcopy(whole)
    *parents, field = path.split(".")
    inner = document
    for key in parents:
        inner = inner[key]
    if field:
        inner[field] = value
    return document


def described(path: str = "", value: Any = None) -> Service:
    """What the script makes of a service with one field that is otherwise."""
    return script.service_from(shown(path, value))


# Services


@pytest.mark.parametrize(
    "policy, may_finish",
    [
        (None, False),
        ({}, False),
        ({"Condition": "any"}, False),
        ({"Condition": "none"}, True),
        ({"Condition": "on-failure"}, True),
        ({"Condition": "some day"}, True),
        ({"Condition": "any", "MaxAttempts": 3}, True),
        ({"Condition": "any", "MaxAttempts": 0}, False),
    ],
)
def test_restart_policy(policy: Any, may_finish: bool) -> None:
    assert described("Spec.TaskTemplate.RestartPolicy", policy).may_finish is may_finish


@pytest.mark.parametrize(
    "mode, is_called, replicas",
    [
        ({"Replicated": {"Replicas": 3}}, "Replicated", 3),
        ({"Replicated": {}}, "Replicated", 0),
        ({"Global": {}}, "Global", 0),
        ({"ReplicatedJob": {"MaxConcurrent": 1}}, "ReplicatedJob", 0),
        ({"OfALaterVersion": {}}, "OfALaterVersion", 0),
    ],
)
def test_mode(mode: Any, is_called: str, replicas: int) -> None:
    it = described("Spec.Mode", mode)

    assert (it.mode, it.replicas) == (is_called, replicas)


@pytest.mark.parametrize(
    "mounts, is_sorted",
    [
        (None, True),
        ([], True),
        ([{"Source": "b", "Target": "/a"}], True),
        ([{"Source": "a", "Target": "/b"}, {"Source": "b", "Target": "/a"}], True),
        ([{"Source": "b", "Target": "/a"}, {"Source": "a", "Target": "/b"}], False),
        ([{"Source": "a", "Target": "/a"}, {"Source": "a", "Target": "/b"}], True),
        ([{"Source": "a", "Target": "/b"}, {"Source": "a", "Target": "/a"}], False),
        ([{"Target": "/tmp"}, {"Source": None, "Target": "/var"}, {"Source": "a"}], True),
        ([{"Source": "a", "Target": "/a"}, {"Target": "/tmp"}], False),
        ([{"Target": "/tmp"}, {"Source": "A", "Target": "/a"}], True),
    ],
)
def test_mounts(mounts: Any, is_sorted: bool) -> None:
    it = described("Spec.TaskTemplate.ContainerSpec.Mounts", mounts)

    assert script.are_sorted(it.template["ContainerSpec"]) is is_sorted


@pytest.mark.parametrize(
    "names, is_sorted", [(["core", "nofile"], True), (["nofile", "core"], False), ([], True)]
)
def test_ulimits(names: list[str], is_sorted: bool) -> None:
    limits = [{"Name": name, "Soft": 1, "Hard": 1} for name in names]

    it = described("Spec.TaskTemplate.ContainerSpec.Ulimits", limits)

    assert script.are_sorted(it.template["ContainerSpec"]) is is_sorted


@pytest.mark.parametrize(
    "fields, hours",
    [
        ({"CreatedAt": NOW}, 0),
        ({"CreatedAt": "2026-11-26T06:00:00Z"}, 6),
        # The rollout's clock goes before, and its end before its beginning.
        ({"UpdateStatus": {"StartedAt": NOW}}, 0),
        ({"UpdateStatus": {"StartedAt": LONG_AGO, "CompletedAt": NOW}}, 0),
        ({"UpdateStatus": {"StartedAt": "2026-11-26T05:00:00Z"}, "CreatedAt": NOW}, 7),
        # An autoscaler sets this one all the time.
        ({"UpdatedAt": NOW, "CreatedAt": "2026-11-26T05:00:00Z"}, 7),
        # Clocks of two managers differ.
        ({"UpdateStatus": {"State": "updating", "StartedAt": "2026-11-26T12:05:00Z"}}, 0),
        # As by a clock that is wrong.
        ({"UpdateStatus": {"State": "paused", "StartedAt": "2026-11-26T18:00:00Z"}}, 0),
        ({"UpdateStatus": {"State": "completed", "StartedAt": "2026-11-26T18:00:00Z"}}, 0),
    ],
)
def test_hours(fields: dict[str, Any], hours: float) -> None:
    assert script.service_from({**WHOLE, **fields}).hours == pytest.approx(hours, abs=0.001)


@pytest.mark.parametrize("moment", ["yesterday", "2026-11-31T12:00:00Z", 7])
def test_a_rollout_at_no_time_is_a_failure(moment: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        described("UpdateStatus", {"State": "updating", "StartedAt": moment})


def test_when_the_rollout_began() -> None:
    status = {"State": "completed", "StartedAt": LONG_AGO, "CompletedAt": NOW}

    assert described("UpdateStatus", status).began == LONG_AGO
    assert described().began == ""


@pytest.mark.parametrize("action, rolls_back", [("rollback", True), ("pause", False)])
def test_automatic_rollback(action: str, rolls_back: bool) -> None:
    assert described("Spec.UpdateConfig", {"FailureAction": action}).rolls_back is rolls_back
    assert not described().rolls_back


@pytest.mark.parametrize(
    "path, value",
    [
        ("ID", 7),
        ("Spec", None),
        ("Spec.Name", None),
        ("Spec.Mode", {}),
        ("Spec.Mode", None),
        ("Spec.Mode", {"Replicated": {}, "Global": {}}),
        ("Spec.Mode", {"Replicated": {"Replicas": "many"}}),
        ("Spec.TaskTemplate", None),
        ("Spec.TaskTemplate.ContainerSpec", {}),
        ("Spec.TaskTemplate.RestartPolicy", {"MaxAttempts": "three"}),
        ("CreatedAt", None),
    ],
)
def test_what_is_missing_or_odd_is_a_failure(path: str, value: Any) -> None:
    """It costs this service alone: one by one in the next attempt, see test_looks.py."""
    document = shown(path, value)
    if path == "ID":
        del document["ID"]
    if path == "Spec.Name":
        del document["Spec"]["Name"]

    with pytest.raises((Problem, LookupError, TypeError, ValueError, AttributeError)):
        script.service_from(document)


# What the last update changed


@pytest.mark.parametrize(
    "path, value, changed",
    [
        ("", None, set()),
        ("Labels", {"a": "b"}, {"Labels"}),
        ("TaskTemplate.ForceUpdate", 1, {"TaskTemplate"}),
        ("TaskTemplate.Placement", {"Constraints": ["node.role==manager"]}, {"TaskTemplate"}),
        ("Mode", {"Replicated": {"Replicas": 9}}, {"Mode"}),
        ("EndpointSpec", {"Ports": [{"TargetPort": 80}]}, {"EndpointSpec"}),
        # docker service inspect fills defaults into Spec alone.
        ("TaskTemplate.RestartPolicy", {}, set()),
        ("TaskTemplate.RestartPolicy", {"MaxAttempts": 1}, {"TaskTemplate"}),
        ("TaskTemplate.Resources", {}, set()),
        ("TaskTemplate.Runtime", "container", set()),
        ("TaskTemplate.ContainerSpec.StopGracePeriod", 10000000000, set()),
        ("TaskTemplate.ContainerSpec.DNSConfig", {}, set()),
        ("UpdateConfig", {"Parallelism": 1, "FailureAction": "pause"}, set()),
        ("UpdateConfig", {"Parallelism": 2}, {"UpdateConfig"}),
    ],
)
def test_what_the_last_update_changed(path: str, value: Any, changed: set[str]) -> None:
    assert described("PreviousSpec", shown(path, value, SPEC)).changed == changed


@pytest.mark.parametrize(
    "state, changed",
    [
        ("", set()),
        # Nothing else stops on its way back and has no previous spec.
        ("rollback_paused", set()),
        ("rollback_started", {"TaskTemplate"}),
        ("rollback_completed", {"TaskTemplate"}),
        ("completed", {"TaskTemplate"}),
        ("updating", {"TaskTemplate"}),
    ],
)
def test_a_service_without_a_previous_spec(state: str, changed: set[str]) -> None:
    status = {"State": state, "StartedAt": NOW} if state else None

    assert described("UpdateStatus", status).changed == changed


@pytest.mark.parametrize(
    "path, value, state, changed, difference",
    [
        ("", None, "", set(), ""),
        ("Spec.RestartPolicy", {}, "", set(), ""),
        ("Spec.Resources", {}, "", set(), ""),
        ("Spec.Placement", {"Constraints": ["node.role==manager"]}, "", set(), PLACED),
        ("Spec.Placement", {"MaxReplicas": 2}, "completed", {"Labels"}, PLACED),
        ("Spec.ForceUpdate", 1, "paused", {"TaskTemplate"}, OLDER),
        ("Spec.ContainerSpec", {"Image": f"{ECR}/app:0"}, "paused", {"TaskTemplate"}, OLDER),
        # docker does not show the ports of a task: those that are older have the old ones.
        ("CreatedAt", "2026-11-26T10:59:59.9Z", "paused", {"EndpointSpec"}, OLDER),
        ("CreatedAt", "2026-11-26T11:00:00.1Z", "paused", {"EndpointSpec"}, ""),
        ("CreatedAt", "2026-11-26T10:00:00Z", "paused", {"TaskTemplate"}, ""),
        ("CreatedAt", "2026-11-26T10:00:00Z", "completed", {"EndpointSpec"}, ""),
    ],
)
def test_in_what_a_task_is_not_as_the_spec_says(
    path: str, value: Any, state: str, changed: set[str], difference: str
) -> None:
    it = described()
    it.rollout, it.began, it.changed = state, "2026-11-26T11:00:00Z", changed
    task = {"ID": "t", "CreatedAt": "2026-11-26T11:30:00Z", "Spec": TEMPLATE}

    assert script.difference_of(it, shown(path, value, task)) == difference


# Tasks


def task_row(state: str, desired: Any = "Running", name: str = "id.1", **fields: Any) -> Any:
    """A row of `docker service ps`."""
    row = {"ID": "t", "Name": name, "Node": "n", "DesiredState": desired, "CurrentState": state}
    return {**row, **fields}


# What go-units calls a duration, and whether it is half a token's life.
AGES = [
    ("less than a second", False),
    ("1 second", False),
    ("59 seconds", False),
    ("about a minute", False),
    ("59 minutes", False),
    ("about an hour", False),
    ("2 hours", False),
    ("5 hours", False),
    ("6 hours", True),
    ("47 hours", True),
    ("2 days", True),
    ("2 weeks", True),
    ("2 months", True),
    ("2 years", True),
]


@pytest.mark.parametrize("age, is_old", AGES)
def test_age_of_a_task(age: str, is_old: bool) -> None:
    task = script.task_from(task_row(f"Pending {age} ago"), True)

    assert task == Task("t", "n", True, "Pending", script.STARTING, is_old)


@pytest.mark.parametrize(
    "state, desired",
    [
        ("Sleeping 2 hours ago", "Running"),
        ("running 2 hours ago", "Running"),
        ("RUNNING 2 hours ago", "Running"),
        ("Running", "Running"),
        ("Running 2 hours", "Running"),
        ("Running some time ago", "Running"),
        ("Running hours ago", "Running"),
        (f"Running {'9' * 5000} hours ago", "Running"),
        ("Running ٢ hours ago", "Running"),
        ("", "Running"),
        (None, "Running"),
        ([], "Running"),
        ("Running 2 hours ago", "running"),
        ("Running 2 hours ago", "Sleeping"),
        ("Running 2 hours ago", ""),
        ("Running 2 hours ago", None),
    ],
)
def test_a_state_that_is_unknown_is_a_failure(state: Any, desired: Any) -> None:
    with pytest.raises(Problem, match="docker shows a task of it in an unknown state"):
        script.task_from(task_row(state, desired), True)


@pytest.mark.parametrize(
    "state, desired, kind",
    [
        *[(state, "Running", script.SERVING) for state in ("Ready", "Starting", "Running")],
        *[(state, "Ready", script.STARTING) for state in STARTING],
        *[(state, "Shutdown", script.STOPPED) for state in (*STARTING, "Running", "Orphaned")],
        ("Running", "Complete", script.STOPPED),
        ("Complete", "Shutdown", script.OVER),
        ("Failed", "Running", script.OVER),
        ("Shutdown", "Shutdown", script.STOPPED),
        ("Remove", "Remove", script.STOPPED),
        ("Rejected", "Shutdown", script.STUCK),
        ("Rejected", "Ready", script.STUCK),
    ],
)
def test_what_a_task_is_to_an_update(state: str, desired: str, kind: str) -> None:
    task = script.task_from(task_row(f"{state} 2 hours ago", desired), True)

    assert task.kind == kind
    assert task.is_wanted is (desired in ("Ready", "Running"))


def test_a_task_that_was_taken_off_its_node_lacks_no_token() -> None:
    error = "assigned node no longer meets constraints"
    task = script.task_from(task_row("Rejected 2 hours ago", "Shutdown", Error=error), True)

    assert task.kind == script.STOPPED


def test_tasks_of_a_spec_that_is_not_sorted() -> None:
    assert script.task_from(task_row("Running 2 hours ago"), False).difference == UNSORTED
    assert script.task_from(task_row("Running 2 hours ago"), True).difference == ""


def attached(*rows: Any) -> Service:
    """A service that has got its tasks from what `docker service ps` printed."""
    it = made(replicas=2)
    script.attach([it], list(rows))
    return it


def test_the_tasks_of_a_slot_the_newest_first() -> None:
    it = attached(
        task_row("Preparing 1 second ago", ID="a"),
        task_row("Complete 2 hours ago", "Shutdown", ID="b"),
        task_row("Running 7 hours ago", name="id.2", ID="d"),
        task_row("Rejected 3 hours ago", "Shutdown", ID="c"),
    )

    ids = {slot: [task.id for task in tasks] for slot, tasks in it.slots.items()}
    assert ids == {"1": ["a", "b", "c"], "2": ["d"]}
    assert [task.id for task in it.tasks(script.SERVING)] == ["d"]
    assert [task.id for task in it.tasks(script.STARTING)] == ["a"]


def test_the_tasks_of_a_global_service_are_told_by_their_node() -> None:
    rows = [task_row("Running 2 hours ago", name=name) for name in ("id.node1", "id.node2")]

    assert list(attached(*rows).slots) == ["node1", "node2"]


@pytest.mark.parametrize("name", ["other.1", "id2.1", "web.1", "", None])
def test_a_task_that_belongs_to_nobody_is_a_failure(name: Any) -> None:
    with pytest.raises((KeyError, AttributeError)):
        attached(task_row("Running 2 hours ago", name=name))


# Which looks


@pytest.mark.parametrize(
    "rollout, changed, is_steady",
    [
        ("", set(), True),
        ("completed", set(), True),
        ("rollback_completed", set(), False),  # the walk, 500/2/1: it hid a changed placement
        ("completed", {"Labels"}, False),
        ("", {"Mode"}, False),
        ("updating", set(), False),
        ("paused", set(), False),
        ("rollback_paused", set(), False),
        ("unheard_of", set(), False),
    ],
)
def test_services_whose_tasks_are_as_the_spec_says(
    rollout: str, changed: set[str], is_steady: bool
) -> None:
    it = made("Running", rollout=rollout, changed=changed)
    asked: list[str] = []

    def ask(*command: str) -> list[Any]:
        """Docker shows what the task is made of."""
        asked.extend(command)
        return [{"ID": "1", "CreatedAt": NOW, "Spec": TEMPLATE}]

    script.look_at_specs([it], ask, {})

    assert asked == ([] if is_steady else [*script.SPECS, "1"])


@pytest.mark.parametrize(
    "it, needs_nodes",
    [
        (made("Running", **GLOBAL), False),
        (made("Running", "Shutdown", **GLOBAL), False),
        (made("Complete", "Running", **GLOBAL, **ON_FAILURE), True),
        (made("Pending", **GLOBAL), True),
        (made("Running", difference=PLACED, **GLOBAL), True),
        (made("Complete", **ON_FAILURE), False),
    ],
)
def test_global_services_whose_nodes_matter(it: Service, needs_nodes: bool) -> None:
    asked: list[str] = []

    def ask(*command: str) -> list[Any]:
        """Docker shows no node any more."""
        asked.extend(command)
        return []

    script.look_at_nodes([it], ask)

    assert bool(asked) is needs_nodes


# The list


def found(*lines: str) -> Any:
    """The services that are found where docker prints this list."""
    programs = SimpleNamespace(run=lambda *_: script.Result(None, "\n".join(lines)))
    run = script.Run(script.parse([]), cast("Any", programs), script.Report(), cast("Any", None))
    script.find_services(run)
    return run.rows


def test_a_line_of_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "")
    rows = found(f"id {ECR}/app:1 web", "id2 nginx:1 other", "id3  plugin")

    hosts = {"web": ECR, "other": "", "plugin": ""}
    assert {name: row.host for name, row in rows.items()} == hosts
    assert rows["web"] == script.Row("id", "web", ECR)


@pytest.mark.parametrize("line", ["{", "id", "id web", "id a b web"])
def test_a_line_of_the_list_that_cannot_be_read(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read again: who is missing nobody knows."""
    monkeypatch.setenv("DOCKER_CONTEXT", "")
    with pytest.raises(ValueError, match="values to unpack"):
        found(f"id {ECR}/app:1 web", line)
