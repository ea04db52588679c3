"""Signals: nothing more is started, what runs is ended, and nothing more is said."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pretend.calls import Run, is_of_run, last_look, write_config
from pretend.logins import STORE
from pretend.runner import Call
from pretend.services import ECR, ONE_SHOT, TOKEN_ONLY
from pretend.swarm import ECR_US, PretendSwarm, harmed
from stubs import Stubs

import ecr_swarm_login as script

TERM = signal.SIGTERM


@pytest.fixture
def starters(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The object that starts all programs, as soon as there is one."""
    found: list[Any] = []
    begin = script.Programs.begin_try

    def note(self: Any, *arguments: Any) -> None:
        found.append(self)
        begin(self, *arguments)

    monkeypatch.setattr(script.Programs, "begin_try", note)
    yield found


@pytest.fixture
def web(swarm: PretendSwarm) -> PretendSwarm:
    """A swarm of two registries, in which every kind of look is taken."""
    swarm.add("web")
    swarm.add("us", f"{ECR_US}/app:2")
    swarm.add("stuck", **TOKEN_ONLY)
    swarm.add("once", restart="none", **ONE_SHOT)
    return swarm


def stop_at(stubs: Stubs, starters: list[Any], call: tuple[str, ...], number: int) -> None:
    """Send the signal when this program is called; answer it when the signal has been seen."""

    def stop() -> None:
        os.kill(os.getpid(), number)
        deadline = time.monotonic() + 30
        while not starters[-1].stopped_by and time.monotonic() < deadline:
            time.sleep(0.001)

    stubs.when(*call, do=stop)


@pytest.mark.parametrize(
    "moment, number",
    [
        (script.LIST, TERM),
        (script.AWS_TOKEN, signal.SIGINT),
        (script.SPECS, TERM),
        (script.UPDATE, signal.SIGHUP),
    ],
)
def test_a_signal(
    run: Run,
    stubs: Stubs,
    web: PretendSwarm,
    starters: list[Any],
    memory: Path,
    moment: tuple[str, ...],
    number: int,
) -> None:
    for name in ("us", "web", "stuck"):  # none ends before the signal comes
        stubs.answer(*web.update_of(name), orders=["child", "hang"])
    stop_at(stubs, starters, moment, number)

    outcome = run("--region", "ap-south-1")

    assert outcome.status == 128 + number
    assert outcome.stderr.count("Stopped by " + signal.Signals(number).name) == 1
    assert outcome.last_line.startswith("Stopped by ")
    assert not re.search(r"[A-Z][a-z]+Error", outcome.stderr)
    assert stubs.still_running(within=10) == []
    updates = stubs.calls_of(*script.UPDATE)
    assert not updates or moment in (script.SPECS, script.UPDATE)
    assert not any(call.has_ended_by_itself for call in updates)
    assert harmed(web) == []
    assert list(memory.iterdir()) == [], "the logins are gone"


@pytest.mark.parametrize(
    "arguments, last",
    [(["--login-only"], (*script.LOGIN, ECR)), (["--leader-only"], script.LEADER), ([], ())],
)
def test_a_signal_in_the_last_program(
    run: Run,
    stubs: Stubs,
    swarm: PretendSwarm,
    starters: list[Any],
    arguments: list[str],
    last: tuple[str, ...],
) -> None:
    swarm.add("web")
    swarm.state["leader"] = not arguments
    stop_at(stubs, starters, last or last_look(swarm, "web"), TERM)

    outcome = run(*arguments)

    assert outcome.status == 128 + TERM
    assert outcome.last_line.startswith("Stopped by SIGTERM")


def test_many_signals_at_many_moments(
    run: Run, stubs: Stubs, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is lost, however soon after the start of a program it comes: the run ends soon.

    One that is lost is seen only when the program that hangs has been killed.
    """
    moments: list[float] = []
    start = script.Programs.start

    def with_a_signal(self: Any, *arguments: Any, **options: Any) -> Any:
        # Once a run: what comes after its end would be for the tests.
        with contextlib.suppress(IndexError):
            threading.Timer(moments.pop(), os.kill, (os.getpid(), TERM)).start()
        return start(self, *arguments, **options)

    monkeypatch.setattr(script.Programs, "start", with_a_signal)
    for command in (script.LIST, script.VERSION):
        stubs.answer(*command, stubs.fp.any(), orders=["hang"], times=99)

    for milliseconds in (0, 1, 2, 4, 8, 12, 16, 24):
        moments.append(milliseconds / 1000)
        began = time.monotonic()
        assert run().status == 128 + TERM
        assert time.monotonic() - began < script.QUESTION_SECONDS


def test_a_signal_while_a_program_starts(
    run: Run, stubs: Stubs, web: PretendSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It comes when the program runs, but is not yet known to be one that a signal ends.
    class Late(set):  # type: ignore[type-arg]
        is_sent = False

        def add(self, group: int) -> None:
            # Once: a login may go on in another thread when the run is over, and so are its signals.
            if stubs.calls_of(*script.LOGIN) and not self.is_sent:
                self.is_sent = True
                os.kill(os.getpid(), TERM)
            super().add(group)

    init = script.Programs.__init__

    def with_late(self: Any, *arguments: Any) -> None:
        init(self, *arguments)
        self.stoppable = Late()

    monkeypatch.setattr(script.Programs, "__init__", with_late)
    stubs.answer(*script.SPECS, stubs.fp.any(), orders=["hang"], times=9)

    outcome = run()

    assert outcome.status == 128 + TERM
    assert "hung" not in outcome.stderr


@pytest.mark.parametrize(
    "option, moment",
    [("--login-only", (*script.LOGIN, ECR)), ("--refresh-only", (*script.PROOF, ECR))],
)
def test_a_signal_lets_a_login_for_deploys_end(
    run: Run,
    stubs: Stubs,
    swarm: PretendSwarm,
    starters: list[Any],
    home: Path,
    option: str,
    moment: tuple[str, ...],
) -> None:
    """Or docker could leave a copy of config.json behind, with the token in it."""
    swarm.add("web")
    write_config(home, credsStore=STORE)
    stop_at(stubs, starters, moment, TERM)

    outcome = run(option)

    assert outcome.status == 128 + TERM
    [call] = stubs.calls_of(*moment)
    assert call.is_over.wait(30) and call.has_ended_by_itself


def test_a_signal_ends_what_may_be_cut_short(
    run: Run, stubs: Stubs, swarm: PretendSwarm, memory: Path
) -> None:
    """A login of the run is of no use to anybody then."""
    swarm.add("web")

    def hang(call: Call) -> dict[str, Any] | None:
        if call.argv[: len(script.LOGIN)] != list(script.LOGIN) or not is_of_run(call):
            return None
        os.kill(os.getpid(), TERM)
        return {"orders": ["hang"]}

    stubs.answerers.insert(0, hang)

    assert run().status == 128 + TERM

    assert stubs.still_running(within=10) == []
    assert list(memory.iterdir()) == []


@pytest.mark.parametrize("seconds", [3, 60])
def test_a_signal_in_a_pause(
    run: Run,
    stubs: Stubs,
    swarm: PretendSwarm,
    starters: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    seconds: int,
) -> None:
    """Before the next attempt, or before the next of --tries."""
    monkeypatch.setattr(script, "PAUSES", (3,) * (seconds == 3))
    swarm.add("web")
    (stubs.bin / "sleep").unlink()
    stubs.program("sleep")
    stubs.answer("sleep", str(seconds), orders=["hang"])
    stubs.answer(*swarm.update_of("web"), stderr="out of sequence", exit_status=1)
    stop_at(stubs, starters, ("sleep", str(seconds)), TERM)

    outcome = run("--tries", "3")

    assert outcome.status == 128 + TERM
    assert outcome.stderr.count(f"next attempt in {seconds} s") == 1
    assert len(stubs.calls_of(*script.UPDATE)) == 1
    assert outcome.last_line.startswith("Stopped by ")


def test_two_signals_are_as_one(
    run: Run, stubs: Stubs, swarm: PretendSwarm, starters: list[Any]
) -> None:
    """As when a person presses Ctrl-C twice."""
    swarm.add("web")
    stubs.answer(*swarm.update_of("web"), orders=["hang"])
    for _ in range(2):
        stop_at(stubs, starters, script.UPDATE, signal.SIGINT)

    outcome = run()

    assert outcome.status == 128 + signal.SIGINT
    assert outcome.stderr.count("Stopped by SIGINT") == 1
