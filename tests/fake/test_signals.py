"""Signals: nothing more is started, what runs is ended, and nothing more is said."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import Call, Fakes
from pretend_logins import STORE
from pretend_swarm import ECR, ECR_US, UPDATE, PretendSwarm, harmed
from shared import (
    CONTEXT,
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
    Bounds,
    Run,
    last_line,
    write_config,
)

TERM = signal.SIGTERM


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
        os.kill(os.getpid(), number)
        deadline = time.monotonic() + 30
        while not programs[-1].stopped_by and time.monotonic() < deadline:
            time.sleep(0.001)

    fakes.when(*call, do=stop)


MOMENTS = [
    (LS, TERM),
    (CONTEXT, TERM),
    (TOKEN, TERM),
    (STS, TERM),
    (LOGIN, TERM),
    (INSPECT, TERM),
    (PS, TERM),
    (SPECS, TERM),
    (UPDATE, TERM),
    (TOKEN, signal.SIGINT),
    (UPDATE, signal.SIGHUP),
]


@pytest.mark.parametrize("moment, number", MOMENTS)
def test_signal(
    run: Run,
    fakes: Fakes,
    web: PretendSwarm,
    programs: list[Any],
    bounds: Bounds,
    memory: Path,
    moment: tuple[str, ...],
    number: int,
) -> None:
    bounds.set(at_once=2, patience_seconds=0.1)
    for name in ("us", "web", "stuck"):  # none ends before the signal comes
        fakes.answer(*web.update_of(name), orders=["child", "hang"])
    stop_at(fakes, programs, moment, number)

    outcome = run("--region", "ap-south-1")

    assert outcome.status == 128 + number
    assert outcome.stderr.count("Stopped by " + signal.Signals(number).name) == 1
    assert last_line(outcome).startswith("Stopped by ")
    assert not re.search(r"[A-Z][a-z]+Error", outcome.stderr)
    assert "Traceback" not in outcome.stderr
    assert fakes.still_running(within=10) == []
    updates = fakes.calls_of(*UPDATE)
    assert not updates or moment not in (LS, CONTEXT)
    assert not any(call.has_ended_by_itself for call in updates)
    assert harmed(web) == []
    assert list(memory.iterdir()) == [], "the logins are gone"


@pytest.mark.parametrize(
    "arguments, last",
    [(["--login-only"], (*PROOF, ECR)), (["--leader-only"], LEADER), ([], STATUS)],
)
def test_a_signal_in_the_last_program(
    run: Run,
    fakes: Fakes,
    swarm: PretendSwarm,
    programs: list[Any],
    home: Path,
    arguments: list[str],
    last: tuple[str, ...],
) -> None:
    swarm.add("web")
    swarm.state["leader"] = not arguments
    write_config(home, credsStore=STORE)
    stop_at(fakes, programs, last, TERM)

    outcome = run(*arguments)

    assert outcome.status == 128 + TERM
    assert last_line(outcome).startswith("Stopped by SIGTERM")


def test_many_signals_at_many_moments(
    run: Run, fakes: Fakes, swarm: PretendSwarm, script: Any, monkeypatch: pytest.MonkeyPatch
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
    fakes.answer(*LS, fakes.fp.any(), orders=["hang"], times=99)
    fakes.answer(*CONTEXT, fakes.fp.any(), orders=["hang"], times=99)

    for milliseconds in range(30):
        moments.append(milliseconds / 1000)
        began = time.monotonic()
        assert run().status == 128 + TERM
        assert time.monotonic() - began < script.PROGRAM_SECONDS / 2


def test_nothing_is_started_after_a_signal(script: Any, fakes: Fakes) -> None:
    programs = script.Programs()
    programs.begin()
    programs.stopped_by = TERM

    assert programs.run(*LS).problem
    assert not fakes.calls


def test_a_signal_while_a_program_starts(
    run: Run, fakes: Fakes, web: PretendSwarm, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It comes when the program runs, but is not yet known to be in flight.
    class Late(set):  # type: ignore[type-arg]
        is_sent = False

        def update(self, groups: Iterable[int]) -> None:
            # Once: a login may go on in another thread when the run is over, and so are its signals.
            if fakes.calls_of(*LOGIN) and not self.is_sent:
                self.is_sent = True
                os.kill(os.getpid(), TERM)
            super().update(groups)

        def add(self, group: int) -> None:
            self.update([group])

    init = script.Programs.__init__

    def with_late(self: Any) -> None:
        init(self)
        self.in_flight = Late()

    monkeypatch.setattr(script.Programs, "__init__", with_late)
    fakes.answer(*INSPECT, fakes.fp.any(), orders=["hang"], times=9)

    outcome = run()

    assert outcome.status == 128 + TERM
    assert "hung" not in outcome.stderr


@pytest.mark.parametrize("moment", [LOGIN, (*PROOF, ECR)])
def test_a_signal_lets_a_login_in_docker_s_own_place_end(
    run: Run,
    fakes: Fakes,
    swarm: PretendSwarm,
    programs: list[Any],
    home: Path,
    moment: tuple[str, ...],
) -> None:
    """Or docker could leave a copy of config.json behind, with the token in it."""
    swarm.add("web")
    write_config(home, credsStore=STORE)
    stop_at(fakes, programs, moment, TERM)

    outcome = run("--login-only")

    assert outcome.status == 128 + TERM
    [call] = fakes.calls_of(*moment)
    assert call.is_over.wait(30) and call.has_ended_by_itself


def test_a_signal_ends_what_may_be_cut_short(
    run: Run, fakes: Fakes, swarm: PretendSwarm, programs: list[Any]
) -> None:
    """A login of the run's own is of no use to anybody then."""
    swarm.add("web")
    folders = []

    def hang(call: Call) -> dict[str, Any] | None:
        if call.argv[: len(LOGIN)] != list(LOGIN) or "DOCKER_CONFIG" not in call.environ:
            return None
        folders.append(call.environ["DOCKER_CONFIG"])
        os.kill(os.getpid(), TERM)
        return {"orders": ["hang"]}

    fakes.answerers.insert(0, hang)

    assert run().status == 128 + TERM

    assert fakes.still_running(within=10) == []
    assert len(folders) == 1 and not Path(folders[0]).exists()


@pytest.mark.parametrize("seconds", [3, 60])
def test_a_signal_in_a_pause(
    run: Run,
    fakes: Fakes,
    swarm: PretendSwarm,
    programs: list[Any],
    bounds: Bounds,
    seconds: int,
) -> None:
    """Before it is tried again at once, or by --tries a minute later."""
    bounds.set(pauses=(3,) * (seconds == 3), try_seconds=60)
    swarm.add("web")
    (fakes.bin / "sleep").unlink()
    fakes.answer("sleep", str(seconds), orders=["hang"])
    fakes.answer(*swarm.update_of("web"), stderr="out of sequence", exit_status=1)
    stop_at(fakes, programs, ("sleep", str(seconds)), TERM)

    outcome = run("--tries", "3")

    assert outcome.status == 128 + TERM
    assert outcome.stderr.count(f"tried again in {seconds} seconds") == 1
    assert len(fakes.calls_of(*UPDATE)) == 1
    assert last_line(outcome).startswith("Stopped by ")


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
