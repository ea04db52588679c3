"""At the same moment: others who deploy, other runs, other managers."""

import contextlib
import json
import random
import signal
import threading
import time

import pytest
from case import SCRIPT, SEED, refreshed
from lab import OTHER_ACCOUNT, OTHER_REGION, ecr_host, wait_until
from lab.wrappers import held_up
from promise import case_on, deploy_stack, stacks


@contextlib.contextmanager
def others_update(case, names, seconds=2):
    """Others update those services without a pause, until `seconds` after the run's login."""
    config = case.manager.home / ".docker/config.json"
    login = config.stat().st_mtime_ns
    done = threading.Event()

    def work():
        ends = None
        while not done.is_set() and (ends is None or time.monotonic() < ends):
            for name in names:
                update_label(case, name)
            if ends is None and config.stat().st_mtime_ns != login:
                ends = time.monotonic() + seconds

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        done.set()
        worker.join()


def goes_well_each_time(case, attempt, seed=16, script=2):
    """Whether the script does so often. The loop is lucky now and then, so it gets more tries to fail."""
    well = all(attempt() for _ in range(seed if case.way == SEED else script))
    if well and case.way == SEED:
        pytest.skip(f"the loop was lucky {seed} times: on this machine its control shows nothing")
    return well


def update_label(case, name):
    service = case.lab.service(name)
    spec = {**service["Spec"], "Labels": {"updated": str(time.monotonic_ns())}}
    with contextlib.suppress(RuntimeError):  # its turn to be out of sequence
        case.manager.api(
            f"/services/{name}/update?version={service['Version']['Index']}", "POST", spec
        )


@stacks
def test_updates_at_the_same_moment(case, verdict):
    """Something else updates the same services at the same moment"""
    # given
    names = [f"web{number}" for number in range(3)]
    for name in names:
        case.create(name)
        case.runs(name)
    # when
    well = goes_well_each_time(case, lambda: updates_go_well(case, names))
    # then
    verdict(
        "all are refreshed" if well else "stops at `update out of sequence`",
        seed="stops at `update out of sequence`",
        script="all are refreshed",
    )


def updates_go_well(case, names):
    with others_update(case, names):
        result = case.refresh()
    if result.returncode:
        assert "out of sequence" in result.stderr, result
    else:
        assert set(names) <= refreshed(result.stdout, result.stderr), result
    return not result.returncode


@stacks
def test_deploys_at_the_same_moment(case, verdict):
    """A stack and a service are deployed while a run goes on"""
    # given
    _, label = case.label()
    case.give(case.manager, label)
    config = case.lab.folder / "build-machine"
    deploy_stack(case, label, case.lab.image(), config)
    case.create("web", "--update-monitor 100ms")
    case.runs("web"), case.runs("shop_web")
    new = case.lab.image()
    # when
    run = case.start(case.manager)
    tries = [
        retry(lambda: case.update("web", "--image", new)),
        retry(lambda: deploy_stack(case, label, new, config)),
    ]
    output = run.communicate(timeout=120)
    # then: a deploy may have to be tried again, and it stands
    assert max(tries) <= 3 and (case.way == SEED or run.returncode == 0), output
    case.runs("web", image=new), case.runs("shop_web", image=new)
    verdict(
        "the deployed images run", seed="the deployed images run", script="the deployed images run"
    )


def retry(action, tries=5):
    """Do it again until it works; returns how many tries it took."""
    for number in range(1, tries + 1):
        try:
            action()
            return number
        except RuntimeError as error:
            assert "out of sequence" in str(error), error
    raise AssertionError("it never worked")


@stacks
def test_ten_runs_at_the_same_moment(case, verdict):
    """Ten runs at the same moment, on one manager; then the services are scaled up"""
    # given
    hosts = [ecr_host(), ecr_host(OTHER_ACCOUNT), ecr_host(region=OTHER_REGION)]
    case.lab.login(case.manager, *hosts)
    names = [f"web{number}" for number in range(6)]
    for number, name in enumerate(names):
        case.create(name, "--replicas 0", image=case.lab.image(host=hosts[number % 3]))
    # when
    well = goes_well_each_time(case, lambda: ten_runs_go_well(case, hosts, names), 4, 1)
    # then
    for name in names:
        case.scale(name, 1)
    all_run = case.seen(lambda: all(map(case.running, names)))
    assert all_run or case.way == SEED
    verdict(
        "all do their work" if well else "some fail",
        seed="some fail",
        script="all do their work",
    )


def ten_runs_go_well(case, hosts, names):
    """Each of them exits with 0, and has refreshed all services."""
    case.lab.rotate()
    (case.manager.home / ".docker/config.json").unlink(missing_ok=True)
    runs = [case.start(case.manager, hosts=hosts) for _ in range(10)]
    outputs = [run.communicate(timeout=240) for run in runs]
    return all(
        run.returncode == 0 and set(names) <= refreshed(*said) for run, said in zip(runs, outputs)
    )


@stacks
def test_three_managers(three_managers, verdict):
    """Three managers whose timers go off together (the script with --leader-only)"""
    # given
    case = three_managers
    names = [f"web{number}" for number in range(4)]
    for name in names:
        case.create(name)
    case.lab.rotate()
    # when
    runs = [case.start(manager, "--leader-only") for manager in case.lab.managers]
    outputs = [run.communicate(timeout=120) for run in runs]
    # then
    counts = [case.updates(name) for name in names]
    if case.way == SCRIPT:
        assert [run.returncode for run in runs] == [0, 0, 0], outputs
        assert counts == [1] * 4, outputs
        assert_logged_in(case)
    verdict(
        "each service is updated once" if set(counts) == {1} else "updates again and again",
        seed="updates again and again",
        script="each service is updated once",
    )


def assert_logged_in(case):
    """Every manager is, so that whichever leads next can go on."""
    for manager in case.lab.managers:
        auths = json.loads((manager.home / ".docker/config.json").read_text())["auths"]
        assert ecr_host() in auths, manager.name


@stacks
def test_leader_dies_in_the_middle_of_a_run(three_managers, verdict):
    """The leader dies in the middle of a run; the next run of the new leader (--leader-only)"""
    # given
    case = three_managers
    names = [f"web{number:02}" for number in range(12)]
    for name in names:
        case.create(name, "--replicas 0")
    leader = leader_dies_in_a_run(case, names)
    new = case.lab.leader()
    case.manager = new
    # when
    results = [
        manager.run(case.argv(manager, "--leader-only"), env=manager.environment)
        for manager in case.lab.managers
        if manager.running
    ]
    refreshed = updated(new, case, names)
    leader.start()
    # then
    assert [result.returncode for result in results] == [0, 0], results
    verdict(
        "all are refreshed" if refreshed == set(names) else f"only {sorted(refreshed)}",
        seed="all are refreshed",
        script="all are refreshed",
    )


def leader_dies_in_a_run(case, names):
    """Its plug is pulled when it has refreshed all services but the last; returns that manager."""
    leader = case.lab.leader()
    last = case.lab.service(names[-1])
    with held_up(case.lab, "docker", f"*update*{names[-1]} | *update*{last['ID'][:12]}*"):
        run = case.start(leader, "--leader-only")
        wait_until(lambda: updated(leader, case, names) == set(names[:-1]), "all but one")
        leader.power_off()
    run.communicate()
    return leader


def updated(manager, case, names):
    """Those of the services that this manager's engine was asked to update in this test."""
    calls = set(manager.update_calls())
    identities = {
        service["ID"]: service["Spec"]["Name"] for service in case.manager.api("/services")
    }
    return {identities[call] for call in calls & set(identities)} & set(names)


@stacks
def test_stopped_at_random_moments(stack):
    """Killed or stopped at 12 moments of a run: no service has changed, and each can pull"""
    with case_on(stack, SCRIPT, 1, 1) as case:
        # given
        names = [f"web{number}" for number in range(6)]
        for name in names:
            case.create(name, "--mode global")
        case.create("job", "--mode replicated-job", image=case.lab.image("true"))
        case.completed("job", 1)
        before = {name: (case.lab.service(name)["Spec"], case.runs(name, 2)) for name in names}
        # when
        for number in [signal.SIGKILL, signal.SIGTERM] * 6:
            stop_a_run(case, number)
        newcomer = case.join()
        # then: no service has lost its token, and the next run does what is left
        assert case.seen(lambda: all(case.runs_on(name, newcomer) for name in names))
        case.lab.rotate()
        result = case.refresh()
        assert (result.returncode, refreshed(result.stderr)) == (0, set(names)), result
        for name, (spec, tasks) in before.items():
            assert case.lab.service(name)["Spec"] == spec
            assert case.running(name) > tasks
        assert case.lab.states("job") == ["complete"]


def stop_a_run(case, number):
    """At a random moment; what SIGTERM ends leaves nothing in memory."""
    left = set(case.manager.memory.iterdir())
    run = case.start(case.manager)
    time.sleep(random.uniform(0, 1.5))  # the moment is what is on trial
    case.send(run, number)
    output = run.communicate()
    if number == signal.SIGTERM:
        assert set(case.manager.memory.iterdir()) <= left, output
