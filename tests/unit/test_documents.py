"""What is made of docker's documents: the script believes nothing that it does not know."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from shown import (
    A_DEPLOY,
    A_REFRESH,
    ECR,
    GLOBAL,
    NOW,
    OLDER,
    ON_FAILURE,
    PORTS,
    PREPARING,
    Docker,
    Shown,
    Slot,
    changed,
    look,
    moment,
    seen,
)

import ecr_swarm_login as script
from ecr_swarm_login import ENDED, LACKS_TOKEN, PLACED, PREPARES, SERVES, STOPPED, UNSORTED, Problem

LONG_AGO = "2001-01-01T00:00:00Z"
VERSIONS = " (client API 1.41, engine API 1.55)"
ODD = (Problem, LookupError, TypeError, ValueError, AttributeError)


# A service's document -----------------------------------------------------------------------------


def test_a_whole_service() -> None:
    spec = {
        "TaskTemplate.RestartPolicy": {"Condition": "on-failure", "MaxAttempts": 3},
        "TaskTemplate.Placement.Constraints": ["node.role==worker"],
    }
    service = seen("Running", "Running", spec=spec, hours=30, unchanged_hours=2)

    assert (service.id, service.name, service.image) == ("id", "web", f"{ECR}/app:1@sha256:0")
    assert (service.mode, service.replicas) == ("Replicated", 2)
    assert (service.condition, service.max_attempts) == ("on-failure", 3)
    assert service.constraints == ["node.role==worker"]
    assert service.unchanged_hours == pytest.approx(2, abs=0.001)
    assert service.rollout.hours == pytest.approx(30, abs=0.001)
    assert (service.dropped, service.usable_nodes) == ("", None)


@pytest.mark.parametrize(
    "policy, expected",
    [
        (None, ("any", 0)),
        ({}, ("any", 0)),
        ({"Condition": "none"}, ("none", 0)),
        ({"MaxAttempts": 3}, ("any", 3)),
        ({"Condition": "on-failure", "MaxAttempts": 0}, ("on-failure", 0)),
    ],
)
def test_restart_policy(policy: Any, expected: tuple[str, int]) -> None:
    service = seen("Running", service={"Spec.TaskTemplate.RestartPolicy": policy})

    assert (service.condition, service.max_attempts) == expected


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
    service = seen("Running", service={"Spec.Mode": mode})

    assert (service.mode, service.replicas) == (is_called, replicas)


@pytest.mark.parametrize("constraints", [None, []])
def test_no_constraints(constraints: Any) -> None:
    service = seen("Running", service={"Spec.TaskTemplate.Placement": {"Constraints": constraints}})

    assert list(service.constraints) == []


@pytest.mark.parametrize(
    "times, hours",
    [
        ({"CreatedAt": moment(0)}, 0),
        ({"CreatedAt": moment(6)}, 6),
        # The rollout's clock goes before, and its end before its beginning.
        ({"UpdateStatus": {"StartedAt": moment(0)}}, 0),
        ({"UpdateStatus": {"StartedAt": LONG_AGO, "CompletedAt": moment(0)}}, 0),
        ({"UpdateStatus": {"StartedAt": moment(7)}, "CreatedAt": moment(0)}, 7),
        ({"UpdateStatus": None, "CreatedAt": moment(7)}, 7),
        # An autoscaler sets this one all the time.
        ({"UpdatedAt": moment(0), "CreatedAt": moment(7)}, 7),
        # Clocks of two managers differ, or one is wrong.
        ({"UpdateStatus": {"State": "updating", "StartedAt": moment(-0.1)}}, 0),
        ({"UpdateStatus": {"State": "paused", "StartedAt": moment(-6)}}, 0),
        ({"UpdateStatus": {"State": "completed", "StartedAt": moment(-6)}}, 0),
    ],
)
def test_hours(times: dict[str, Any], hours: float) -> None:
    service = seen("Running", service=times)

    assert service.rollout.hours == pytest.approx(hours, abs=0.001)


@pytest.mark.parametrize("text", ["2026-11-26T09:00:00Z", "2026-11-26T09:00:00.1Z", moment(3)])
def test_however_long_a_fraction_is(text: str) -> None:
    service = seen("Running", service={"CreatedAt": text, "UpdatedAt": text})

    assert service.rollout.hours == pytest.approx(3, abs=0.001)
    assert service.unchanged_hours == pytest.approx(3, abs=0.001)


@pytest.mark.parametrize("when", ["yesterday", "2026-11-31T12:00:00Z", 7])
def test_a_rollout_at_no_time_is_a_failure(when: Any) -> None:
    with pytest.raises(ODD):
        seen("Running", service={"UpdateStatus": {"State": "updating", "StartedAt": when}})


def test_what_the_rollout_is() -> None:
    status = {"State": "completed", "StartedAt": LONG_AGO, "CompletedAt": moment(0)}
    rollout = seen("Running", service={"UpdateStatus": status}).rollout

    assert (rollout.state, rollout.began) == ("completed", LONG_AGO)


def test_no_rollout() -> None:
    rollout = seen("Running").rollout

    assert (rollout.state, rollout.began, rollout.brings) == ("", "", script.UNKNOWN)


@pytest.mark.parametrize("action, rolls_back", [("rollback", True), ("pause", False)])
def test_automatic_rollback(action: str, rolls_back: bool) -> None:
    service = seen("Running", service={"Spec.UpdateConfig.FailureAction": action})

    assert service.rollout.rolls_back is rolls_back


def test_no_automatic_rollback() -> None:
    assert not seen("Running", service={"Spec.UpdateConfig": None}).rollout.rolls_back


@pytest.mark.parametrize(
    "path, value",
    [
        ("ID", None),
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
        ("UpdatedAt", None),
    ],
)
def test_what_is_missing_or_odd_is_a_failure(path: str, value: Any) -> None:
    """It costs this service alone: one by one in the next batches."""
    shown = Shown("Running")
    shown.document = changed(shown.document, {path: value})

    with pytest.raises(ODD):
        look(shown)


# The order in which the docker client writes things


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
        ([{"Source": "a", "Target": "/b"}, {"Source": "a"}], False),
        ([{"Target": "/tmp"}, {"Source": "A", "Target": "/a"}], True),
        ([{"Source": "a"}, {"Source": "a", "Target": "/b"}], True),
    ],
)
def test_mounts(mounts: Any, is_sorted: bool) -> None:
    assert script.are_sorted({"Mounts": mounts}) is is_sorted


@pytest.mark.parametrize(
    "names, is_sorted",
    [
        ([], True),
        (["core", "nofile"], True),
        (["nofile", "core"], False),
        (["core", "core"], True),
        ([None, "CORE"], True),
    ],
)
def test_ulimits(names: list[Any], is_sorted: bool) -> None:
    limits = [{"Name": name, "Soft": 9 - at, "Hard": 9} for at, name in enumerate(names)]

    assert script.are_sorted({"Ulimits": limits}) is is_sorted


# What the last update was -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "former, changes_ports, brings_something",
    [
        (None, False, False),
        (A_REFRESH, False, False),
        (A_DEPLOY, False, True),
        (PORTS, True, True),
        ({"EndpointSpec": None}, True, True),
        ({"Labels": {"a": "b"}}, False, False),
        ({"Mode": {"Replicated": {"Replicas": 9}}}, False, False),
        ({"UpdateConfig": {"Parallelism": 2}}, False, False),
        ({"TaskTemplate.ForceUpdate": 1}, False, True),
        ({"TaskTemplate.Placement": {"Constraints": ["node.role==manager"]}}, False, True),
        ({"TaskTemplate.Resources": None}, False, True),
        # a default that was, or was not, spelled out
        ({"TaskTemplate.RestartPolicy": {"Condition": "any", "MaxAttempts": 0}}, False, True),
        ({"TaskTemplate.ContainerSpec.StopGracePeriod": 10000000000}, False, True),
        ({"TaskTemplate.ContainerSpec.DNSConfig": {}}, False, True),
    ],
)
@pytest.mark.parametrize("rollout", ["completed", "paused"])
def test_what_the_last_update_changed(
    rollout: str, former: Any, changes_ports: bool, brings_something: bool
) -> None:
    seen_rollout = seen("Running", rollout=rollout, former=former).rollout

    assert seen_rollout.changes_ports is changes_ports
    otherwise = script.UNKNOWN if former is None else script.NOTHING
    assert seen_rollout.brings == (script.SOMETHING if brings_something else otherwise)


def test_the_first_spec_has_no_ports() -> None:
    assert not seen("Running", spec={"EndpointSpec": None}, former=A_REFRESH).rollout.changes_ports


@pytest.mark.parametrize(
    "state, brings_nothing",
    [
        ("updating", False),
        ("paused", False),
        ("rollback_started", False),
        # It goes on to nothing else: which tasks serve decides.
        ("rollback_paused", True),
    ],
)
def test_a_rollback_that_swarm_began_has_no_former_spec(state: str, brings_nothing: bool) -> None:
    brings = script.NOTHING if brings_nothing else script.UNKNOWN
    assert seen("Running", rollout=state).rollout.brings == brings


SPELLED_OUT = {"TaskTemplate.RestartPolicy": {"Condition": "any", "MaxAttempts": 0}}
NOT_SPELLED_OUT = {"TaskTemplate.RestartPolicy": None}


@pytest.mark.parametrize(
    "slots, facts, brings",
    [
        # A task that the rollout has made tells what it deploys.
        (("Running<", "Failed"), {}, script.NOTHING),
        (("Running<", "Pending"), {}, script.NOTHING),
        (("Running<", ["Failed", "Running<"]), {}, script.NOTHING),
        (("Running<", ["Running", "Complete"]), {}, script.NOTHING),
        # There is none, or it is not the newest of its slot, or it is of another spec.
        (("Running<", "Running<"), {}, script.UNKNOWN),
        (("Running<", ["Failed<", "Failed"]), {}, script.UNKNOWN),
        (("Running<", "Failed-"), {}, script.UNKNOWN),
        (("Running<", "Failed*"), {}, script.UNKNOWN),
        # It had a default spelled out.
        (
            ("Running*", "Failed"),
            {"spec": SPELLED_OUT, "former": NOT_SPELLED_OUT},
            script.SOMETHING,
        ),
        (("Running*", "Failed"), {"former": SPELLED_OUT}, script.SOMETHING),
    ],
)
def test_what_a_rollout_deploys_its_tasks_tell(
    slots: tuple[Slot, ...], facts: dict[str, Any], brings: str
) -> None:
    service = seen(*slots, **{"rollout": "paused", "former": A_REFRESH, **facts})

    assert service.rollout.brings == brings


@pytest.mark.parametrize(
    "moments", [("10.123456789", "50.123456789", "30.123456789"), ("50", "50.5", "50.4")]
)
def test_of_the_tasks_that_a_rollout_has_made_the_newest_tells(
    moments: tuple[str, str, str],
) -> None:
    """Swarm's own rollback keeps the time: tasks of the bad spec seem to be of the rollout, too."""
    shown = Shown("Running", "Running", "Running", rollout="rollback_paused", hours=1)
    for task, seconds, spec in zip(shown.tasks.values(), moments, (SPELLED_OUT, {}, SPELLED_OUT)):
        task["Spec"] = changed(shown.spec, spec)["TaskTemplate"]
        task["CreatedAt"] = f"2026-11-26T11:00:{seconds}Z"
    [service] = look(shown)

    differences = {slot: tasks[0].difference for slot, tasks in service.slots.items()}
    assert differences == {"1": script.OLDER, "2": "", "3": script.OLDER}


@pytest.mark.parametrize(
    "created, is_of_the_rollout",
    [
        ("2026-11-26T11:00:00.5Z", True),
        ("2026-11-26T11:00:00.500000001Z", True),
        ("2026-11-26T11:00:00.499999999Z", False),
        ("2026-11-26T11:00:00Z", False),
        ("2026-11-26T11:00:01Z", True),
    ],
)
def test_a_task_is_of_a_rollout_from_the_very_moment_on(
    created: str, is_of_the_rollout: bool
) -> None:
    shown = Shown("Running", rollout="paused", former=A_REFRESH)
    shown.document["UpdateStatus"]["StartedAt"] = "2026-11-26T11:00:00.5Z"
    shown.tasks["1"]["CreatedAt"] = created
    [service] = look(shown)

    assert service.rollout.brings == (script.NOTHING if is_of_the_rollout else script.UNKNOWN)


# How tasks differ from what an update would write -------------------------------------------------


def differences(*slots: Slot, **facts: Any) -> dict[str, str]:
    """How the tasks of a service differ, by ID."""
    service = seen(*slots, **facts)
    return {task.id: task.difference for tasks in service.slots.values() for task in tasks}


PLACEMENT = {"TaskTemplate.Placement.Constraints": ["node.role==manager"]}
MOUNTS = {"TaskTemplate.ContainerSpec.Mounts": [{"Source": "b"}, {"Source": "a"}]}


@pytest.mark.parametrize(
    "rollout, former",
    [
        ("", None),
        ("", A_REFRESH),
        ("", A_DEPLOY),
        ("completed", A_DEPLOY),
        ("rollback_completed", None),
        ("paused", A_DEPLOY),
        ("updating", A_REFRESH),
        ("unheard_of", A_DEPLOY),
    ],
)
def test_tasks_are_compared_whatever_was_changed_last(rollout: str, former: Any) -> None:
    facts = {"rollout": rollout, "former": former}
    expected = {"1": "", "2": script.OLDER, "3": PLACED, "4": ""}

    assert differences("Running", "Running*", "Starting~", "Ready<", **facts) == expected


@pytest.mark.parametrize(
    "field, value, difference",
    [
        ("ForceUpdate", 1, script.OLDER),
        ("ContainerSpec.Image", f"{ECR}/app:0", script.OLDER),
        ("ContainerSpec.Env", OLDER, script.OLDER),
        ("Resources.Limits", {"NanoCPUs": 1}, script.OLDER),
        ("RestartPolicy", {"Condition": "any", "MaxAttempts": 3}, script.OLDER),
        ("Networks", [{"Target": "n"}], script.OLDER),
        ("Placement", {"MaxReplicas": 2}, PLACED),
        ("Placement", None, PLACED),
        ("Placement.Constraints", ["node.role==manager"], PLACED),
    ],
)
def test_in_what_a_task_differs(field: str, value: Any, difference: str) -> None:
    older = {f"TaskTemplate.{field}": value}

    assert differences("Running*", older=older) == {"1": difference}


def test_a_task_that_differs_in_its_placement_and_more_is_of_an_older_spec() -> None:
    older = {"TaskTemplate.ForceUpdate": 1, **PLACEMENT}

    assert differences("Running*", older=older) == {"1": script.OLDER}


def test_a_default_that_is_spelled_out_is_seen_beside_another_placement() -> None:
    older = {**SPELLED_OUT, **PLACEMENT}

    assert differences("Running*", former=A_REFRESH, older=older) == {"1": script.OLDER}


@pytest.mark.parametrize(
    "rollout, former, slots",
    [
        # since nothing has replaced tasks since
        ("", A_REFRESH, ("Running*",)),
        ("", {"Labels": {"a": "b"}}, ("Running*",)),
        # there is a task that was made since
        ("", None, ("Running*", "Running")),
        ("completed", None, ("Running*", "Running")),
        ("paused", A_REFRESH, ("Running*", "Rejected")),
    ],
)
@pytest.mark.parametrize("is_spelled_out_now", [True, False])
def test_a_default_that_is_spelled_out_is_seen(
    is_spelled_out_now: bool, rollout: str, former: Any, slots: tuple[Slot, ...]
) -> None:
    spec, older = SPELLED_OUT, NOT_SPELLED_OUT
    if not is_spelled_out_now:
        spec, older = {}, SPELLED_OUT
    found = differences(*slots, spec=spec, older=older, rollout=rollout, former=former)

    assert found == {"1": script.OLDER, **({"2": ""} if len(slots) > 1 else {})}


def test_a_service_that_was_made_with_little_is_as_swarm_shows_it() -> None:
    """As UIs and libraries make it: what docker's own client spells out is left to defaults."""
    spec = dict.fromkeys(("TaskTemplate.Placement", "TaskTemplate.Resources"))

    assert differences("Running", spec=spec) == {"1": ""}
    assert differences("Running", "Running<", spec=spec, former=A_REFRESH) == {"1": "", "2": ""}


def test_where_nothing_tells_a_default_counts_as_none() -> None:
    for rollout, former in (("", None), ("", SPELLED_OUT), ("completed", A_REFRESH)):
        found = differences("Running*", older=SPELLED_OUT, rollout=rollout, former=former)

        assert found == {"1": ""}


def test_what_the_client_will_reorder() -> None:
    assert differences("Running", "Running-", "Running~", spec=MOUNTS) == {
        "1": UNSORTED,
        "2": "",  # gone
        "3": UNSORTED,
    }
    assert differences("Running*", spec=MOUNTS) == {"1": script.OLDER}


def test_a_task_that_has_gone_is_as_the_spec_says() -> None:
    assert differences("Running-", "Running") == {"1": "", "2": ""}


# Tasks --------------------------------------------------------------------------------------------


def listed(state: Any, desired: Any = "Running", name: Any = "id.1", **fields: Any) -> Any:
    """A row of docker service ps."""
    row = {"ID": "t", "Name": name, "Node": "n", "DesiredState": desired, "CurrentState": state}
    return {**row, **fields}


def tasks_in(*rows: Any) -> Mapping[str, Sequence[script.Task]]:
    """The tasks of a service of which docker lists these, by slot."""
    shown = Shown(replicas=0)
    shown.rows = list(rows)
    [service] = look(shown)
    return service.slots


def task_in(row: Any) -> script.Task:
    """What is made of a row alone."""
    [[task]] = tasks_in(row).values()
    return task


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


@pytest.mark.parametrize("age, has_lasted", AGES)
def test_age_of_a_task(age: str, has_lasted: bool) -> None:
    waits = LACKS_TOKEN if has_lasted else PREPARES
    for state, kind in (("Running", SERVES), ("Complete", ENDED), ("Pending", waits)):
        task = task_in(listed(f"{state} {age} ago"))

        assert task == script.Task("t", "n", True, state, kind, "")


@pytest.mark.parametrize(
    "state, desired",
    [
        ("Sleeping 2 hours ago", "Running"),
        ("running 2 hours ago", "Running"),
        ("Running", "Running"),
        ("Running 2 hours", "Running"),
        ("Running some time ago", "Running"),
        (f"Running {'9' * 5000} hours ago", "Running"),
        ("Running \u0662 hours ago", "Running"),
        (None, "Running"),
        ("Running 2 hours ago", "running"),
        ("Running 2 hours ago", None),
    ],
)
def test_a_state_that_is_unknown_is_a_failure(state: Any, desired: Any) -> None:
    with pytest.raises(ODD):
        task_in(listed(state, desired))


@pytest.mark.parametrize(
    "state, desired, kind",
    [
        *[(state, "Running", SERVES) for state in ("Ready", "Starting", "Running")],
        *[(state, "Ready", PREPARES) for state in PREPARING],
        *[(state, "Shutdown", STOPPED) for state in (*PREPARING, "Ready", "Running", "Orphaned")],
        ("Running", "Complete", STOPPED),
        ("Running", "Orphaned", STOPPED),
        ("Complete", "Shutdown", ENDED),
        ("Failed", "Running", ENDED),
        ("Shutdown", "Shutdown", STOPPED),
        ("Remove", "Remove", STOPPED),
        ("Rejected", "Shutdown", LACKS_TOKEN),
        ("Rejected", "Ready", LACKS_TOKEN),
    ],
)
def test_what_a_task_is_to_an_update(state: str, desired: str, kind: str) -> None:
    task = task_in(listed(f"{state} 2 hours ago", desired))

    assert task.kind == kind
    assert task.is_wanted is (desired in ("Ready", "Running"))


@pytest.mark.parametrize(
    "error, kind",
    [
        ("assigned node no longer meets constraints", STOPPED),
        ('"assigned node no longer meets constraints"', STOPPED),
        ("No such image: app:1", LACKS_TOKEN),
        ("", LACKS_TOKEN),
        (None, LACKS_TOKEN),
    ],
)
def test_a_task_that_was_taken_off_its_node_lacks_no_token(error: Any, kind: str) -> None:
    assert task_in(listed("Rejected 2 hours ago", "Shutdown", Error=error)).kind == kind


@pytest.mark.parametrize(
    "state, former, kind",
    [
        ("Preparing 1 second ago", "Rejected 3 seconds ago", LACKS_TOKEN),
        ("Preparing 1 second ago", "Failed 3 seconds ago", PREPARES),
        ("Preparing 6 hours ago", "Failed 7 hours ago", LACKS_TOKEN),
        ("Running 1 second ago", "Rejected 3 seconds ago", SERVES),
        ("Running 6 hours ago", "Rejected 7 hours ago", SERVES),
    ],
)
def test_what_waits_for_a_token(state: str, former: str, kind: str) -> None:
    for number, (desired, expected) in enumerate((("Ready", kind), ("Shutdown", STOPPED))):
        slot = f"id.{number}"
        rows = listed(state, desired, slot), listed(former, "Shutdown", slot)

        assert tasks_in(*rows)[str(number)][0].kind == expected


def test_the_tasks_of_a_slot_the_newest_first() -> None:
    slots = tasks_in(
        listed("Preparing 1 second ago", ID="a"),
        listed("Complete 2 hours ago", "Shutdown", ID="b"),
        listed("Running 7 hours ago", name="id.2", ID="d"),
        listed("Rejected 3 hours ago", "Shutdown", ID="c"),
    )

    ids = {slot: [task.id for task in tasks] for slot, tasks in slots.items()}
    assert ids == {"1": ["a", "b", "c"], "2": ["d"]}
    # The one right before the newest was not rejected.
    assert slots["1"][0].kind == PREPARES


def test_the_tasks_of_a_global_service_are_told_by_their_node() -> None:
    assert sorted(seen("Running", "Running", **GLOBAL).slots) == ["n1", "n2"]


# Which questions ----------------------------------------------------------------------------------


def test_docker_is_asked_by_id_for_whatever_is_looked_at() -> None:
    shown = Shown("Running", name="web", key="w"), Shown("Running", name="cache", key="c")
    docker = Docker(*shown)
    services = look(*shown, docker=docker)

    assert [service.name for service in services] == ["web", "cache"]
    assert docker.asked == {"services": ["w", "c"], "rows": ["w", "c"], "tasks": ["1", "1"]}


def test_a_service_has_its_own_tasks() -> None:
    shown = Shown("Running", key="a", name="a"), Shown("Complete", "Pending", key="b", name="b")
    one, other = look(*shown)

    assert [task.state for tasks in one.slots.values() for task in tasks] == ["Running"]
    assert sorted(task.state for tasks in other.slots.values() for task in tasks) == [
        "Complete",
        "Pending",
    ]


@pytest.mark.parametrize(
    "slots, rollout, asked",
    [
        (("Running", "Ready", "Starting"), "", ["1", "2", "3"]),
        (("Pending", "Complete", "Running/Shutdown"), "", []),
        ((["Running", "Shutdown"], ["Pending", "Running"]), "completed", ["1", "2a"]),
        # Where a rollout is not settled the newest of each slot may show what it deploys.
        ((["Failed", "Failed"], ["Pending", "Running"]), "paused", ["1", "2", "2a"]),
        ((["Running", "Running"],), "rollback_started", ["1", "1a"]),
        ((["Rejected", "Failed", "Running"],), "unheard_of", ["1", "1b"]),
    ],
)
def test_which_tasks_are_inspected(slots: tuple[Slot, ...], rollout: str, asked: list[str]) -> None:
    shown = Shown(*slots, rollout=rollout)
    docker = Docker(shown)
    look(shown, docker=docker)

    assert sorted(docker.asked.get("tasks", [])) == asked


@pytest.mark.parametrize(
    "slots, facts, asked",
    [
        (("Running", "Running"), GLOBAL, []),
        (("Running", "Shutdown"), GLOBAL, []),
        (("Complete", "Running"), {**GLOBAL, **ON_FAILURE}, ["n1", "n2"]),
        (("Pending",), GLOBAL, ["n1"]),
        (("Running~",), GLOBAL, ["n1"]),
        (("Complete",), ON_FAILURE, []),
    ],
)
def test_nodes_are_asked_for_where_they_matter(
    slots: tuple[Slot, ...], facts: dict[str, Any], asked: list[str]
) -> None:
    shown = Shown(*slots, **facts)
    docker = Docker(shown)
    [service] = look(shown, docker=docker)

    assert sorted(docker.asked.get("nodes", [])) == asked
    assert service.usable_nodes == (frozenset(asked) if asked else None)


def test_a_node_is_asked_for_once() -> None:
    shown = [Shown("Pending", name=name, key=name, **GLOBAL) for name in ("a", "b")]
    docker = Docker(*shown)
    look(*shown, docker=docker)

    assert docker.asked["nodes"] == ["n1"]


def test_a_node_that_docker_does_not_show_has_no_part_in_the_service() -> None:
    assert seen("Pending", "Pending", nodes={"n2": None}, **GLOBAL).usable_nodes == {"n1"}


def test_what_the_daemon_sends_is_asked_for_if_the_client_is_older() -> None:
    shown = Shown("Running", name="web", key="w"), Shown("Running", name="cache", key="c")
    docker = Docker(*shown)

    assert [service.dropped for service in look(*shown, docker=docker, versions=VERSIONS)] == [
        "",
        "",
    ]
    assert docker.asked["sent"] == ["w", "c"]


def test_each_service_has_its_own_settings_that_the_client_would_drop() -> None:
    class OfANewerEngine(Docker):
        """One of the two has a setting that the client does not know."""

        def show_sent(self, ids: list[str]) -> str:
            web, cache = json.loads(super().show_sent(ids))
            return json.dumps(
                [cache, changed(web, {"Spec.Later": {"Sooner": [{"A": 1}, {"B": 2}]}})]
            )

    shown = Shown("Running", name="web", key="w"), Shown("Running", name="cache", key="c")
    web, cache = look(*shown, docker=OfANewerEngine(*shown), versions=VERSIONS)

    assert web.dropped == f"Later, Later.Sooner, Later.Sooner.A, Later.Sooner.B{VERSIONS}"
    assert cache.dropped == ""


@pytest.mark.parametrize(
    "data, found",
    [
        ({}, set()),
        (None, set()),
        ("text", set()),
        ([], set()),
        ({"A": 0, "B": "", "C": None, "D": False, "E": [], "F": {}}, set()),
        ({"A": 1, "B": {"C": "x"}}, {"A", "B", "B.C"}),
        ({"A": {"B": 0}}, {"A"}),
        ({"A": [{"B": 1}, {"C": 2}, "text"]}, {"A", "A.B", "A.C"}),
        ([{"A": 1}, {"B": [1]}], {"A", "B"}),
    ],
)
def test_settings(data: Any, found: set[str]) -> None:
    assert script.settings_in(data) == found


def test_it_counts_from_before_the_first_question(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(
        script, "time", SimpleNamespace(monotonic=lambda: clock[0], time=NOW.timestamp)
    )

    class Slow(Docker):
        """A question takes a second."""

        def run(self, *command: str, **how: Any) -> str:
            clock[0] += 1
            return super().run(*command, **how)

    shown = Shown("Running")
    snapshot = script.look(Slow(shown), "", [script.Row("id", "web", ECR)])

    assert snapshot.asked_at == 100.0


# What docker does not show ------------------------------------------------------------------------


def test_a_service_that_docker_shows_for_another_is_a_failure() -> None:
    """It prefers a name to an ID, and a service may have another's ID as its name."""
    shown = Shown("Running", name="other")

    with pytest.raises(Problem, match="^docker shows other for ID id$"):
        script.look(Docker(shown), "", [script.Row("id", "web", ECR)])


def test_all_that_docker_shows_is_named() -> None:
    docker = Docker(
        Shown("Running", name="other", key="id"), Shown("Running", name="api", key="id2")
    )
    rows = [script.Row("id", "web", ECR), script.Row("id2", "api", ECR)]

    with pytest.raises(Problem, match="^docker shows api, other for ID id, id2$"):
        script.look(docker, "", rows)


def test_a_service_that_docker_does_not_show_is_a_failure() -> None:
    rows = [script.Row("id", "web", ECR), script.Row("gone", "api", ECR)]

    for shown, asked in ((Docker(Shown("Running")), rows), (Docker(), rows[1:])):
        with pytest.raises(Problem, match="^docker service inspect printed too little$"):
            script.look(shown, "", asked)


@pytest.mark.parametrize("slots, replicas", [((), 2), (([],), 1)])
def test_a_service_whose_tasks_docker_does_not_list_is_a_failure(
    slots: tuple[Slot, ...], replicas: int
) -> None:
    with pytest.raises(Problem, match=f"^docker lists none of its {replicas} tasks$"):
        seen(*slots, replicas=replicas)


def test_a_service_of_no_tasks() -> None:
    assert seen(replicas=0).slots == {}
    assert seen(**GLOBAL).slots == {}


class Failing(Docker):
    """Docker fails at a question, having printed and said something."""

    def __init__(self, *shown: Shown, question: str, printed: str = "", said: str = "") -> None:
        super().__init__(*shown)
        problem = Problem("docker failed", stdout=printed, stderr=said)
        setattr(self, f"show_{question}", lambda ids: self.fail(problem))

    def fail(self, problem: Problem) -> str:
        raise problem


@pytest.mark.parametrize("question", ["services", "rows", "tasks", "nodes", "sent"])
@pytest.mark.parametrize("said", ["", "Error: something else"])
def test_a_question_without_an_answer_is_a_failure(question: str, said: str) -> None:
    shown = Shown("Running~", **GLOBAL)

    with pytest.raises(Problem, match="^docker failed$"):
        look(shown, docker=Failing(shown, question=question, said=said), versions=VERSIONS)


@pytest.mark.parametrize(
    "said, is_enough",
    [
        ("no such node: n1", False),
        # 20.10, 26.1, 28, as they were seen
        ("Status: Error: No such node: n1\nError: No such node: n3, Code: 1", True),
        ("Error response from daemon: node n1 not found\nError ...: node n3 not found, Code", True),
        # one that names it says no more than that it was asked for
        ('error during connect: Get "http://docker/v1.41/nodes/n1": EOF; nodes/n3: EOF', False),
    ],
)
def test_what_is_neither_printed_nor_gone_is_a_failure(said: str, is_enough: bool) -> None:
    shown = Shown("Pending", "Pending", "Pending", **GLOBAL)
    docker = Failing(shown, question="nodes", printed='{"ID": "n2", "Spec": {}}', said=said)

    with contextlib.nullcontext() if is_enough else pytest.raises(Problem, match="^docker failed$"):
        [service] = look(shown, docker=docker)
        assert service.usable_nodes == set()


@pytest.mark.parametrize(
    "question, command",
    [
        ("services", "docker service inspect"),
        ("tasks", "docker inspect"),
        ("nodes", "docker node inspect"),
    ],
)
def test_what_is_left_out_without_a_word_is_a_failure(question: str, command: str) -> None:
    shown = Shown("Running~", "Running~", **GLOBAL)
    docker = Docker(shown)
    setattr(docker, f"show_{question}", lambda ids: "")

    with pytest.raises(Problem, match=f"^{command} printed too little$"):
        look(shown, docker=docker)


@pytest.mark.parametrize("mode", ["Global", "Replicated"])
def test_tasks_of_another_service_are_a_failure(mode: str) -> None:
    """They might be those of one that was asked about, which would then seem to have none."""
    shown = Shown(mode=mode)
    docker = Docker(shown, Shown("Running", key="another"))
    docker.those_of = lambda ids: docker.shown  # type: ignore[method-assign]
    docker.show_services = lambda ids: json.dumps(shown.document)  # type: ignore[method-assign]

    with pytest.raises(Problem, match="^docker shows web for ID id$"):
        look(shown, docker=docker)


@pytest.mark.parametrize("question", ["services", "rows", "tasks", "nodes", "sent"])
def test_what_is_no_json_is_a_failure(question: str) -> None:
    shown = Shown("Running~", **GLOBAL)
    docker = Docker(shown)
    setattr(docker, f"show_{question}", lambda ids: f"{{{ids}")

    with pytest.raises(ValueError, match="Expecting"):
        look(shown, docker=docker, versions=VERSIONS)


def test_lines_end_where_docker_ends_them() -> None:
    """Python's splitlines() ends them at other characters, too, which JSON leaves as they are."""
    text = "next\u0085line\u2028and\u2029more"
    shown = Shown("Running", service={"Spec.Labels": {"a": text}})
    shown.rows[0]["Error"] = text
    docker = Docker(shown)

    for question, documents in (("services", [shown.document]), ("rows", shown.rows)):
        printed = "\n".join(json.dumps(each, ensure_ascii=False) for each in documents)
        setattr(docker, f"show_{question}", lambda ids, printed=printed: f"\n{printed}\n\n")

    [service] = look(shown, docker=docker)
    assert list(service.slots) == ["1"]


# The list -----------------------------------------------------------------------------------------


def found(*lines: str, version: str = "default 1.41 1.41") -> script.Run:
    """The run once the services are found, where docker prints this list."""
    printed = {"ls": "\n".join(lines), "--format": version}
    programs = SimpleNamespace(run=lambda *command, **_: printed[command[2]])
    run = script.Run(script.parse([]), programs, "")
    script.find_services(run)
    return run


def test_a_line_of_the_list() -> None:
    rows = found(f"id {ECR}/app:1 web", "id2 nginx:1 other", "id3  plugin", "").rows

    hosts = {"web": ECR, "other": "", "plugin": ""}
    assert {name: row.host for name, row in rows.items()} == hosts
    assert rows["web"] == script.Row("id", "web", ECR)


@pytest.mark.parametrize("line", ["{", "id", "id web", "id a b web"])
def test_a_line_of_the_list_that_cannot_be_read(line: str) -> None:
    """The list is asked for again: who is missing nobody knows."""
    with pytest.raises(ValueError, match="values to unpack"):
        found(f"id {ECR}/app:1 web", line)


@pytest.mark.parametrize(
    "client, engine, is_older",
    [
        ("1.41", "1.41", False),
        ("1.41", "1.55", True),
        ("1.9", "1.10", True),
        ("1.55", "1.41", False),
        ("1.55", "2.0", True),
    ],
)
def test_whether_the_client_is_older(client: str, engine: str, is_older: bool) -> None:
    run = found(version=f"default {client} {engine}")
    said = f" (client API {client}, engine API {engine})"

    assert run.context == "default"
    assert run.versions == (said if is_older else "")


@pytest.mark.parametrize(
    "version", ["", "default", "default 1.41", "default 1.41 new", "a b 1.41 1.41"]
)
def test_versions_that_cannot_be_read_are_a_failure(version: str) -> None:
    with pytest.raises(ValueError):
        found(version=version)
