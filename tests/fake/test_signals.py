"""Signals: nothing more is started, what runs is ended, and nothing more is said."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fakes import Fakes
from pretend_swarm import ECR, ECR_US, UPDATE, PretendSwarm, harmed
from shared import (
    INSPECT,
    LEADER,
    LOGIN,
    LS,
    ONE_SHOT,
    PROOF,
    PS,
    SPECS,
    STATUS,
    STS,
    TOKEN,
    TOKEN_ONLY,
    Run,
    last_line,
)


@pytest.fixture
def programs(script: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The object that starts all programs, as soon as there is one."""
    found: list[Any] = []
    begin = script.Programs.begin

    def note(self: Any) -> None:
        found.append(self)
        begin(self)

    monkeypatch.setattr(script.Programs, "begin", note)
    yield found


@pytest.fixture
def web(swarm: PretendSwarm) -> PretendSwarm:
    """A swarm of two registries, in which every kind of look is taken."""
    swarm.add("web")
    swarm.add("us", f"{ECR_US}/app:2")
    swarm.add("stuck", **TOKEN_ONLY)
    swarm.add("once", restart="none", **ONE_SHOT)
    return swarm


def stop_at(fakes: Fakes, programs: list[Any], call: tuple[str, ...], number: int) -> None:
    """Send the signal when this program is called; answer it when the signal has been seen."""

    def stop() -> None:
        # It wakes the thread, if that waits for a program.
        signal.pthread_kill(threading.main_thread().ident or 0, number)
        deadline = time.monotonic() + 10
        while not programs[-1].stopped_by and time.monotonic() < deadline:
            time.sleep(0.001)

    fakes.when(*call, do=stop)


TERM = signal.SIGTERM
MOMENTS = [
    (LS, TERM),
    (TOKEN, TERM),
    (STS, TERM),
    (LOGIN, TERM),
    ((*PROOF, ECR), TERM),
    (INSPECT, TERM),
    (PS, TERM),
    (SPECS, TERM),
    (UPDATE, TERM),
    (TOKEN, signal.SIGINT),
    (UPDATE, signal.SIGINT),
    (UPDATE, signal.SIGHUP),
]


@pytest.mark.parametrize("moment, number", MOMENTS)
def test_signal(
    run: Run,
    fakes: Fakes,
    web: PretendSwarm,
    script: Any,
    programs: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    moment: tuple[str, ...],
    number: int,
) -> None:
    monkeypatch.setattr(script, "XARGS", ("xargs", "-r", "-P2"))
    for name in ("a", "b", "c"):
        web.add(name)
    for name in ("a", "b", "c", "us", "web", "stuck"):  # none ends before the signal comes
        fakes.answer(*web.update_of(name), orders=["hang"])
    stop_at(fakes, programs, moment, number)

    outcome = run("--region", "ap-south-1")

    assert outcome.status == 128 + number
    assert outcome.stderr.count("Stopped by " + signal.Signals(number).name) == 1
    assert last_line(outcome).startswith("Stopped by ")
    assert not re.search(r"[A-Z][a-z]+Error", outcome.stderr)
    assert "Traceback" not in outcome.stderr
    assert fakes.still_running() == []
    assert len(fakes.calls_of(*UPDATE)) <= (2 if moment == UPDATE else 0)
    assert harmed(web) == []


@pytest.mark.parametrize(
    "arguments, last",
    [
        (["--login-only"], (*PROOF, ECR)),
        (["--leader-only"], LEADER),
        ([], STATUS),
        (["--dry-run"], PS),
    ],
)
def test_a_signal_in_the_last_program(
    run: Run,
    fakes: Fakes,
    swarm: PretendSwarm,
    programs: list[Any],
    arguments: list[str],
    last: tuple[str, ...],
) -> None:
    swarm.add("web")
    swarm.state["leader"] = not arguments
    stop_at(fakes, programs, last, TERM)

    outcome = run(*arguments)

    assert outcome.status == 128 + TERM
    assert last_line(outcome).startswith("Stopped by SIGTERM")


def test_a_signal_while_a_program_starts(
    run: Run, fakes: Fakes, web: PretendSwarm, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It comes when the program runs, but is not yet known to be in flight.
    class Late(set):  # type: ignore[type-arg]
        def add(self, group: int) -> None:
            if fakes.calls_of(*LOGIN):
                os.kill(os.getpid(), TERM)
            super().add(group)

    init = script.Programs.__init__

    def with_late(self: Any) -> None:
        init(self)
        self.in_flight = Late()

    monkeypatch.setattr(script.Programs, "__init__", with_late)
    fakes.answer(*INSPECT, fakes.fp.any(), orders=["hang"])

    outcome = run()

    assert outcome.status == 128 + TERM
    assert "hung" not in outcome.stderr


@pytest.mark.parametrize("moment", [LOGIN, (*PROOF, ECR)])
def test_a_signal_lets_a_login_end(
    run: Run, fakes: Fakes, swarm: PretendSwarm, programs: list[Any], moment: tuple[str, ...]
) -> None:
    """Or docker could leave a copy of config.json behind, with the token in it."""
    swarm.add("web")
    stop_at(fakes, programs, moment, TERM)

    outcome = run()

    assert outcome.status == 128 + TERM
    [call] = fakes.calls_of(*moment)
    assert call.is_over.wait(10) and call.has_ended_by_itself
    assert not fakes.calls_of(*UPDATE)


def test_a_signal_ends_what_may_be_cut_short(
    run: Run, fakes: Fakes, swarm: PretendSwarm, programs: list[Any]
) -> None:
    swarm.add("web")
    stop_at(fakes, programs, UPDATE, TERM)

    assert run().status == 128 + TERM

    [call] = fakes.calls_of(*UPDATE)
    assert call.is_over.wait(10) and not call.has_ended_by_itself


def test_a_signal_reaches_what_hangs(
    run: Run, fakes: Fakes, web: PretendSwarm, programs: list[Any]
) -> None:
    fakes.answer(*web.update_of("web"), orders=["child", "hang"])
    stop_at(fakes, programs, web.update_of("web"), TERM)

    assert run().status == 128 + TERM

    assert fakes.still_running() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_pause_between_two_tries(
    run: Run,
    fakes: Fakes,
    swarm: PretendSwarm,
    script: Any,
    programs: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    monkeypatch.setattr(script, "TRY_SECONDS", 60)
    swarm.state["node"] = "worker"
    (fakes.bin / "sleep").unlink()
    fakes.answer("sleep", "60", orders=["hang"])
    stop_at(fakes, programs, ("sleep", "60"), number)

    outcome = run("--tries", "3")

    assert outcome.status == 128 + number
    assert outcome.stderr.count("Trying again") == 1
    assert len(fakes.calls_of(*LS)) == 1
    assert last_line(outcome).startswith("Stopped by ")


def test_a_signal_in_a_pause_before_another_try(
    run: Run, fakes: Fakes, swarm: PretendSwarm, programs: list[Any]
) -> None:
    swarm.add("web")
    (fakes.bin / "sleep").unlink()
    fakes.answer("sleep", "0", orders=["hang"])
    fakes.answer(*swarm.update_of("web"), stderr="out of sequence", exit_status=1)
    stop_at(fakes, programs, ("sleep", "0"), TERM)

    assert run().status == 128 + TERM
    assert len(fakes.calls_of(*UPDATE)) == 1


def test_two_signals_are_as_one(
    run: Run, fakes: Fakes, swarm: PretendSwarm, programs: list[Any]
) -> None:
    """As when a person presses Ctrl-C twice."""
    swarm.add("web")
    fakes.answer(*swarm.update_of("web"), orders=["hang"])
    stop_at(fakes, programs, UPDATE, signal.SIGINT)
    stop_at(fakes, programs, UPDATE, signal.SIGINT)

    outcome = run()

    assert outcome.status == 128 + signal.SIGINT
    assert outcome.stderr.count("Stopped by SIGINT") == 1
