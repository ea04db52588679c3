"""Every run ends in time, whatever hangs or is slow, and one bad thing costs one thing.

The constants are shortened, or the clock is the test's: what counts is who is refreshed, and what
is said. What may be late on a busy machine is waited for.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import Call, Fakes
from pretend_swarm import ECR, UPDATE, PretendSwarm, harmed
from shared import (
    CONTEXT,
    INSPECT,
    LS,
    PS,
    STATUS,
    TOKEN,
    Bounds,
    Run,
    add_all,
    is_untouched,
    last_line,
    refreshed,
    updates_of,
)


def answer_where(
    fakes: Fakes, beginning: tuple[str, ...], swarm: PretendSwarm, name: str, **answer: Any
) -> None:
    """Each call that begins so and is about this service is answered so."""
    id_ = swarm.service(name)["id"][:12]

    def give(call: Call) -> dict[str, Any] | None:
        is_about = any(word.startswith(id_) for word in call.argv)
        return answer if is_about and call.argv[: len(beginning)] == list(beginning) else None

    fakes.answerers.insert(0, give)


# One program


@pytest.mark.parametrize(
    "seconds_left, is_stoppable, limit",
    [
        (240, True, 60),
        (20, True, 20),
        (0.05, True, None),
        (240, False, 60),
        (60, False, 60),
        (59.9, False, None),
        (-5, True, None),
        (-5, False, None),
    ],
)
def test_how_long_a_program_may_take(
    script: Any,
    monkeypatch: pytest.MonkeyPatch,
    seconds_left: float,
    is_stoppable: bool,
    limit: float | None,
) -> None:
    """So whatever hangs, and whatever must not be cut short, a run ends when its time is over."""
    now = 1000.0
    monkeypatch.setattr(script, "time", SimpleNamespace(monotonic=lambda: now))
    limits: list[float] = []

    def start(_: Any, command: Any, seconds: float, *__: Any) -> tuple[int, str, str]:
        limits.append(seconds)
        return 0, "", ""

    monkeypatch.setattr(script.Programs, "start", start)
    programs = script.Programs()
    programs.begin()
    now += 240 - seconds_left

    result = programs.run("docker", "login", "HOST", is_stoppable=is_stoppable)

    assert limits == ([] if limit is None else [pytest.approx(limit)])
    text = "docker login HOST was not started: its time was over"
    assert (result.problem is None) if limit else (str(result.problem) == text)


def test_output_without_end_is_bounded(script: Any, fakes: Fakes, bounds: Bounds) -> None:
    bounds.set(output_bytes=50_000)
    endless = fakes.bin / "endless"
    endless.write_text("#!/bin/sh\nwhile echo xxxxxxxxxxxxxxxx; do :; done; exit 1\n")
    endless.chmod(0o755)
    programs = script.Programs()
    programs.begin()

    result = programs.run("endless")

    assert result.problem
    assert 0 < len(result.stdout) <= 50_000


def test_a_program_that_started_ends_whatever_goes_wrong_then(
    script: Any, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where memory or a limit of processes leaves no thread to wait for it."""
    fakes.answer(*LS, fakes.fp.any(), orders=["ignore-sigterm", "child", "hang"])
    start = threading.Thread.start

    def fail(self: threading.Thread) -> None:
        if "sh" in getattr(getattr(self, "_target", None), "__module__", ""):
            while not fakes.calls:
                threading.Event().wait(0.01)
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", fail)
    programs = script.Programs()
    programs.begin()

    with pytest.raises(RuntimeError, match="can't start new thread"):
        programs.run(*LS, "--format", "{{json .}}")

    assert fakes.still_running(within=30) == []
    assert not programs.in_flight


# A client that hangs, or is slow


def test_updates_that_hang_cost_only_themselves(
    run: Run, fakes: Fakes, swarm: PretendSwarm, bounds: Bounds
) -> None:
    bounds.set(stale_seconds=3, update_seconds=0.3, pauses=())
    names = add_all(swarm, 6)
    for name in names[:2]:
        fakes.answer(*swarm.update_of(name), orders=["child", "hang"])

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (1, names[2:])
    text = "web-00, web-01: docker service update hung, and was killed after "
    assert text in last_line(outcome)
    assert fakes.still_running() == []


def test_nothing_begins_on_an_old_decision(
    run: Run, fakes: Fakes, swarm: PretendSwarm, bounds: Bounds
) -> None:
    """What waited for an update that hung is looked at again."""
    bounds.set(stale_seconds=2, update_seconds=0.1, at_once=1)
    names = add_all(swarm, 3)
    fakes.answer(*UPDATE, fakes.fp.any(), orders=["hang"])

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (0, names)
    # The first update is the one that hung; each of the others has a look of its own before it.
    assert len(fakes.calls_of(*UPDATE)) == 4
    for name in names:
        look = fakes.calls_of(*INSPECT, swarm.service(name)["id"][:12])[-1]
        update = fakes.calls_of(*swarm.update_of(name))[-1]
        assert fakes.calls.index(look) < fakes.calls.index(update)
    assert harmed(swarm) == []


@pytest.mark.parametrize("seconds_ago", [1.5, 2.5])
def test_a_decision_is_good_for_two_seconds(
    script: Any, monkeypatch: pytest.MonkeyPatch, seconds_ago: float
) -> None:
    monkeypatch.setattr(script, "STALE_SECONDS", 2)
    monkeypatch.setattr(script, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    limits: list[float] = []

    def start(*_: Any, **how: Any) -> Any:
        limits.append(how["seconds"])
        return script.Result(None)

    run = SimpleNamespace(programs=SimpleNamespace(run=start), pace=1, updated=[])

    script.update(run, [SimpleNamespace(id="1", name="web")], "", 1000.0 - seconds_ago)

    assert limits == [2 - seconds_ago]


def test_slow_updates_are_neither_killed_nor_done_again(
    run: Run, fakes: Fakes, swarm: PretendSwarm, bounds: Bounds
) -> None:
    """Those that have begun when the look is old have their time."""
    bounds.set(stale_seconds=2, at_once=3)
    names = add_all(swarm, 3)
    for name in names:
        id_ = swarm.service(name)["id"]
        fakes.answer(*UPDATE, id_, stdout=f"{id_}\n", orders=["sleep-2.5"])

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (0, names)
    updates = fakes.calls_of(*UPDATE)
    assert len(updates) == 3
    assert [call for call in updates if not call.has_ended_by_itself] == []


@pytest.mark.parametrize("what", [PS, STATUS])
def test_a_look_that_hangs_once(
    run: Run, fakes: Fakes, swarm: PretendSwarm, bounds: Bounds, what: tuple[str, ...]
) -> None:
    swarm.add("web")
    fakes.answer(*what, fakes.fp.any(), orders=["hang"])
    bounds.set(**{"program_seconds" if what == STATUS else "look_seconds": 2})

    assert run()[:2] == (0, "web\n")
    assert fakes.still_running() == []


def test_a_service_on_which_docker_hangs_holds_nobody_up(
    run: Run, fakes: Fakes, swarm: PretendSwarm, bounds: Bounds
) -> None:
    """Its batch fails; then each is looked at alone, beside the one that hangs."""
    bounds.set(look_seconds=2, patience_seconds=0.2, pauses=(0.001,))
    names = add_all(swarm, 4)
    answer_where(fakes, PS, swarm, "web-00", orders=["hang"])

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (1, names[1:])
    assert "web-00: docker service ps hung, and was killed after 2 seconds" in last_line(outcome)
    assert fakes.still_running() == []


def test_batches_do_not_wait_for_one_that_hangs(
    run: Run, fakes: Fakes, swarm: PretendSwarm, bounds: Bounds
) -> None:
    """It hangs until all others are refreshed."""
    bounds.set(batch=1, at_once=1, patience_seconds=0.1, look_seconds=60, pauses=())
    names = add_all(swarm, 4)
    id_ = swarm.service("web-00")["id"][:12]

    def hang(call: Call) -> dict[str, Any] | None:
        are_done = len(fakes.calls_of(*UPDATE)) == 3
        if call.argv[: len(UPDATE)] == list(UPDATE) and are_done:
            for hung in fakes.calls_of(*INSPECT, id_):
                os.kill(hung.pid, signal.SIGKILL)
        if call.argv != [*INSPECT, id_]:
            return None
        return {"exit_status": 1} if are_done else {"orders": ["hang"]}

    fakes.answerers.insert(0, hang)

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (1, names[1:])
    assert "web-00: docker service inspect " in last_line(outcome)


# The deadline


def test_what_is_left_at_the_deadline_is_named(
    run: Run,
    fakes: Fakes,
    swarm: PretendSwarm,
    bounds: Bounds,
    script: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bounds.set(batch=1)
    names = add_all(swarm, 6)
    monkeypatch.setattr(script, "AT_ONCE", 1)

    def seconds_left(_: Any) -> float:
        return 240 if len(fakes.calls_of(*UPDATE)) < 3 else script.CLOSING_SECONDS - 1

    monkeypatch.setattr(script.Programs, "seconds_left", seconds_left)

    outcome = run()

    done = refreshed(outcome)
    assert (outcome.status, len(done)) == (1, 3)
    left = [name for name in names if name not in done]
    text = "the 240 seconds of the run were over before its turn came"
    assert f"{', '.join(left)} failed: {text}" in outcome.stderr
    assert [name for name in left if not is_untouched(swarm, name)] == []
    assert len(fakes.calls_of(*STATUS)) == 1, "the last look has its time"


@pytest.mark.parametrize("what", [CONTEXT, LS, PS, TOKEN])
def test_a_run_in_which_all_hangs_ends_too(
    run: Run, fakes: Fakes, swarm: PretendSwarm, bounds: Bounds, what: tuple[str, ...]
) -> None:
    bounds.set(run_seconds=1.0, closing_seconds=0.4)
    swarm.add("web")
    fakes.answer(*what, fakes.fp.any(), orders=["child", "hang"], times=99)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (1, "")
    assert "; failed: " in last_line(outcome)
    assert fakes.still_running() == []
    assert is_untouched(swarm, "web")


def test_each_service_is_the_first_one_some_time(script: Any) -> None:
    """So runs that are too short reach all services in the end."""
    random.seed(7)
    run = SimpleNamespace(
        rows={f"web-{each}": script.Row(str(each), f"web-{each}", ECR) for each in range(10)},
        options=SimpleNamespace(all_services=False, dry_run=False),
        report=script.Report(),
    )

    first = {script.rows_by_host(run)[ECR][0].name for _ in range(200)}

    assert len(first) == 10


# Churn


def test_services_that_vanish_all_the_time(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    """As of a CI system: nearly each look fails for the whole batch."""
    names = add_all(swarm, 5)
    for number in range(8):
        swarm.add(f"ci-{number}")
    left = [f"ci-{number}" for number in range(8)]

    def remove_one(call: Call) -> None:
        if left and call.argv[: len(PS)] == list(PS):
            swarm.remove(left.pop())

    fakes.answerers.insert(0, remove_one)  # type: ignore[arg-type]

    outcome = run()

    assert outcome.status == 0
    assert set(names) <= set(refreshed(outcome))
    assert "tried again" in outcome.stderr and "no such service" in outcome.stderr


@pytest.mark.parametrize("what", [PS, INSPECT])
def test_a_service_that_docker_cannot_show(
    run: Run, fakes: Fakes, swarm: PretendSwarm, what: tuple[str, ...]
) -> None:
    names = add_all(swarm, 4)
    answer_where(fakes, what, swarm, "web-00", stderr="rpc error: too large", exit_status=1)

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (1, names[1:])
    command = " ".join(what[:3])
    assert f"web-00: {command} failed with exit status 1: rpc error" in last_line(outcome)
    assert [updates_of(fakes, swarm, name) for name in names] == [0, 1, 1, 1]
