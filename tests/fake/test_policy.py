"""What becomes of a service: the policy as a table, without any program."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

import ecr_swarm_login as script

ECR = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
HOUR = 3600
DUE, LEFT, HELD, OVERDUE, FAILED = (
    "to be refreshed", "left alone", "held back", "held back too long", "failed")  # fmt: skip
PAUSED = {"rollout": "paused", "age": HOUR}


def service(**facts: Any) -> SimpleNamespace:
    """A plain, healthy, long-running service, but for FACTS."""
    plain = {
        "id": "id", "name": "web", "host": ECR, "mode": "Replicated", "rollout": "", "age": 24 * HOUR,
        "token_only": False, "may_finish": False, "finished": False, "starting": False,
        "mounts_sorted": True, "template": {}}  # fmt: skip
    return SimpleNamespace(**{**plain, **facts})


def options(**chosen: Any) -> SimpleNamespace:
    none = {"all_services": False, "no_restart": False, "keep_rollback": 0}
    return SimpleNamespace(**{**none, **chosen})


@pytest.mark.parametrize(
    "outcome, reason, facts, chosen",
    [
        (DUE, "", {}, {}),
        (DUE, "", {"mode": "Global"}, {}),
        (LEFT, "no ECR registry", {"host": ""}, {}),
        (FAILED, "not logged in", {"host": ECR.replace("central", "west")}, {}),
        (LEFT, "job", {"mode": "ReplicatedJob"}, {}),
        (LEFT, "job", {"mode": "GlobalJob"}, {}),
        (HELD, "mode is replicated thing", {"mode": "replicated thing", "age": HOUR}, {}),
        (OVERDUE, "mode is replicated thing", {"mode": "replicated thing"}, {}),
        # one-shots
        (LEFT, "would run again", {"may_finish": True, "finished": True}, {}),
        (DUE, "", {"may_finish": True}, {}),
        # rollouts
        (DUE, "", {"rollout": "completed"}, {}),
        (DUE, "", {"rollout": "rollback_completed"}, {}),
        (HELD, "updating", {"rollout": "updating", "age": HOUR}, {}),
        (HELD, "rollback_started", {"rollout": "rollback_started", "age": HOUR}, {}),
        (HELD, "docker service update --with-registry-auth web", PAUSED, {}),
        (HELD, "docker service rollback web", PAUSED, {}),
        (
            HELD,
            "docker service update --with-registry-auth web",
            {**PAUSED, "rollout": "rollback_paused"},
            {},
        ),
        (HELD, "rollback_paused", {"rollout": "rollback_paused", "age": HOUR}, {}),
        (HELD, "unheard_of", {"rollout": "unheard_of", "age": HOUR}, {}),
        (OVERDUE, "paused", {**PAUSED, "age": 6 * HOUR}, {}),
        (HELD, "paused", {**PAUSED, "age": 6 * HOUR - 1}, {}),
        (OVERDUE, "paused", {**PAUSED, "age": float("inf")}, {}),
        (HELD, "paused", {**PAUSED, "age": -HOUR}, {}),
        (OVERDUE, "paused", {**PAUSED, "age": -24 * HOUR}, {}),
        (DUE, "", {**PAUSED, "token_only": True}, {}),
        (DUE, "", {"rollout": "updating", "token_only": True}, {}),
        # a rollout goes before what its tasks are like meanwhile
        (HELD, "paused", {**PAUSED, "may_finish": True, "finished": True}, {}),
        # tasks that are pulling
        (HELD, "tasks are starting", {"starting": True, "age": HOUR}, {}),
        (DUE, "", {"starting": True, "age": 6 * HOUR}, {}),
        (LEFT, "would run again", {"starting": True, "finished": True, "age": HOUR}, {}),
        # mounts
        (DUE, "tasks may restart once", {"mounts_sorted": False}, {}),
        (OVERDUE, "tasks may restart once", {"mounts_sorted": False}, {"no_restart": True}),
        (
            HELD,
            "tasks may restart once",
            {"mounts_sorted": False, "age": HOUR},
            {"no_restart": True},
        ),
        (DUE, "", {}, {"no_restart": True}),
        # --keep-rollback
        (LEFT, "rollback is kept", {"rollout": "completed", "age": HOUR}, {"keep_rollback": 2}),
        (DUE, "", {"rollout": "completed", "age": 2 * HOUR}, {"keep_rollback": 2}),
        (DUE, "", {"rollout": "completed", "token_only": True, "age": HOUR}, {"keep_rollback": 2}),
        (DUE, "", {"rollout": "completed", "age": 0}, {}),
        (DUE, "", {"age": HOUR}, {"keep_rollback": 2}),
        # --all-services
        (DUE, "", {"host": ""}, {"all_services": True}),
        (DUE, "", {"mode": "ReplicatedJob"}, {"all_services": True}),
        (DUE, "", PAUSED, {"all_services": True}),
        (FAILED, "not logged in", {"host": ECR.replace("central", "west")}, {"all_services": True}),
    ],
)
def test_decision(outcome: str, reason: str, facts: dict[str, Any], chosen: dict[str, Any]) -> None:
    decided, said = script.decide(service(**facts), {ECR}, options(**chosen))

    assert decided == outcome
    assert reason in said


TEMPLATE = {"ContainerSpec": {"Image": f"{ECR}/app:1"}, "RestartPolicy": {"Condition": "any"}}
NOW = time.strftime("%Y-%m-%dT%H:%M:%S.123456789Z", time.gmtime())


def described(template: dict[str, Any] | None = None, **item: Any) -> Any:
    """What the script makes of docker's answers, which may lack or have more than today's."""
    spec = {
        "Name": "web",
        "Mode": {"Replicated": {}},
        "TaskTemplate": {**TEMPLATE, **(template or {})},
    }
    return script.service_from({"ID": "id", "Spec": spec, **item})


@pytest.mark.parametrize(
    "policy, may_finish",
    [
        (None, False), ({}, False), ({"Condition": ""}, False), ({"Condition": "any"}, False),
        ({"Condition": "none"}, True), ({"Condition": "on-failure"}, True), ({"Condition": "some day"}, True),
        ({"Condition": "any", "MaxAttempts": 3}, True), ({"Condition": "any", "MaxAttempts": 0}, False)],
)  # fmt: skip
def test_restart_policy(policy: Any, may_finish: bool) -> None:
    assert described(template={"RestartPolicy": policy}).may_finish is may_finish


@pytest.mark.parametrize(
    "mounts, is_sorted",
    [
        (None, True), ([], True), ([{"Source": "b", "Target": "/a"}], True),
        ([{"Source": "a", "Target": "/b"}, {"Source": "b", "Target": "/a"}], True),
        ([{"Source": "b", "Target": "/a"}, {"Source": "a", "Target": "/b"}], False),
        ([{"Source": "a", "Target": "/a"}, {"Source": "a", "Target": "/b"}], True),
        ([{"Source": "a", "Target": "/b"}, {"Source": "a", "Target": "/a"}], False),
        ([{"Target": "/tmp"}, {"Source": None, "Target": "/var"}, {"Source": "a", "Target": "/a"}], True),
        ([{"Source": "a", "Target": "/a"}, {"Target": "/tmp"}], False),
        ([{"Target": "/tmp"}, {"Source": "A", "Target": "/a"}], True),
        ([{"Source": "a"}, {"Source": "a", "Target": "/b"}], True)],
)  # fmt: skip
def test_mounts(mounts: Any, is_sorted: bool) -> None:
    assert (
        described(template={"ContainerSpec": {"Image": "app", "Mounts": mounts}}).mounts_sorted
        is is_sorted
    )


@pytest.mark.parametrize(
    "item, least, most",
    [
        ({"UpdatedAt": NOW}, 0, 600),
        ({"UpdateStatus": {"StartedAt": NOW}, "UpdatedAt": "2001-01-01T00:00:00Z"}, 0, 600),
        ({"UpdateStatus": {"StartedAt": "2001-01-01T00:00:00Z", "CompletedAt": NOW}}, 0, 600),
        ({"UpdateStatus": {"StartedAt": "0001-01-01T00:00:00Z"}}, 1e9, 1e12),
        ({"UpdateStatus": None}, float("inf"), float("inf")),
        ({"UpdatedAt": "yesterday"}, float("inf"), float("inf")),
        ({"UpdatedAt": 7}, float("inf"), float("inf"))],
)  # fmt: skip
def test_age(item: dict[str, Any], least: float, most: float) -> None:
    assert least <= described(**item).age <= most


def test_previous_spec() -> None:
    spec = {"Name": "web", "TaskTemplate": TEMPLATE}
    other = {**spec, "Labels": {"a": "b"}}
    another = {**spec, "TaskTemplate": {**TEMPLATE, "ForceUpdate": 1}}

    assert not described().token_only
    assert described(PreviousSpec=spec).token_only
    assert described(PreviousSpec=other).token_only
    assert not described(PreviousSpec=another).token_only


def test_a_rollout_of_ports_changes_more_than_the_token() -> None:
    previous = {"TaskTemplate": TEMPLATE, "EndpointSpec": {"Ports": [{"TargetPort": 80}]}}

    assert not described(PreviousSpec=previous).token_only


@pytest.mark.parametrize(
    "names, is_sorted", [(["core", "nofile"], True), (["nofile", "core"], False), ([], True)]
)
def test_ulimits(names: list[str], is_sorted: bool) -> None:
    limits = [{"Name": name, "Soft": 1, "Hard": 1} for name in names]

    assert (
        described(template={"ContainerSpec": {"Image": "app", "Ulimits": limits}}).mounts_sorted
        is is_sorted
    )


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

    assert described(template=shown, PreviousSpec={"TaskTemplate": stored}).token_only
    assert not described(
        template=shown,
        PreviousSpec={"TaskTemplate": {**stored, "RestartPolicy": {"MaxAttempts": 1}}},
    ).token_only
