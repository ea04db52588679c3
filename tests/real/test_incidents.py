"""In incidents: nodes go, come and drain, and a run comes in between.

With no run at all as control: no task is started twice, none that serves is stopped, and all run
within a second or two of the control.
"""

import pytest
import table
from case import NOTHING, SCRIPT, SEED, Case
from lab import Lab, ecr_host, engines, wait_until
from lab.wrappers import held_up
from promise import (
    UNTIL_TOLD,
    another_login,
    beside_no_run,
    no_answer_from_registries,
    or_skip,
    stacks,
    tell,
)

pytestmark = beside_no_run


def started(case, name):
    """How many tasks have been started, but for those whose pull was rejected: swarm itself starts
    them anew. Engine 29 rejects one at times when its registry comes back in the middle of it.
    """
    return sum(state != "rejected" for state in case.lab.states(name))


def once_or_twice(case, name, count):
    """Whether tasks were started that the control has not; `count` is how many it has."""
    twice = case.seen(lambda: started(case, name) > count, by=[SEED])
    return "started twice" if twice else "start once"


ONCE = {"seed": "started twice", "script": "start once", "control": "start once"}


def yield_to_successor(case, node, before):
    """Drain a node, and wait until the task's successor pulls its image on another."""
    case.drain(node)
    wait_until(
        lambda: (
            [task["Status"]["State"] for task in case.lab.tasks("web") if task["ID"] not in before]
            == ["preparing"]
        ),
        "the successor pulls",
    )


@stacks
def test_pending_replicas(case, verdict):
    """Replicas wait for a node when a run comes, and then one joins"""
    # given
    constraint, label = case.label()
    case.create("web", "--replicas 4", constraint, config=another_login(case))
    wait_until(lambda: case.lab.states("web") == ["pending"] * 4, "four tasks wait")
    waiting = case.task_ids("web")
    # when
    result = case.refresh()
    # then
    assert result.returncode == 0, result
    case.give(case.lab.workers[0], label)
    case.runs("web", 4)
    replaced = case.seen(lambda: case.task_ids("web") != waiting, by=[SEED])
    verdict(
        "replaced, one by one" if replaced else "come up, and stay",
        seed="replaced, one by one",
        script="come up, and stay",
        control="come up, and stay",
    )


@stacks
def test_drained_node(case, verdict):
    """A service of one replica moves from a drained node, and is pulling"""
    # given
    old, new = case.join(), case.join()
    constraint, label = case.label()
    case.give(old, label)
    case.create("web", constraint, config=another_login(case))
    before = case.runs("web")
    with no_answer_from_registries(new):
        case.give(new, label)
        yield_to_successor(case, old, before)
        # when
        result = case.refresh()
    # then
    assert result.returncode == 0, result
    verdict(once_or_twice(case, "web", 2), **ONCE)


@stacks
def test_lost_node(case, verdict):
    """A node is lost, whose tasks docker service ls goes on to count; the others are pulling"""
    # given
    old, new = case.join(), case.join()
    constraint, label = case.label()
    case.give(old, label)
    case.create("web", "--replicas 2", constraint, config=another_login(case))
    case.runs("web", 2)
    with no_answer_from_registries(new):
        case.give(new, label)
        old.power_off()
        wait_until(
            lambda: case.lab.states("web").count("preparing") == 2, "both move to the other", 90
        )
        assert "2/2" in case.manager.docker("service ls")
        # when
        result = case.refresh()
    # then
    assert result.returncode == 0, result
    seen = once_or_twice(case, "web", 4)
    old.start()  # or its tasks would seem to run for a day
    verdict(seen, **ONCE)


@stacks
def test_scale_up_while_aws_is_slow(case, verdict):
    """A service is scaled up while aws is slow, and the new tasks are pulling"""
    # given
    constraint, label = case.label()
    case.give(case.manager, label)
    worker = case.lab.workers[0]
    case.create("web", "--replicas-max-per-node 1", constraint, config=another_login(case))
    case.runs("web")
    with no_answer_from_registries(worker):
        case.give(worker, label)
        # when
        with held_up(case.lab, "aws") as is_asked:
            run = case.start(case.manager)
            if case.way != NOTHING:
                is_asked()
            case.scale("web", 2)
            wait_until(lambda: "preparing" in case.lab.states("web"), "the new task pulls")
        run.communicate(timeout=120)
    # then
    assert run.returncode == 0
    verdict(once_or_twice(case, "web", 2), **ONCE)


@stacks
def test_old_rejection(case, verdict):
    """A task is pulling, in a slot where long before one was rejected"""
    # given: rejected for a dead token, then healed
    old, new = case.join(), case.join()
    constraint, label = case.label()
    case.give(old, label)
    login = another_login(case)
    with no_answer_from_registries(old):
        case.create("web", constraint, "--restart-delay 10s", config=login)
        case.lab.rotate()
    case.rejected("web")
    case.lab.login(case.manager)
    case.update("web", "--with-registry-auth", config=another_login(case))
    before = case.runs("web") and case.task_ids("web")
    with no_answer_from_registries(new):
        case.give(new, label)
        yield_to_successor(case, old, before)
        count = started(case, "web")
        # when
        result = case.refresh()
    # then
    assert result.returncode == 0, result
    verdict(once_or_twice(case, "web", count), **ONCE)


@stacks
def test_one_of_three_has_finished(case, verdict):
    """One of three tasks that may finish has finished, when a run comes; then a node is drained"""
    # given
    constraint, label = case.label()
    for node in (case.manager, case.lab.workers[0]):
        case.give(node, label)
    case.create(
        "web",
        "--replicas 3 --restart-condition on-failure",
        constraint,
        image=case.lab.image("sh", "-c", UNTIL_TOLD),
        config=another_login(case),
    )
    case.runs("web", 3)
    finish_one(case, "web")
    # when
    result = case.refresh()
    # then
    assert result.returncode == 0, result
    again = case.seen(lambda: len(case.task_ids("web")) > 3, by=[SEED])
    verdict(
        "the finished one runs again" if again else "the others go on",
        seed="the finished one runs again",
        script="the others go on",
        control="the others go on",
    )
    if case.way == SCRIPT:
        assert "web held back: some tasks have finished" in result.stderr
    if case.way != SEED:
        case.drain(case.lab.workers[0])
        wait_until(lambda: len(case.running("web")) == 2, "the others run on one node", 60)
        case.undrain(case.lab.workers[0])


def finish_one(case, name):
    """Let one of a service's tasks end with exit status 0."""
    nodes = {case.lab.node_info(node)["ID"]: node for node in case.lab.nodes}
    task = next(task for task in case.lab.tasks(name) if task["ID"] in case.running(name))
    tell(nodes[task["NodeID"]], task)
    wait_until(lambda: "complete" in case.lab.states(name), "one has finished")


@stacks
def test_drained_global_one_shot(case, verdict):
    """A global one-shot is at work on a node that is drained, and comes back"""
    # given
    constraint, label = case.label()
    worker = case.lab.workers[0]
    case.give(worker, label)
    case.create(
        "once", "--mode global --restart-condition none", constraint, config=another_login(case)
    )
    case.runs("once")
    case.drain(worker)
    wait_until(lambda: not case.running("once"), "it is shut down")
    case.undrain(worker)
    # when
    result = case.refresh()
    # then
    assert result.returncode == 0, result
    again = case.seen(lambda: len(case.task_ids("once")) > 1, by=[SEED])
    verdict(
        "runs again" if again else "left alone",
        seed="runs again",
        script="left alone",
        control="left alone",
    )


@stacks
def test_untagged_image(case, verdict):
    """A service whose image has neither tag nor digest, as UIs make it"""
    # given: what :latest is now, and what it is later
    _, label = case.label()
    case.give(case.manager, label)
    image = f"{ecr_host()}/app"
    case.lab.registries.push(["sleep", "1000001"], "latest")
    case.manager.docker(f"pull {image}:latest")
    template = {
        "ContainerSpec": {"Image": image},
        "Placement": {"Constraints": [f"node.labels.{label}==yes"]},
    }
    case.manager.api("/services/create", "POST", {"Name": "web", "TaskTemplate": template})
    before = case.runs("web")
    case.lab.registries.push(["sleep", "1000002"], "latest")
    # when
    result = case.refresh()
    # then
    assert result.returncode == 0, result
    deployed = case.seen(lambda: case.running("web") != before, by=[SEED])
    verdict(
        "deploys what :latest is now" if deployed else "goes on",
        seed="deploys what :latest is now",
        script="goes on",
        control="goes on",
    )


@stacks
def test_scaled_down_and_up(case, verdict):
    """Services that may finish were updated, scaled down, to 2 and 0; a run; then up to 4"""
    # given
    constraint, label = case.label()
    case.give(case.manager, label)
    counts = {"two": 2, "zero": 0}
    for name, count in counts.items():
        options = "--replicas 3 --restart-condition on-failure --update-parallelism 0"
        # So that not all four find room on the manager, which has the image.
        case.create(name, options, "--replicas-max-per-node 3", constraint)
        before = case.runs(name, 3)
        case.update(name, "--env-add NEW=1 --update-monitor 100ms")
        case.rollout_is(name, "completed")
        assert not before & case.runs(name, 3)
        case.scale(name, count)
        case.runs(name, count)
    before = {name: case.running(name) for name in counts}
    case.lab.rotate()
    # when
    result = case.refresh()
    # then
    assert result.returncode == 0, result
    case.give(case.lab.workers[0], label)
    for name in counts:
        case.scale(name, 4)
    up = case.seen(lambda: all(len(case.running(name)) == 4 for name in counts))
    assert all(before[name] <= case.running(name) for name in counts)
    verdict(
        "the new ones run" if up else "the new ones are rejected",
        seed="the new ones run",
        script="the new ones run",
        control="the new ones are rejected",
    )


@stacks
def test_global_with_nodes_that_are_out(case, verdict):
    """Global services that may finish; a node is drained, one lost, one no longer theirs; a run"""
    # given
    constraint, label = case.label()
    drained, lost, other = nodes = [case.join() for _ in range(3)]
    for node in (case.lab.workers[0], *nodes):
        case.give(node, label)
    names = {"attempts": "--restart-max-attempts 3", "on-failure": ""}
    for name, options in names.items():
        case.create(name, "--mode global --restart-condition on-failure", options, constraint)
    for name in names:
        case.runs(name, 4)
    case.drain(drained)
    case.take(other, label)
    lost.power_off()
    for name in names:
        wait_until(lambda name=name: len(case.running(name)) == 1, "one is left", 90)
    before = {name: (case.task_ids(name), case.updates(name)) for name in names}
    case.lab.rotate()
    # when
    result = case.refresh()
    # then
    assert result.returncode == 0, result
    case.seen(lambda: any(case.task_ids(name) != before[name][0] for name in names), by=())
    touched = [name for name in names if case.task_ids(name) != before[name][0]]
    refreshed = [name for name in names if case.updates(name) > before[name][1]]
    lost.start()  # or its tasks would seem to run for a day
    verdict(
        f"{len(refreshed)} refreshed{', tasks are touched' if touched else ''}",
        seed="2 refreshed",
        script="2 refreshed",
        control="0 refreshed",
    )


@stacks
def test_crash_loops(case, verdict):
    """Task history limit 1, four crash loops in paused rollouts, and a service that is well"""
    # given
    case.manager.docker("swarm update --task-history-limit 1")
    try:
        for number in range(4):
            options = "--replicas 2 --restart-delay 100ms"
            case.create(f"crash{number}", options, image=case.lab.image("false"))
        case.create("web", config=another_login(case))
        before = case.runs("web")
        for number in range(4):
            case.update(f"crash{number}", "--env-add NEW=1")
        # when
        updates = case.updates("web")
        result = case.refresh()
        refreshed = case.updates("web") > updates
    finally:
        case.manager.docker("swarm update --task-history-limit 5")
    # then
    assert result.returncode in (0, 3), result
    assert case.running("web") == before
    verdict(
        "it is refreshed" if refreshed else "it is not refreshed",
        seed="it is refreshed",
        script="it is refreshed",
        control="it is not refreshed",
    )


# What a service has that the newer engine, or its client, writes in another way.
HEALTH_CHECK = "--health-cmd true --health-interval 1s"
SIZED_TMPFS = "--mount type=tmpfs,target=/scratch,tmpfs-size=1048576"
UPGRADES = [
    ("20.10", "26.1", {"without a health check": "", "with a health check": HEALTH_CHECK}),
    ("26.1", "testing", {"with a tmpfs of a given size": SIZED_TMPFS}),
]
ONCE_AND_SAID = {
    SEED: "restarts once",
    SCRIPT: "restarts once, and says so",
    NOTHING: "goes on",
}


@pytest.mark.parametrize("older, newer, kinds", UPGRADES, ids=["20.10 to 26.1", "to testing"])
def test_upgraded_engine(request, way, older, newer, kinds):
    """An engine is upgraded between two runs"""
    with or_skip():
        newer = engines.engine(newer)
        lab = Lab(engine=older, managers=1, workers=0)
    with lab:
        # given
        case = Case(lab, way).begin()
        names = {f"web{number}": kind for number, kind in enumerate(kinds)}
        for name, kind in names.items():
            case.create(name, kinds[kind])
        old, versions = {name: case.runs(name) for name in names}, [version_of(lab)]
        upgrade(lab, newer)
        versions.append(version_of(lab))
        before = {name: started_anew(case, name, old[name]) for name in names}
        lab.rotate()
        # when
        result = case.refresh()
        # then
        assert result.returncode == 0, result
        for name, kind in names.items():
            restarts = case.seen(
                lambda name=name: case.running(name) != before[name],
                by=[SEED, SCRIPT] if kinds[kind] else [],
            )
            seen = "restarts once" if restarts else "goes on"
            if f"{name} restarts: " in result.stderr and "1 restarted" in result.stderr:
                seen += ", and says so"
            title = f"An engine is upgraded between two runs: a service {kind}"
            table.record(request, title, " to ".join(versions), way, seen)
            assert seen == (ONCE_AND_SAID[way] if kinds[kind] else "goes on")


def started_anew(case, name, old):
    """The tasks that run in place of those that ended with their engine."""
    wait_until(lambda: case.running(name) not in (old, set()), f"{name} is started anew", 60)
    return case.running(name)


def version_of(lab):
    return lab.manager.docker("version --format", "{{.Server.Version}}").split("+")[0].strip()


def upgrade(lab, engine):
    """Another engine and its client on the same data."""
    lab.engine_folder = engine
    client = lab.programs / "docker"
    client.unlink()
    client.symlink_to(engine / "usr/bin/docker")
    lab.manager.restart_docker()
