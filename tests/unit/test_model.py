"""The model: what an update with another token does to a service, by swarm's own rules.

FACTS: swarmkit, manager/orchestrator (reconcile, UpdatableTasksInSlot, IsTaskDirty), and what was
seen on real engines. The same model is judged on real swarms by `make walk`.
"""

from __future__ import annotations

from typing import Any

import pytest
from made import (
    GLOBAL,
    ON_FAILURE,
    ONE_SHOT,
    OVER,
    SERVING,
    STARTING,
    STOPPED,
    THREE_ATTEMPTS,
    Slot,
    made,
)

import ecr_swarm_login as script
from ecr_swarm_login import OLDER, PLACED, TOO_MANY, UNSORTED, Service

WORDS = {
    "stops": [script.SERVING],
    "hurries": [script.STARTING],
    "repeats": list(script.ENDED),
    "heals": [script.STUCK],
}


def case(expected: str, *slots: Slot, **facts: Any) -> Any:
    """A row of a table: what an update does, as "stops 1 2, hurries 3", to which service."""
    it = made(*slots, **facts)
    told = ", ".join(f"{fact}={value}" for fact, value in facts.items())
    return pytest.param(expected, it, id=f"{list(slots)} {told} -> {expected or 'nothing'}"[:150])


def effects(it: Service) -> str:
    """What an update does to the service, in the words of case()."""
    tasks = script.touched(it)
    ids = {what: [task.id for task in tasks if task.kind in parts] for what, parts in WORDS.items()}
    return ", ".join(f"{what} {' '.join(ids[what])}" for what in ids if ids[what])


MAY_FINISH = (ONE_SHOT, ON_FAILURE, THREE_ATTEMPTS)

# A single task, by its state.
STATES = [
    *[case("", state, **kind) for state in SERVING for kind in ({}, *MAY_FINISH)],
    *[case("hurries 1", state, **kind) for state in STARTING for kind in ({}, ONE_SHOT)],
    # What runs on and on swarm starts again by itself.
    *[case("", state) for state in (*OVER, *STOPPED, "Rejected", "Running/Shutdown")],
    # condition none: nothing is
    *[case("repeats 1", state, **ONE_SHOT) for state in (*OVER, *STOPPED, "Running/Shutdown")],
    case("heals 1", "Rejected", **ONE_SHOT),
    # on-failure: what has succeeded is not; what is missing is started
    *[case("repeats 1", state, **ON_FAILURE) for state in (*OVER, *STOPPED)],
    case("heals 1", "Rejected", **ON_FAILURE),
    # a number of attempts: all are used up where no other task came
    *[case("repeats 1", state, **THREE_ATTEMPTS) for state in (*OVER, *STOPPED)],
    case("heals 1", "Rejected", **THREE_ATTEMPTS),
    # It is over, and swarm has not noticed yet.
    case("repeats 1", "Complete/Running", **ONE_SHOT),
    case("", "Failed/Running"),
    case("heals 1", "Rejected/Ready"),
    case("heals 1", "Rejected/Running", **ON_FAILURE),
    # swarm has given up what is about to start
    *[case("", f"{state}/Shutdown") for state in STARTING],
]

# Tasks that start, by what was before them and how long it has taken.
STUCK = [
    *[case("hurries 1", ["Preparing", before]) for before in (*OVER, *STOPPED, "Running/Shutdown")],
    *[case("heals 1", [state, "Rejected"]) for state in STARTING],
    *[case("heals 1", f"{state} 6 hours") for state in STARTING],
    case("hurries 1", "Pending 5 hours"),
    case("hurries 1", ["Preparing", "Shutdown", "Rejected"]),
    case("", ["Running", "Rejected"]),
    case("", ["Running 2 days", "Rejected"]),
    case("hurries 2, heals 1", "Pending 6 hours", "Preparing"),
]

# More slots than replicas, or fewer.
SLOTS = [
    # after a scale-down: those that went have older tasks, which stay in the list (moby#40190)
    case("", "Running", "Running", "Shutdown", "Shutdown", replicas=2, **ON_FAILURE),
    case("", "Running@a", "Running@b", "Shutdown@c", replicas=2, **ONE_SHOT),
    case("", "Running@a", "Running@b", "Complete@c", replicas=2, **ON_FAILURE),
    case("", "Shutdown", "Shutdown", replicas=0, **ONE_SHOT),
    case("", "Complete", "Failed", replicas=0, **ON_FAILURE),
    case("", ["Running"], ["Complete/Remove"], replicas=1, **ON_FAILURE),
    # A leftover on an emptier node stays, and a running task that is its node's second copy goes.
    case("stops 2, repeats 3", "Running@a", "Running@a", "Shutdown@b", replicas=2, **ONE_SHOT),
    case("stops 2, repeats 3", "Running@a", "Running@a", "Complete@b", replicas=2, **ON_FAILURE),
    case("", "Running@a", "Running@a", "Shutdown@a", replicas=2, **ONE_SHOT),
    case("", "Running@a", "Running@b", "Shutdown@a", replicas=2, **ONE_SHOT),
    # Of slots that are equal in that those stay that run.
    case("stops 3, repeats 1", "Complete@a", "Running@b", "Running@b", replicas=2, **ON_FAILURE),
    # Attempts may be used up by a node that went, and are not by a rollout.
    case("stops 2, repeats 3", "Running@a", "Running@a", "Shutdown@b", replicas=2,
         **THREE_ATTEMPTS),
    case("", "Running@a", "Running@a", "Shutdown*@b", replicas=2, **THREE_ATTEMPTS),
    # A slot of two tasks is the first to go.
    case("stops 1 1a, repeats 2", ["Running@a", "Running@a"], "Complete@b", replicas=1,
         **ON_FAILURE),
    # long lists: Go's sort may put equals in any order, and the worst is expected
    case("", *[f"Running@n{n}" for n in range(11)], "Shutdown@x", replicas=11, **ONE_SHOT),
    case("stops 12, repeats 13", *[f"Running@n{n}" for n in range(12)], "Shutdown@x", replicas=12,
         **ONE_SHOT),
    # a scale-down under way
    case("stops 2 3", "Running@a", "Running@b", "Running@c", replicas=1),
    case("stops 1 2", "Running@a", "Running@b", replicas=0),
    # fewer slots than replicas: what is missing is started
    case("repeats 2", "Running", "Complete", replicas=3, **ON_FAILURE),
    case("repeats 2", "Running", "Failed", replicas=2, **ON_FAILURE),
    case("repeats 2 3", "Running", "Shutdown", "Failed", replicas=3, **ON_FAILURE),
    case("repeats 2", "Running", "Shutdown", "Failed", replicas=2, **ON_FAILURE),
    case("", "Running", "Shutdown", replicas=2),
    case("", replicas=3, **ON_FAILURE),
]  # fmt: skip

# Tasks of which an update makes others though they serve.
DIRTY = [
    case("stops 1 2", "Running", "Starting", difference=PLACED),
    case("stops 1", "Running", difference=PLACED, **ONE_SHOT),
    case("stops 1 2", "Running", "Running", is_sorted=False),
    case("stops 2", "Running", "Running*"),
    case("stops 1, hurries 2, repeats 3", "Running*", "Preparing", "Complete", **ON_FAILURE),
    case("", "Complete", difference=PLACED),
    # The new task of a slot starts before the old one ends: one that is clean stays.
    case("stops 1a", ["Running", "Running*"]),
    case("stops 1a", ["Starting", "Running*"]),
    case("stops 1a", ["Running", "Running"]),
    case("hurries 1", ["Preparing", "Running"]),
    case("stops 1a, hurries 1", ["Preparing", "Running*"]),
    case("stops 1 1a", ["Running*", "Running*"]),
    case("", ["Running", "Running/Shutdown"]),
]

# Global: a slot is a node, here n1, n2; which nodes may be used is known or does not matter.
ON_NODES = [
    case("", "Running", "Running", **GLOBAL),
    case("repeats 1", "Complete", "Running", **GLOBAL, **ON_FAILURE),
    case("repeats 1", "Shutdown", "Running", **GLOBAL, **ONE_SHOT),
    # Swarm starts it when its node is back.
    case("", "Shutdown", "Running", **GLOBAL, **THREE_ATTEMPTS),
    case("", "Orphaned", **GLOBAL, **THREE_ATTEMPTS),
    case("", "Shutdown", "Running", **GLOBAL, **ON_FAILURE),
    case("", "Failed", **GLOBAL, **ON_FAILURE),
    case("", "Rejected", **GLOBAL, **ON_FAILURE),
    case("heals 1", "Rejected", **GLOBAL, **ONE_SHOT),
    case("stops 1 2", "Running", "Running", difference=PLACED, **GLOBAL),
    # a node that is drained, lost, or no longer meets the constraints
    case("", "Complete", "Running", nodes={"n1": False, "n2": True}, **GLOBAL, **ON_FAILURE),
    case("", "Failed", nodes={"n1": False}, **GLOBAL, **THREE_ATTEMPTS),
    case("", "Pending", "Running", nodes={"n1": False, "n2": True}, **GLOBAL),
    case("stops 2", "Running", "Running", difference=PLACED, nodes={"n1": False, "n2": True},
         **GLOBAL),
    # one that docker no longer shows
    case("repeats 2", "Complete", "Complete", nodes={"n2": True}, **GLOBAL, **ON_FAILURE),
]  # fmt: skip


@pytest.mark.parametrize("expected, it", [*STATES, *STUCK, *SLOTS, *DIRTY, *ON_NODES])
def test_what_an_update_does(expected: str, it: Service) -> None:
    before = repr(it)

    assert effects(it) == expected
    assert repr(it) == before


@pytest.mark.parametrize(
    "it, why",
    [
        (made("Running", difference=PLACED), PLACED),
        (made("Running", is_sorted=False), UNSORTED),
        (made("Running*"), OLDER),
        (made("Running", "Running", replicas=1), TOO_MANY),
        (made("Running@a", "Running@a", "Shutdown@b", replicas=2, **ONE_SHOT), TOO_MANY),
        (made("Running*", "Complete", **ON_FAILURE), OLDER),
        (made("Running", "Complete", **ON_FAILURE), ""),
    ],
)
def test_why_tasks_restart(it: Service, why: str) -> None:
    assert script.why_stops(script.touched(it)) == why


# Nodes

NODE = {
    "ID": "n1",
    "Spec": {"Role": "manager", "Availability": "active", "Labels": {"disk": "ssd"}},
    "Description": {
        "Hostname": "Alpha",
        "Platform": {"OS": "linux", "Architecture": "x86_64"},
        "Engine": {"Labels": {"zone.name": "a"}},
    },
    "Status": {"State": "ready", "Addr": "10.1.2.3"},
}


@pytest.mark.parametrize(
    "met, constraint",
    [
        (True, "node.id==n1"),
        (False, "node.id != n1"),
        (True, "node.hostname == alpha"),
        (False, "node.hostname==beta"),
        (True, "NODE.ROLE==manager"),
        (True, "node.role!=worker"),
        (True, "node.platform.os==linux"),
        (False, "node.platform.arch==aarch64"),
        (True, "node.labels.disk==ssd"),
        (True, "Node.Labels.disk==SSD"),
        (False, "node.labels.disk==hdd"),
        (True, "node.labels.disk!=hdd"),
        # A label that is not there is an empty one.
        (False, "node.labels.Disk==ssd"),
        (False, "node.labels.other==1"),
        (True, "node.labels.other!=1"),
        (True, "engine.labels.zone.name==a"),
        (False, "engine.labels.zone==a"),
        (True, "node.ip==10.1.2.3"),
        (True, "node.ip==10.1.0.0/16"),
        (False, "node.ip!=10.1.0.0/16"),
        (False, "node.ip==192.168.0.1"),
    ],
)
def test_constraints(met: bool, constraint: str) -> None:
    assert script.meets(NODE, constraint) is met


@pytest.mark.parametrize("constraint", ["node.moon==full", "node.id", "", "node.ip==here"])
def test_a_constraint_that_is_unknown(constraint: str) -> None:
    """It costs its service alone: see attempt() and refresh()."""
    with pytest.raises((KeyError, ValueError)):
        script.meets(NODE, constraint)


def changed(path: str, value: Any) -> dict[str, Any]:
    """The node with one thing that is otherwise."""
    part, field = path.split(".")
    return {**NODE, part: {**NODE[part], field: value}}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "node, constraints, is_usable",
    [
        (NODE, [], True),
        (NODE, ["node.role==manager", "node.labels.disk==ssd"], True),
        (NODE, ["node.role==manager", "node.labels.disk==hdd"], False),
        (changed("Spec.Availability", "drain"), [], False),
        (changed("Spec.Availability", "pause"), [], False),
        (changed("Status.State", "down"), [], False),
        (changed("Status.State", "unknown"), [], True),
        (changed("Status.State", "disconnected"), [], True),
        ({}, [], False),
    ],
)
def test_nodes_that_a_global_service_may_use(
    node: Any, constraints: list[str], is_usable: bool
) -> None:
    assert script.may_use(node, constraints) is is_usable
