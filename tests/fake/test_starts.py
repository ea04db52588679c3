"""How programs are started, and what is understood of how they end."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import Fakes
from pretend_services import login_opens
from pretend_swarm import ECR, UPDATE, PretendSwarm
from shared import INSPECT, LOGIN, LS, REGION, TOKEN, Bounds, Run, last_line, refreshed


@pytest.fixture
def programs(fakes: Fakes, script: Any) -> Any:
    """What starts them, at the beginning of a run."""
    programs = script.Programs()
    programs.begin()
    return programs


# The steps of a run


def test_a_run_asks_logs_in_and_refreshes(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web", f"{ECR}/web:1", replicas="3/3")

    outcome = run()

    assert outcome.status == 0
    assert outcome.stdout == "web\n"
    calls = [call.argv for call in fakes.calls]
    token = calls.index([*TOKEN, REGION])
    login = calls.index([*LOGIN, ECR])
    assert calls[0][:3] == list(LS)
    assert token < login < calls.index(list(swarm.update_of("web")))
    assert fakes.calls_of(*LOGIN)[0].stdin.decode().strip() == swarm.tokens[0]
    assert login_opens(swarm.service("web"))
    assert last_line(outcome).startswith("1 login, 1 refreshed in ")


def test_one_look_for_all_services(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    names = [f"web-{number:02}" for number in range(12)]
    for name in names:
        swarm.add(name)

    outcome = run()

    assert refreshed(outcome) == names
    assert len(fakes.calls_of(*INSPECT)) == 1
    assert len(fakes.calls_of("docker", "service", "ps")) == 1
    assert len(fakes.calls_of(*UPDATE)) == 12
    assert len(fakes.calls_of(*LS)) == 1


# Their streams


def test_programs_side_by_side_do_not_print_over_each_other(programs: Any) -> None:
    # They share one place in one file; what runs under xargs -P does, too.
    side_by_side = "for letter in a b c d; do (printf %0200000d 0 | tr 0 $letter) & done; wait"

    for _ in range(5):
        ended = programs.run("/bin/sh", "-c", f"PATH=/usr/bin:/bin; {side_by_side}")

        assert ended.problem == ""
        text = ended.stdout.text()
        assert sorted(set(text)) == list("abcd") and len(text) == 4 * 200_000


@pytest.mark.parametrize("character", "\v\f\x1c\x1d\x1e\x85\u2028\u2029")
def test_a_line_ends_with_a_line_feed_alone(script: Any, character: str) -> None:
    text = f'"a{character}b"'

    assert script.File(f"{text}\n\n{text}\n").lines() == [text, text]


def test_what_is_no_json_object(script: Any) -> None:
    file = script.File('{"a": 1}\nnull\n[{}]\n{"b": \n"text"\n{}\n')

    assert file.objects() == [{"a": 1}, {}]
    assert file.bad_lines() == ["null", "[{}]", '{"b": ', '"text"']


def test_a_program_reads_what_it_is_given_from_the_beginning(programs: Any, script: Any) -> None:
    """A token that was read once may have to be sent again."""
    token = script.File("secret")

    for _ in range(2):
        assert programs.run("/bin/cat", stdin=token).stdout.text() == "secret"


# Their time


@pytest.mark.parametrize("seconds", [0.04, 0.001, 1e-9])
def test_hardly_any_time_is_not_all_the_time(script: Any, seconds: float) -> None:
    """For timeout, 0 means that there is no limit: the run would wait for ever."""
    assert float(script.time_limit(seconds)[-1]) > 0


def test_nothing_is_started_when_the_time_is_over(
    fakes: Fakes, programs: Any, bounds: Bounds
) -> None:
    bounds.set(run_seconds=0)

    ended = programs.run("docker", "info")

    assert "docker info was not started: the 0 seconds of the run are over" in ended.problem
    assert not fakes.calls


def test_nothing_is_started_after_a_signal(fakes: Fakes, programs: Any, script: Any) -> None:
    programs.stopped_by = 15

    with pytest.raises(script.Stopped):
        programs.run("docker", "info")

    assert not fakes.calls


@pytest.mark.parametrize(
    "status, says",
    [
        (0, ""),
        (1, "docker info failed with exit status 1: what it said"),
        (254, "docker info failed with exit status 254: what it said"),
        (123, "docker info failed: what it said"),
        (124, "docker info hung, and was killed after 60 seconds: what it said"),
        (137, "docker info hung, and was killed after 60 seconds: what it said"),
        (126, "docker info cannot be executed: what it said"),
        (127, "docker info is not installed, or not on the PATH: what it said"),
        (-9, "docker info was killed by signal 9: what it said"),
    ],
)
def test_how_a_program_ended(script: Any, status: int, says: str) -> None:
    assert script.explain("docker info", status, "what it said", 60) == says


def test_a_program_that_says_nothing(script: Any) -> None:
    assert script.explain("docker info", 1, "", 60).endswith(": it said nothing")
