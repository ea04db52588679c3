"""Every run ends in time, whatever hangs or is slow, and leaves out nobody for good.

The constants are shortened: what counts is who is refreshed, and what is said, not how long it
takes. Nothing here measures time.
"""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from fakes import Call, Fakes
from pretend_swarm import ECR, ECR_US, UPDATE, PretendSwarm, harmed
from shared import (
    INFO,
    INSPECT,
    LEADER,
    LOGIN,
    LS,
    PROOF,
    PS,
    STATUS,
    TOKEN,
    Bounds,
    Run,
    is_untouched,
    last_line,
    refreshed,
)


def add_all(swarm: PretendSwarm, number: int) -> list[str]:
    """So many services, in the order of their names."""
    names = [f"web-{each:02}" for each in range(number)]
    for name in names:
        swarm.add(name)
    return names


def be_slow(fakes: Fakes, swarm: PretendSwarm, beginning: tuple[str, ...], seconds: float) -> None:
    """Each call that begins so takes a while."""

    def answer(call: Call) -> dict[str, Any] | None:
        if call.argv[: len(beginning)] != list(beginning):
            return None
        answer = swarm.answer(call.argv, call.stdin, call.environ)
        assert answer
        return {**answer._asdict(), "orders": [f"sleep-{seconds}"]}

    fakes.answerers.insert(0, answer)


# A client that hangs


def test_updates_that_hang_cost_only_themselves(
    run: Run, fakes: Fakes, swarm: PretendSwarm, bounds: Bounds
) -> None:
    bounds.set(update_seconds=0.4, batch=3, pauses=())
    names = add_all(swarm, 12)
    for name in names[:5]:
        fakes.answer(*swarm.update_of(name), orders=["child", "hang"], times=9)

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (1, names[5:])
    assert "5 services: docker service update" in last_line(outcome)
    assert fakes.still_running() == []


def test_an_update_that_hung_is_tried_again_after_all_others(
    run: Run, fakes: Fakes, swarm: PretendSwarm, bounds: Bounds
) -> None:
    bounds.set(update_seconds=0.5, batch=2)
    names = add_all(swarm, 6)
    fakes.answer(*swarm.update_of("web-03"), orders=["hang"])

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (0, names)
    updates = [call.argv[-1] for call in fakes.calls_of(*UPDATE)]
    assert len(updates) == 7
    assert updates[-1] == swarm.service("web-03")["id"]


def test_an_update_that_hangs_says_so(
    run: Run, fakes: Fakes, swarm: PretendSwarm, bounds: Bounds
) -> None:
    bounds.set(update_seconds=0.4)
    swarm.add("web")
    fakes.answer(*swarm.update_of("web"), orders=["hang"], times=9)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (1, "")
    assert "web: docker service update hung, and was killed after" in last_line(outcome)


@pytest.mark.parametrize("what", [INSPECT, PS, STATUS])
def test_a_look_that_hangs_once(
    run: Run, fakes: Fakes, swarm: PretendSwarm, bounds: Bounds, what: tuple[str, ...]
) -> None:
    bounds.set(program_seconds=0.6)
    swarm.add("web")
    fakes.answer(*what, fakes.fp.any(), orders=["hang"])

    assert run()[:2] == (0, "web\n")
    assert fakes.still_running() == []


def test_a_proof_that_hangs(run: Run, fakes: Fakes, swarm: PretendSwarm, bounds: Bounds) -> None:
    bounds.set(program_seconds=0.6)
    swarm.add("web")
    swarm.add("us", f"{ECR_US}/us:1")
    fakes.answer(*PROOF, ECR, orders=["hang"], times=9)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (1, "us\n")
    assert f"docker login {ECR} hung, and was killed after" in last_line(outcome)
    assert is_untouched(swarm, "web")


# A client that is slow


def test_slow_updates_are_not_killed(
    run: Run, fakes: Fakes, swarm: PretendSwarm, bounds: Bounds
) -> None:
    """Each has its own time: 40 of them take longer than any of them may."""
    bounds.set(update_seconds=1.5, program_seconds=1.5, xargs=("xargs", "-r", "-P4"))
    names = add_all(swarm, 40)
    be_slow(fakes, swarm, UPDATE, 0.25)

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (0, names)
    updates = fakes.calls_of(*UPDATE)
    assert len(updates) == 40
    assert [call for call in updates if not call.has_ended_by_itself] == []


# The deadline


def test_what_is_left_at_the_deadline_is_named(
    run: Run, fakes: Fakes, swarm: PretendSwarm, bounds: Bounds
) -> None:
    bounds.set(run_seconds=3.0, closing_seconds=1.5, batch=1)
    names = add_all(swarm, 12)
    be_slow(fakes, swarm, UPDATE, 0.4)

    outcome = run()

    done = refreshed(outcome)
    assert outcome.status == 1
    assert 0 < len(done) < 12
    text = " failed: the 3.0 seconds of the run were over before its turn came"
    lines = [line for line in outcome.stderr.splitlines() if text in line]
    left = [name for line in lines for name in line.replace(text, "").split()]
    named = re.findall(r"web-\d\d", outcome.stderr)
    assert set(named) | set(done) == set(names)
    assert left and [name for name in left if not is_untouched(swarm, name)] == []
    assert harmed(swarm) == []


def test_the_deadline_ends_what_runs(
    run: Run, fakes: Fakes, swarm: PretendSwarm, bounds: Bounds
) -> None:
    bounds.set(run_seconds=3.0, closing_seconds=1.5)
    swarm.add("slow")
    swarm.add("web")
    fakes.answer(*swarm.update_of("slow"), orders=["child", "hang"], times=9)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (1, "web\n")
    assert "slow: docker service update" in last_line(outcome)
    assert fakes.still_running() == []


@pytest.mark.parametrize("what", [LS, INFO, INSPECT, PS, TOKEN])
def test_a_run_in_which_all_hangs_ends_too(
    run: Run, fakes: Fakes, swarm: PretendSwarm, bounds: Bounds, what: tuple[str, ...]
) -> None:
    bounds.set(run_seconds=2.0, closing_seconds=0.5)
    swarm.add("web")
    if what == INFO:
        fakes.answer(*LS, fakes.fp.any(), stderr="down", exit_status=1, times=99)
    fakes.answer(*what, fakes.fp.any(), orders=["child", "hang"], times=99)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (1, "")
    assert "; missing: " in last_line(outcome)
    assert fakes.still_running() == []
    assert is_untouched(swarm, "web")


def test_the_last_look_and_proof_have_their_time(
    run: Run, fakes: Fakes, swarm: PretendSwarm, bounds: Bounds
) -> None:
    """Whatever the updates took: an empty login must not go unseen."""
    bounds.set(run_seconds=4.0, closing_seconds=2.5)
    names = add_all(swarm, 3)
    fakes.answer(*swarm.update_of("web-00"), orders=["hang"], times=9)

    outcome = run()

    assert refreshed(outcome) == names[1:]
    assert len(fakes.calls_of(*STATUS)) == 1
    last_update = max(fakes.calls.index(call) for call in fakes.calls_of(*UPDATE))
    assert [call for call in fakes.calls_of(*PROOF) if fakes.calls.index(call) > last_update]


@pytest.mark.parametrize("call", [(*LOGIN, ECR), (*PROOF, ECR)])
def test_a_login_is_not_cut_short(
    run: Run, fakes: Fakes, swarm: PretendSwarm, bounds: Bounds, call: tuple[str, ...]
) -> None:
    """docker may be about to replace config.json: it gets its time even if the run's is over."""
    bounds.set(run_seconds=1.0, closing_seconds=0.3)
    swarm.add("web")
    be_slow(fakes, swarm, call, 1.5)

    assert run().status == 1

    assert len(fakes.calls_of(*call)) == 1
    assert fakes.calls_of(*call)[0].has_ended_by_itself
    assert is_untouched(swarm, "web")


# Fairness


def test_short_runs_reach_all_services_in_the_end(
    run: Run, fakes: Fakes, swarm: PretendSwarm, bounds: Bounds
) -> None:
    """The order is another one each time: nobody is the last for good."""
    bounds.set(run_seconds=2.0, closing_seconds=1.0, batch=2)
    random.seed(7)
    names = add_all(swarm, 10)
    be_slow(fakes, swarm, UPDATE, 0.3)
    reached: set[str] = set()

    for _ in range(20):
        outcome = run()
        assert outcome.status == 1 and len(refreshed(outcome)) < 10
        reached.update(refreshed(outcome))
        if reached == set(names):
            break

    assert reached == set(names)


def test_services_that_hang_do_not_starve_the_others(
    run: Run, fakes: Fakes, swarm: PretendSwarm, bounds: Bounds
) -> None:
    bounds.set(run_seconds=2.0, closing_seconds=1.0, update_seconds=0.3, batch=2)
    random.seed(7)
    names = add_all(swarm, 8)
    for name in names[:2]:
        fakes.answer(*swarm.update_of(name), orders=["hang"], times=999)
    reached: set[str] = set()

    for _ in range(20):
        reached.update(refreshed(run()))
        if reached == set(names[2:]):
            break

    assert reached == set(names[2:])


# Trying again


@pytest.mark.parametrize("times, status, done", [(3, 0, "web\n"), (99, 1, "")])
def test_update_out_of_sequence(
    run: Run, fakes: Fakes, swarm: PretendSwarm, times: int, status: int, done: str
) -> None:
    swarm.add("web")
    swarm.add("api")
    text = "update out of sequence"
    fakes.answer(*swarm.update_of("web"), stderr=text, exit_status=1, times=times)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (status, "api\n" + done)
    is_said = (
        "web failed: docker service update failed with exit status 1: " + text in outcome.stderr
    )
    assert is_said is bool(status)
    assert swarm.service("api")["version"] == 2
    assert len(fakes.calls_of(*swarm.update_of("web"))) == min(times + 1, 4)


def test_what_failed_is_tried_again_after_all_batches(
    run: Run, fakes: Fakes, swarm: PretendSwarm, bounds: Bounds
) -> None:
    bounds.set(batch=1)
    names = add_all(swarm, 5)
    for name in names:
        fakes.answer(*swarm.update_of(name), stderr="out of sequence", exit_status=1)

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (0, names)
    ids = [call.argv[-1] for call in fakes.calls_of(*UPDATE)]
    assert len(set(ids[:5])) == 5 and sorted(ids[:5]) == sorted(ids[5:])


def test_what_is_tried_again_is_looked_at_again(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("web")
    fakes.answer(*swarm.update_of("web"), stderr="out of sequence", exit_status=1)

    run()

    for look in (INSPECT, PS):
        assert len(fakes.calls_of(*look)) == 2


def test_an_update_that_is_not_confirmed_is_tried_again(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("web")
    fakes.answer(*swarm.update_of("web"), stdout="")

    outcome = run()

    assert (outcome.status, outcome.stdout) == (0, "web\n")
    assert "web to be tried again: docker did not confirm the update" in outcome.stderr
    assert swarm.service("web")["version"] == 2


@pytest.mark.parametrize(
    "call, arguments", [(LS, []), (LS, ["--login-only"]), (LEADER, ["--leader-only"])]
)
def test_first_calls_are_tried_again(
    run: Run,
    fakes: Fakes,
    swarm: PretendSwarm,
    call: tuple[str, ...],
    arguments: list[str],
) -> None:
    """cron gets what systemd's Restart= gives."""
    swarm.add("web")
    text = "rpc error: code = Unknown desc = The swarm does not have a leader."
    fakes.answer(*call, fakes.fp.any(), stderr=text, exit_status=1, times=3)

    outcome = run(*arguments)

    assert outcome.status == 0
    assert outcome.stderr.count("To be tried again: docker ") == 3 and text in outcome.stderr
    assert len(fakes.calls_of(*call)) == 4


def test_first_calls_are_not_tried_for_ever(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    fakes.answer(*LS, fakes.fp.any(), stderr="context deadline exceeded", exit_status=1, times=99)

    outcome = run()

    assert outcome.status == 1
    assert "the run: docker service ls failed with exit status 1: context" in last_line(outcome)
    assert len(fakes.calls_of(*LS)) == 4


@pytest.mark.parametrize("node", ["worker", "none", "locked"])
@pytest.mark.parametrize("arguments", [[], ["--leader-only"]])
def test_a_node_that_manages_nothing_is_asked_once(
    run: Run, fakes: Fakes, swarm: PretendSwarm, node: str, arguments: list[str]
) -> None:
    swarm.state["node"] = node

    assert run(*arguments).status == 1

    assert len(fakes.calls_of(*LS)) == 1
    assert not fakes.calls_of("sleep")
