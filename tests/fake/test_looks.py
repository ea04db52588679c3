"""Which looks decide: at the tasks of the moment, at histories, at specs; and the look again."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
from fakes import Fakes
from pretend_services import login_opens
from pretend_swarm import ECR, UPDATE, PretendSwarm, running
from shared import (
    INSPECT,
    LOGIN,
    LS,
    ONE_SHOT,
    PAUSED,
    PS,
    SPECS,
    STATUS,
    TOKEN_ONLY,
    UNSORTED,
    Run,
    ids_in,
    is_untouched,
    last_line,
    looks_at_histories,
    looks_at_wanted_tasks,
    refreshed,
)

WAITS = {"replicas": "1/2", "others": "Preparing"}
WANTED = ["--filter", "desired-state=ready", "--filter", "desired-state=running"]
CRASH_LOOP = {"replicas": "0/1", "others": "Failed 1 second"}


def batches_of(script: Any, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Have fewer services in a batch than the script has."""
    monkeypatch.setattr(script, "BATCH", number)


# Which looks


def test_the_wanted_tasks_of_each_ecr_service_are_asked_for(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("web")
    swarm.add("api", mode="global")
    swarm.add("job", mode="global job", **ONE_SHOT)
    swarm.add("other", "nginx:1")

    run()

    [look] = looks_at_wanted_tasks(fakes)
    assert look.argv[len(PS) : len(PS) + 4] == WANTED
    ids = [swarm.service(name)["id"][:12] for name in ("web", "api", "job")]
    assert sorted(look.argv[len(PS) + 4 :]) == sorted(ids)


def test_the_looks_are_between_the_logins_and_the_updates(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("web", **WAITS)
    swarm.add("stuck", **TOKEN_ONLY)

    run()

    calls = [call.argv for call in fakes.calls]
    first_look = min(calls.index(call.argv) for call in fakes.calls_of(*PS))
    assert max(calls.index(call.argv) for call in fakes.calls_of(*LOGIN)) < first_look
    last_look = max(calls.index(call.argv) for call in fakes.calls_of(*SPECS))
    assert last_look < calls.index(fakes.calls_of(*UPDATE)[0].argv)


def test_each_batch_is_looked_at_right_before_its_updates(
    run: Run, fakes: Fakes, swarm: PretendSwarm, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches_of(script, monkeypatch, 2)
    for number in range(6):
        swarm.add(f"web-{number}")

    outcome = run()

    steps = [
        step
        for call in fakes.calls
        for step, beginning in (("look", PS), ("update", UPDATE))
        if call.argv[: len(beginning)] == list(beginning)
    ]
    assert steps == ["look", "update", "update"] * 3
    assert "2 of 6 services processed" in outcome.stderr
    assert "6 of 6 services processed" in outcome.stderr
    assert len(fakes.calls_of(*LS)) == 1
    assert len(fakes.calls_of(*LOGIN)) == 1


@pytest.mark.parametrize(
    "facts, decides",
    [
        ({}, False),
        ({"replicas": "2/2", "past": ["Failed", "Rejected"]}, False),
        ({"rollout": "paused", "previous": f"{ECR}/app:2"}, False),
        ({"restart": "on-failure"}, True),
        ({"restart": "none"}, True),
        ({"max_attempts": 1}, True),
        (WAITS, True),
        ({"replicas": "0/0"}, True),
        ({"replicas": "0/1", "others": "Rejected"}, True),
    ],
)
def test_histories_are_asked_for_where_they_decide(
    run: Run, fakes: Fakes, swarm: PretendSwarm, facts: dict[str, Any], decides: bool
) -> None:
    swarm.add("plain")
    swarm.add("it", **facts)

    run()

    ids = [swarm.service("it")["id"]] if decides else []
    assert ids_in(looks_at_histories(fakes)) == ids


@pytest.mark.parametrize(
    "rollout, is_settled",
    [
        (None, True),
        ("completed", True),
        ("rollback_completed", True),
        ("updating", False),
        ("paused", False),
        ("rollback_started", False),
        ("rollback_paused", False),
        ("unheard_of", False),
    ],
)
def test_specs_of_tasks_are_asked_for_where_a_rollout_is_unsettled(
    run: Run, fakes: Fakes, swarm: PretendSwarm, rollout: str | None, is_settled: bool
) -> None:
    swarm.add("plain")
    swarm.add("it", rollout=rollout, replicas="2/3", others="Preparing", past=["Failed"])

    run()

    ids = [] if is_settled else sorted(running(swarm.service("it")))
    assert ids_in(fakes.calls_of(*SPECS)) == ids


def test_replicas_are_read_nowhere(run: Run, swarm: PretendSwarm) -> None:
    """They count tasks on lost nodes, and those that are being stopped."""
    for number, text in enumerate(("0/1", "4/4 (1/1 completed)", "", None, ["1"])):
        swarm.add(f"web-{number}", listing={"Replicas": text})
        swarm.add(f"waits-{number}", listing={"Replicas": text}, **WAITS)

    assert refreshed(run()) == [f"web-{number}" for number in range(5)]


# Tasks that go


def test_a_task_that_is_reaped_between_two_looks_fails_nobody(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    """As with a task history limit of 1 and a few crash loops."""
    for number in range(8):
        swarm.add(f"loop-{number}", **CRASH_LOOP)
    swarm.add("web")
    swarm.add("stuck", **TOKEN_ONLY)

    def swarm_reaps() -> None:
        for number in range(8):
            swarm.service(f"loop-{number}")["slots"][0][0]["id"] = f"reaped-{number}"

    for look in (PS, SPECS):
        fakes.when(*look, do=swarm_reaps)

    outcome = run()

    assert outcome.status == 0
    assert len(refreshed(outcome)) == 10


@pytest.mark.parametrize("is_only_once", [True, False])
def test_a_running_task_that_is_reaped_costs_its_own_service(
    run: Run, fakes: Fakes, swarm: PretendSwarm, is_only_once: bool
) -> None:
    swarm.add("web")
    swarm.add("stuck", **TOKEN_ONLY)
    swarm.add("stuck-too", **TOKEN_ONLY)
    [task] = running(swarm.service("stuck"))
    [other] = running(swarm.service("stuck-too"))
    shown = json.dumps({"ID": other, "Spec": task_spec(swarm, "stuck-too")})

    for ids in ([task, other], [other, task], [task]):
        fakes.answer(
            *(*SPECS, "--format", "{{json .}}"), *ids,
            stdout=shown + "\n", stderr=f"Error: No such task: {task}", exit_status=1,
            times=1 if is_only_once else 99,
        )  # fmt: skip

    outcome = run()

    assert outcome.status == (0 if is_only_once else 1)
    assert refreshed(outcome) == [*["stuck"] * is_only_once, "stuck-too", "web"]
    assert ("stuck failed: docker inspect does not show its tasks" in outcome.stderr) is not (
        is_only_once
    )


def task_spec(swarm: PretendSwarm, name: str) -> Any:
    """What docker inspect would show of a service's task."""
    shown = swarm.answer(["docker", "service", "inspect", name], b"", {"HOME": "/nowhere"})
    assert shown
    return json.loads(shown.stdout)[0]["Spec"]["TaskTemplate"]


@pytest.mark.parametrize("look", [INSPECT, PS, SPECS])
def test_a_look_that_fails_once_is_taken_again(
    run: Run, fakes: Fakes, swarm: PretendSwarm, look: tuple[str, ...]
) -> None:
    swarm.add("web")
    swarm.add("stuck", **TOKEN_ONLY)
    fakes.answer(*look, fakes.fp.any(), stderr="context deadline exceeded", exit_status=1)

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (0, ["stuck", "web"])


@pytest.mark.parametrize("look", [INSPECT, PS, SPECS])
def test_nobody_is_refreshed_blindly(
    run: Run, fakes: Fakes, swarm: PretendSwarm, look: tuple[str, ...]
) -> None:
    """Without its own look, or with half of it, a service is not touched."""
    swarm.add("stuck", **PAUSED)
    swarm.add("stuck-too", **TOKEN_ONLY)
    options = {"signal": signal.SIGKILL, "times": 99}
    fakes.answer(*look, fakes.fp.any(), stdout="", **options)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (1, "")
    assert is_untouched(swarm, "stuck") and is_untouched(swarm, "stuck-too")


# The look again

UNFORESEEN = "restarts: the update replaces its tasks, which nobody could see before it"


def test_whose_tasks_are_replaced_is_named(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("web")
    swarm.add("checked", is_of_older_engine=True, replicas="2/2")
    swarm.add("files", **UNSORTED)

    outcome = run()

    assert outcome.status == 0
    assert f"checked {UNFORESEEN}" in outcome.stderr
    assert "files restarts: the docker client sorts its mounts" in outcome.stderr
    assert "web restarts" not in outcome.stderr
    assert last_line(outcome).startswith("1 login, 3 refreshed, 2 restarted in ")


def test_whose_tasks_are_replaced_is_a_warning(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("checked", is_of_older_engine=True)

    assert f"checked {UNFORESEEN}" in run("--quiet").stderr
    assert "restart" not in run("--quiet").stderr


@pytest.mark.parametrize("state", ["updating", "completed", "paused", "rollback_started"])
def test_a_rollout_that_begins_with_the_update_is_seen_in_any_state(
    run: Run, fakes: Fakes, swarm: PretendSwarm, state: str
) -> None:
    swarm.add("web", rollout="completed", hours_ago=2)
    it = swarm.service("web")
    status = json.dumps(
        {"State": state, "StartedAt": "2030-01-01T00:00:00Z"}, separators=(",", ":")
    )
    fakes.answer(*STATUS, it["id"], stdout=f"{it['id']} {status}\n")

    outcome = run()

    assert f"web {UNFORESEEN}" in outcome.stderr
    assert "1 restarted" in last_line(outcome)


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"rollout": "completed", "hours_ago": 0},
        {"rollout": "completed", "hours_ago": 9},
        # tasks that the update replaces, but that nobody misses
        {"replicas": "0/1", "others": "Rejected"},
        {"replicas": "1/2", "others": "Rejected 1 second/Ready"},
        {"replicas": "1/2", "others": "Rejected", "restart": "on-failure"},
        {"replicas": "0/1", "others": "Pending 7 hours"},
        {"replicas": "1/2", "others": "Preparing", "past": ["Rejected"]},
    ],
)
def test_whose_tasks_stay_is_not_named(
    run: Run, swarm: PretendSwarm, facts: dict[str, Any]
) -> None:
    swarm.add("web", **facts)

    outcome = run()

    assert outcome.stdout == "web\n"
    assert "restart" not in outcome.stderr


def test_only_what_was_refreshed_is_looked_at_again(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("web")
    swarm.add("stuck", **PAUSED)
    swarm.add("refused")
    argv = swarm.update_of("refused")
    fakes.answer(*argv, stderr="invalid argument", exit_status=1, times=99)

    run()

    assert ids_in(fakes.calls_of(*STATUS)) == [swarm.service("web")["id"]]


def test_a_look_again_that_fails_is_a_notice(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web", is_of_older_engine=True)
    fakes.answer(*STATUS, fakes.fp.any(), stderr="context deadline exceeded", exit_status=1)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (0, "web\n")
    assert "Nobody looked whether tasks restart: docker service inspect failed" in outcome.stderr
    assert login_opens(swarm.service("web"))


def test_what_goes_before_the_look_again_is_no_error(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("web", is_of_older_engine=True)
    swarm.add("gone")
    fakes.when(*STATUS, do=lambda: swarm.remove("gone"))

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (0, ["gone", "web"])
    assert f"web {UNFORESEEN}" in outcome.stderr


def test_services_that_restart_run_what_their_tag_means_by_then(
    run: Run, swarm: PretendSwarm
) -> None:
    by_then = "; they run what the tag of their image means by then"
    for name, has_digest in (("pinned", True), ("tagged", False)):
        swarm.add(name, is_of_older_engine=True, has_digest=has_digest)

    lines = run().stderr.splitlines()

    [pinned, tagged] = sorted(line for line in lines if " restarts: " in line)
    assert tagged.startswith("tagged") and tagged.endswith(by_then)
    assert pinned.startswith("pinned") and by_then not in pinned
