"""Which looks decide, and when; what a look that goes wrong costs; and the look again."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from fakes import Fakes
from made import made
from pretend_services import all_tasks, login_opens, node_id
from pretend_swarm import ECR, UPDATE, PretendSwarm, running
from shared import (
    INSPECT,
    LEADER,
    LOGIN,
    LS,
    NODES,
    ONE_SHOT,
    PAUSED,
    PS,
    SPECS,
    STATUS,
    TOKEN_ONLY,
    UNSORTED,
    Run,
    hosts_logged_in,
    ids_in,
    is_untouched,
    last_line,
    refreshed,
)

WAITS = {"replicas": "1/2", "others": "Preparing"}
CRASH_LOOP = {"replicas": "0/1", "others": "Failed 1 second"}


# Which looks


def test_the_tasks_of_each_ecr_service_are_asked_for(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("web")
    swarm.add("api", mode="global")
    swarm.add("job", mode="global job", **ONE_SHOT)
    swarm.add("other", "nginx:1")

    run()

    [look] = fakes.calls_of(*PS)
    ids = [swarm.service(name)["id"][:12] for name in ("web", "api", "job")]
    assert sorted(look.argv[len(PS) :]) == sorted(ids)


def test_the_looks_are_between_the_login_and_the_updates(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("web", **WAITS)
    swarm.add("stuck", **TOKEN_ONLY)

    run()

    calls = [call.argv for call in fakes.calls]
    first_look = min(calls.index(call.argv) for call in fakes.calls_of(*PS))
    assert calls.index(fakes.calls_of(*LOGIN)[0].argv) < first_look
    last_look = max(calls.index(call.argv) for call in fakes.calls_of(*SPECS))
    assert last_look < calls.index(fakes.calls_of(*UPDATE)[0].argv)


def test_each_batch_is_looked_at_right_before_its_updates(
    run: Run, fakes: Fakes, swarm: PretendSwarm, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "BATCH", 2)
    for number in range(6):
        swarm.add(f"web-{number}")

    run()

    steps = [
        step
        for call in fakes.calls
        for step, beginning in (("look", PS), ("update", UPDATE))
        if call.argv[: len(beginning)] == list(beginning)
    ]
    assert steps == ["look", "update", "update"] * 3
    assert len(fakes.calls_of(*LS)) == 1
    assert hosts_logged_in(fakes) == [ECR]


def test_closer_looks_are_taken_where_they_decide(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    """In the steady state there is none: see to_compare() and look_at_nodes()."""
    swarm.add("plain", replicas="2/2", past=["Failed", "Rejected"], previous=f"{ECR}/app:2")
    swarm.add("global", mode="global", replicas="2/2")
    swarm.add("placed", placement={"Constraints": ["node.role==manager"]})
    swarm.add("changed", previous=f"{ECR}/app:2", then="labels")
    swarm.add("spread", mode="global", slots=[["Running"], ["Complete"]], restart="on-failure")

    run()

    assert ids_in(fakes.calls_of(*SPECS)) == running(swarm.service("changed"))
    assert ids_in(fakes.calls_of(*NODES)) == sorted(map(node_id, (1, 2)))


def test_replicas_are_read_nowhere(run: Run, swarm: PretendSwarm) -> None:
    """They count tasks on lost nodes, and those that are being stopped."""
    for number, text in enumerate(("0/1", "4/4 (1/1 completed)", "", None, ["1"])):
        swarm.add(f"web-{number}", listing={"Replicas": text})
        swarm.add(f"waits-{number}", listing={"Replicas": text}, **WAITS)

    assert refreshed(run()) == [f"web-{number}" for number in range(5)]


# Looks that go wrong


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


@pytest.mark.parametrize("times", [1, 4])
def test_a_running_task_that_is_reaped_costs_its_own_service(
    run: Run, fakes: Fakes, swarm: PretendSwarm, times: int
) -> None:
    swarm.add("web")
    swarm.add("stuck", **TOKEN_ONLY)
    [task] = all_tasks(swarm.service("stuck"))
    gone = {"stderr": f"Error: No such task: {task['id']}", "exit_status": 1}
    fakes.answer(*SPECS, "--format", "{{json .}}", task["id"], **gone, times=times)

    outcome = run()

    assert outcome.status == (0 if times == 1 else 1)
    assert refreshed(outcome) == [*["stuck"] * (times == 1), "web"]
    failed = "stuck failed: docker inspect failed with exit status 1: Error: No such task"
    assert (failed in outcome.stderr) is (times > 1)


def test_services_that_vanish_cost_themselves_alone(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    """As those of a CI system: docker then shows no tasks of all that were asked for."""
    for number in range(3):
        swarm.add(f"web-{number}")
        swarm.add(f"gone-{number}")
    fakes.when(*PS, do=lambda: [swarm.remove(f"gone-{number}") for number in range(3)])

    outcome = run()

    assert outcome.status == 0
    assert refreshed(outcome) == ["web-0", "web-1", "web-2"]
    assert last_line(outcome).startswith("1 login, 3 refreshed in ")


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
@pytest.mark.parametrize("how", [{"signal": signal.SIGKILL}, {}])
def test_nobody_is_refreshed_blindly(
    run: Run, fakes: Fakes, swarm: PretendSwarm, look: tuple[str, ...], how: dict[str, Any]
) -> None:
    """Whatever docker prints nothing of, be it by a failure or not, is not touched."""
    swarm.add("stuck", **PAUSED)
    swarm.add("once", restart="none", **ONE_SHOT)
    swarm.add("stuck-too", **TOKEN_ONLY)
    fakes.answer(*look, fakes.fp.any(), stdout="", **how, times=99)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (1, "")
    assert {it["version"] for it in swarm.services} == {1}
    assert "failed: " in outcome.stderr and "stuck" in last_line(outcome)


def test_a_service_that_docker_does_not_show(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    """It has vanished without a "no such service", which is no reason for silence."""
    swarm.add("web")
    swarm.add("strange")
    short_id = swarm.service("strange")["id"][:12]
    fakes.answer(*INSPECT, short_id, stdout="", times=4)

    outcome = run("strange")

    assert (outcome.status, outcome.stdout) == (1, "")
    assert f"strange failed: docker shows nothing for its ID {short_id}" in outcome.stderr


def test_an_id_that_begins_as_another_service_s_name(run: Run, swarm: PretendSwarm) -> None:
    """docker shows, and would update, that one."""
    swarm.add("web")
    short_id = swarm.service("web")["id"][:12]
    swarm.add(short_id, restart="none", **ONE_SHOT)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (1, "")
    assert f"web failed: docker shows {short_id} for its ID {short_id}" in outcome.stderr
    assert is_untouched(swarm, "web")


@pytest.mark.parametrize("answer", ["", "yes", "True", "true\nfalse", "<no value>"])
def test_a_leader_that_is_not_known_is_a_failure(
    script: Any, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    programs = script.Programs()
    ended = script.Result(None, (answer), "")
    monkeypatch.setattr(programs, "run", lambda *_, **__: ended)
    options = script.parse(["--leader-only"])

    with pytest.raises(KeyError):
        script.leads(script.Run(options, programs, None, None))


def test_a_leader_that_is_not_known_fails_the_run(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("web")
    fakes.answer(*LEADER, fakes.fp.any(), stdout="maybe\n", times=4)

    outcome = run("--leader-only")

    assert (outcome.status, outcome.stdout) == (1, "")
    assert "the run: docker shows what cannot be read: KeyError('maybe')" in last_line(outcome)
    assert is_untouched(swarm, "web")


def test_a_service_named_aws_hides_no_missing_aws(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("aws")
    fakes.remove("aws")

    outcome = run("aws")

    assert (outcome.status, outcome.stdout) == (1, "")
    assert "failed to run command ‘aws’: No such file or directory: is it" in last_line(outcome)


# The look again

UNFORESEEN = "restarts: docker writes its spec in another way than it was written"


def test_whose_tasks_are_replaced_is_named(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web")
    swarm.add("checked", is_of_older_engine=True, replicas="2/2")
    swarm.add("files", **UNSORTED)
    swarm.add("stuck", **PAUSED)
    swarm.add("refused")
    argv = swarm.update_of("refused")
    fakes.answer(*argv, stderr="invalid argument", exit_status=1, times=9)

    outcome = run("--quiet")

    # As a warning, and once: of files it was said before.
    assert f"checked {UNFORESEEN}" in outcome.stderr
    assert "files to be refreshed: its tasks restart: the docker client" in outcome.stderr
    assert outcome.stderr.count("restarts: ") == 1
    assert "3 refreshed, 1 held back, 1 failed, 2 restarted in " in last_line(outcome)
    # Only what was refreshed, and has no effects that were foreseen, is looked at again.
    again = [swarm.service(name)["id"] for name in ("web", "checked")]
    assert ids_in(fakes.calls_of(*STATUS)) == sorted(again)


@pytest.mark.parametrize("state", ["updating", "completed", "paused", "rollback_started"])
def test_a_rollout_that_begins_with_the_update_is_seen_in_any_state(
    script: Any, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """One that began before is none."""
    began = "2026-01-01T00:00:00.1Z"
    lines = [
        f'{name} {{"State":"{state}","StartedAt":"{when}"}}\n'
        for name, when in (("new", "2026-01-01T00:00:00.2Z"), ("old", began))
    ]
    programs, report = script.Programs(), script.Report()
    ended = script.Result(None, ("".join([*lines, "none null\n"])), "")
    monkeypatch.setattr(programs, "run", lambda *_, **__: ended)
    it = script.Run(None, programs, report, None)
    it.updated = [made("Running", id=name, name=name, began=began) for name in ("new", "old")]
    it.updated.append(made("Running", id="none", name="none"))

    script.say_restarts(it)

    assert report.restarts == {"new"}


def test_what_was_announced_and_went_is_not_counted(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("files", **UNSORTED)
    fakes.when(*UPDATE, do=lambda: swarm.remove("files"))

    outcome = run()

    assert outcome.status == 0 and "files to be refreshed: its tasks restart" in outcome.stderr
    assert last_line(outcome).startswith("1 login in ")


def test_whose_tasks_stay_is_not_named(run: Run, swarm: PretendSwarm) -> None:
    stay: list[dict[str, Any]] = [
        {},
        {"rollout": "completed", "hours_ago": 0},
        {"rollout": "completed", "hours_ago": 9},
        # tasks that the update replaces, but that nobody misses
        {"replicas": "0/1", "others": "Rejected"},
        {"replicas": "1/2", "others": "Rejected 1 second/Ready"},
        {"replicas": "1/2", "others": "Rejected", "restart": "on-failure"},
        {"replicas": "0/1", "others": "Pending 7 hours"},
        {"replicas": "1/2", "others": "Preparing", "past": ["Rejected"]},
    ]
    for number, facts in enumerate(stay):
        swarm.add(f"web-{number}", **facts)

    outcome = run()

    assert len(refreshed(outcome)) == len(stay)
    assert "restart" not in outcome.stderr


def test_a_look_again_that_fails_is_a_notice(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web", is_of_older_engine=True)
    fakes.answer(*STATUS, fakes.fp.any(), stderr="context deadline exceeded", exit_status=1)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (0, "web\n")
    assert (
        "Could not check whether tasks restarted: docker service inspect failed" in outcome.stderr
    )
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
