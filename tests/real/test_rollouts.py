"""Rollouts that have paused, stand still or are under way when a run comes."""

import re

import pytest
from case import SCRIPT, SEED
from lab import wait_until
from lab.wrappers import clock_set_back
from promise import UNTIL_TOLD, beside_no_run, more_stacks, stacks, tell

GOES_ON, STAYS = "goes on: healthy tasks are lost", "stays paused"
GO_ON = "docker service update --with-registry-auth"
BACK = "docker service rollback"


def paused_rollout(case, *options, image):
    """A rollout of six replicas that paused when the first new tasks failed; returns the others."""
    case.create("web", "--replicas 6", image=image)
    before = case.runs("web", 6)
    case.update("web", *options)
    case.rollout_is("web", "paused")
    return {"web": before & case.running("web")}


def hourly_runs(case, healthy, status=0):
    """Two runs, each with a new token; returns what the last one said.

    Of the loop each resumes the rollouts, which go on until they meet a failure again. That may be
    a slot that has failed already, even three times in a row, so it gets more runs.
    """
    for _ in range(9 if case.way == SEED else 2):
        case.lab.rotate()
        result = case.refresh()
        assert result.returncode == status, result
        if case.way == SEED:
            case.seen(lambda: have_gone_on(case, healthy))
            if all(is_lost(case, healthy, name) for name in healthy):
                break
    return result


def said_by_dry_and_hourly_runs(case, healthy):
    """What the last of these runs says, and before them, if the script is on trial, a dry run."""
    said = [case.refresh("--dry-run").stderr] if case.way == SCRIPT else []
    return [*said, hourly_runs(case, healthy).stderr]


def have_gone_on(case, healthy):
    return all(is_lost(case, healthy, name) or paused(case, name) for name in healthy)


def paused(case, name):
    return case.rollout(name) == "paused"


def is_lost(case, healthy, name):
    """Whether some of the tasks that were healthy are."""
    return bool(healthy[name] - case.running(name))


def lost(case, healthy):
    """The services that have lost healthy tasks."""
    case.seen(lambda: all(is_lost(case, healthy, name) for name in healthy), by=[SEED])
    return [name for name in healthy if is_lost(case, healthy, name)]


def assert_held_back(said, name="web"):
    """It says that the service is, that a rollout is the reason, and the command that goes on."""
    outcome = rf"(?:^{name} held back|held back too long: {name}): "
    assert re.search(rf"(?m){outcome}.*rollout.*{GO_ON} {name}\b", said), said


@more_stacks
def test_paused_rollout(case, verdict):
    """A rollout to a bad image has paused"""
    # given
    healthy = paused_rollout(case, "--image", case.lab.image("false"), image=case.lab.image())
    # when
    result = hourly_runs(case, healthy)
    # then
    verdict(GOES_ON if lost(case, healthy) else STAYS, seed=GOES_ON, script=STAYS)
    if case.way == SCRIPT:
        assert case.rollout("web") == "paused"
        assert_held_back(result.stderr)
        assert f"{BACK} web" in result.stderr


@stacks
def test_paused_rollout_that_the_seed_has_touched(case, verdict):
    """The same, after one run of the loop (previous spec equals spec)"""
    # given
    healthy = paused_rollout(case, "--image", case.lab.image("false"), image=case.lab.image())
    case.lab.rotate()
    assert case.manager.seed().returncode == 0
    case.rollout_is("web", "paused")
    service = case.lab.service("web")
    assert service["PreviousSpec"] == service["Spec"]
    healthy["web"] &= case.running("web")
    assert healthy["web"]
    # when
    result = hourly_runs(case, healthy)
    # then
    verdict(GOES_ON if lost(case, healthy) else STAYS, seed=GOES_ON, script=STAYS)
    if case.way == SCRIPT:
        assert_held_back(result.stderr)
        assert BACK not in result.stderr  # which leads to the bad image


FAILS_IF_BAD = ("sh", "-c", 'test -z "$BAD" || exit 1; exec sleep 1000000')


def update_emptily(case):
    """docker service update NAME; at times the rollout does go on, until the next task fails."""
    for _ in range(4):
        case.update("web")
        if not case.seen(lambda: case.rollout("web"), by=()):
            break
        case.rollout_is("web", "paused")
    service = case.lab.service("web")
    assert not service.get("UpdateStatus") and service["PreviousSpec"] == service["Spec"]


@stacks
@pytest.mark.parametrize("what", ["image", "environment"])
def test_paused_rollout_and_an_empty_update(case, verdict, what):
    """A rollout has paused, and docker service update web, which changes nothing, wipes that away"""
    # given
    bad = ("--image", case.lab.image("false")) if what == "image" else ("--env-add", "BAD=1")
    healthy = paused_rollout(case, *bad, image=case.lab.image(*FAILS_IF_BAD))
    update_emptily(case)
    healthy["web"] &= case.running("web")
    assert healthy["web"]
    # when
    said = said_by_dry_and_hourly_runs(case, healthy)
    # then
    verdict(
        GOES_ON if lost(case, healthy) else "all that are healthy stay",
        seed=GOES_ON,
        script="all that are healthy stay",
    )
    if case.way == SCRIPT:
        for text in said:
            assert_held_back(text)
            assert BACK not in text  # which leads to the bad spec


# Tasks need at their start what somebody else provides, and those at work go on without.
NEEDS_OTHERS = ("sh", "-c", "test -s /others/work || exit 1; exec sleep 1000000")
DEFAULTS = {
    "condition": "--restart-condition any",
    "delay": "--restart-delay 5s",
    "grace": "--stop-grace-period 10s",
}
STACK = """
version: "3.8"
services:
  stack:
    image: {image}
    deploy: {{replicas: 5, {policy}}}
    volumes: ["{others}:/others"]
    networks: [outside]
networks:
  outside: {{external: true, name: host}}
"""


@pytest.fixture
def others(case):
    """A folder that all nodes share; its file `work` is what tasks need."""
    folder = case.lab.folder / "others"
    folder.mkdir(exist_ok=True)
    (folder / "work").write_text("well\n")
    return folder


def deploy(case, others, image, policy=""):
    path = case.lab.folder / "defaults.yml"
    path.write_text(STACK.format(image=image, policy=policy, others=others))
    case.manager.docker("stack deploy --with-registry-auth -c", path, "shop")


@stacks
def test_rollout_that_spells_out_a_default(case, verdict, others):
    """Rollouts that only spell out a default (3 options, a stack file) have paused in an outage"""
    # given
    image = case.lab.image(*NEEDS_OTHERS)
    mount = f"--mount=type=bind,source={others},target=/others"
    for name in DEFAULTS:
        case.create(name, "--replicas 5", mount, image=image, delay="")
    deploy(case, others, image)
    names = [*DEFAULTS, "shop_stack"]
    before = {name: case.runs(name, 5) for name in names}
    (others / "work").write_text("")
    for name, default in DEFAULTS.items():
        case.update(name, default)
    deploy(case, others, image, "restart_policy: {condition: any}")
    for name in names:
        case.rollout_is(name, "paused")
    healthy = {name: before[name] & case.running(name) for name in names}
    # when
    said = said_by_dry_and_hourly_runs(case, healthy)
    # then
    gone_on = lost(case, healthy)
    verdict(
        f"{len(gone_on)} go on: healthy tasks are lost" if gone_on else "all 4 stay paused",
        seed="4 go on: healthy tasks are lost",
        script="all 4 stay paused",
    )
    if case.way == SCRIPT:
        for name in names:
            assert case.rollout(name) == "paused"
            assert f"{BACK} {name}" in said[-1]
            for text in said:
                assert_held_back(text, name)


# Fails when it is told to, so that a refresh surely lands in the middle of the rollout.
FAILS_WHEN_TOLD = ("sh", "-c", f"{UNTIL_TOLD}; exit 1")
ROLLS_BACK = "--update-failure-action rollback --update-monitor 120s --rollback-monitor 1s"


def rollout_is_under_way(case, *change, image):
    """A rollout that rolls itself back has replaced both tasks, and goes on to watch them."""
    on_worker = f"--constraint=node.hostname=={case.lab.workers[0].name}"
    case.create("web", "--replicas 2", on_worker, ROLLS_BACK, image=image, delay="")
    before = case.runs("web", 2)
    case.update("web", *change)
    wait_until(lambda: len(case.running("web") - before) == 2, "both are new", 60)
    case.lab.rotate()


def fail(case):
    worker = case.lab.workers[0]
    for task in case.lab.tasks("web"):
        if task["Status"]["State"] == "running":
            tell(worker, task)


def rolls_back(case):
    """Whether it does, now that its tasks fail."""
    fail(case)
    return case.seen(lambda: case.rollout("web") == "rollback_completed", by=[SCRIPT])


@more_stacks
def test_automatic_rollback(case, verdict):
    """A run in the middle of a rollout to a bad image with automatic rollback"""
    # given
    good, bad = case.lab.image(), case.lab.image(*FAILS_WHEN_TOLD)
    rollout_is_under_way(case, "--image", bad, image=good)
    # when
    result = case.refresh()
    back = rolls_back(case)
    # then
    assert result.returncode == 0, result
    verdict(
        "rolls back" if back else "stays on the bad image",
        seed="stays on the bad image",
        script="rolls back",
    )
    assert case.image("web") == (good if back else bad)


@stacks
def test_automatic_rollback_of_a_default(case, verdict):
    """The same, of a rollout that only spells out a default (`--restart-condition any`)"""
    # given
    image = case.lab.image(*FAILS_WHEN_TOLD)
    rollout_is_under_way(case, "--restart-condition any", image=image)
    # when
    result = case.refresh()
    back = rolls_back(case)
    # then
    assert result.returncode == 0, result
    verdict(
        "rolls back" if back else "never rolls back",
        seed="never rolls back",
        script="rolls back",
    )
    if case.way == SCRIPT:
        assert_held_back(result.stderr)


@stacks
def test_rollback_by_hand(case, verdict):
    """`docker service rollback` after a run (the script with --keep-rollback 1)"""
    # given
    first, second = case.lab.image(), case.lab.image()
    case.create("web", "--update-monitor 100ms", image=first)
    case.runs("web")
    case.update("web", "--image", second)
    case.rollout_is("web", "completed")
    case.lab.rotate()
    # when
    result = case.refresh("--keep-rollback", "1")
    case.manager.docker("service rollback -d -q web", check=False)
    # then
    assert result.returncode == 0, result
    verdict(
        "rolls back" if case.image("web") == first else "does nothing",
        seed="does nothing",
        script="rolls back",
    )


# Standing still -----------------------------------------------------------------------------------


@stacks
@beside_no_run
def test_rollout_that_waits_for_a_node(case, verdict):
    """A rollout has waited for a node for 7 hours, its token has died, a run comes, a node joins"""
    # given
    constraint, label = case.label()
    case.give(case.manager, label)
    case.create("web", "--replicas 2 --replicas-max-per-node 1 --update-parallelism 0", constraint)
    case.runs("web")
    image = case.lab.image()
    case.update("web", "--image", image, "--with-registry-auth")
    case.runs("web", 1, image)
    case.rollout_is("web", "updating")
    case.lab.rotate()
    # when
    with clock_set_back(case.lab):
        result = case.refresh()
    # then
    assert result.returncode == 0, result
    case.give(case.join(), label)
    both = case.seen(lambda: len(case.running("web", image)) == 2)
    verdict(
        "it runs there" if both else "it is rejected there",
        seed="it runs there",
        script="it runs there",
        control="it is rejected there",
    )


@stacks
@beside_no_run
def test_rollout_of_ports_that_stands_still(case, verdict):
    """A rollout of a port of the host alone has stood still for 7 hours, two runs come"""
    # given: room for one task with the port
    constraint = f"--constraint=node.hostname=={case.lab.workers[0].name}"
    case.create("web", "--replicas 6 --update-monitor 100ms", constraint)
    before = case.runs("web", 6)
    case.update("web", "--publish-add mode=host,published=8080,target=80")
    wait_until(lambda: len(case.running("web") - before) == 1, "one has the port", 60)
    wait_until(lambda: len(case.running("web")) == 5, "one waits for it", 60)
    healthy = {"web": before & case.running("web")}
    # when
    with clock_set_back(case.lab):
        result = hourly_runs(case, healthy, status=3 if case.way == SCRIPT else 0)
    # then
    verdict(
        GOES_ON if lost(case, healthy) else "stands still",
        seed=GOES_ON,
        script="stands still",
        control="stands still",
    )
    if case.way == SCRIPT:
        assert f"{BACK} web" in result.stderr
        assert_held_back(result.stderr)
