"""The model: what an update with another token does to a service, by swarm's own rules.

Sources: swarmkit, manager/orchestrator (reconcile, UpdatableTasksInSlot, IsTaskDirty), and what was
seen on real engines. The same model is judged on real swarms by `make walk`. How a task is written
down is told in shown.py.
"""

from __future__ import annotations

from typing import Any

import pytest
from shown import (
    A_DEPLOY,
    A_REFRESH,
    ENDED,
    GLOBAL,
    ON_FAILURE,
    ONE_SHOT,
    PORTS,
    PREPARING,
    SERVING,
    STOPPED,
    THREE_ATTEMPTS,
    Slot,
    changed,
    seen,
)

import ecr_swarm_login as script

# What an update does to a task, by what the task is.
WORDS = {
    "stops": [script.SERVES],
    "hurries": [script.PREPARES],
    "repeats": [script.ENDED, script.STOPPED],
    "heals": [script.LACKS_TOKEN],
}


def case(expected: str, *slots: Slot, **facts: Any) -> Any:
    """A row of a table: what an update does, as "stops 1 2, hurries 3", to which service."""
    told = ", ".join(f"{fact}={value}" for fact, value in facts.items())
    name = f"{list(slots)} {told} -> {expected or 'nothing'}"
    return pytest.param(expected, slots, facts, id=name[:150])


def effects(service: script.Service) -> str:
    """What an update does to the service, in the words of case()."""
    tasks = script.touched(service)
    ids = {
        what: sorted(task.id for task in tasks if task.kind in kinds)
        for what, kinds in WORDS.items()
    }
    return ", ".join(f"{what} {' '.join(ids[what])}" for what in ids if ids[what])


MAY_FINISH = (ONE_SHOT, ON_FAILURE, THREE_ATTEMPTS)

# A single task, by its state.
STATES = [
    *[case("", state, **kind) for state in SERVING for kind in ({}, *MAY_FINISH)],
    *[case("hurries 1", state, **kind) for state in PREPARING for kind in ({}, ONE_SHOT)],
    # What runs on and on swarm starts again by itself.
    *[case("", state) for state in (*ENDED, *STOPPED, "Rejected", "Running/Shutdown")],
    # condition none: nothing is
    *[case("repeats 1", state, **ONE_SHOT) for state in (*ENDED, *STOPPED, "Running/Shutdown")],
    case("heals 1", "Rejected", **ONE_SHOT),
    case("repeats 1", "Failed", **ONE_SHOT, **THREE_ATTEMPTS),
    # on-failure: what has succeeded is not
    case("repeats 1", "Complete", **ON_FAILURE),
    *[case("", state, **ON_FAILURE) for state in ("Failed", *STOPPED, "Rejected")],
    # a number of attempts: all may be used up
    *[case("repeats 1", state, **THREE_ATTEMPTS) for state in (*ENDED, *STOPPED)],
    case("heals 1", "Rejected", **THREE_ATTEMPTS),
    case("repeats 1", "Failed", max_attempts=1),
    # It is over, and swarm has not noticed yet.
    case("repeats 1", "Complete/Running", **ONE_SHOT),
    case("", "Failed/Running"),
    case("heals 1", "Rejected/Ready"),
    case("heals 1", "Rejected/Running", **ON_FAILURE),
    # Of tasks that are over the newest alone counts.
    case("repeats 1", ["Complete", "Failed"], **ONE_SHOT),
    # Swarm has given up what is about to start.
    *[case("", f"{state}/Shutdown") for state in PREPARING],
]

# Tasks that prepare, by what was before them and how long it has taken.
WAITING = [
    *[case("hurries 1", ["Preparing", before]) for before in (*ENDED, *STOPPED, "Running")],
    *[case("heals 1", [state, "Rejected"]) for state in PREPARING],
    *[case("heals 1", f"{state} 6 hours") for state in PREPARING],
    case("hurries 1", "Pending 5 hours"),
    # A rejection long before says nothing.
    case("hurries 1", ["Preparing", "Shutdown", "Rejected"]),
    case("", ["Running", "Rejected"]),
    case("", ["Running 2 days", "Rejected"]),
    case("hurries 2, heals 1", "Pending 6 hours", "Preparing"),
]

# More slots than replicas, or fewer.
SLOTS = [
    # After a scale-down those that went leave older tasks in the list: moby#40190.
    case("", "Running", "Running", "Shutdown", "Shutdown", replicas=2, **ON_FAILURE),
    case("", "Running@a", "Running@b", "Shutdown@c", replicas=2, **ONE_SHOT),
    case("", "Running@a", "Running@b", "Complete@c", replicas=2, **ON_FAILURE),
    case("", "Shutdown", "Shutdown", replicas=0, **ONE_SHOT),
    case("", "Complete", "Failed", replicas=0, **ON_FAILURE),
    case("", ["Running"], ["Complete/Remove"], replicas=1, **ON_FAILURE),
    # A leftover on an emptier node stays, and a running task that is its node's second copy goes.
    case("stops 2, repeats 3", "Running@a", "Running@a", "Shutdown@b", replicas=2, **ONE_SHOT),
    case("stops 2, repeats 3", "Running@a", "Running@a", "Complete@b", replicas=2, **ON_FAILURE),
    case("stops 2, repeats 3", "Running@a", "Running@a", "Shutdown@b", replicas=2,
         **THREE_ATTEMPTS),
    case("", "Running@a", "Running@a", "Shutdown@a", replicas=2, **ONE_SHOT),
    case("", "Running@a", "Running@b", "Shutdown@a", replicas=2, **ONE_SHOT),
    # Of slots that are equal in that those stay that run.
    case("stops 3, repeats 1", "Complete@a", "Running@b", "Running@b", replicas=2, **ON_FAILURE),
    # Of those that run the lower number stays.
    case("stops 3", "Running@a", "Running@b", "Running@a", replicas=2),
    # A slot of two tasks is the first to go.
    case("stops 1 1a, repeats 2", ["Running@a", "Running@a"], "Complete@b", replicas=1,
         **ON_FAILURE),
    # One that prepares alone on its node stays, too; among equals it goes.
    case("stops 3, hurries 1", "Preparing@a", "Running@b", "Running@b", replicas=2),
    case("", "Preparing@a", "Running@b", replicas=1),
    # Longer lists: Go's sort may put equals in any order, and the worst is expected.
    case("", *[f"Running@n{n}" for n in range(5)], "Shutdown@x", replicas=5, **ONE_SHOT),
    case("stops 6, repeats 7", *[f"Running@n{n}" for n in range(6)], "Shutdown@x", replicas=6,
         **ONE_SHOT),
    case("stops 6 6a, hurries 7 7a", *[f"Running@n{n}" for n in range(5)],
         ["Running", "Running"], ["Pending", "Pending"], replicas=6),
    # a scale-down under way
    case("stops 2 3", "Running@a", "Running@b", "Running@c", replicas=1),
    case("stops 1 2", "Running@a", "Running@b", replicas=0),
    case("", "Running@a", "Preparing@b", replicas=1),
    # fewer slots than replicas: what is missing swarm starts
    case("repeats 2", "Running", "Complete", replicas=3, **ON_FAILURE),
    case("", "Running", "Failed", replicas=3, **ON_FAILURE),
    case("", "Running", "Shutdown", replicas=3),
]  # fmt: skip

# Tasks that an update replaces though they serve.
DIFFERENT = [
    case("stops 1 2", "Running~", "Starting~"),
    case("stops 1", "Running~", **ONE_SHOT),
    case("stops 1 2", "Running", "Running",
         spec={"TaskTemplate.ContainerSpec.Mounts": [{"Source": "b"}, {"Source": "a"}]}),
    case("stops 2", "Running", "Running*"),
    case("stops 1, hurries 2, repeats 3", "Running*", "Preparing", "Complete", **ON_FAILURE),
    case("", "Complete~"),
    # The new task of a slot starts before the old one ends: one that is alike stays.
    case("stops 1a", ["Running", "Running*"]),
    case("stops 1a", ["Starting", "Running*"]),
    case("stops 1a", ["Running", "Running"]),
    case("stops 1 1a 1c", ["Running*", "Running~", "Running", "Running"]),
    case("hurries 1", ["Preparing", "Running"]),
    case("stops 1a, hurries 1", ["Preparing", "Running*"]),
    case("stops 1 1a", ["Running*", "Running*"]),
    case("", ["Running", "Running/Shutdown"]),
]  # fmt: skip

# Global: a slot is a node, here n1, n2; it may use all nodes unless it says otherwise.
ON_NODES = [
    case("", "Running", "Running", **GLOBAL),
    case("repeats 1", "Complete", "Running", **GLOBAL, **ON_FAILURE),
    case("repeats 1", "Shutdown", "Running", **GLOBAL, **ONE_SHOT),
    # Swarm starts it when its node is back.
    case("", "Shutdown", "Running", **GLOBAL, **THREE_ATTEMPTS),
    case("", "Orphaned", **GLOBAL, **THREE_ATTEMPTS),
    case("", "Shutdown", "Running", **GLOBAL, **ON_FAILURE),
    case("repeats 1", "Failed", **GLOBAL, **THREE_ATTEMPTS),
    case("", "Failed", **GLOBAL, **ON_FAILURE),
    case("", "Rejected", **GLOBAL, **ON_FAILURE),
    case("heals 1", "Rejected", **GLOBAL, **ONE_SHOT),
    case("stops 1 2", "Running~", "Running*", **GLOBAL),
    case("stops 1, hurries 2", "Running*", "Preparing", **GLOBAL),
    # a node that is drained, lost, or no longer meets the constraints
    case("", "Complete", "Running", nodes={"n1": False}, **GLOBAL, **ON_FAILURE),
    case("", "Failed", nodes={"n1": False}, **GLOBAL, **THREE_ATTEMPTS),
    case("", "Pending", "Running", nodes={"n1": False}, **GLOBAL),
    case("stops 2", "Running~", "Running~", nodes={"n1": False}, **GLOBAL),
    # one that docker does not show has no part in the service
    case("repeats 2", "Complete", "Complete", nodes={"n1": None}, **GLOBAL, **ON_FAILURE),
    case("", "Complete", nodes={"n1": None}, **GLOBAL, **ON_FAILURE),
]


@pytest.mark.parametrize(
    "expected, slots, facts", [*STATES, *WAITING, *SLOTS, *DIFFERENT, *ON_NODES]
)
def test_what_an_update_does(expected: str, slots: list[Slot], facts: dict[str, Any]) -> None:
    service = seen(*slots, **facts)
    before = repr(service)

    assert effects(service) == expected
    assert repr(service) == before, "the model changes what docker showed"


def test_a_service_of_an_unknown_condition_may_finish() -> None:
    assert effects(seen("Complete", condition="some day")) == "repeats 1"


def test_nodes_that_nobody_asked_for_count_as_usable() -> None:
    """Or touched() could not say whether there is anything to ask for."""
    service = script.replace(seen("Pending", **GLOBAL), usable_nodes=None)

    assert effects(service) == "hurries 1"


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
        (True, "node.platform.arch==X86_64"),
        (False, "node.platform.arch==aarch64"),
        (True, "node.labels.disk==ssd"),
        (True, "Node.Labels.disk==SSD"),
        (False, "node.labels.disk==hdd"),
        (True, "node.labels.disk!=hdd"),
        (True, "node.labels.disk!=a==b"),
        # A label that is not there is an empty one.
        (False, "node.labels.Disk==ssd"),
        (False, "node.labels.other==1"),
        (True, "node.labels.other!=1"),
        (True, "engine.labels.zone.name==a"),
        (True, "Engine.Labels.zone.name==A"),
        (False, "engine.labels.zone==a"),
        (True, "node.ip==10.1.2.3"),
        (True, "NODE.IP == 10.1.2.0/24"),
        (True, "node.ip==10.1.0.1/16"),
        (False, "node.ip!=10.1.0.0/16"),
        (False, "node.ip==192.168.0.1"),
        (True, "node.ip!=192.168.0.1"),
    ],
)
def test_constraints(met: bool, constraint: str) -> None:
    assert script.meets(NODE, constraint) is met


@pytest.mark.parametrize(
    "constraint", ["node.moon==full", "node.id", "", "node.ip==here", "moon.labels.a==b"]
)
def test_a_constraint_that_is_unknown(constraint: str) -> None:
    """It costs its service alone."""
    with pytest.raises((KeyError, ValueError)):
        script.meets(NODE, constraint)


@pytest.mark.parametrize(
    "changes, constraints, is_usable",
    [
        ({}, [], True),
        ({}, ["node.role==manager", "node.labels.disk==ssd"], True),
        ({}, ["node.role==manager", "node.labels.disk==hdd"], False),
        ({}, ["node.labels.disk==hdd", "node.role==manager"], False),
        ({"Spec.Availability": "drain"}, [], False),
        ({"Spec.Availability": "pause"}, [], False),
        ({"Spec": None}, [], False),
        ({"Status.State": "down"}, [], False),
        ({"Status.State": "unknown"}, [], True),
        ({"Status.State": "disconnected"}, [], True),
    ],
)
def test_nodes_that_a_global_service_may_use(
    changes: dict[str, Any], constraints: list[str], is_usable: bool
) -> None:
    assert script.may_use(changed(NODE, changes), constraints) is is_usable


@pytest.mark.parametrize(
    "constraints, expected", [(["node.role==manager"], "repeats 1"), (["node.role==worker"], "")]
)
def test_the_constraints_are_those_of_the_service(constraints: list[str], expected: str) -> None:
    spec = {"TaskTemplate.Placement.Constraints": constraints}
    service = seen("Complete", spec=spec, nodes={"n1": NODE}, **GLOBAL, **ON_FAILURE)

    assert effects(service) == expected


# Rollouts


def rollout(is_amid: bool, state: str, hours: float, *differences: str, **facts: Any) -> Any:
    """A row: whether an update comes amid a rollout that has been in a state for so long."""
    service = {"Spec.UpdateConfig.FailureAction": facts.pop("action", "pause")}
    shown = {"former": A_DEPLOY, "rollout": state, "hours": hours, "service": service, **facts}
    return pytest.param(
        is_amid, set(differences), shown, id=f"{state} {hours} {differences} {facts}"
    )


@pytest.mark.parametrize(
    "is_amid, differences, facts",
    [
        *[rollout(False, state, 0, script.OLDER)
          for state in ("", "completed", "rollback_completed")],
        # what is left of the old one
        *[rollout(True, state, 7, script.OLDER, "", former=A_REFRESH)
          for state in ("updating", "paused", "rollback_started", "rollback_paused", "unheard_of")],
        *[rollout(True, "paused", 7, each) for each in (script.PLACED, script.UNSORTED)],
        # a deploy
        rollout(True, "updating", 1, ""),
        rollout(True, "updating", 5.99),
        rollout(False, "updating", 6),
        rollout(True, "paused", 5.99, ""),
        rollout(False, "paused", 6, ""),
        # One with automatic rollback forgets where it came from; one that has paused has no more.
        rollout(True, "updating", 6, action="rollback"),
        rollout(False, "paused", 6, action="rollback"),
        rollout(True, "rollback_started", 6),
        rollout(True, "rollback_paused", 6),
        rollout(True, "unheard_of", 6),
        # which task has which ports docker does not show
        rollout(True, "updating", 6, former=PORTS),
        rollout(True, "paused", 6, former=PORTS),
        # a refresh: a token alone
        *[rollout(False, state, hours, "", former=A_REFRESH, action="rollback")
          for state in ("updating", "paused", "rollback_started", "rollback_paused")
          for hours in (0, 6)],
    ],
)  # fmt: skip
def test_whether_it_is_amid_a_rollout(
    is_amid: bool, differences: set[str], facts: dict[str, Any]
) -> None:
    service = seen("Running", **facts)

    assert script.is_amid_rollout(service.rollout, differences) is is_amid
