"""What happens to services of every kind: one or two of each row of the policy, in whole runs.

The policy itself, case by case, is in unit/test_policy.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from pretend.calls import REGION, Run, is_untouched
from pretend.logins import OWN_LOGIN
from pretend.runner import Answers
from pretend.services import ECR, MISSING, ONE_SHOT, PAUSED, TOKEN_ONLY, UNSORTED, login_opens
from pretend.swarm import PretendSwarm

Reason = Callable[[str], str]

SPARED, HELD, TOO_LONG, FAILED = "left alone: ", "held back: ", "held back too long: ", "failed: "
STATUSES = {SPARED: 0, HELD: 0, TOO_LONG: 3, FAILED: 1}

UNREADABLE = "docker's output is unexpected, or "
NO_TAG = {"image": f"{ECR}/app", "has_digest": False}
UNKNOWN_MODE = {"mode": "replicated thing", "inspect": {"Spec.Mode": {"ReplicatedThing": {}}}}
UPDATING = {**PAUSED, "rollout": "updating"}
LOST = "Running/Shutdown"  # its node is down

UNTOUCHED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "an image of another registry": (SPARED, "elsewhere", {"image": "nginx:1"}),
    "one with a login": (SPARED, "elsewhere", {"image": "ghcr.io/a/b:1", "credentials": OWN_LOGIN}),
    "a look-alike of ECR": (SPARED, "elsewhere", {"image": f"{ECR}.evil.example/web:1"}),
    "a replicated job": (SPARED, "a job", {"mode": "replicated job", **ONE_SHOT}),
    "a global job": (SPARED, "a job", {"mode": "global job", **ONE_SHOT}),
    "an unknown mode": (HELD, "of an unknown mode", {**UNKNOWN_MODE, "created_hours_ago": 1}),
    "an unknown mode, for long": (TOO_LONG, "of an unknown mode", UNKNOWN_MODE),
    "no tag": (HELD, "without a tag", {**NO_TAG, "created_hours_ago": 1}),
    "no tag, for long": (TOO_LONG, "without a tag", NO_TAG),
    "a rollout under way": (HELD, "amid a rollout", UPDATING),
    "one on its way back": (
        HELD,
        "amid a rollout",
        {**PAUSED, "rollout": "rollback_started"},
    ),
    "one that will go back": (
        TOO_LONG,
        "amid a rollout",
        {
            "rollout": "updating",
            "previous": f"{ECR}/app:1",
            "hours_ago": 7,
            "on_failure": "rollback",
        },
    ),
    "a rollout in an unknown state": (
        HELD,
        "amid a rollout",
        {**PAUSED, "rollout": "unheard_of"},
    ),
    "a paused rollout": (HELD, "amid a rollout", PAUSED),
    "a paused rollout, for long": (TOO_LONG, "amid a rollout", {**PAUSED, "hours_ago": 6.1}),
    "a paused rollout of ports alone": (
        TOO_LONG,
        "amid a rollout",
        {"rollout": "paused", "then": "endpoint", "hours_ago": 7, "slots": ["Running 8 hours"]},
    ),
    "a paused rollout that a loop has met": (
        HELD,
        "amid a rollout",
        {**PAUSED, "previous": f"{ECR}/app:2", "oldest": f"{ECR}/app:1"},
    ),
    "a one-shot": (SPARED, "finished", {"restart": "none", **ONE_SHOT}),
    "a one-shot that failed, on a node": (
        SPARED,
        "finished",
        {"mode": "global", "restart": "on-failure", **ONE_SHOT},
    ),
    "tasks of which some have finished": (
        HELD,
        "half finished",
        {"restart": "on-failure", "replicas": "1/2"},
    ),
    "the same, for long": (
        TOO_LONG,
        "half finished",
        {"restart": "on-failure", "replicas": "1/2", "changed_hours_ago": 6},
    ),
    "a lost node": (HELD, "half finished", {"restart": "none", "replicas": "1/2", "others": LOST}),
    "finished tasks beside those without a token": (
        FAILED,
        "half finished, and lacks a token",
        {"slots": ["Complete", "Rejected", "Running"], "restart": "none"},
    ),
    "starting tasks": (HELD, "starting", {"replicas": "1/2", "others": "Preparing"}),
    "starting tasks, for long": (
        TOO_LONG,
        "starting",
        {"replicas": "0/10", "others": "Pending 5 hours", "changed_hours_ago": 6.1},
    ),
    # It fails closed.
    "a task in an unknown state": (
        FAILED,
        UNREADABLE,
        {"slots": ["Sleeping"]},
    ),
    "no task at all": (
        FAILED,
        "docker lists none of its 2 tasks",
        {"slots": [], "scaled_to": 2},
    ),
    "a document without a spec": (
        FAILED,
        UNREADABLE,
        {"inspect": {"Spec.TaskTemplate": MISSING}},
    ),
    "another name": (
        FAILED,
        "docker shows another-name for ID ",
        {"inspect": {"Spec.Name": "another-name"}},
    ),
}


@pytest.mark.parametrize("says, row, facts", UNTOUCHED.values(), ids=UNTOUCHED)
def test_what_is_not_touched(
    run: Run, swarm: PretendSwarm, reason: Reason, says: str, row: str, facts: dict[str, Any]
) -> None:
    swarm.add("web")
    swarm.add("it", **facts)
    before = json.dumps(swarm.service("it"))

    outcome = run()

    assert outcome.status == STATUSES[says]
    # An alarm is for the last line.
    said = f"; {says}it: {reason(row)}" if STATUSES[says] else f"it {says}{reason(row)}"
    assert re.search(said, outcome.stderr)
    assert outcome.refreshed == ["web"]
    assert json.dumps(swarm.service("it")) == before


REFRESHED: dict[str, dict[str, Any]] = {
    "a healthy service": {},
    "a global one": {"mode": "global"},
    "one of no replicas": {"replicas": "0/0"},
    "one that may finish": {"restart": "none", "replicas": "2/2"},
    "after a rollout": {"rollout": "completed", "previous": f"{ECR}/app:1"},
    "rejected tasks": {"restart": "on-failure", "replicas": "1/3", "others": "Rejected"},
    "a refresh that met an outage": TOKEN_ONLY,
    "a rollout that waits for a node": {
        "slots": ["Running", "Pending 7 hours"],
        "rollout": "updating",
        "previous": f"{ECR}/app:1",
        "hours_ago": 7,
    },
    "starting for half a token's lifetime": {"replicas": "1/2", "others": "Pending 6 hours"},
    "starting after a rejection": {"replicas": "1/2", "others": "Preparing", "past": ["Rejected"]},
    "tasks that start, and are spared": {"slots": ["Starting", "Ready"]},
    "former ends of tasks": {"restart": "on-failure", "past": ["Failed", "Complete"]},
    "after a scale-down": {
        "slots": ["Running", "Running", "Shutdown"],
        "restart": "on-failure",
        "scaled_to": 2,
    },
    "scaled to nothing": {"slots": ["Complete", "Failed"], "restart": "none", "scaled_to": 0},
    "a drained node": {"slots": ["Running", "Shutdown"], "mode": "global", "max_attempts": 3},
    "sorted mounts": {"mounts": [("a", "/b"), ("b", "/a")]},
}


@pytest.mark.parametrize("facts", REFRESHED.values(), ids=REFRESHED)
def test_what_is_refreshed(run: Run, swarm: PretendSwarm, facts: dict[str, Any]) -> None:
    """And not harmed."""
    swarm.set_node(2, availability="drain")
    swarm.add("it", **facts)

    outcome = run()

    it = swarm.service("it")
    assert (outcome.status, outcome.refreshed) == (0, ["it"])
    assert outcome.last_line.startswith("1 login, 1 refreshed in ")
    assert (it["version"], it["runs"], it["restarted"]) == (2, 1, 0)
    assert login_opens(it)


HERE = {"Constraints": ["node.platform.os==linux"]}
RESTARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "another constraint": ("misplaced", {"placement": HERE, "placed": {}}),
    "none any more": ("misplaced", {"placed": HERE, "mode": "global", "replicas": "2/2"}),
    "then other labels": ("misplaced", {"placement": HERE, "placed": {}, "then": "labels"}),
    "after a rollout": ("misplaced", {"placement": HERE, "placed": {}, "rollout": "completed"}),
    "mounts that are not sorted": ("unsorted", UNSORTED),
}


@pytest.mark.parametrize("row, facts", RESTARTS.values(), ids=RESTARTS)
def test_whose_tasks_restart_is_said_beforehand(
    run: Run, swarm: PretendSwarm, reason: Reason, row: str, facts: dict[str, Any]
) -> None:
    """By a dry run, too; and no more once they have restarted."""
    swarm.add("it", **facts)
    foretold = f"it will be refreshed, which restarts its tasks: {reason(row)}"

    dry, held, first, second = run("-n"), run("--no-restart"), run(), run()

    assert re.search(foretold, dry.stderr) and re.search(foretold, first.stderr)
    assert re.search(f"it held back: {reason(row)}", held.stderr) and not held.refreshed
    assert first.last_line.startswith("1 login, 1 refreshed, 1 restarted in ")
    assert second.refreshed == ["it"] and "restart" not in second.stderr
    assert swarm.service("it")["restarted"] in (1, 2)


def test_a_rollout_under_way_still_goes_back(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("web", **UPDATING, on_failure="rollback")

    run("--region", REGION)
    swarm.let_time_pass()

    assert swarm.service("web")["went_back"]


def test_what_was_left_alone_may_be_refreshed_later(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("web", slots=["Preparing"])

    assert run().refreshed == []
    swarm.service("web")["slots"][0][0]["state"] = "Running"

    assert run().refreshed == ["web"]


def test_a_second_run_refreshes_again(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("web")

    tokens = [swarm.service("web")["credentials"] for _ in range(2) if run().refreshed == ["web"]]

    assert len(set(tokens)) == 2


# The public reports, by the numbers that they have there ---------------------------------------

SPELLED = {**PAUSED, "image": f"{ECR}/app:2+any", "previous": f"{ECR}/app:2"}


def test_a_paused_rollout_that_an_empty_update_has_wiped_away(
    run: Run, swarm: PretendSwarm, reason: Reason
) -> None:
    """0: it resumes nothing, and then neither UpdateStatus nor PreviousSpec shows it."""
    facts = {"previous": f"{ECR}/app:2", "oldest": f"{ECR}/app:1", "rollout": None}
    swarm.add("web", **{**PAUSED, **facts})

    dry, first, second = run("--dry-run"), run(), run()

    for outcome in (dry, first, second):
        assert re.search(f"web held back: {reason('behind')}", outcome.stderr)
        assert outcome.status == 0 and "update --with-registry-auth web" in outcome.stderr
    assert is_untouched(swarm, "web")


def test_an_empty_update_hides_no_changed_placement(
    run: Run, swarm: PretendSwarm, reason: Reason
) -> None:
    """0b: the restart is foreseen."""
    swarm.add("web", placement=HERE, placed={}, then="nothing")

    outcome = run("--dry-run")

    foretold = f"web will be refreshed, which restarts its tasks: {reason('misplaced')}"
    assert re.search(foretold, outcome.stderr)


@pytest.mark.parametrize("rollout", ["paused", "updating"])
def test_a_rollout_that_only_spells_out_a_default(
    run: Run, swarm: PretendSwarm, rollout: str
) -> None:
    """1, 1b: swarm compares what is stored, and replaces each task for it."""
    swarm.add("web", **{**SPELLED, "rollout": rollout, "on_failure": "rollback"})

    outcomes = [run(), run()]

    assert [outcome.status for outcome in outcomes] == [0, 0]
    assert all(f"web held back: its rollout is {rollout}" in each.stderr for each in outcomes)
    assert is_untouched(swarm, "web")


def test_a_refresh_that_has_paused_itself(run: Run, swarm: PretendSwarm) -> None:
    """1c: the token that it brought was expired."""
    swarm.add("web", **TOKEN_ONLY)

    assert run().refreshed == ["web"]
    assert swarm.service("web")["restarted"] == 0


@pytest.mark.parametrize("previous, is_named", [("app:1", True), ("app:2", False)])
def test_a_way_back_is_named_where_it_leads_back(
    run: Run, swarm: PretendSwarm, previous: str, is_named: bool
) -> None:
    """2: after a rollout that was resumed by hand PreviousSpec is Spec."""
    facts = {"previous": f"{ECR}/{previous}", "oldest": f"{ECR}/app:1"}
    swarm.add("web", **{**PAUSED, **facts})

    outcome = run()

    assert "web held back: its rollout is paused" in outcome.stderr
    assert ("docker service rollback web" in outcome.stderr) is is_named


CONTAINER = "Spec.TaskTemplate.ContainerSpec"
UNKNOWN = {f"{CONTAINER}.OomScoreAdj": 5, f"{CONTAINER}.Healthcheck.StartInterval": 10**9}


def test_a_client_that_is_older_than_the_engine(run: Run, swarm: PretendSwarm) -> None:
    """3: it would drop the settings that it does not know, and nobody else's."""
    swarm.state.update(client_api="1.41", engine_api="1.55")
    swarm.add("web")
    swarm.add("tuned", unknown_to_client=UNKNOWN, created_hours_ago=1)

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (0, ["web"])
    text = "tuned held back: the docker client predates the engine"
    [line] = [line for line in outcome.lines if line.startswith(text)]
    for word in ("OomScoreAdj", "Healthcheck", "1.41", "1.55", " -> update the client"):
        assert word in line
    assert is_untouched(swarm, "tuned")


def test_an_older_client_is_a_warning_for_long(run: Run, swarm: PretendSwarm) -> None:
    swarm.state.update(client_api="1.41", engine_api="1.55")
    swarm.add("tuned", unknown_to_client=UNKNOWN)

    outcome = run()

    assert outcome.status == 3 and "; held back too long: tuned: " in outcome.stderr


@pytest.mark.parametrize("client, engine", [("1.55", "1.55"), ("1.55", "1.9")])
def test_a_client_that_is_not_older_is_asked_nothing_more(
    run: Run, programs: Answers, swarm: PretendSwarm, client: str, engine: str
) -> None:
    """Versions are numbers: 1.9 is older than 1.55."""
    swarm.state.update(client_api=client, engine_api=engine)
    swarm.add("web", unknown_to_client=UNKNOWN)

    assert run().refreshed == ["web"]
    assert not programs.calls_of("docker", "inspect", "--type", "service")


def test_a_node_that_docker_does_not_show(run: Run, swarm: PretendSwarm) -> None:
    """4: it has no part in the service."""
    swarm.set_node(2, state="gone")
    swarm.add("web", slots=["Running", "Complete"], mode="global", restart="on-failure")

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (0, ["web"])
    assert swarm.service("web")["runs"] == 1


# Options --------------------------------------------------------------------------------------


def test_all_services(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("job", mode="global job", **ONE_SHOT)
    swarm.add("other", "nginx:1")
    swarm.add("stuck", **PAUSED)
    swarm.add("once", restart="none", **ONE_SHOT)
    swarm.add("pending", replicas="0/1", others="Pending")

    outcome = run("--all-services")

    assert outcome.status == 0
    assert outcome.refreshed == ["job", "once", "other", "pending", "stuck"]
