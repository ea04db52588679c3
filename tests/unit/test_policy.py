"""The policy: what happens to a service, asked of decide() row by row of its table."""

from __future__ import annotations

from typing import Any

import pytest
from shown import (
    A_DEPLOY,
    A_REFRESH,
    ECR,
    ENDED,
    GLOBAL,
    ON_FAILURE,
    ONE_SHOT,
    PORTS,
    PREPARING,
    SERVING,
    THREE_ATTEMPTS,
    Docker,
    Shown,
    Slot,
    look,
    options,
    seen,
)

import ecr_swarm_login as script
from ecr_swarm_login import DUE, FAILED, FORCED, HELD, OVERDUE, RESTARTING, SPARED

ELSEWHERE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
LONG = 6  # hours, from which on what is held back is so for too long
UNSORTED = {"spec": {"TaskTemplate.ContainerSpec.Mounts": [{"Source": "b"}, {"Source": "a"}]}}
# A deploy that has completed, and so many hours ago.
DEPLOYED = {"rollout": "completed", "former": A_DEPLOY}
ROLLS_BACK = {"service": {"Spec.UpdateConfig.FailureAction": "rollback"}}
# In a slot of its own, what a rollout has made shows what it deploys.
NEW = "Failed"


def decided(service: script.Service, **chosen: Any) -> tuple[str, str]:
    """What happens to it, and why, once docker is logged in to the registry it was listed with."""
    host = "" if service.image.startswith(("nginx", f"{ECR}.evil")) else ECR
    outcome, reason = script.decide(service, host, options(**chosen))
    return outcome, reason


def row(outcome: str, says: str, *slots: Slot, **facts: Any) -> Any:
    """A row of a table: what happens to a service of these tasks and facts."""
    name = f"{list(slots)} {facts} -> {outcome}"
    return pytest.param(outcome, says, slots or ("Running",), facts, id=name[:150])


# The whole table ----------------------------------------------------------------------------------

GO_ON = "to continue: docker service update --with-registry-auth web"
GO_BACK = "; to roll back: docker service rollback web"
ANYWAY = "to refresh it anyway: ecr_swarm_login.py --all-services web"

Row = tuple[tuple[Slot, ...], dict[str, Any], str, str]


def of(outcome: str, reason: str, *slots: Slot, **facts: Any) -> Row:
    """A service of these tasks and facts, what happens to it, and the whole reason."""
    return slots, facts, outcome, reason


# A service of each row of POLICY.
ROWS: dict[str, Row] = {
    "elsewhere": of(
        SPARED,
        "its image is not in ECR, and an update may wipe its login",
        "Running",
        image="nginx:1",
    ),
    "moved": of(
        HELD,
        "its image has just moved to another registry; see the next run",
        "Running",
        image=f"{ELSEWHERE}/app:1",
    ),
    "a job": of(SPARED, "it is a job, and would run again", "Complete", mode="GlobalJob"),
    "of an unknown mode": of(
        HELD,
        "this version does not know its mode, Thing",
        "Running",
        mode="Thing",
        hours=1,
    ),
    "without a tag": of(
        HELD,
        f"its image has neither tag nor digest; an update would deploy {ECR}/team/app:latest -> tag it:"
        f" docker service update --with-registry-auth --image {ECR}/team/app:TAG web",
        "Running",
        image=f"{ECR}/team/app",
        hours=1,
    ),
    "amid a rollout": of(
        HELD,
        f"its rollout is paused, and a refresh would advance it -> {GO_ON}{GO_BACK}",
        "Running*",
        NEW,
        rollout="paused",
        former=A_DEPLOY,
        hours=1,
    ),
    "behind": of(
        HELD,
        f"tasks still run an older spec, and a refresh would continue the rollout -> {GO_ON}",
        "Running*",
        former=A_REFRESH,
    ),
    "to roll back": of(
        SPARED,
        "--keep-rollback keeps docker service rollback possible",
        "Running",
        **DEPLOYED,
        hours=1,
    ),
    "half finished, and lacks a token": of(
        FAILED,
        f"finished tasks would start again, and others lack a valid token -> {ANYWAY}",
        "Complete",
        "Rejected",
        **ONE_SHOT,
    ),
    "half finished": of(
        HELD,
        f"some tasks have finished, and an update would start them again -> {ANYWAY}",
        "Complete",
        "Running",
        **ONE_SHOT,
    ),
    "finished": of(SPARED, "its tasks have finished, and would run again", "Complete", **ONE_SHOT),
    "starting": of(HELD, "its tasks are starting, and would be restarted", "Pending"),
    "unsorted": of(
        RESTARTING, "the docker client reorders its mounts or ulimits", "Running", **UNSORTED
    ),
    "misplaced": of(
        RESTARTING,
        "its placement is out of date; any update with a token applies the new one",
        "Running~",
    ),
    "too many": of(
        RESTARTING,
        "more of its tasks are running than it should have",
        "Running",
        "Running",
        replicas=1,
    ),
    "in ECR": of(DUE, "it pulls from ECR", "Running"),
}
WITH_DOCKER = {"not understood"}  # it takes more than a service to be of this row: see below
NAMES = [row[0] for row in script.POLICY]
# Whatever is asked for: their updates would carry no login, or do nothing that one has to force.
NEVER_FORCED = {"moved", "unsorted", "misplaced", "too many", "in ECR"}


@pytest.mark.parametrize("name", ROWS)
def test_a_row(name: str) -> None:
    slots, facts, outcome, reason = ROWS[name]

    assert decided(seen(*slots, **facts), keep_rollback=2) == (outcome, reason)


@pytest.mark.parametrize("name", ROWS)
def test_all_services_overrules_a_row(name: str) -> None:
    slots, facts, outcome, reason = ROWS[name]
    expected = (FORCED, f"although {reason.partition(' ->')[0]}")
    if name in NEVER_FORCED:
        expected = (outcome, reason)

    # With --keep-rollback it is refused, but this is how its row is met.
    assert decided(seen(*slots, **facts), keep_rollback=2, all_services=True) == expected


def test_each_row_has_a_service_that_is_of_it() -> None:
    assert sorted(NAMES) == sorted({*ROWS, *WITH_DOCKER})


def test_each_row_has_its_fact() -> None:
    """But for the last one, which needs none."""
    assert [*script.facts(seen("Running"), ECR, options())] == NAMES[:-1]


# What else decides --------------------------------------------------------------------------------

IS_DUE = (DUE, "it pulls from ECR")
IS_STARTING = (HELD, "its tasks are starting")
IS_OVER = (SPARED, "its tasks have finished, and would run again")
IN_PART = (HELD, "some tasks have finished")

KINDS = [
    row(*IS_DUE, **GLOBAL),
    row(*IS_DUE, [], replicas=0),
    row(SPARED, "not in ECR", image=f"{ECR}.evil.example/app:1"),
    row(SPARED, "not in ECR", image="nginx"),
    row(SPARED, "it is a job", mode="ReplicatedJob"),
    # an image with neither tag nor digest
    row(HELD, "neither tag nor digest", image=f"{ECR}/app", hours=1),
    row(*IS_DUE, image=f"{ECR}/app:1"),
    row(*IS_DUE, image=f"{ECR}/team/app:1"),
    row(*IS_DUE, image=f"{ECR}/app@sha256:0"),
    # tasks that serve, and are replaced
    row(RESTARTING, "reorders its mounts or ulimits",
        spec={"TaskTemplate.ContainerSpec.Ulimits": [{"Name": "nofile"}, {"Name": "core"}]}),
    row(RESTARTING, "its placement is out of date", "Running", "Running~", **GLOBAL),
    row(RESTARTING, "more of its tasks are running", ["Running", "Running"]),
]  # fmt: skip

# Tasks that have finished, prepare, or lack a token; what an update does to each is in test_model.py.
TASKS = [
    *[row(*IS_DUE, state, **kind) for state in SERVING for kind in ({}, ONE_SHOT)],
    *[row(*IS_STARTING, state, **kind) for state in PREPARING for kind in ({}, ONE_SHOT)],
    *[row(*IS_DUE, f"{state} 6 hours") for state in PREPARING],
    row(*IS_DUE, ["Preparing", "Rejected"], "Running"),
    row(*IS_DUE, "Rejected", "Running", **ON_FAILURE),
    row(*IS_DUE, "Rejected", **ONE_SHOT),
    row(*IS_STARTING, "Running", "Assigned"),
    row(*IS_STARTING, "Pending 6 hours", "Preparing"),
    # all are over
    *[row(*IS_OVER, "Complete", **kind) for kind in (ONE_SHOT, ON_FAILURE, THREE_ATTEMPTS)],
    *[row(*IS_OVER, state, **ONE_SHOT) for state in ENDED],
    row(*IS_OVER, "Complete 7 hours", "Failed", "Running/Shutdown", **ONE_SHOT),
    row(*IS_OVER, "Complete", **ONE_SHOT, **UNSORTED),
    row(*IS_DUE, "Complete"),
    row(*IS_DUE, "Failed", **ON_FAILURE),
    # some have finished, others run, wait or are lost
    row(*IN_PART, "Complete", "Running", **ON_FAILURE),
    row(*IN_PART, "Complete", "Pending", **ON_FAILURE),
    row(*IN_PART, "Complete", ["Running", "Failed"], **THREE_ATTEMPTS),
    row(*IN_PART, "Running/Shutdown", "Running", **ONE_SHOT),
    row(*IN_PART, "Complete", "Running 7 hours", **ON_FAILURE),
    # With attempts left, swarm starts it again; whether there are any is not shown.
    row(*IN_PART, "Shutdown", **THREE_ATTEMPTS),
    row(*IN_PART, "Orphaned", "Complete", **THREE_ATTEMPTS),
    row(*IS_OVER, "Shutdown", **ONE_SHOT),
    row(FAILED, "others lack a valid token", "Complete", "Rejected", "Running", **ONE_SHOT),
    row(FAILED, "others lack a valid token", "Complete", ["Pending", "Rejected"], **ON_FAILURE),
    row(FAILED, "others lack a valid token", "Failed", "Pending 6 hours", **THREE_ATTEMPTS),
    # Swarm starts the rejected one again by itself: the next run sees it.
    row(*IN_PART, "Complete", "Rejected", "Running", **ON_FAILURE),
    # A scale-down leaves tasks that are over in slots that swarm removes.
    row(*IS_DUE, "Running", "Running", "Shutdown", replicas=2, **ON_FAILURE),
    row(*IS_DUE, "Shutdown", "Shutdown", replicas=0, **ON_FAILURE),
    row(*IN_PART, "Running@a", "Running@a", "Shutdown@b", replicas=2, **ONE_SHOT),
    # a drained or lost node
    row(*IS_DUE, "Shutdown", "Running", nodes={"n1": False}, **GLOBAL, **ONE_SHOT),
    row(*IS_DUE, "Shutdown", "Running", **GLOBAL, **THREE_ATTEMPTS),
    row(*IN_PART, "Shutdown", "Running", **GLOBAL, **ONE_SHOT),
]  # fmt: skip


def rollout(outcome: str, says: str, state: str, hours: float, *slots: Slot, **facts: Any) -> Any:
    """A row about a service whose rollout is in this state, and deploys another spec."""
    shown = {"rollout": state, "hours": hours, "former": A_DEPLOY, **facts}
    return row(outcome, says, *slots, **shown)


IS_UPDATING = "its rollout is updating, and a refresh would advance it"
IS_PAUSED = "its rollout is paused, and a refresh would advance it"

ROLLOUTS = [
    rollout(*IS_DUE, "completed", 0),
    rollout(*IS_DUE, "rollback_completed", 0),
    # under way
    rollout(HELD, f"{IS_UPDATING} -> {GO_ON}{GO_BACK}", "updating", 1),
    rollout(HELD, IS_UPDATING, "updating", 5.99),
    rollout(*IS_DUE, "updating", LONG),
    rollout(*IS_DUE, "updating", LONG, "Running", "Pending 7 hours"),
    rollout(OVERDUE, IS_UPDATING, "updating", LONG, "Running*", NEW),
    rollout(OVERDUE, IS_UPDATING, "updating", LONG, **ROLLS_BACK),
    # standing still
    rollout(HELD, f"{IS_PAUSED} -> {GO_ON}{GO_BACK}", "paused", 1),
    rollout(HELD, IS_PAUSED, "paused", 5.99),
    rollout(*IS_DUE, "paused", LONG),
    rollout(*IS_DUE, "paused", LONG, **ROLLS_BACK),  # one that is paused does not go back
    rollout(OVERDUE, IS_PAUSED, "paused", LONG, "Running", "Running*"),
    rollout(OVERDUE, IS_PAUSED, "paused", LONG, "Running~", NEW),
    # of ports, which docker shows of no task
    rollout(HELD, f"{IS_PAUSED} -> {GO_ON}{GO_BACK}", "paused", 1, former=PORTS),
    rollout(OVERDUE, IS_PAUSED, "paused", LONG, former=PORTS),
    # on its way back, which leads nowhere else
    rollout(HELD, f"is rollback_started, and a refresh would advance it -> {GO_ON}",
            "rollback_started", 1, "Running*", NEW),
    rollout(OVERDUE, "its rollout is rollback_started", "rollback_started", LONG),
    rollout(HELD, f"is rollback_paused, and a refresh would advance it -> {GO_ON}",
            "rollback_paused", 1),
    rollout(OVERDUE, "its rollout is unheard_of", "unheard_of", LONG),
    # swarm's own rollback keeps no former spec; once it has paused, nothing is left to go back to
    rollout(HELD, "its rollout is rollback_started", "rollback_started", 1, former=None),
    rollout(OVERDUE, "its rollout is rollback_started", "rollback_started", LONG, former=None),
    rollout(*IS_DUE, "rollback_paused", 1, former=None),
    rollout(OVERDUE, "is rollback_paused", "rollback_paused", LONG, "Running*", NEW, former=None),
]  # fmt: skip

# A refresh that has met an outage has a rollout of its own, which deploys nothing but a token.
REFRESHES = [
    *[rollout(*IS_DUE, state, hours, "Running<", ["Rejected", "Running/Shutdown<"], former=former)
      for state in ("updating", "paused", "rollback_started", "rollback_paused")
      for former in (A_REFRESH, {"Labels": {"a": "b"}, "Mode.Replicated.Replicas": 9})
      for hours in (0, LONG)],
    rollout(*IS_DUE, "paused", 1, "Running<", ["Preparing", "Rejected"], former=A_REFRESH),
    rollout(*IS_DUE, "updating", 1, "Running<", ["Pending 7 hours"], former=A_REFRESH, **ROLLS_BACK),
    # There is no task that would tell what it deploys.
    rollout(HELD, IS_PAUSED, "paused", 1, "Running<", "Running<", former=A_REFRESH),
    rollout(*IS_DUE, "paused", LONG, "Running<", "Running<", former=A_REFRESH),
    rollout(HELD, IS_PAUSED, "paused", 1, "Running<", "Failed-", former=A_REFRESH),
]  # fmt: skip

# Each is of the first of two rows that it fits.
ORDER = [
    row(SPARED, "not in ECR", image="nginx", mode="ReplicatedJob"),
    row(HELD, "another registry", image=f"{ELSEWHERE}/app:1", mode="ReplicatedJob"),
    row(SPARED, "it is a job", "Complete", mode="ReplicatedJob", image=f"{ECR}/app"),
    row(HELD, "its mode", mode="Thing", image=f"{ECR}/app", hours=1),
    rollout(HELD, "neither tag nor digest", "paused", 1, image=f"{ECR}/app"),
    rollout(HELD, "its rollout is paused", "paused", 1, "Complete", **ONE_SHOT),
    rollout(HELD, "its rollout is updating", "updating", 1, "Pending"),
    row(HELD, "older spec", "Running*", "Running~"),
    row(HELD, "older spec", "Running*", "Complete", **ONE_SHOT),
    row(HELD, "older spec", "Running*", "Pending"),
    row(*IN_PART, "Complete", "Pending", **ONE_SHOT),
    row(*IN_PART, "Complete", "Running~", **ONE_SHOT),
    row(*IS_STARTING, "Pending", "Running", **UNSORTED),
    row(RESTARTING, "reorders its mounts", "Running~", "Running", **UNSORTED),
    row(RESTARTING, "its placement", "Running~", "Running", replicas=1),
]


@pytest.mark.parametrize(
    "outcome, says, slots, facts", [*KINDS, *TASKS, *ROLLOUTS, *REFRESHES, *ORDER]
)
def test_decision(outcome: str, says: str, slots: tuple[Slot, ...], facts: dict[str, Any]) -> None:
    seen_outcome, reason = decided(seen(*slots, **facts))

    assert seen_outcome == outcome
    assert says in reason


# Which way back -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state, former, has_way_back",
    [
        ("updating", A_DEPLOY, True),
        ("paused", A_DEPLOY, True),
        ("paused", PORTS, True),
        # resumed by hand, or by a refresh: the former spec is the bad one, too
        ("paused", A_REFRESH, False),
        ("paused", {"Labels": {"a": "b"}}, False),
        ("paused", None, False),
        ("rollback_started", A_DEPLOY, False),
        ("rollback_paused", A_DEPLOY, False),
        ("unheard_of", A_DEPLOY, False),
    ],
)
def test_a_way_back_is_named_where_it_leads_back(
    state: str, former: Any, has_way_back: bool
) -> None:
    outcome, reason = decided(seen("Running*", NEW, rollout=state, former=former, hours=1))

    assert outcome == HELD
    assert ("docker service rollback" in reason) is has_way_back


# What is written down in another way only ---------------------------------------------------------

# An update that only spells out a default replaces every task: swarm compares what is stored.
SPELLED_OUT = [
    {"TaskTemplate.RestartPolicy": {"Condition": "any", "MaxAttempts": 0}},
    {"TaskTemplate.RestartPolicy": {"Condition": "any", "Delay": 5000000000, "MaxAttempts": 0}},
    {"TaskTemplate.ContainerSpec.StopGracePeriod": 10000000000},
]


@pytest.mark.parametrize("spec", SPELLED_OUT)
@pytest.mark.parametrize(
    "outcome, says, facts",
    [
        (HELD, f"{IS_PAUSED} -> {GO_ON}{GO_BACK}", {"rollout": "paused", "hours": 1}),
        (OVERDUE, IS_PAUSED, {"rollout": "paused", "hours": 7}),
        (HELD, f"{IS_UPDATING} -> {GO_ON}{GO_BACK}", {"rollout": "updating", "hours": 1}),
        # With automatic rollback a refresh would make swarm forget where it came from.
        (OVERDUE, IS_UPDATING, {"rollout": "updating", "hours": 7, **ROLLS_BACK}),
    ],
)
def test_a_default_that_is_spelled_out_is_a_deploy(
    spec: dict[str, Any], outcome: str, says: str, facts: dict[str, Any]
) -> None:
    former = dict.fromkeys(spec)
    service = seen("Running*", "Running*", "Running*", NEW, spec=spec, former=former, **facts)

    assert decided(service)[0] == outcome
    assert says in decided(service)[1]


@pytest.mark.parametrize("spec", SPELLED_OUT)
def test_an_update_without_changes_hides_none_that_is_spelled_out(spec: dict[str, Any]) -> None:
    """It wipes UpdateStatus away, resumes nothing, and makes the former spec today's."""
    older = dict.fromkeys(spec)
    service = seen("Running*", "Running*", "Running*", spec=spec, former=A_REFRESH, older=older)

    assert decided(service) == (HELD, ROWS["behind"][-1])


# A client that is older than the engine -----------------------------------------------------------

VERSIONS = " (client API 1.41, engine API 1.55)"


def of_a_newer_engine(**sent: Any) -> script.Service:
    """A service of which the daemon sends more than the client understands."""
    shown = Shown("Running", hours=sent.pop("hours", 1))
    docker = Docker(shown)
    docker.sent = {f"Spec.TaskTemplate.ContainerSpec.{name}": each for name, each in sent.items()}
    [service] = look(shown, docker=docker, versions=VERSIONS)
    return service


def test_settings_that_the_client_would_drop() -> None:
    service = of_a_newer_engine(OomScoreAdj=5, Healthcheck={"StartInterval": 1, "Retries": 0})
    reason = (
        "the docker client predates the engine and would drop"
        " TaskTemplate.ContainerSpec.Healthcheck, TaskTemplate.ContainerSpec.Healthcheck.StartInterval"
        f", TaskTemplate.ContainerSpec.OomScoreAdj{VERSIONS}"
    )

    assert decided(service) == (HELD, f"{reason} -> update the client")
    assert decided(service, all_services=True) == (FORCED, f"although {reason}")


def test_settings_that_say_nothing_are_not_dropped() -> None:
    assert decided(of_a_newer_engine(OomScoreAdj=0, Later={}, Other=None)) == IS_DUE


# For how long -------------------------------------------------------------------------------------

# What counts for how long it is held back, and nothing else does.
BY_ROLLOUT = ("hours", "unchanged_hours")
BY_CHANGE = ("unchanged_hours", "hours")


@pytest.mark.parametrize(
    "name, clock, other",
    [
        ("of an unknown mode", *BY_ROLLOUT),
        ("without a tag", *BY_ROLLOUT),
        ("behind", *BY_CHANGE),
        ("starting", *BY_CHANGE),
        ("half finished", *BY_CHANGE),
    ],
)
def test_it_is_held_back_for_too_long(name: str, clock: str, other: str) -> None:
    slots, facts, _, _ = ROWS[name]

    for hours, outcome in ((5.99, HELD), (LONG, OVERDUE), (600, OVERDUE)):
        service = seen(*slots, **{**facts, clock: hours, other: 12 - hours})
        assert decided(service)[0] == outcome, hours


def test_a_rollout_of_ports_counts_from_its_beginning() -> None:
    for hours, outcome in ((5.99, HELD), (LONG, OVERDUE)):
        service = seen("Running", rollout="paused", former=PORTS, hours=hours, unchanged_hours=9)
        assert decided(service)[0] == outcome, hours


def test_a_client_that_is_too_old_counts_from_the_last_rollout() -> None:
    assert decided(of_a_newer_engine(OomScoreAdj=5, hours=5.99))[0] == HELD
    assert decided(of_a_newer_engine(OomScoreAdj=5, hours=LONG))[0] == OVERDUE


def test_it_waits_for_the_next_run_and_no_longer() -> None:
    slots, facts, _, _ = ROWS["moved"]

    assert decided(seen(*slots, **facts, hours=99, unchanged_hours=99))[0] == HELD


@pytest.mark.parametrize("name", ["unsorted", "misplaced", "too many"])
def test_no_restart(name: str) -> None:
    slots, facts, _, reason = ROWS[name]
    late, soon = (seen(*slots, **facts, unchanged_hours=hours) for hours in (LONG, 5.99))

    assert decided(soon, no_restart=True) == (HELD, reason)
    assert decided(late, no_restart=True) == (OVERDUE, reason)
    assert decided(late) == (RESTARTING, reason)
    assert decided(seen("Running", unchanged_hours=99), no_restart=True) == IS_DUE


@pytest.mark.parametrize(
    "facts, hours, outcome",
    [
        ({**DEPLOYED, "hours": 1.99}, 2, SPARED),
        ({**DEPLOYED, "hours": 2}, 2, DUE),
        ({**DEPLOYED, "hours": 0}, 0, DUE),
        ({"rollout": "completed", "former": PORTS, "hours": 1}, 2, SPARED),
        # There is nothing to roll back to, or it is not over.
        ({"rollout": "completed", "former": A_REFRESH, "hours": 1}, 2, DUE),
        ({"rollout": "completed", "former": None, "hours": 1}, 2, DUE),
        ({"rollout": "rollback_completed", "former": A_DEPLOY, "hours": 1}, 2, DUE),
        ({"rollout": "", "former": A_DEPLOY, "hours": 1}, 2, DUE),
        # one that swarm has completed after it had been paused
        ({"rollout": "paused", "former": A_DEPLOY, "hours": 7}, 10, DUE),
    ],
)
def test_keep_rollback(facts: dict[str, Any], hours: int, outcome: str) -> None:
    assert decided(seen("Running", **facts), keep_rollback=hours)[0] == outcome


def test_keep_rollback_goes_before_finished_tasks() -> None:
    service = seen("Complete", "Rejected", **DEPLOYED, hours=1, **ONE_SHOT)

    assert decided(service, keep_rollback=10) == (SPARED, ROWS["to roll back"][-1])


@pytest.mark.parametrize("slots, facts", [(("Running",), UNSORTED), (("Running~",), {})])
def test_what_restarts_runs_what_its_tag_means_by_then(
    slots: tuple[Slot, ...], facts: dict[str, Any]
) -> None:
    pinned, tagged = (
        decided(seen(*slots, image=f"{ECR}/app{ending}", **facts))[1]
        for ending in (":1@sha256:0", ":1")
    )

    assert tagged == f"{pinned}; its tag is not pinned, so a newer image may start"
