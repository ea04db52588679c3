"""What must not happen: what the loop does besides."""

from case import SCRIPT, SEED, refreshed
from lab import PRIVATE, ecr_host, wait_until
from promise import another_login, more_stacks, no_answer_from_registries, stacks


@more_stacks
def test_finished_jobs(case, verdict):
    """A finished job, replicated or global"""
    # given
    jobs = ["replicated-job", "global-job"]
    for mode in jobs:
        case.create(mode, f"--mode {mode}", image=case.lab.image("true"))
    for mode, count in zip(jobs, (1, 2)):
        case.completed(mode, count)
    case.lab.rotate()
    # when
    result = case.refresh()
    # then
    assert result.returncode == 0, result
    case.seen(lambda: all(ran_again(case, job) for job in jobs), by=[SEED])
    again = [job for job in jobs if ran_again(case, job)]
    verdict(
        "both run again" if again == jobs else f"run again: {again}" if again else "left alone",
        seed="both run again",
        script="left alone",
    )


def ran_again(case, job):
    return case.lab.service(job)["JobStatus"]["JobIteration"].get("Index", 0) > 0


@stacks
def test_all_services_does_what_the_seed_did(case, verdict):
    """--all-services: a finished job"""
    # given
    case.create("job", "--mode replicated-job", image=case.lab.image("true"))
    case.completed("job", 1)
    # when
    result = case.refresh("--all-services")
    # then
    assert result.returncode == 0, result
    again = case.seen(lambda: ran_again(case, "job"))
    verdict("runs again" if again else "left alone", seed="runs again", script="runs again")


# One-shots that did their work: options, and how many tasks have then completed. A global
# service with condition none shows Replicas 0/0: swarm counts the tasks that should run.
ONE_SHOTS = {
    "none": ("--restart-condition none", 1),
    "on-failure": ("--restart-condition on-failure", 1),
    "global-none": ("--mode global --restart-condition none", 2),
    "global-on-failure": ("--mode global --restart-condition on-failure", 2),
    "any-used-up": ("--restart-condition any --restart-max-attempts 1", 2),
}


@more_stacks
def test_finished_one_shots(case, verdict):
    """A finished one-shot: condition none, on-failure, any with its attempts used up"""
    # given
    for name, (options, _) in ONE_SHOTS.items():
        case.create(name, options, image=case.lab.image("true"))
    for name, (_, count) in ONE_SHOTS.items():
        case.completed(name, count)
    before = {name: case.task_ids(name) for name in ONE_SHOTS}
    case.lab.rotate()
    # when
    result = case.refresh()
    # then
    assert result.returncode == 0, result
    case.seen(lambda: all(case.task_ids(name) - before[name] for name in ONE_SHOTS), by=[SEED])
    again = [name for name in ONE_SHOTS if case.task_ids(name) - before[name]]
    verdict(
        "all 5 run again"
        if len(again) == 5
        else f"run again: {', '.join(again)}"
        if again
        else "left alone",
        seed="all 5 run again",
        script="left alone",
    )


@stacks
def test_one_shot_on_a_lost_node(case, verdict):
    """A one-shot, condition none, whose node is lost: docker service ls goes on to show 1/1"""
    # given
    constraint, label = case.label()
    lost, other = case.join(), case.join()
    case.give(lost, label)
    case.create("once", "--restart-condition none", constraint)
    case.runs("once")
    lost.power_off()
    wait_until(
        lambda: case.lab.node_info(lost)["Status"]["State"] == "down", "the node is down", 90
    )
    case.give(other, label)
    case.lab.rotate()
    # when
    result = case.refresh()
    # then
    assert result.returncode == 0, result
    again = case.seen(lambda: len(case.task_ids("once")) > 1, by=[SEED])
    lost.start()  # or its task would seem to run for a day
    verdict("runs again" if again else "left alone", seed="runs again", script="left alone")


@stacks
def test_tasks_that_are_pulling(case, verdict):
    """Tasks that are still pulling their image when a run comes"""
    # given
    worker = case.lab.workers[0]
    constraint, label = case.label()
    case.give(worker, label)
    login = another_login(case)
    with no_answer_from_registries(worker):
        case.create("web", "--replicas 3 --update-delay 1s", constraint, config=login)
        wait_until(lambda: case.lab.states("web") == ["preparing"] * 3, "three tasks are pulling")
        pulling = case.task_ids("web")
        # when
        result = case.refresh()
    # then
    assert result.returncode == 0, result
    replaced = case.seen(lambda: case.task_ids("web") != pulling, by=[SEED])
    verdict(
        "replaced, one by one, as they come up" if replaced else "come up, and stay",
        seed="replaced, one by one, as they come up",
        script="come up, and stay",
    )
    case.runs("web", 3)


def service_of_another_registry(case):
    """A service that is deployed from elsewhere, from a registry unknown to this manager."""
    constraint, label = case.label()
    config = case.lab.folder / "build-machine"
    case.lab.login(case.manager, PRIVATE, config=config)
    case.create(
        "private", "--mode global", constraint, config=config, image=case.lab.image(host=PRIVATE)
    )
    return label


@more_stacks
def test_credentials_of_another_registry(case, verdict):
    """A service of another registry, which this manager is not logged in to"""
    # given
    label = service_of_another_registry(case)
    case.create("web")
    case.lab.rotate()
    # when
    result = case.refresh()
    case.give(case.lab.workers[0], label)
    # then
    assert result.returncode == 0, result
    wait_until(lambda: case.running("private") or case.is_rejected("private"), "it was tried")
    verdict(
        "runs" if case.running("private") else "rejected: its login is wiped",
        seed="rejected: its login is wiped",
        script="runs",
    )
    assert case.updates("web") == 1


@stacks
def test_refresh_only_without_a_login(case, verdict):
    """A refresh alone (the script with --refresh-only), and config.json holds no login"""
    # given
    constraint, label = case.label()
    case.create("web", constraint)
    case.manager.docker(f"logout {ecr_host()}")
    # when
    result = (
        case.manager.simple_seed() if case.way == SEED else case.manager.script("--refresh-only")
    )
    case.give(case.lab.workers[0], label)
    # then
    wait_until(lambda: case.running("web") or case.is_rejected("web"), "it was tried")
    state = "runs" if case.running("web") else "rejected: its login is wiped"
    verdict(
        f"{state}; exit {result.returncode}",
        seed="rejected: its login is wiped; exit 0",
        script="runs; exit 1",
    )


UNSORTED = "--mount type=tmpfs,target=/b --mount type=tmpfs,target=/a"


@stacks
def test_unsorted_mounts(case, verdict):
    """Mounts in an order that the docker client changes (the script, first with --no-restart)"""
    # given
    case.create("web", UNSORTED)
    before = case.runs("web")
    if case.way == SCRIPT:
        held = case.refresh("--no-restart")
        assert "web held back: the docker client reorders its mounts" in held.stderr, held
        assert not case.updates("web")
    # when
    result = case.refresh()
    # then
    assert result.returncode == 0, result
    restarted = case.seen(lambda: case.running("web") - before)
    said = f"web {FORESEEN}" in result.stderr
    verdict(
        f"{'restarts once' if restarted else 'goes on'}{', and says so' if said else ''}",
        seed="restarts once",
        script="restarts once, and says so",
    )


LINUX = "--constraint-add node.platform.os==linux"
PLACEMENTS = {
    "constraint": [LINUX],
    "preference": ["--placement-pref-add spread=node.labels.rack"],
    "per-node": ["--replicas-max-per-node 5"],
    "global": [LINUX],
    "relabelled": [LINUX, "--label-add new=yes"],
    "scaled": [LINUX, "--replicas 3"],
    "emptily": [LINUX, ""],
}
PLACED = "{} {}: its placement is out of date"
FORESEEN = "will be refreshed, which restarts its tasks"
AFTERWARDS = "its tasks are being replaced"
AT_ONCE = "--update-parallelism 0 --update-monitor 100ms"


def change_placements(case):
    """Services whose placement was changed, which restarts no task; returns their tasks."""
    for name in PLACEMENTS:
        mode = "--mode global" if name == "global" else "--replicas 2"
        case.create(name, mode, AT_ONCE)
    before = {name: case.runs(name, 2) for name in PLACEMENTS}
    for name, steps in PLACEMENTS.items():
        for step in steps:
            case.update(name, step)
    case.runs("scaled", 3)
    assert all(before[name] <= case.running(name) for name in PLACEMENTS)
    case.lab.rotate()
    return before


def restarted(case, before, by):
    """The services of which tasks have gone; `by` are the ways in which all do."""
    case.seen(lambda: all(before[name] - case.running(name) for name in before), by=by)
    return [name for name in before if before[name] - case.running(name)]


@stacks
def test_changed_placement(case, verdict):
    """A changed placement (7 services: constraint, preference and so on, three updated again)"""
    # given
    before = change_placements(case)
    said = []
    if case.way == SCRIPT:
        held = case.refresh("--no-restart").stderr
        assert all(PLACED.format(name, "held back") in held for name in PLACEMENTS), held
        said.append(case.refresh("--dry-run").stderr)
    # when
    result = case.refresh()
    # then
    assert result.returncode == 0, result
    names = restarted(case, before, by=[SEED, SCRIPT])
    if case.way == SCRIPT:
        for text in (*said, result.stderr):
            assert all(PLACED.format(name, FORESEEN) in text for name in names), text
            assert AFTERWARDS not in text
    verdict(
        f"{len(names)} restart{', and it says so beforehand' if case.way == SCRIPT else ''}",
        seed="7 restart",
        script="7 restart, and it says so beforehand",
    )
    if case.way == SCRIPT:
        assert_goes_on_now(case)


def assert_goes_on_now(case):
    """The next run restarts nothing, and does not say so."""
    for name in PLACEMENTS:
        case.rollout_is(name, "completed")
    before = {name: case.runs(name, 3 if name == "scaled" else 2) for name in PLACEMENTS}
    case.lab.rotate()
    result = case.refresh()
    assert (result.returncode, refreshed(result.stderr)) == (0, set(PLACEMENTS)), result
    assert "restart" not in result.stderr
    assert not restarted(case, before, by=())


def leave_over(case):
    """Two tasks of a one-shot run on one node, a former one of a third was on another."""
    before, after = case.label(), case.label()
    case.give(case.lab.workers[0], before[1])
    case.give(case.manager, after[1])
    case.create("once", "--replicas 3 --restart-condition none", AT_ONCE, before[0])
    first = case.runs("once", 3)
    old, new = (constraint.partition("=")[2] for constraint, _ in (before, after))
    case.update("once", f"--constraint-rm {old} --constraint-add {new}")
    wait_until(lambda: not first & case.running("once"), "they have moved", 60)
    case.runs("once", 3)
    case.rollout_is("once", "completed")
    case.scale("once", 2)
    tasks = case.runs("once", 2)
    # Until it has gone, the task that is removed stands before the one that is left over.
    removed = "the third has gone"
    wait_until(
        lambda: all(task["DesiredState"] != "remove" for task in case.lab.tasks("once")), removed
    )
    case.lab.rotate()
    return tasks


@stacks
def test_leftover_in_place_of_a_running_task(case, verdict):
    """A one-shot was scaled down, and swarm starts what was left over in place of a running task"""
    # given
    before = leave_over(case)
    # when
    result = case.refresh()
    # then
    assert result.returncode == 0, result
    gone = restarted(case, {"once": before}, by=[SEED])
    verdict(
        "a running one goes" if gone else "all stay", seed="a running one goes", script="all stay"
    )
    if case.way == SCRIPT:
        assert "once held back: some tasks have finished" in result.stderr
