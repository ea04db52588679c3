"""Which services: what whole runs do to services of every kind, and when services come and go."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from fakes import Fakes
from pretend_logins import EXPIRED, OWN_LOGIN
from pretend_services import MISSING, all_tasks, login_opens
from pretend_swarm import ECR, ECR_US, UPDATE, PretendSwarm
from shared import (
    INSPECT,
    LOGIN,
    ONE_SHOT,
    PAUSED,
    REGION,
    TOKEN,
    TOKEN_ONLY,
    UNSORTED,
    Run,
    hosts_logged_in,
    is_untouched,
    last_line,
    refreshed,
)

NOT_ECR = "left alone: its image is in no ECR registry"
IS_JOB = "left alone: it is a job"
IS_OVER = "left alone: its finished tasks would run again"
IN_PART = "some tasks have finished, and would run again; to refresh it all the same"
STARTING = "held back: its tasks are starting, and an update would start them once more"
UPDATING = {**PAUSED, "rollout": "updating"}
GLOBAL_FINISHED = {**ONE_SHOT, "mode": "global", "restart": "on-failure"}
LOST = "Running 2 hours/Shutdown"  # its node is down
PORTS = {"Spec.EndpointSpec": {"Ports": [{"TargetPort": 80}]}}
UNKNOWN_MODE = {"mode": "replicated thing", "inspect": {"Spec.Mode": {"ReplicatedThing": {}}}}
UNKNOWN_STATE = "docker shows a task of it in an unknown state"
NOT_HERE = {"Constraints": ["node.labels.zone==other"]}
AT_NO_TIME = {"UpdateStatus.StartedAt": "yesterday"}
NO_TAG = {"image": f"{ECR}/app", "has_digest": False}


def slots(*slots: list[str], **facts: Any) -> dict[str, Any]:
    """A service with these tasks, slot by slot, the newest first."""
    return {"slots": list(slots), **facts}


# What is said, facts, by the exit status.
UNTOUCHED: dict[int, list[tuple[str, dict[str, Any]]]] = {
    0: [
        (NOT_ECR, {"image": "nginx:1"}),
        (NOT_ECR, {"image": "ghcr.io/a/b:1", "credentials": OWN_LOGIN}),
        (NOT_ECR, {"image": f"{ECR}.evil.example/web:1"}),
        (IS_JOB, {"mode": "replicated job", **ONE_SHOT}),
        (IS_JOB, {"mode": "global job", **ONE_SHOT}),
        (IS_OVER, {"restart": "none", **ONE_SHOT}),
        (IS_OVER, {"restart": "on-failure", **ONE_SHOT}),
        (IS_OVER, {"restart": "none", "replicas": "0/1", "others": "Failed"}),
        (IS_OVER, {"restart": "any", "max_attempts": 3, **ONE_SHOT}),
        (IS_OVER, GLOBAL_FINISHED),
        (IS_OVER, {"restart": "none", **ONE_SHOT, "past": ["Rejected"]}),
        (IS_OVER, {"mode": "global", "restart": "none", **ONE_SHOT, "others": "Shutdown"}),
        (IS_OVER, {"mode": "global", "restart": "none", **ONE_SHOT, "others": LOST}),
        (f"held back: {IN_PART}", {"restart": "on-failure", "replicas": "1/2"}),
        (f"held back: {IN_PART}", {"restart": "none", "replicas": "1/2", "others": LOST}),
        (f"held back: {IN_PART}", {**GLOBAL_FINISHED, "replicas": "1/2"}),
        (f"held back: {IN_PART}", slots(["Complete"], ["Pending"], restart="on-failure")),
        ("held back: its rollout is updating", UPDATING),
        ("held back: its rollout is rollback_started", {**PAUSED, "rollout": "rollback_started"}),
        ("held back: its rollout is rollback_paused", {**PAUSED, "rollout": "rollback_paused"}),
        ("held back: its rollout is paused", PAUSED),
        ("held back: its rollout is unheard_of", {**PAUSED, "rollout": "unheard_of"}),
        ("held back: its rollout is paused", {**PAUSED, "hours_ago": 5.9}),
        ("held back: its mode is ", {**UNKNOWN_MODE, "created_hours_ago": 1}),
        ("held back: its image has neither tag nor", {**NO_TAG, "created_hours_ago": 1}),
        (STARTING, {"replicas": "1/2", "others": "Preparing"}),
        (STARTING, {"replicas": "0/1", "others": "Assigned", "restart": "none"}),
        (STARTING, {"mode": "global", "replicas": "1/2", "others": "Accepted"}),
        (STARTING, {"replicas": "0/10", "others": "Pending 5 hours"}),
        (STARTING, slots(["Preparing", "Shutdown", "Rejected"])),
        # as while a rollout of a healthy image goes on, or a node is drained
        (STARTING, slots(["Preparing", "Running 2 hours/Shutdown"])),
        # a loop ran meanwhile: the previous spec is the spec, and only the tasks still show what
        # is rolled out
        (
            "held back: its rollout is paused",
            {**PAUSED, "previous": f"{ECR}/app:2", "oldest": f"{ECR}/app:1"},
        ),
        (
            "held back: its rollout is paused",
            {**PAUSED, "previous": f"{ECR}/app:2", "inspect": PORTS},
        ),
    ],
    3: [
        ("held back too long: its rollout is paused", {**PAUSED, "hours_ago": 6.1}),
        ("held back too long: its rollout is updating", {**UPDATING, "hours_ago": 6.1}),
        (
            "held back too long: its rollout is updating",
            {
                "rollout": "updating",
                "previous": f"{ECR}/app:1",
                "hours_ago": 7,
                "on_failure": "rollback",
            },
        ),
        # a rollout of ports alone: the old ones are in no task that docker shows
        (
            "held back too long: its rollout is paused",
            slots(["Running 8 hours"], **TOKEN_ONLY, hours_ago=7, inspect=PORTS),
        ),
        ("held back too long: its mode is ", UNKNOWN_MODE),
        ("held back too long: its image has neither tag nor digest", NO_TAG),
        (
            f"held back too long: {IN_PART}",
            {"restart": "on-failure", "replicas": "1/2", "others": "Complete 6 hours"},
        ),
    ],
    1: [
        (
            "failed: some tasks have finished, and would run again; others need the token",
            slots(["Complete"], ["Rejected"], ["Running"], restart="on-failure"),
        ),
        # It fails closed.
        (f"failed: {UNKNOWN_STATE}: Running, Sleeping 2 hours ago", slots(["Sleeping"])),
        (f"failed: {UNKNOWN_STATE}: Running, running 2 hours ago", slots(["running"])),
        (f"failed: {UNKNOWN_STATE}: sleeping, ", slots(["Running 2 hours/sleeping"])),
        (f"failed: {UNKNOWN_STATE}", slots(["Complete a while"], restart="none")),
        ("failed: docker lists none of its 2 tasks", {"slots": [], "scaled_to": 2}),
        (
            "failed: docker shows what cannot be read: KeyError(",
            {"inspect": {"ID": "id"}},
        ),
        ("failed: docker shows what cannot be read", {**PAUSED, "inspect": AT_NO_TIME}),
        ("failed: docker shows what cannot be read", {"inspect": {"Spec.TaskTemplate": MISSING}}),
        ("failed: docker shows what cannot be read", {"inspect": {"Spec.Mode": None}}),
        ("failed: docker shows what cannot be read", {"max_attempts": "three"}),
        ("failed: docker shows a-web for its ID", {"inspect": {"Spec.Name": "a-web"}}),
    ],
}

REFRESHED: list[dict[str, Any]] = [
    {"mode": "global"},
    {"replicas": "0/0"},
    {"restart": "none", "replicas": "2/2"},
    {"restart": "on-failure", "replicas": "2/2"},
    {"rollout": "completed", "previous": f"{ECR}/app:1"},
    {"rollout": "rollback_completed", "previous": f"{ECR}/app:1"},
    {"replicas": "0/1", "others": "Rejected"},
    {"restart": "none", "replicas": "0/1", "others": "Rejected"},
    {"restart": "on-failure", "replicas": "1/3", "others": "Rejected"},
    {"mode": "global", "restart": "on-failure", "replicas": "1/3", "others": "Rejected"},
    # a refresh that met an outage of the registry: nothing is left to roll out
    TOKEN_ONLY,
    {**TOKEN_ONLY, "replicas": "1/2", "others": "Rejected"},
    {"rollout": "rollback_paused", "replicas": "1/2", "others": "Rejected"},
    # a rollout that has waited for a node for 7 hours, with nothing of the old left to lose
    slots(["Running"], ["Pending 7 hours"], rollout="updating", hours_ago=7),
    {"rollout": "paused", "previous": f"{ECR}/app:1", "hours_ago": 7},
    # tasks that may be waiting for a token
    {"replicas": "1/2", "others": "Pending 6 hours"},
    {"replicas": "0/2", "others": "Preparing 2 days"},
    {"replicas": "1/2", "others": "Preparing", "past": ["Rejected"]},
    # tasks that start, which an update spares
    slots(["Starting"], ["Ready"]),
    # a former end in a slot in which something runs again, or was not let in
    {**TOKEN_ONLY, "past": ["Shutdown", "Failed"]},
    {"restart": "on-failure", "past": ["Failed", "Complete"]},
    {"restart": "on-failure", "mode": "global", "replicas": "2/2", "past": ["Failed"]},
    {"restart": "none", "replicas": "0/2", "others": "Rejected", "past": ["Complete"]},
    # a slot that is no more
    slots(["Running"], ["Complete/Remove"], restart="on-failure", scaled_to=1),
    # after a scale-down, also to 0, swarm still lists the tasks that went
    slots(["Running"], ["Running"], ["Shutdown"], restart="on-failure", scaled_to=2),
    slots(["Shutdown"], ["Shutdown"], restart="on-failure", scaled_to=0),
    slots(["Complete"], ["Failed"], restart="none", scaled_to=0),
    # a global service, one of whose nodes is drained: see the test
    slots(["Running"], ["Shutdown"], mode="global", max_attempts=3),
    slots(["Running"], ["Shutdown"], mode="global", restart="on-failure"),
    slots(["Running"], ["Complete"], mode="global", restart="on-failure"),
    slots(["Running"], [LOST], mode="global", restart="none"),
    # it no longer meets the constraints
    slots(["Running"], ["Complete"], mode="global", restart="on-failure", placement=NOT_HERE),
    {"mounts": [("a", "/b"), ("b", "/a")]},
]

HERE = {"Constraints": ["node.platform.os==linux"]}
SPREAD = {"Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.zone"}}]}
OTHER_PLACE = "to be refreshed: its tasks restart: they have another placement than the service"
# What is said beforehand of those that restart, facts.
RESTARTS: list[tuple[str, dict[str, Any]]] = [
    (OTHER_PLACE, {"placement": HERE, "placed": {}}),
    (OTHER_PLACE, {"placement": HERE, "placed": {}, "restart": "on-failure"}),
    (OTHER_PLACE, {"placement": SPREAD, "placed": {}}),
    (OTHER_PLACE, {"placement": {"MaxReplicas": 2}, "placed": {}}),
    (OTHER_PLACE, {"placement": {}, "placed": HERE, "mode": "global", "replicas": "2/2"}),
    (OTHER_PLACE, {"placement": HERE, "placed": {}, "then": "labels"}),
    (OTHER_PLACE, {"placement": HERE, "placed": {}, "then": "replicas"}),
    (OTHER_PLACE, {"placement": HERE, "placed": {}, "rollout": "completed"}),
    ("to be refreshed: its tasks restart: the docker client sorts its mounts", UNSORTED),
]


@pytest.mark.parametrize("status", UNTOUCHED)
def test_services_that_are_not_touched(run: Run, swarm: PretendSwarm, status: int) -> None:
    swarm.add("web")
    for number, (_, facts) in enumerate(UNTOUCHED[status]):
        swarm.add(f"it-{number}", **facts)
    before = json.dumps(swarm.services[1:])

    outcome = run()

    assert (outcome.status, outcome.stdout) == (status, "web\n")
    expected = [f"it-{number} {says}" for number, (says, _) in enumerate(UNTOUCHED[status])]
    assert [says for says in expected if says not in outcome.stderr] == []
    assert json.dumps(swarm.services[1:]) == before


def test_services_that_are_refreshed(run: Run, swarm: PretendSwarm) -> None:
    """None of them is harmed."""
    swarm.set_node(2, availability="drain")
    for number, facts in enumerate(REFRESHED):
        swarm.add(f"it-{number}", **facts)
    swarm.service("it-9")["mode"] = "replicated"  # its nodes are not those that are drained

    outcome = run()

    assert outcome.status == 0, outcome.stderr
    assert refreshed(outcome) == sorted(service["name"] for service in swarm.services)
    assert last_line(outcome).startswith(f"1 login, {len(REFRESHED)} refreshed in ")
    for it in swarm.services:
        assert it["version"] == 2 and it["runs"] == 1 and it["restarted"] == 0, it
        assert login_opens(it), it


def test_services_whose_tasks_restart(run: Run, swarm: PretendSwarm) -> None:
    """It is said beforehand, also by a dry run, and no more once they have restarted."""
    for number, (_, facts) in enumerate(RESTARTS):
        swarm.add(f"it-{number}", **facts)
    expected = [f"it-{number} {says}" for number, (says, _) in enumerate(RESTARTS)]

    foretold, held, first, second = run("-n"), run("--no-restart"), run(), run()

    for outcome in (foretold, first):
        assert [says for says in expected if says not in outcome.stderr] == []
    held_back = re.findall("(?m)^it-[0-9]+ held back.*: its tasks restart: ", held.stderr)
    assert held.stdout == "" and len(held_back) == len(RESTARTS)
    assert last_line(first).startswith(
        f"1 login, {len(RESTARTS)} refreshed, {len(RESTARTS)} restarted in "
    )
    assert len(refreshed(second)) == len(RESTARTS)
    assert "restart" not in second.stderr
    assert {it["restarted"] for it in swarm.services} == {1, 2}


def test_a_leftover_that_takes_the_place_of_a_running_task(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("web", **slots(["Running"], ["Running"], ["Shutdown"], restart="none", scaled_to=2))
    for slot, node in zip(swarm.service("web")["slots"], (1, 1, 2)):
        slot[0]["node"] = node

    outcome = run()

    assert "web to be refreshed: its tasks restart: after it was scaled down" in outcome.stderr
    assert "1 refreshed, 1 restarted" in last_line(outcome)


def test_a_rollout_under_way_still_goes_back(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("web", **UPDATING, on_failure="rollback")

    run("--region", REGION)
    swarm.let_time_pass()

    assert swarm.service("web")["went_back"]


def test_a_service_that_was_left_alone_may_be_refreshed_later(
    run: Run, swarm: PretendSwarm
) -> None:
    swarm.add("web", **slots(["Preparing"]))

    assert run()[:2] == (0, "")
    all_tasks(swarm.service("web"))[0]["state"] = "Running"

    assert run()[:2] == (0, "web\n")


def test_what_may_finish_is_refreshed_first(
    run: Run, swarm: PretendSwarm, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "AT_ONCE", 1)
    swarm.add("a-web")
    swarm.add("b-nightly", restart="none")

    assert run().stdout == "b-nightly\na-web\n"


# Which are named


def test_only_the_services_named(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web")
    swarm.add("api")
    swarm.add("us", f"{ECR_US}/us:1")

    outcome = run("web")

    assert (outcome.status, outcome.stdout) == (0, "web\n")
    assert hosts_logged_in(fakes) == [ECR]
    assert is_untouched(swarm, "api") and is_untouched(swarm, "us")


def test_an_unknown_name_leaves_the_others_going(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("web")

    outcome = run("nix", "web")

    assert (outcome.status, outcome.stdout) == (1, "web\n")
    assert "nix failed: there is no such service" in outcome.stderr
    assert "nix" in last_line(outcome)


def test_a_mistyped_name_gets_one_line(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web")

    outcome = run("wbe")

    said = [line for line in outcome.stderr.splitlines()[:-1] if "registry auth" not in line]
    assert said == ["wbe failed: there is no such service: see docker service ls"]
    assert outcome.status == 1
    assert not fakes.calls_of("aws")


# Services that come, go and change meanwhile


@pytest.mark.parametrize("moment", [LOGIN, INSPECT, UPDATE])
def test_a_service_that_goes_meanwhile_is_no_error(
    run: Run, fakes: Fakes, swarm: PretendSwarm, moment: tuple[str, ...]
) -> None:
    swarm.add("web")
    swarm.add("gone")
    fakes.when(*moment, do=lambda: swarm.remove("gone"))

    outcome = run()

    assert (outcome.status, outcome.stdout) == (0, "web\n")
    # It is neither to be refreshed any more nor did anything fail.
    assert "to be refreshed" not in last_line(outcome) and "failed" not in last_line(outcome)


def test_all_services_go_meanwhile(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    for number in range(3):
        swarm.add(f"web-{number}")
    fakes.when(*LOGIN, do=swarm.services.clear)

    assert run()[:2] == (0, "")


def test_a_service_that_came_to_a_registry_meanwhile(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    """Nobody has logged in there: an update would send an empty login."""
    swarm.add("web")
    swarm.add("moved")

    def somebody_deploys() -> None:
        swarm.remove("moved")
        swarm.add("moved", f"{ECR_US}/app:2")

    fakes.when(*LOGIN, do=somebody_deploys)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (0, "web\n")
    assert "moved held back: its image was in another registry" in outcome.stderr
    assert is_untouched(swarm, "moved")


def test_a_rollout_that_began_meanwhile_is_held_back(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("web")

    def somebody_deploys() -> None:
        swarm.remove("web")
        swarm.add("web", **PAUSED)

    fakes.answer(*swarm.update_of("web"), stderr="update out of sequence", exit_status=1)
    fakes.when(*swarm.update_of("web"), do=somebody_deploys)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (0, "")
    assert "web held back: its rollout is paused" in outcome.stderr
    assert "1 held back" in last_line(outcome) and "to be refreshed" not in last_line(outcome)
    assert is_untouched(swarm, "web")


def test_a_scale_up_while_aws_is_slow(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    """The tasks of the moment count, not those at the beginning of the run."""
    swarm.add("web", replicas="1/1")

    def somebody_scales_up() -> None:
        swarm.remove("web")
        swarm.add("web", replicas="1/3", others="Preparing 1 second")

    fakes.when(*TOKEN, do=somebody_scales_up)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (0, "")
    assert f"web {STARTING}" in outcome.stderr
    assert is_untouched(swarm, "web")


def test_all_services(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("job", mode="global job", **ONE_SHOT)
    swarm.add("other", "nginx:1")
    swarm.add("stuck", **PAUSED)
    swarm.add("once", restart="none", **ONE_SHOT)
    swarm.add("pending", replicas="0/1", others="Pending")

    outcome = run("--all-services")

    assert outcome.status == 0
    assert refreshed(outcome) == ["job", "once", "other", "pending", "stuck"]


def test_all_services_does_not_wipe_a_login_that_failed(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("web")
    swarm.add("other", "nginx:1")
    fakes.answer(*TOKEN, fakes.fp.any(), exit_status=254, stderr="denied", times=4)

    outcome = run("--all-services")

    assert (outcome.status, outcome.stdout) == (1, "other\n")
    assert swarm.service("web")["credentials"] == EXPIRED
