"""How programs are started, and what is understood of how they end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fakes import Fakes
from pretend_services import login_opens
from pretend_swarm import ECR, UPDATE, PretendSwarm
from shared import (
    CONTEXT,
    INSPECT,
    LOGIN,
    LS,
    PS,
    REGION,
    TOKEN,
    Bounds,
    Run,
    last_line,
    log_out,
    refreshed,
)


@pytest.fixture
def programs(fakes: Fakes, script: Any) -> Any:
    """What starts them, at the beginning of a run."""
    programs = script.Programs()
    programs.begin()
    return programs


# The steps of a run


def test_a_run_asks_logs_in_and_refreshes(
    run: Run, fakes: Fakes, swarm: PretendSwarm, memory: Path
) -> None:
    names = [f"web-{number:02}" for number in range(12)]
    for name in names:
        swarm.add(name, replicas="3/3")

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (0, names)
    calls = [call.argv for call in fakes.calls]
    token, login = calls.index([*TOKEN, REGION]), calls.index([*LOGIN, ECR])
    assert token < login < min(calls.index(list(swarm.update_of(name))) for name in names)
    # One question for all services, and one token for both logins.
    for once in (LS, CONTEXT, TOKEN, INSPECT, PS):
        assert len(fakes.calls_of(*once)) == 1, once
    assert {call.stdin.decode().strip() for call in fakes.calls_of(*LOGIN)} == set(swarm.tokens)
    assert all(map(login_opens, swarm.services))
    assert last_line(outcome).startswith("1 login, 12 refreshed in ")
    # The folder of the run's own logins has gone.
    assert list(memory.iterdir()) == []


def test_updates_send_the_run_s_own_login(
    run: Run, fakes: Fakes, swarm: PretendSwarm, home: Path, memory: Path
) -> None:
    """Whatever becomes of the one in docker's own place."""
    swarm.add("web")
    fakes.when(*UPDATE, do=lambda: log_out(home))
    swarm.state["context"] = "elsewhere"

    assert run().status == 0

    [kept, own] = sorted(fakes.calls_of(*LOGIN), key=lambda call: "DOCKER_CONFIG" in call.environ)
    [update] = fakes.calls_of(*UPDATE)
    folder = own.environ["DOCKER_CONFIG"]
    assert update.environ["DOCKER_CONFIG"] == folder and folder.startswith(str(memory))
    assert "DOCKER_CONFIG" not in kept.environ
    # Another folder has no current context.
    assert own.environ["DOCKER_CONTEXT"] == update.environ["DOCKER_CONTEXT"] == "elsewhere"
    assert login_opens(swarm.service("web"))


def test_an_old_version_of_the_api_is_not_asked_for(
    run: Run, fakes: Fakes, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The docker client would strip what that does not know from each service."""
    monkeypatch.setenv("DOCKER_API_VERSION", "1.40")
    swarm.add("web")

    assert run().stdout == "web\n"

    assert not [call for call in fakes.calls if "DOCKER_API_VERSION" in call.environ]


# Their streams


def test_programs_side_by_side_do_not_print_over_each_other(programs: Any) -> None:
    # They share one place in one file; what runs under xargs -P does, too.
    side_by_side = "for letter in a b c d; do (printf %0200000d 0 | tr 0 $letter) & done; wait"

    for _ in range(5):
        ended = programs.run("/bin/sh", "-c", f"PATH=/usr/bin:/bin; {side_by_side}")

        assert ended.problem is None
        text = ended.stdout
        assert sorted(set(text)) == list("abcd") and len(text) == 4 * 200_000


@pytest.mark.parametrize("character", "\v\f\x1c\x1d\x1e\x85\u2028\u2029")
def test_a_line_ends_with_a_line_feed_alone(script: Any, character: str) -> None:
    text = f'"a{character}b"'

    assert script.Result(None, f"{text}\n\n{text}").lines() == [text, text]


def test_a_program_reads_what_it_is_given_from_the_beginning(programs: Any) -> None:
    for _ in range(2):
        assert programs.run("/bin/cat", stdin="secret").stdout == "secret"


# Their time


def test_nothing_is_started_when_the_time_is_over(
    fakes: Fakes, programs: Any, bounds: Bounds
) -> None:
    bounds.set(run_seconds=0)
    programs.begin()

    ended = programs.run("docker", "info")

    assert str(ended.problem) == "docker info was not started: its time was over"
    assert not fakes.calls


def test_what_is_not_to_be_cut_short_is_not_started_late(
    fakes: Fakes, programs: Any, bounds: Bounds
) -> None:
    bounds.set(run_seconds=59)
    programs.begin()

    assert "was not started" in str(programs.run("docker", "info", is_stoppable=False).problem)
    assert not fakes.calls


def test_nothing_is_started_after_a_signal(fakes: Fakes, programs: Any) -> None:
    programs.stopped_by = 15

    assert programs.run("docker", "info").problem
    assert not fakes.calls


@pytest.mark.parametrize(
    "status, hung_seconds, says",
    [
        (1, 0, "docker info failed with exit status 1: what it said"),
        (254, 0, "docker info failed with exit status 254: what it said"),
        # A program's own 124 is just that.
        (124, 0, "docker info failed with exit status 124: what it said"),
        (
            127,
            0,
            "docker info failed with exit status 127: what it said: is it installed, and on the PATH?",
        ),
        (126, 0, "docker info failed with exit status 126: what it said: may it be run?"),
        (124, 60, "docker info hung, and was killed after 60 seconds: what it said"),
        (137, 60, "docker info hung, and was killed after 60 seconds: what it said"),
        (-9, 0, "docker info was killed by signal 9: what it said"),
    ],
)
def test_how_a_program_ended(script: Any, status: int, hung_seconds: float, says: str) -> None:
    problem = script.explain("docker info", status, "what it said", hung_seconds)

    assert (str(problem), problem.is_final) == (says, status in (126, 127))


def test_a_program_that_went_well_has_no_problem(script: Any) -> None:
    assert script.explain("docker info", 0, "a warning", 0) is None


def test_a_program_that_says_nothing(script: Any) -> None:
    assert str(script.explain("docker info", 1, "", 0)).endswith(": it said nothing")


def test_a_socket_that_may_not_be_used(script: Any) -> None:
    said = "Permission denied while trying to connect to the Docker daemon socket"
    problem = script.explain("docker info", 1, said, 0)

    assert problem.is_final
    assert str(problem).endswith(": run it as root, or as one of the group docker")
