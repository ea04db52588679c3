"""What becomes of a service: the policy as a table, without any program."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import ecr_swarm_login as script
from ecr_swarm_login import DUE, FAILED, HELD, LEFT, OVERDUE, Service, Task

ECR = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
NOT_LOGGED_IN = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
WAITING = ("New", "Allocated", "Pending", "Assigned", "Accepted", "Preparing")
SERVING = ("Ready", "Starting", "Running")
OVER = ("Complete", "Shutdown", "Failed", "Rejected", "Remove", "Orphaned")

# Service names two kinds: those that run on and on, and those of which tasks may end for good.
ONE_SHOT = {"condition": "none"}
ON_FAILURE = {"condition": "on-failure"}
THREE_ATTEMPTS = {"condition": "any", "max_attempts": 3}
GLOBAL = {"mode": "Global"}


def wanted(state: str, former: str = "", is_old: bool = False) -> Task:
    """A task that swarm wants to run."""
    return Task(state, True, is_old, former)


def over(state: str, is_old: bool = False) -> Task:
    """A task that has ended, or is to end."""
    return Task(state, False, is_old)


RUNNING, COMPLETE, REJECTED = wanted("Running"), over("Complete"), over("Rejected")
LOST = over("Running")  # its node is down, so nobody has heard that it ended


def service(*tasks: Task, **facts: Any) -> Service:
    """A healthy service that runs on and on, but for its tasks and the facts."""
    plain = {"id": "id", "name": "web", "image": f"{ECR}/app:1@sha256:0", "host": ECR, "hours": 24}
    numbered = {str(number): task for number, task in enumerate(tasks or (RUNNING,))}
    return Service(**{**plain, "tasks": numbered, **facts})


def options(**chosen: Any) -> Any:
    """The options that the policy looks at."""
    none = {"all_services": False, "no_restart": False, "keep_rollback": 0}
    return SimpleNamespace(**{**none, **chosen})


def decided(it: Service, **chosen: Any) -> tuple[str, str]:
    """What becomes of it, and why."""
    return script.decide(it, {ECR: "", NOT_LOGGED_IN: "401 Unauthorized"}, options(**chosen))


def row(outcome: str, says: str, *tasks: Task, **facts: Any) -> Any:
    """A row of a table: what becomes of a service of these tasks and facts."""
    return pytest.param(outcome, says, service(*tasks, **facts))


IS_DUE = (DUE, "it pulls from ECR")
STARTING = (HELD, "its tasks are starting")
IS_OVER = (LEFT, "its finished tasks would run again")
IN_PART = "some tasks have finished, and would run again; to refresh it all the same: "
BY_HAND = "ecr_swarm_login.py --all-services web"

KINDS = [
    row(*IS_DUE),
    row(*IS_DUE, **GLOBAL),
    row(LEFT, "no ECR registry", host=""),
    row(FAILED, f"not logged in to {NOT_LOGGED_IN}: 401 Unauthorized", host=NOT_LOGGED_IN),
    row(FAILED, "came to this registry after the run had begun", host=ECR.replace("1234", "5678")),
    row(LEFT, "it is a job", mode="ReplicatedJob"),
    row(LEFT, "it is a job", mode="GlobalJob"),
    row(HELD, "its mode is ReplicatedThing", mode="ReplicatedThing", hours=1),
    row(OVERDUE, "its mode is ReplicatedThing", mode="ReplicatedThing", hours=6),
    row(HELD, "its mode is , which", mode="", hours=1),
    # an image with neither tag nor digest
    row(HELD, "neither tag nor digest", image=f"{ECR}/team/app", hours=5.9),
    row(OVERDUE, f"--with-registry-auth --image {ECR}/app:TAG web", image=f"{ECR}/app", hours=6),
    row(HELD, "would deploy localhost:5000/app:latest", image="localhost:5000/app", hours=1),
    row(*IS_DUE, image=f"{ECR}/app:1"),
    row(*IS_DUE, image=f"{ECR}/app@sha256:0"),
    # mounts and ulimits out of order
    row(DUE, "its tasks may restart once", is_in_order=False),
]

STATES = [
    *[row(*STARTING, wanted(state)) for state in WAITING],
    *[row(*IS_DUE, wanted(state)) for state in SERVING],
    # Swarm starts again by itself what runs on and on.
    *[row(*IS_DUE, over(state)) for state in OVER],
    *[row(*IS_DUE, wanted(state)) for state in OVER],
    row(*IS_DUE, LOST),
    *[row(*IS_DUE, wanted(state), **ONE_SHOT) for state in SERVING],
    *[row(*STARTING, wanted(state), **ONE_SHOT) for state in WAITING],
    *[row(*IS_OVER, over(state), **ONE_SHOT) for state in OVER if state != "Rejected"],
    *[row(*IS_OVER, wanted(state), **ONE_SHOT) for state in ("Complete", "Failed")],
    row(*IS_OVER, LOST, **ONE_SHOT),
    row(*IS_DUE, REJECTED, **ONE_SHOT),
    row(*IS_DUE, tasks={}),
    row(*IS_DUE, tasks={}, **ONE_SHOT),
]

# A task that waits, by the task before it in its slot, and by how long it has waited.
PULLING = [
    *[row(*STARTING, wanted("Preparing", before)) for before in OVER if before != "Rejected"],
    *[row(*STARTING, wanted("Pending", before)) for before in (*WAITING, *SERVING)],
    *[row(*IS_DUE, wanted(state, "Rejected")) for state in WAITING],
    *[row(*IS_DUE, wanted(state, is_old=True)) for state in WAITING],
    row(*IS_DUE, wanted("Pending", "Complete", is_old=True)),
    row(*STARTING, RUNNING, wanted("Assigned")),
    row(*STARTING, wanted("Pending", is_old=True), wanted("Preparing")),
    row(*STARTING, wanted("Preparing", "Rejected"), wanted("Preparing")),
    row(*IS_DUE, wanted("Preparing", "Rejected"), wanted("Pending", is_old=True), RUNNING),
    row(*IS_DUE, wanted("Running", "Rejected")),
    # It is about to start no more: swarm has given it up.
    *[row(*IS_DUE, over(state)) for state in WAITING],
]

FINISHED = [
    *[row(*IS_OVER, COMPLETE, **kind) for kind in (ONE_SHOT, ON_FAILURE, THREE_ATTEMPTS)],
    *[row(*IS_OVER, over("Failed"), **kind) for kind in (ONE_SHOT, ON_FAILURE, THREE_ATTEMPTS)],
    row(*IS_OVER, COMPLETE, condition="some day"),
    row(*IS_DUE, COMPLETE, max_attempts=0),
    row(*IS_OVER, COMPLETE, over("Failed"), LOST, **ON_FAILURE),
    row(*IS_OVER, over("Complete", is_old=True), **ON_FAILURE),
    *[row(*IS_DUE, RUNNING, **kind) for kind in (ONE_SHOT, ON_FAILURE, THREE_ATTEMPTS)],
    # some have finished, others run, wait or are lost
    row(HELD, IN_PART + BY_HAND, COMPLETE, RUNNING, **ON_FAILURE),
    row(HELD, IN_PART + BY_HAND, COMPLETE, wanted("Pending"), **ON_FAILURE),
    row(HELD, IN_PART + BY_HAND, LOST, RUNNING, **ONE_SHOT),
    row(OVERDUE, IN_PART + BY_HAND, over("Complete", is_old=True), RUNNING, **ON_FAILURE),
    row(OVERDUE, IN_PART, over("Failed", is_old=True), over("Complete"), RUNNING, **ON_FAILURE),
    row(HELD, IN_PART, COMPLETE, wanted("Running", is_old=True), **ON_FAILURE),
    row(HELD, IN_PART, COMPLETE, wanted("Preparing", is_old=True), **ON_FAILURE),
    # others need the token
    row(FAILED, f"others need the token; to refresh it all the same: {BY_HAND}", COMPLETE, REJECTED,
        **ON_FAILURE),
    row(FAILED, "others need the token", COMPLETE, REJECTED, RUNNING, **ONE_SHOT),
    row(*IS_DUE, REJECTED, RUNNING, **ON_FAILURE),
    row(*IS_DUE, COMPLETE, REJECTED),
    # a global service: drained and lost nodes
    row(*IS_OVER, over("Shutdown"), **GLOBAL, **ONE_SHOT),
    row(*IS_OVER, LOST, **GLOBAL, **ONE_SHOT),
    row(*IS_OVER, over("Orphaned"), **GLOBAL, **ONE_SHOT),
    row(*IS_OVER, over("Shutdown"), **GLOBAL, **THREE_ATTEMPTS),
    row(*IS_OVER, COMPLETE, **GLOBAL, **ON_FAILURE),
    row(HELD, IN_PART, over("Shutdown"), RUNNING, **GLOBAL, **ONE_SHOT),
    # The node is back one day, and its task with it: swarm starts that by itself.
    row(*IS_DUE, over("Shutdown"), RUNNING, **GLOBAL, **ON_FAILURE),
    row(*IS_DUE, over("Shutdown"), **GLOBAL),
    # A replicated service's task starts elsewhere, unless it is over.
    row(*IS_OVER, over("Shutdown"), **ON_FAILURE),
]  # fmt: skip


def rollout(outcome: str, says: str, state: str, hours: float, **facts: Any) -> Any:
    """A row about a service whose tasks run, and whose rollout is in this state."""
    return row(outcome, says, rollout=state, hours=hours, **facts)


GO_ON = "to go on: docker service update --with-registry-auth web"
GO_BACK = f"{GO_ON}; to go back: docker service rollback web"
LONG = 6

ROLLOUTS = [
    rollout(*IS_DUE, "completed", 0),
    rollout(*IS_DUE, "rollback_completed", 0),
    # under way
    rollout(HELD, f"its rollout is updating, see docker service ps web; {GO_BACK}", "updating", 1),
    rollout(HELD, "its rollout is updating", "updating", 5.99),
    rollout(*IS_DUE, "updating", LONG),
    rollout(*IS_DUE, "updating", float("inf")),
    rollout(OVERDUE, "its rollout is updating", "updating", LONG, runs_older=True),
    rollout(HELD, "its rollout is updating", "updating", 1, runs_older=True),
    rollout(OVERDUE, "its rollout is updating", "updating", LONG, rolls_back=True),
    # standing still
    rollout(HELD, f"its rollout is paused, see docker service ps web; {GO_BACK}", "paused", 1),
    rollout(HELD, "its rollout is paused", "paused", 5.99),
    rollout(*IS_DUE, "paused", LONG),
    rollout(*IS_DUE, "paused", LONG, rolls_back=True),  # one that is paused does not go back
    rollout(OVERDUE, "its rollout is paused", "paused", LONG, runs_older=True),
    # on its way back: the older spec is the one that is wanted
    rollout(HELD, f"is rollback_started, see docker service ps web; {GO_ON}", "rollback_started", 1),
    rollout(OVERDUE, "its rollout is rollback_started", "rollback_started", LONG),
    rollout(HELD, f"is rollback_paused, see docker service ps web; {GO_ON}", "rollback_paused", 1),
    rollout(OVERDUE, "its rollout is rollback_paused", "rollback_paused", LONG),
    rollout(HELD, "its rollout is unheard_of", "unheard_of", 1),
    rollout(OVERDUE, "its rollout is unheard_of", "unheard_of", LONG),
    # nothing but a token: a refresh that met an outage
    *[rollout(*IS_DUE, state, hours, changes_token_only=True)
      for state in ("updating", "paused", "rollback_started", "rollback_paused")
      for hours in (0, LONG)],
    rollout(HELD, "its rollout is paused", "paused", 1, changes_token_only=True, runs_older=True),
]  # fmt: skip


@pytest.mark.parametrize("outcome, says, it", [*KINDS, *STATES, *PULLING, *FINISHED, *ROLLOUTS])
def test_decision(outcome: str, says: str, it: Service) -> None:
    assert decided(it)[0] == outcome
    assert says in decided(it)[1]


def test_a_rollback_has_no_way_back() -> None:
    for state in ("rollback_started", "rollback_paused", "unheard_of"):
        assert "docker service rollback" not in decided(service(rollout=state))[1]


ORDER = [
    # Each is of the first of two rows that it fits.
    row(LEFT, "no ECR registry", host="", mode="ReplicatedJob"),
    row(LEFT, "it is a job", COMPLETE, mode="ReplicatedJob", image="app", rollout="updating"),
    row(HELD, "its mode is", mode="", image="app", hours=1),
    row(HELD, "neither tag nor digest", image=f"{ECR}/app", rollout="paused", hours=1),
    row(HELD, "its rollout is paused", COMPLETE, rollout="paused", hours=1, **ONE_SHOT),
    row(HELD, "its rollout is updating", wanted("Pending"), rollout="updating", hours=1),
    row(FAILED, "others need the token", COMPLETE, REJECTED, RUNNING, **ON_FAILURE),
    row(*IS_OVER, COMPLETE, **ONE_SHOT, is_in_order=False),
    row(*STARTING, wanted("Pending"), is_in_order=False),
    row(FAILED, "not logged in", host=NOT_LOGGED_IN, mode="ReplicatedJob"),
]


@pytest.mark.parametrize("outcome, says, it", ORDER)
def test_order_of_the_table(outcome: str, says: str, it: Service) -> None:
    assert decided(it)[0] == outcome
    assert says in decided(it)[1]


@pytest.mark.parametrize(
    "it, chosen, outcome, says",
    [
        # --no-restart
        (service(is_in_order=False, hours=5), {"no_restart": True}, HELD, "may restart once"),
        (service(is_in_order=False), {"no_restart": True}, OVERDUE, "may restart once"),
        (service(), {"no_restart": True}, *IS_DUE),
        # --keep-rollback
        (service(rollout="completed", hours=1), {"keep_rollback": 2}, LEFT, "kept for 2 hours"),
        (service(rollout="completed", hours=1.9), {"keep_rollback": 2}, LEFT, "kept for 2 hours"),
        (service(rollout="completed", hours=2), {"keep_rollback": 2}, *IS_DUE),
        (service(rollout="completed", hours=0), {"keep_rollback": 0}, *IS_DUE),
        (service(hours=1), {"keep_rollback": 2}, *IS_DUE),
        (service(rollout="rollback_completed", hours=1), {"keep_rollback": 2}, *IS_DUE),
        (
            service(rollout="completed", changes_token_only=True, hours=1),
            {"keep_rollback": 2},
            *IS_DUE,
        ),
        (
            service(COMPLETE, rollout="completed", hours=1, **ONE_SHOT),
            {"keep_rollback": 2},
            LEFT,
            "docker service rollback is kept",
        ),
        # --all-services
        (service(), {"all_services": True}, *IS_DUE),
        (service(host=""), {"all_services": True}, DUE, "although its image is in no ECR registry"),
        (service(mode="GlobalJob"), {"all_services": True}, DUE, "although it is a job, and would"),
        (service(rollout="paused", hours=1), {"all_services": True}, DUE, "its rollout is paused"),
        (service(COMPLETE, **ONE_SHOT), {"all_services": True}, DUE, "tasks would run again"),
        (service(wanted("Pending")), {"all_services": True}, DUE, "although its tasks are starting"),
        (service(image=f"{ECR}/app"), {"all_services": True}, DUE, "neither tag nor digest"),
        (service(COMPLETE, REJECTED, **ONE_SHOT), {"all_services": True}, DUE, "others need"),
        (service(host=NOT_LOGGED_IN), {"all_services": True}, FAILED, "not logged in"),
    ],
)  # fmt: skip
def test_options(it: Service, chosen: dict[str, Any], outcome: str, says: str) -> None:
    assert decided(it, **chosen)[0] == outcome
    assert says in decided(it, **chosen)[1]


def test_what_restarts_runs_what_its_tag_means_by_then() -> None:
    pinned, tagged = (
        decided(service(is_in_order=False, image=f"{ECR}/app{ending}"))[1]
        for ending in (":1@sha256:0", ":1")
    )

    assert "tag" not in pinned
    assert tagged.endswith("; they run what the tag of their image means by then")


@pytest.mark.parametrize(
    "tasks, serves",
    [
        *[([wanted(state)], True) for state in SERVING],
        *[([RUNNING, wanted(state)], False) for state in WAITING],
        ([RUNNING, COMPLETE], True),
        ([RUNNING, REJECTED], False),
        ([COMPLETE], False),
        ([LOST], False),
        ([], False),
    ],
)
def test_services_of_which_an_update_replaces_no_task(tasks: list[Task], serves: bool) -> None:
    it = Service(tasks={str(number): task for number, task in enumerate(tasks)})

    assert it.serves is serves


@pytest.mark.parametrize(
    "it, needs_history",
    [
        (service(), False),
        (service(wanted("Starting"), wanted("Ready")), False),
        (service(LOST), False),
        *[(service(RUNNING, wanted(state)), True) for state in WAITING],
        *[(service(**kind), True) for kind in (ONE_SHOT, ON_FAILURE, THREE_ATTEMPTS)],
        (service(tasks={}), True),
    ],
)
def test_services_of_which_histories_decide(it: Service, needs_history: bool) -> None:
    assert it.needs_history is needs_history
