"""Twins that live through the same random history: one alone, one with the script, one updated.

The first tests need no swarm: they are of the judging, as a table. The last needs root. What stands
where says walk/__init__.py.
"""

import time

import pytest
from promise import or_skip
from walk import histories, judging, playing
from walk.judging import (
    ALONE,
    FORESEEN,
    HARM,
    IN_VAIN,
    NEEDLESS,
    PLAIN,
    RIGHT,
    SCRIPT,
    TOO_LATE,
    WAITS,
    Count,
    Said,
)

QUIET, STOPS, STARTS = Count(), Count(stopped=1, started=1), Count(started=1)
LOOPS = Count(restarted=6, restless=1)
REFRESHED = Said(True)
FORESAW = Said(True, (("to be refreshed", "its tasks may restart once: ..."),))
RESTARTS = Said(True, (("will be refreshed, which restarts its tasks", "they are misplaced"),))
PULLS = Said(True, (("will be refreshed", "it pulls from ECR"),))
PULLED = Said(True, (("to be refreshed", "it pulls from ECR"),))  # before version 2.0
CAME_LATE = Said(True, (("restarts", "the update replaces its tasks"),))
SPARED = Said(False, (("left alone", "its finished tasks would run again"),))
ROLLOUT = Said(False, (("held back", "its rollout is paused"),))
STARTING = Said(False, (("held back", "its tasks are starting, and would be restarted"),))
LONG = Said(False, (("held back too long", "its rollout is updating"),))
ENDED = Said(False, (("held back", "some tasks have finished, and would start again"),))
FAILED = Said(False, (("failed", "docker did not confirm the update"),))

# What was said, what happened to the one left alone, to the script's and to the updated; category.
TABLE = [
    (REFRESHED, QUIET, QUIET, QUIET, RIGHT),
    (REFRESHED, STARTS, STARTS, QUIET, RIGHT),
    (REFRESHED, QUIET, STARTS, STARTS, HARM),
    (REFRESHED, QUIET, STOPS, QUIET, HARM),
    (REFRESHED, STARTS, STOPS, STOPS, HARM),
    (REFRESHED, LOOPS, LOOPS, LOOPS, RIGHT),
    (PULLS, QUIET, STOPS, STOPS, HARM),
    (PULLED, QUIET, STOPS, STOPS, HARM),
    (RESTARTS, QUIET, STOPS, STOPS, FORESEEN),
    (CAME_LATE, QUIET, STOPS, STOPS, TOO_LATE),
    (CAME_LATE, QUIET, QUIET, QUIET, RIGHT),
    (FORESAW, QUIET, STOPS, STOPS, FORESEEN),
    (FORESAW, QUIET, QUIET, STOPS, IN_VAIN),
    (SPARED, QUIET, QUIET, STARTS, RIGHT),
    (SPARED, QUIET, QUIET, QUIET, NEEDLESS),
    (SPARED, LOOPS, LOOPS, LOOPS, NEEDLESS),
    (ENDED, QUIET, QUIET, QUIET, NEEDLESS),
    (FAILED, QUIET, QUIET, QUIET, NEEDLESS),
    (Said(), QUIET, QUIET, QUIET, NEEDLESS),
    (ROLLOUT, QUIET, QUIET, QUIET, WAITS),
    (LONG, QUIET, QUIET, QUIET, WAITS),
    (STARTING, QUIET, QUIET, QUIET, WAITS),
    (ROLLOUT, QUIET, QUIET, STOPS, RIGHT),
]


@pytest.mark.parametrize(("said", "alone", "script", "plain", "category"), TABLE)
def test_judging(said, alone, script, plain, category):
    assert judging.judge(said, {ALONE: alone, SCRIPT: script, PLAIN: plain}) == category


@pytest.mark.parametrize(
    ("said", "alone", "plain", "category"),
    [
        # What the script of then did to its own twin is another thing.
        (REFRESHED, QUIET, QUIET, RIGHT),
        (REFRESHED, QUIET, STOPS, HARM),
        (FORESAW, QUIET, STOPS, FORESEEN),
        (RESTARTS, QUIET, QUIET, IN_VAIN),
        (SPARED, QUIET, STARTS, RIGHT),
        (SPARED, QUIET, QUIET, NEEDLESS),
        (ROLLOUT, QUIET, QUIET, WAITS),
    ],
)
@pytest.mark.parametrize("script", [QUIET, STOPS])
def test_judging_what_another_version_says(said, alone, script, plain, category):
    counts = {ALONE: alone, SCRIPT: script, PLAIN: plain}
    assert judging.judge_decision(said, counts) == category


@pytest.mark.parametrize(
    ("count", "alone", "expected"),
    [
        # A crash loop gets one start more, or some more in the same time.
        (Count(restarted=7, restless=1), LOOPS, False),
        (Count(restarted=10, restless=1), LOOPS, False),
        (Count(restarted=11, restless=1), LOOPS, True),
        # It hides nothing of what happens beside it.
        (Count(stopped=1, restarted=6, restless=1), LOOPS, True),
        (Count(started=1, restarted=6, restless=1), LOOPS, True),
        # One that is about to end its tries starts no crowd.
        (Count(restarted=1, restless=1), Count(restless=1), False),
        (Count(restarted=2, restless=1), Count(restless=1), True),
        # A rollout had come to more slots when it paused.
        (Count(restarted=14, restless=2), LOOPS, False),
        (Count(restarted=21, restless=2), LOOPS, True),
        (Count(stopped=1, restarted=14, restless=2), LOOPS, True),
        (Count(restarted=1), QUIET, True),
    ],
)
def test_loops(count, alone, expected):
    assert count.exceeds(alone) is expected


STDERR = """\
Docker login succeeded for 123456789012.dkr.ecr.eu-central-1.amazonaws.com
s1script left alone: its finished tasks would run again
s2script held back too long: its rollout is paused, see docker service ps s2script; to go on: x
s3script to be refreshed: its tasks restart
s7script will be refreshed, which restarts its tasks: it was moved
s7script refreshed
s9script, s10script refreshed: not so
s4script restarts: the update replaces its tasks
s5script, s6script failed: docker service update failed: left alone: no
s11script s8script failed: docker said nothing
1 refreshed, 1 left alone, 3 failed in 1.0 seconds; failed: s12script, s13script: no; s14script: so
"""


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("s1script", [("left alone", "its finished tasks would run again")]),
        ("s3script", [("to be refreshed", "its tasks restart")]),
        ("s4script", [("restarts", "the update replaces its tasks")]),
        ("s5script", [("failed", "docker service update failed: left alone: no")]),
        ("s6script", [("failed", "docker service update failed: left alone: no")]),
        ("s8script", [("failed", "docker said nothing")]),
        ("s7script", [("will be refreshed, which restarts its tasks", "it was moved")]),
        ("s13script", [("failed", "no")]),
        ("s14script", [("failed", "so")]),
        ("script", []),
        ("s9script", []),
    ],
)
def test_what_the_script_said(name, lines):
    assert list(judging.said_of(name, "s3script\ns4script\n", STDERR).lines) == lines


def test_outcomes_that_begin_alike():
    [(outcome, _)] = judging.said_of("s2script", "", STDERR).lines
    assert outcome == "held back too long"


@pytest.mark.parametrize(
    ("name", "is_refreshed"),
    [("s3script", True), ("s7script", True), ("s3", False), ("s7", False), ("s10script", False)],
)
def test_who_was_refreshed(name, is_refreshed):
    assert judging.said_of(name, "s3script\ns4script\n", STDERR).is_refreshed is is_refreshed


NOW = 1_700_000_000


def task(number, slot, state="running", wanted="running", seconds=100):
    """A task as the API shows it, in its state for so many seconds."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%S.5Z", time.gmtime(NOW - seconds))
    container = {"ContainerID": "c"} if state in ("running", "failed", "complete") else {}
    return {
        "ID": f"task{number}",
        "Slot": slot,
        "CreatedAt": f"{number:04}",
        "DesiredState": wanted,
        "Status": {"State": state, "Timestamp": moment, "ContainerStatus": container},
    }


GONE = task(1, 1, "failed", "shutdown")
FAILS = task(2, 2, "failed", "shutdown", seconds=2)
LIVES = [task(1, 1), task(3, 2, "ready", "ready")]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([task(1, 1)], [task(1, 1)], Count()),
        ([task(1, 1)], [GONE, task(3, 1)], Count(stopped=1, started=1)),
        ([task(1, 1)], [], Count(stopped=1)),
        # New, but it waits, or was never let in.
        ([], [task(3, 1, "pending")], Count()),
        ([], [task(3, 1, "rejected", "shutdown")], Count()),
        # A finished one runs again.
        ([task(1, 1, "complete", "shutdown")], [task(3, 1)], Count(started=1)),
        # It will, as soon as a node has room for it.
        ([task(1, 1, "complete", "shutdown")], [task(3, 1, "pending")], Count(started=1)),
        ([task(1, 1, "complete", "shutdown")], [task(3, 1, "rejected", "shutdown")], Count()),
        # One slot fails in a loop; the other is replaced.
        ([FAILS, *LIVES], [task(1, 1), task(4, 2)], Count(restarted=1, restless=1)),
        ([FAILS, *LIVES], [task(4, 1)], Count(stopped=1, started=1, restless=1)),
        # One has failed just now, and stays so: if it runs again, that is harm.
        ([FAILS, task(1, 1)], [task(1, 1), task(4, 2)], Count(started=1)),
    ],
)
def test_counting(before, after, expected):
    assert judging.count(before, after, NOW) == expected


SERVICE = {"Spec": {"TaskTemplate": {"N": 1}}}
HERE = {"node": ("ready", "active")}


def of_spec(version, **described):
    return {**task(**described), "Spec": {"N": version}, "NodeID": "node"}


def at_work(number, spec=1):
    return of_spec(spec, number=number, slot=number)


def failed(number, seconds=100):
    return of_spec(
        1, number=number, slot=number, state="failed", wanted="shutdown", seconds=seconds
    )


@pytest.mark.parametrize(
    ("one", "other", "is_alike"),
    [
        ([at_work(1), at_work(2)], [at_work(3), at_work(4)], True),
        ([at_work(1), at_work(2)], [at_work(1)], False),
        ([at_work(1), at_work(2)], [at_work(1), at_work(2, spec=0)], False),
        # A paused rollout has come to one slot, or two.
        ([failed(1), *map(at_work, (2, 3), (0, 0))], [failed(1), failed(2), at_work(3, 0)], True),
        ([failed(1), at_work(2, 0)], [failed(1), failed(2)], False),
        ([failed(1), at_work(2, 0)], [failed(1), at_work(2, 0), at_work(3, 0)], False),
    ],
)
def test_likeness(one, other, is_alike):
    one, other = (judging.likeness(SERVICE, tasks, HERE, NOW) for tasks in (one, other))
    assert (one == other) is is_alike


def test_the_same_seed_gives_the_same_history():
    first, again, other = (histories.session_from(*each) for each in ((7, 1), (7, 1), (7, 2)))
    assert first == again
    assert first != other
    assert first.only({3}).stories == [first.stories[2]]


def share(some, condition):
    return sum(map(condition, some)) / len(some)


def test_what_histories_have():
    sessions = [histories.session_from(1, number) for number in range(100)]
    told = [story for session in sessions for story in session.stories]
    bare = [" ".join(story.steps[0].words) for story in told if story.is_bare]
    empty = ("service", "update", "-d", "-q", "NAME")

    assert len(bare) >= len(told) / 3
    assert not [words for words in bare if "--restart" in words or "--update" in words]
    assert share(told, lambda story: empty in [step.words for step in story.steps]) >= 1 / 3
    assert share(told, lambda story: story.breaks) >= 1 / 4
    assert share(sessions, lambda session: histories.FILE in str(session.events)) >= 1 / 4


# Number and stories. In both sessions rollouts fail, and are then updated with nothing, and some
# services were made with nothing spelled out; in the second there is an outage.
@pytest.mark.parametrize(
    "engine, number, stories",
    [
        ("20.10", 32, {1, 4, 6, 7, 8, 10, 12, 14}),
        ("26.1", 29, {2, 3, 5, 7, 8, 13, 15}),
    ],
)
def test_twins(engine, number, stories):
    # given: the same histories each time
    session = histories.session_from(9001, number).only(stories)
    # when
    with or_skip():
        run = playing.walk([session], engine=engine)
    # then: whatever it prints shows what was seen
    assert not [playing.report(*each) for each in run.believed]
    judged = sum(bool(ending.category) for _, ending in run.endings)
    # On a busy machine twins go different ways; with none alike the test would prove nothing.
    assert judged >= len(stories) // 3, "too few twins were alike"
