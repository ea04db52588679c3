"""What the script makes of docker's documents, which may lack or have more than today's."""

from __future__ import annotations

import time
from typing import Any

import pytest

import ecr_swarm_login as script
from ecr_swarm_login import Ended, File, Row, Service

ECR = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
TEMPLATE = {"ContainerSpec": {"Image": f"{ECR}/app:1"}, "RestartPolicy": {"Condition": "any"}}
NO_END = float("inf")


def moment(hours_ago: float) -> str:
    """As docker writes it."""
    then = time.gmtime(time.time() - hours_ago * 3600)
    return time.strftime("%Y-%m-%dT%H:%M:%S.123456789Z", then)


NOW, LONG_AGO = moment(0), "2001-01-01T00:00:00Z"


def described(
    template: dict[str, Any] | None = None, spec: dict[str, Any] | None = None, **item: Any
) -> Service:
    """What the script makes of a document of `docker service inspect`."""
    whole = {
        "Name": "web",
        "Mode": {"Replicated": {}},
        "TaskTemplate": {**TEMPLATE, **(template or {})},
        **(spec or {}),
    }
    return script.service_from({"ID": "id", "Spec": whole, **item})


# Services


@pytest.mark.parametrize(
    "policy, may_finish",
    [
        (None, False),
        ({}, False),
        ({"Condition": ""}, False),
        ({"Condition": None}, False),
        ({"Condition": "any"}, False),
        ({"Condition": "none"}, True),
        ({"Condition": "on-failure"}, True),
        ({"Condition": "some day"}, True),
        ({"Condition": "any", "MaxAttempts": 3}, True),
        ({"Condition": "any", "MaxAttempts": 0}, False),
        ({"Condition": "any", "MaxAttempts": None}, False),
    ],
)
def test_restart_policy(policy: Any, may_finish: bool) -> None:
    assert described({"RestartPolicy": policy}).may_finish is may_finish


@pytest.mark.parametrize(
    "mode, is_called",
    [
        ({"Replicated": {"Replicas": 1}}, "Replicated"),
        ({"Global": {}}, "Global"),
        ({"ReplicatedJob": {}}, "ReplicatedJob"),
        ({"GlobalJob": {}}, "GlobalJob"),
        ({"OfALaterVersion": {}}, "OfALaterVersion"),
        ({}, ""),
        (None, ""),
    ],
)
def test_mode(mode: Any, is_called: str) -> None:
    assert described(spec={"Mode": mode}).mode == is_called


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
        ([{"Source": "a"}, {"Source": "a", "Target": "/b"}], True),
    ],
)
def test_mounts(mounts: Any, is_sorted: bool) -> None:
    it = described({"ContainerSpec": {"Image": "app", "Mounts": mounts}})

    assert it.is_in_order is is_sorted


@pytest.mark.parametrize(
    "names, is_sorted", [(["core", "nofile"], True), (["nofile", "core"], False), ([], True)]
)
def test_ulimits(names: list[str], is_sorted: bool) -> None:
    limits = [{"Name": name, "Soft": 1, "Hard": 1} for name in names]
    it = described({"ContainerSpec": {"Image": "app", "Ulimits": limits}})

    assert it.is_in_order is is_sorted


@pytest.mark.parametrize(
    "item, least, most",
    [
        ({"CreatedAt": NOW}, 0, 0.1),
        ({"CreatedAt": moment(6)}, 6, 6.1),
        # The rollout's clock goes before, and its end before its beginning.
        ({"UpdateStatus": {"StartedAt": NOW}, "CreatedAt": LONG_AGO}, 0, 0.1),
        ({"UpdateStatus": {"StartedAt": LONG_AGO, "CompletedAt": NOW}}, 0, 0.1),
        ({"UpdateStatus": {"StartedAt": moment(7)}, "CreatedAt": NOW}, 7, 7.1),
        # An autoscaler sets this one all the time.
        ({"UpdatedAt": NOW, "CreatedAt": moment(7)}, 7, 7.1),
        # a clock that jumped
        ({"CreatedAt": moment(-7)}, 6.9, 7.1),
        ({"UpdateStatus": {"StartedAt": "0001-01-01T00:00:00Z"}}, 1e6, 1e9),
        ({"UpdateStatus": None}, NO_END, NO_END),
        ({"CreatedAt": "yesterday"}, NO_END, NO_END),
        ({"CreatedAt": 7}, NO_END, NO_END),
    ],
)
def test_hours(item: dict[str, Any], least: float, most: float) -> None:
    assert least <= described(**item).hours <= most


def test_when_the_rollout_began() -> None:
    status = {"State": "completed", "StartedAt": LONG_AGO, "CompletedAt": NOW}

    assert described(UpdateStatus=status).began == LONG_AGO
    assert described(UpdateStatus={"State": "completed"}).began == ""
    assert described().began == ""


@pytest.mark.parametrize(
    "config, rolls_back",
    [
        ({"FailureAction": "rollback"}, True),
        ({"FailureAction": "pause"}, False),
        ({"FailureAction": "continue"}, False),
        ({}, False),
        (None, False),
    ],
)
def test_automatic_rollback(config: Any, rolls_back: bool) -> None:
    assert described(spec={"UpdateConfig": config}).rolls_back is rolls_back


# What a rollout changes


def test_a_rollout_of_nothing_but_a_token() -> None:
    spec = {"Name": "web", "TaskTemplate": TEMPLATE}
    with_label = {**spec, "Labels": {"a": "b"}}
    forced = {**spec, "TaskTemplate": {**TEMPLATE, "ForceUpdate": 1}}

    assert not described().changes_token_only
    assert described(PreviousSpec=spec).changes_token_only
    assert described(PreviousSpec=with_label).changes_token_only
    assert not described(PreviousSpec=forced).changes_token_only
    assert not described(PreviousSpec={"TaskTemplate": None}).changes_token_only


def test_a_rollback_of_nothing_but_a_token() -> None:
    """Nothing else stops on its way back and has no previous spec."""
    assert described(UpdateStatus={"State": "rollback_paused"}).changes_token_only
    for state in ("paused", "updating", "rollback_started", "rollback_completed"):
        assert not described(UpdateStatus={"State": state}).changes_token_only


def test_a_rollout_of_ports_changes_more_than_the_token() -> None:
    previous = {"TaskTemplate": TEMPLATE, "EndpointSpec": {"Ports": [{"TargetPort": 80}]}}

    assert not described(PreviousSpec=previous).changes_token_only


def test_defaults_are_no_difference() -> None:
    """docker service inspect fills them into Spec alone."""
    policy = {"Condition": "any", "Delay": 5000000000, "MaxAttempts": 0}
    container = {**TEMPLATE["ContainerSpec"], "StopGracePeriod": 10000000000, "DNSConfig": {}}
    shown = {
        "RestartPolicy": policy,
        "ContainerSpec": container,
        "Runtime": "container",
        "Resources": {},
        "Placement": {},
    }
    stored = {"ContainerSpec": TEMPLATE["ContainerSpec"]}
    other = {**stored, "RestartPolicy": {"MaxAttempts": 1}}

    assert described(shown, PreviousSpec={"TaskTemplate": stored}).changes_token_only
    assert not described(shown, PreviousSpec={"TaskTemplate": other}).changes_token_only


# Tasks


def task_row(state: str, desired: str = "Running", name: str = "id.1", **fields: Any) -> Any:
    """A row of `docker service ps`."""
    return {"ID": "t", "Name": name, "DesiredState": desired, "CurrentState": state, **fields}


# What go-units calls a duration, and whether it is half a token's life.
AGES = [
    ("less than a second", False),
    ("1 second", False),
    ("59 seconds", False),
    ("about a minute", False),
    ("6 minutes", False),
    ("59 minutes", False),
    ("about an hour", False),
    ("2 hours", False),
    ("5 hours", False),
    ("6 hours", True),
    ("7 hours", True),
    ("10 hours", True),
    ("47 hours", True),
    ("2 days", True),
    ("13 days", True),
    ("2 weeks", True),
    ("3 weeks", True),
    ("2 months", True),
    ("2 years", True),
]


@pytest.mark.parametrize("age, is_old", AGES)
def test_age_of_a_task(age: str, is_old: bool) -> None:
    it = Service()

    script.add_task(it, "1", task_row(f"Pending {age} ago"))

    assert it.tasks == {"1": script.Task("Pending", True, is_old)}


@pytest.mark.parametrize("state", ["Pending", "", None, "Pending some time ago", "Pending hours"])
def test_an_age_that_cannot_be_read_is_young(state: Any) -> None:
    it = Service()

    script.add_task(it, "1", task_row(state))

    assert not it.tasks["1"].is_old


@pytest.mark.parametrize(
    "desired, is_wanted",
    [
        ("Running", True),
        ("Ready", True),
        ("Shutdown", False),
        ("Complete", False),
        ("Remove", False),
        (None, False),
    ],
)
def test_whether_a_task_is_wanted(desired: Any, is_wanted: bool) -> None:
    it = Service()

    script.add_task(it, "1", task_row("Running 1 second ago", desired))

    assert it.tasks["1"].is_wanted is is_wanted
    assert it.running == (["t"] if is_wanted else [])


def attached(*rows: Any, problem: str = "", text: str = "") -> Row:
    """A service that has got its tasks from what `docker service ps` printed."""
    row = Row("id", "web", ECR, Service(id="id", name="web"))
    lines = [script.json.dumps(each) for each in rows]
    script.attach([row], Ended(problem, File("\n".join([*lines, text])), ""))
    return row


def test_the_newest_task_of_a_slot_counts_and_the_one_before_it() -> None:
    rows = [
        task_row("Preparing 1 second ago", ID="a"),
        task_row("Complete 2 hours ago", "Shutdown", ID="b"),
        task_row("Rejected 3 hours ago", "Shutdown", ID="c"),
        task_row("Running 7 hours ago", name="id.2", ID="d"),
    ]

    service = attached(*rows).service

    assert service.tasks["1"] == script.Task("Preparing", True, False, "Complete")
    assert service.tasks["2"] == script.Task("Running", True, True, "")
    assert service.running == ["d"]


def test_two_running_tasks_of_a_slot() -> None:
    """As in a rollout that starts the new one first."""
    rows = [task_row("Running 1 second ago", ID="new"), task_row("Running 2 hours ago", ID="old")]

    assert attached(*rows).service.running == ["new", "old"]


def test_slots_that_are_no_more_do_not_count() -> None:
    removed = task_row("Complete 1 hour ago", "Remove", name="id.2")

    assert list(attached(task_row("Running 1 hour ago"), removed).service.tasks) == ["1"]


def test_the_tasks_of_others_do_not_count() -> None:
    others = task_row("Running 1 hour ago", name="other.1"), task_row("Running", name="id2.1")

    assert attached(*others).service.tasks == {}


def test_the_tasks_of_a_global_service_are_told_by_their_node() -> None:
    names = ("id.node1", "id.node2")

    assert list(attached(*[task_row("Running", name=name) for name in names]).service.tasks) == [
        "node1",
        "node2",
    ]


@pytest.mark.parametrize("text", ["{", "null", "[]", '"text"', "7", "\x85", "\ufffd"])
def test_a_line_that_cannot_be_read_costs_the_service_that_it_names(text: str) -> None:
    assert attached(text=text).problem == ""
    assert "cannot be read" in attached(text=f"{text} id.1").problem


def test_a_list_that_failed_costs_all() -> None:
    assert attached(task_row("Running"), problem="docker service ps failed").problem == (
        "docker service ps failed"
    )


@pytest.mark.parametrize("odd", [None, [], 7, {"Name": None}, {"CurrentState": []}, {"ID": {}}])
def test_an_odd_task(odd: Any) -> None:
    row = attached(odd, {**(odd if isinstance(odd, dict) else {}), "Name": "id.1"})

    assert list(row.service.tasks) == ["1"]
