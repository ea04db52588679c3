"""What takes long: hangs, the two seconds of a look, and the time of a try.

Time is the clock's, which stands still unless a program takes some: see pretend/runner.py. What
hangs moves it for all that are at work then; so batches go one after the other here.
"""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
from pretend.calls import Run, add_all, is_untouched, looks_at, updates_of
from pretend.runner import Answers, Call
from pretend.services import ECR
from pretend.swarm import PretendSwarm, harmed

import ecr_swarm_login as script


def answer_where(
    programs: Answers, beginning: tuple[str, ...], swarm: PretendSwarm, name: str, **answer: Any
) -> None:
    """Each call that begins so and is about this service is answered so."""
    id_ = swarm.service(name)["id"][:12]

    def give(call: Call) -> dict[str, Any] | None:
        is_about = any(word.startswith(id_) for word in call.argv)
        return answer if is_about and call.argv[: len(beginning)] == list(beginning) else None

    programs.answerers.insert(0, give)


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
    monkeypatch: pytest.MonkeyPatch,
    seconds_left: float,
    is_stoppable: bool,
    limit: float | None,
) -> None:
    """So whatever hangs, and whatever must not be cut short, a try ends when its time is over."""
    now = 1000.0
    monkeypatch.setattr(script, "time", SimpleNamespace(monotonic=lambda: now))
    limits: list[float] = []

    def start(_: Any, command: Any, seconds: float, **__: Any) -> tuple[int, str, str]:
        limits.append(seconds)
        return 0, "", ""

    monkeypatch.setattr(script.Programs, "start", start)
    programs = script.Programs({})
    programs.begin_try(0)
    now += 240 - seconds_left

    if limit is None:
        with pytest.raises(script.Problem, match="docker login HOST was not started: time limit"):
            programs.run("docker", "login", "HOST", is_stoppable=is_stoppable)
    else:
        programs.run("docker", "login", "HOST", is_stoppable=is_stoppable)

    assert limits == ([] if limit is None else [pytest.approx(limit)])


def test_nothing_is_started_after_a_signal(programs: Answers) -> None:
    starter = script.Programs({})
    starter.stopped_by = 15

    with pytest.raises(script.Problem, match="docker info was not started"):
        starter.run("docker", "info")
    assert not programs.calls


# Questions and updates


@pytest.mark.parametrize("what", [script.VERSION, script.LIST, script.TASKS, script.SPECS])
def test_a_question_that_hangs_once(
    run: Run, programs: Answers, swarm: PretendSwarm, what: tuple[str, ...]
) -> None:
    swarm.add("web")
    programs.answer(*what, programs.fp.any(), orders=["hang"])

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (0, ["web"])


@pytest.mark.parametrize("what", [script.VERSION, script.LIST, script.TASKS, script.AWS_TOKEN])
def test_a_try_in_which_all_hangs_ends(
    run: Run, programs: Any, swarm: PretendSwarm, what: tuple[str, ...]
) -> None:
    """Within 240 seconds and what a program may take to end."""
    swarm.add("web")
    programs.answer(*what, programs.fp.any(), orders=["hang"], times=99)
    began = programs.clock.monotonic()

    outcome = run()

    assert outcome.status == 1 and "; failed: " in outcome.last_line
    assert programs.clock.monotonic() - began < 240.1
    assert is_untouched(swarm, "web")


@pytest.mark.parametrize("what", [script.TASKS, script.INSPECT])
@pytest.mark.parametrize("how", [{"orders": ["hang"]}, {"stderr": "too large", "exit_status": 1}])
def test_a_service_that_docker_cannot_show_costs_nobody_else(
    run: Run,
    programs: Answers,
    swarm: PretendSwarm,
    monkeypatch: pytest.MonkeyPatch,
    what: tuple[str, ...],
    how: dict[str, Any],
) -> None:
    """It is alone in the end, and nobody is updated twice."""
    monkeypatch.setattr(script, "BATCHES_AT_ONCE", 1)
    names = add_all(swarm, 4)
    answer_where(programs, what, swarm, "web-00", **how)

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (1, names[1:])
    assert f"; failed: web-00: {' '.join(what[:3])} " in outcome.last_line
    assert [updates_of(programs, swarm, name) for name in names] == [0, 1, 1, 1]


def test_updates_that_hang_cost_only_themselves(
    run: Run, programs: Answers, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "BATCHES_AT_ONCE", 1)
    names = add_all(swarm, 6)
    for name in names[:2]:
        programs.answer(*swarm.update_of(name), orders=["hang"], times=99)

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (1, names[2:])
    text = "; failed: web-00, web-01: docker service update hung, and was killed"
    assert text in outcome.last_line


def test_what_the_two_seconds_kept_from_starting_goes_back_into_the_queue(
    run: Run, programs: Answers, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """11: it is looked at anew with another batch: neither a failure nor a try."""
    monkeypatch.setattr(script, "XARGS", ("xargs", "-r", "-P1", "-n1"))
    names = add_all(swarm, 3)
    id_ = swarm.service(names[0])["id"]
    programs.answer(*script.UPDATE, id_, stdout=f"{id_}\n", orders=["sleep-2.5"])

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (0, names)
    assert "fail" not in outcome.stderr and not programs.calls_of("sleep")
    assert [updates_of(programs, swarm, name) for name in names] == [1, 1, 1]
    for name in names[1:]:
        [update] = programs.calls_of(*swarm.update_of(name))
        looks = looks_at(programs, swarm, name)
        assert len(looks) == 2 and looks[1] < programs.calls.index(update)
    assert harmed(swarm) == []


def test_slow_updates_are_neither_killed_nor_done_again(
    run: Run, programs: Answers, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that have begun within the two seconds have their time."""
    monkeypatch.setattr(script, "XARGS", ("xargs", "-r", "-P3", "-n1"))
    names = add_all(swarm, 3)
    for name in names:
        id_ = swarm.service(name)["id"]
        programs.answer(*script.UPDATE, id_, stdout=f"{id_}\n", orders=["sleep-25"])

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (0, names)
    assert len(programs.calls_of(*script.UPDATE)) == 3


def test_the_two_seconds_count_from_before_the_first_question(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    """10: an answer may be old when it comes."""
    swarm.add("web")
    programs.answer(*script.INSPECT, programs.fp.any(), orders=["sleep-2.1"])
    programs.answer(*script.TASKS, programs.fp.any(), orders=["sleep-2.1"])

    outcome = run()

    # What these two printed was nothing; what counts is that nothing rested on it.
    assert outcome.refreshed == ["web"]
    assert updates_of(programs, swarm, "web") == 1


@pytest.mark.parametrize("seconds, is_updated", [(1.8, True), (2.1, False)])
def test_what_is_two_seconds_old_is_not_acted_on(
    run: Run, programs: Any, swarm: PretendSwarm, seconds: float, is_updated: bool
) -> None:
    swarm.add("web")

    def be_slow(call: Call) -> dict[str, Any] | None:
        if call.argv[: len(script.SPECS)] != list(script.SPECS):
            return None
        answer = swarm.answer(call.argv, call.stdin, call.environ)
        assert answer
        return {**answer._asdict(), "orders": [f"sleep-{seconds}"]}

    programs.answerers.insert(0, be_slow)

    outcome = run()

    assert outcome.refreshed == ["web"] * is_updated
    assert bool(programs.calls_of(*script.UPDATE)) is is_updated
    text = "web: docker took over 2 s to answer -> check this host's load"
    assert (text in outcome.last_line) is not is_updated


# The time of a try


def test_what_is_left_when_the_time_is_over_is_named(
    run: Run, programs: Answers, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "BATCHES", (1,))
    monkeypatch.setattr(script, "BATCHES_AT_ONCE", 1)
    names = add_all(swarm, 9)
    for name in names:
        programs.answer(*swarm.update_of(name), orders=["hang"], times=99)

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (1, [])
    text = ": not started: time limit reached"
    assert text in outcome.last_line
    assert 4 < len(programs.calls_of(*script.UPDATE)) < 9


def test_each_try_has_the_same_time(run: Run, programs: Any, swarm: PretendSwarm) -> None:
    """12: the pause before it is not taken from it."""
    swarm.add("web")
    programs.answer(*script.AWS_TOKEN, programs.fp.any(), orders=["hang"], times=99)
    moments = []

    def note(call: Call) -> None:
        if call.argv[: len(script.LIST)] == list(script.LIST):
            moments.append(programs.clock.monotonic())

    programs.answerers.insert(0, note)

    run("--tries", "3")

    attempts = len(moments) // 3
    first, second, third = moments[0], moments[attempts], moments[2 * attempts]
    assert second - first == pytest.approx(third - second)
    assert [round(moments[at + 1] - moments[at]) for at in (0, attempts, 2 * attempts)] == [61] * 3


def test_each_service_is_the_first_one_some_time() -> None:
    """So tries that are too short reach all services in the end."""
    random.seed(7)
    run = script.Run(script.parse([]), script.Programs({}), "")
    run.rows = {f"web-{each}": script.Row(str(each), f"web-{each}", ECR) for each in range(10)}

    first = {script.rows_by_host(run)[ECR][0].name for _ in range(200)}

    assert len(first) == 10
