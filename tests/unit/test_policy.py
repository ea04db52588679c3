"""The policy: what becomes of a service, asked of decide() row by row; and that nobody adds a row
without a case here and a line in the README.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from made import (
    ECR,
    GLOBAL,
    ON_FAILURE,
    ONE_SHOT,
    SERVING,
    STARTING,
    THREE_ATTEMPTS,
    Slot,
    made,
    options,
)

import ecr_swarm_login as script
from ecr_swarm_login import DUE, FAILED, HELD, LEFT, OVERDUE, PLACED, Service

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
TEMPLATE, PORTS, LABELS = {"TaskTemplate"}, {"EndpointSpec"}, {"Labels"}
LONG = 6


def decided(it: Service, **chosen: Any) -> tuple[str, str]:
    """What becomes of it, and why, once docker is logged in to ECR."""
    return script.decide(it, ECR, options(**chosen))


def row(outcome: str, says: str, *slots: Slot, **facts: Any) -> Any:
    """A row of a table: what becomes of a service of these tasks and facts."""
    return pytest.param(outcome, says, made(*(slots or ("Running",)), **facts))


IS_DUE = (DUE, "it pulls from ECR")
IS_STARTING = (HELD, "its tasks are starting")
IS_OVER = (LEFT, "its finished tasks would run again")
IN_PART = "some tasks have finished, and would run again; to refresh it all the same: "
BY_HAND = "ecr_swarm_login.py --all-services web"

KINDS = [
    row(*IS_DUE),
    row(*IS_DUE, **GLOBAL),
    row(*IS_DUE, [], replicas=0),
    row(LEFT, "no ECR registry", image="nginx:1"),
    row(LEFT, "no ECR registry", image=f"{ECR}.evil.example/app:1"),
    row(HELD, "in another registry when the run began", image=f"{ELSEWHERE}/app:1"),
    row(LEFT, "it is a job", mode="ReplicatedJob"),
    row(LEFT, "it is a job", mode="GlobalJob"),
    row(HELD, "its mode is ReplicatedThing", mode="ReplicatedThing", hours=1),
    row(OVERDUE, "its mode is ReplicatedThing", mode="ReplicatedThing", hours=LONG),
    # an image with neither tag nor digest
    row(HELD, "neither tag nor digest", image=f"{ECR}/team/app", hours=5.9),
    row(OVERDUE, f"--with-registry-auth --image {ECR}/app:TAG web", image=f"{ECR}/app", hours=LONG),
    row(*IS_DUE, image=f"{ECR}/app:1"),
    row(*IS_DUE, image=f"{ECR}/app@sha256:0"),
    # tasks that serve, and are replaced
    row(DUE, "its tasks restart: the docker client sorts its mounts", is_sorted=False),
    row(DUE, "its tasks restart: they have another placement", difference=PLACED),
    row(DUE, "its tasks restart: they have an older spec", "Running*"),
    row(DUE, "its tasks restart: more tasks serve than it should have", "Running", "Running", replicas=1),
    row(DUE, "after it was scaled down", "Running@a", "Running@a", "Shutdown@b", replicas=2,
        **ONE_SHOT),
]  # fmt: skip

# Tasks that finished, start, or lack a token; what an update does to each is in test_model.py.
TASKS = [
    *[row(*IS_DUE, state, **kind) for state in SERVING for kind in ({}, ONE_SHOT)],
    *[row(*IS_STARTING, state, **kind) for state in STARTING for kind in ({}, ONE_SHOT)],
    *[row(*IS_DUE, f"{state} 6 hours") for state in STARTING],
    row(*IS_DUE, ["Preparing", "Rejected"], "Running"),
    row(*IS_DUE, "Rejected", "Running", **ON_FAILURE),
    row(*IS_STARTING, "Running", "Assigned"),
    row(*IS_STARTING, "Pending 6 hours", "Preparing"),
    *[row(*IS_OVER, "Complete", **kind) for kind in (ONE_SHOT, ON_FAILURE, THREE_ATTEMPTS)],
    row(*IS_OVER, "Complete 7 hours", "Failed", "Running/Shutdown", **ONE_SHOT),
    row(*IS_OVER, "Complete", condition="some day"),
    row(*IS_OVER, "Complete", is_sorted=False, **ONE_SHOT),
    row(*IS_DUE, "Complete"),
    # some have finished, others run, wait or are lost
    row(HELD, IN_PART + BY_HAND, "Complete", "Running", **ON_FAILURE),
    row(HELD, IN_PART + BY_HAND, "Complete", "Pending", **ON_FAILURE),
    row(HELD, IN_PART + BY_HAND, "Running/Shutdown", "Running", **ONE_SHOT),
    row(OVERDUE, IN_PART, "Failed 6 hours", "Complete", "Running", **ONE_SHOT),
    row(HELD, IN_PART, "Complete", "Running 7 hours", **ON_FAILURE),
    row(FAILED, f"others need the token; to refresh it all the same: {BY_HAND}", "Complete",
        "Rejected", **ON_FAILURE),
    row(FAILED, "others need the token", "Complete", "Rejected", "Running", **ONE_SHOT),
    # a scale-down leaves ended tasks
    row(*IS_DUE, "Running", "Running", "Shutdown", replicas=2, **ON_FAILURE),
    row(*IS_DUE, "Shutdown", "Shutdown", replicas=0, **ON_FAILURE),
    # global: a drained or lost node
    row(*IS_DUE, "Shutdown", "Running", nodes={"n1": False, "n2": True}, **GLOBAL, **ONE_SHOT),
    row(*IS_DUE, "Shutdown", "Running", **GLOBAL, **THREE_ATTEMPTS),
    row(HELD, IN_PART, "Shutdown", "Running", **GLOBAL, **ONE_SHOT),
]  # fmt: skip


def rollout(outcome: str, says: str, state: str, hours: float, *slots: Slot, **facts: Any) -> Any:
    """A row about a service whose rollout is in this state, and changes its tasks."""
    return row(outcome, says, *slots, **{"rollout": state, "hours": hours, "changed": TEMPLATE,
                                         **facts})  # fmt: skip


GO_ON = "to continue: docker service update --with-registry-auth web"
GO_BACK = f"{GO_ON}; to roll back: docker service rollback web"

ROLLOUTS = [
    rollout(*IS_DUE, "completed", 0),
    rollout(*IS_DUE, "rollback_completed", 0),
    # under way
    rollout(HELD, f"its rollout is updating, see docker service ps web; {GO_BACK}", "updating", 1),
    rollout(HELD, "its rollout is updating", "updating", 5.99),
    rollout(*IS_DUE, "updating", LONG),
    rollout(*IS_DUE, "updating", LONG, "Running", "Pending 7 hours"),
    rollout(OVERDUE, "its rollout is updating", "updating", LONG, "Running*"),
    rollout(OVERDUE, "its rollout is updating", "updating", LONG, rolls_back=True),
    # standing still
    rollout(HELD, f"its rollout is paused, see docker service ps web; {GO_BACK}", "paused", 1),
    rollout(HELD, "its rollout is paused", "paused", 5.99),
    rollout(*IS_DUE, "paused", LONG),
    rollout(*IS_DUE, "paused", LONG, rolls_back=True),  # one that is paused does not go back
    rollout(OVERDUE, "its rollout is paused", "paused", LONG, "Running", "Running*"),
    # of ports alone
    rollout(HELD, "its rollout is paused", "paused", 1, changed=PORTS),
    rollout(OVERDUE, "its rollout is paused", "paused", LONG, "Running*", changed=PORTS),
    # on its way back: the older spec is the one that is wanted
    rollout(HELD, f"is rollback_started, see docker service ps web; {GO_ON}", "rollback_started", 1),
    rollout(OVERDUE, "its rollout is rollback_started", "rollback_started", LONG),
    rollout(HELD, "its rollout is rollback_paused", "rollback_paused", 1),
    rollout(OVERDUE, "its rollout is unheard_of", "unheard_of", LONG),
    # nothing but a token, or what concerns no task: as a refresh that met an outage
    *[rollout(*IS_DUE, state, hours, changed=changed)
      for state in ("updating", "paused", "rollback_started", "rollback_paused")
      for changed in (set(), LABELS) for hours in (0, LONG)],
    rollout(HELD, "its rollout is paused", "paused", 1, "Running*", changed=set()),
]  # fmt: skip

# Each is of the first of two rows that it fits.
ORDER = [
    row(LEFT, "no ECR registry", image="nginx", mode="ReplicatedJob"),
    row(HELD, "another registry", image=f"{ELSEWHERE}/app:1", mode="ReplicatedJob"),
    row(LEFT, "it is a job", "Complete", mode="ReplicatedJob", image=f"{ECR}/app"),
    row(HELD, "its mode is", mode="Thing", image=f"{ECR}/app", hours=1),
    rollout(HELD, "neither tag nor digest", "paused", 1, image=f"{ECR}/app"),
    rollout(HELD, "its rollout is paused", "paused", 1, "Complete", **ONE_SHOT),
    rollout(HELD, "its rollout is updating", "updating", 1, "Pending"),
    row(FAILED, "others need the token", "Complete", "Rejected", "Running", **ONE_SHOT),
    row(*IS_STARTING, "Pending", "Running", is_sorted=False),
]


@pytest.mark.parametrize("outcome, says, it", [*KINDS, *TASKS, *ROLLOUTS, *ORDER])
def test_decision(outcome: str, says: str, it: Service) -> None:
    assert decided(it)[0] == outcome
    assert says in decided(it)[1]


def test_a_rollback_has_no_way_back() -> None:
    for state in ("rollback_started", "rollback_paused", "unheard_of"):
        it = made("Running*", rollout=state)
        assert "docker service rollback" not in decided(it)[1]


RESTARTS = made("Running", is_sorted=False, hours=5)
LEFTOVER = made("Running@a", "Running@a", "Shutdown@b", replicas=2, hours=7, **ONE_SHOT)
ENDED_HOURS_AGO = {"rollout": "completed", "changed": TEMPLATE}
NO_RESTART, KEEP_2, ALL = {"no_restart": True}, {"keep_rollback": 2}, {"all_services": True}


@pytest.mark.parametrize(
    "it, chosen, outcome, says",
    [
        # --no-restart
        (RESTARTS, NO_RESTART, HELD, "its tasks restart: the docker client sorts"),
        (made("Running", difference=PLACED), NO_RESTART, HELD, "another placement"),
        (made("Running", difference=PLACED, quiet_hours=6), NO_RESTART, OVERDUE, "another pl"),
        (made("Pending"), {}, HELD, "its tasks are starting"),
        (made("Pending", quiet_hours=6), {}, OVERDUE, "its tasks are starting"),
        (LEFTOVER, NO_RESTART, HELD, "after it was scaled down"),
        (made("Running"), NO_RESTART, *IS_DUE),
        # --keep-rollback
        (made("Running", hours=1, **ENDED_HOURS_AGO), KEEP_2, LEFT, "kept for 2 hours"),
        (made("Running", hours=1.9, **ENDED_HOURS_AGO), KEEP_2, LEFT, "kept for 2 hours"),
        (made("Running", hours=2, **ENDED_HOURS_AGO), KEEP_2, *IS_DUE),
        (made("Running", hours=0, **ENDED_HOURS_AGO), {"keep_rollback": 0}, *IS_DUE),
        (made("Running", hours=1), KEEP_2, *IS_DUE),
        (made("Running", hours=1, rollout="rollback_completed", changed=TEMPLATE), KEEP_2, *IS_DUE),
        (made("Running", hours=1, rollout="completed"), KEEP_2, *IS_DUE),
        (made("Complete", hours=1, **ENDED_HOURS_AGO, **ONE_SHOT), KEEP_2, LEFT, "is kept"),
        # --all-services
        (made("Running"), ALL, *IS_DUE),
        (made("Running", image="nginx"), ALL, DUE, "although its image is in no ECR registry"),
        (made("Complete", mode="GlobalJob"), ALL, DUE, "although it is a job, and would"),
        (made("Running", rollout="unheard_of", changed=TEMPLATE), ALL, DUE, "its rollout is unhe"),
        (made("Complete", **ONE_SHOT), ALL, DUE, "tasks would run again"),
        (made("Running", image=f"{ELSEWHERE}/app:1"), ALL, HELD, "in another registry when"),
        (made("Pending"), ALL, DUE, "although its tasks are starting"),
        (made("Running", image=f"{ECR}/app"), ALL, DUE, "neither tag nor digest"),
        (made("Complete", "Rejected", **ONE_SHOT), ALL, DUE, "others need"),
    ],
)  # fmt: skip
def test_options(it: Service, chosen: dict[str, Any], outcome: str, says: str) -> None:
    assert decided(it, **chosen)[0] == outcome
    assert says in decided(it, **chosen)[1]


@pytest.mark.parametrize("facts", [{"is_sorted": False}, {"difference": PLACED}])
def test_what_restarts_runs_what_its_tag_means_by_then(facts: dict[str, Any]) -> None:
    pinned, tagged = (
        decided(made("Running", image=f"{ECR}/app{ending}", **facts))[1]
        for ending in (":1@sha256:0", ":1")
    )

    assert "tag" not in pinned
    assert tagged.endswith("; they will run whatever the tag of their image points to by then")


# Whoever adds a row --------------------------------------------------------------------------------

# By the reason in the row's third place in spare(): a service that is of this row.
CASES: dict[str, Service] = {
    "ELSEWHERE": made("Running", image="nginx:1"),
    "MOVED": made("Running", image=f"{ELSEWHERE}/app:1"),
    "IS_JOB": made("Complete", mode="GlobalJob"),
    "UNKNOWN_MODE": made("Running", mode="Thing"),
    "NO_TAG": made("Running", image=f"{ECR}/app"),
    "ROLLOUT": made("Running*", rollout="paused", changed=TEMPLATE),
    "KEPT": made("Running", hours=1, **ENDED_HOURS_AGO),
    "LEFTOVER": LEFTOVER,
    "CHOOSE": made("Complete", "Rejected", **ONE_SHOT),
    "PART_FINISHED": made("Complete", "Running", **ONE_SHOT),
    "FINISHED": made("Complete", **ONE_SHOT),
    "IS_STARTING": made("Pending"),
    "stops": made("Running", difference=PLACED),
    "PULLS": made("Running"),
}
# The constant of a row that has its reason from a variable.
CONSTANTS = {"stops": "PLACED"}
# What the README calls what stands in the second place in spare().
IN_README = {
    "LEFT": "left alone",
    "HELD": "held back",
    "by_rollout": "held back",
    "by_change": "held back",
    "by_end": "held back",
    "restart": "refreshed",
    "DUE": "refreshed",
    "FAILED": "failed",
}


def rows_of_the_policy() -> list[tuple[str, str]]:
    """The table in spare(): outcome and reason of each row, as they are written there."""
    tree = ast.parse((ROOT / "ecr_swarm_login.py").read_text())
    [spare] = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "spare"
    ]
    [table] = [
        node.value
        for node in ast.walk(spare)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "table"
    ]
    assert isinstance(table, ast.Tuple)
    rows = [node for node in table.elts if isinstance(node, ast.Tuple)]
    return [(ast.unparse(row.elts[1]), ast.unparse(row.elts[2])) for row in rows]


def rows_of_the_readme() -> list[tuple[str, str]]:
    """The README's table of the policy: which service, and the first word in bold of what follows.

    Its first row is about logins that failed, and its last one, anything else, is that of PULLS.
    """
    readme = (ROOT / "README.md").read_text()
    table = re.search(r"(?m)^\| *the service *\|.*\n\|[-| ]*\n((?:\|.*\n)+)", readme)
    assert table, "the README has no table any more that begins with: | the service |"
    rows = [line.strip("| ").split("|", 1) for line in table[1].splitlines()]
    return [(who, (re.findall(r"\*\*(.*?)\*\*", what) or [what])[0]) for who, what in rows]


@pytest.mark.parametrize("reason", [reason for _, reason in rows_of_the_policy()])
def test_each_row_of_the_policy_has_a_case(reason: str) -> None:
    assert reason in CASES, (
        f"spare() has a row with the reason {reason}: add a service that is of this row to CASES in"
        f" {Path(__file__).name}, under this name, and what else decides about it to the tables"
    )
    text = getattr(script, CONSTANTS.get(reason, reason))
    it, chosen = CASES[reason], options(keep_rollback=2)

    assert script.spare(it, ECR, chosen)[1] == text.format(it, chosen), (
        f"the service that CASES has for {reason} is of another row of spare()"
    )


def test_no_case_is_of_a_row_that_has_gone() -> None:
    gone = CASES.keys() - {reason for _, reason in rows_of_the_policy()}

    assert not gone, f"spare() has no such rows any more: take them out of CASES: {gone}"


def test_each_row_of_the_policy_is_in_the_readme() -> None:
    policy, (_, *readme) = rows_of_the_policy(), rows_of_the_readme()

    for number, (outcome, reason) in enumerate(policy):
        who, says = readme[number] if number < len(readme) else ("nothing", "nothing")
        assert outcome in IN_README, f"add {outcome}, in the README's words, to IN_README"
        assert says == IN_README[outcome], (
            f"row {number + 1} of spare(), {reason}, is {IN_README[outcome]!r}, and in the README's"
            f" table the row in its place ({who.strip()}) is {says!r}: the table has a row for each"
            " row of spare(), in the same order, after a first one for logins that failed"
        )
    assert len(readme) == len(policy), f"spare() has no row for: {readme[len(policy) :]}"
