"""What goes wrong around a run, on real engines: what the user reads, and the exit status.

Stub programs say these texts in the long table of tests/runs; here they are the engines' own.
Needs root on Debian or Ubuntu; see lab/.
"""

import pytest
from case import SCRIPT, Case, refreshed
from lab import REGION, ecr_host, wait_until
from lab.wrappers import held_up
from promise import own_lab, stacks


@pytest.fixture
def way():
    return SCRIPT


def run_in(shell, node):
    """A run in mounts of its own, started by that shell."""
    command = ["unshare", "--mount", "sh", "-c", f'{shell}; exec "$@"', "sh"]
    return node.run([*command, *node.script_argv()], env=node.environment)


def assert_failed(result, says):
    assert says in result.stderr
    assert (result.returncode, refreshed(result.stderr)) == (1, set()), result
    assert "Traceback" not in result.stderr


@stacks
def test_the_daemon_is_down_and_restarts_in_the_middle_of_a_run(stack):
    with own_lab(stack, managers=1, workers=0) as lab:
        # given
        case = Case(lab, SCRIPT).begin()
        names = {f"web{number}" for number in range(30)}
        for name in names:
            case.create(name, "--replicas 0")
        last = lab.service("web29")["ID"]
        lab.manager.crash_docker()
        # when, then
        assert_failed(case.refresh(), "Cannot connect to the Docker daemon")
        # and when
        lab.manager.revive_docker()
        lab.leader()
        with held_up(lab, "docker", f"*update*{last}"):
            run = case.start(lab.manager)
            wait_until(lab.manager.update_calls, "the run has begun to refresh")
            lab.manager.crash_docker()
        lab.manager.revive_docker()
        _, said = run.communicate()
        # then
        assert (run.returncode, refreshed(said)) == (0, names), said


@stacks
def test_on_a_worker(case):
    result = case.lab.workers[0].script()

    assert_failed(result, "This node is not a swarm manager. Worker nodes can't be used")


@stacks
def test_the_quorum_is_lost(three_managers):
    # given
    lab = three_managers.lab
    three_managers.create("web", "--replicas 0")
    for manager in lab.managers[1:]:
        manager.power_off()
    wait_until(lambda: not lab.elected(), "no manager leads", 60)
    # when
    result = lab.manager.script()
    for manager in lab.managers[1:]:
        manager.start()
    # then
    assert_failed(result, "The swarm does not have a leader")
    lab.leader()


@stacks
def test_a_swarm_that_is_locked_and_left(stack):
    with own_lab(stack, managers=1, workers=0) as lab:
        # given
        lab.manager.docker("swarm update --autolock")
        key = lab.manager.folder / "data/swarm/certificates/swarm-node.key"
        wait_until(lambda: "ENCRYPTED" in key.read_text(), "its key is encrypted")
        lab.manager.restart_docker()
        # when, then
        assert_failed(lab.manager.script(), "Swarm is encrypted and needs to be unlocked")
        # and given
        lab.manager.docker("swarm leave --force")
        # when, then
        assert_failed(lab.manager.script(), "This node is not a swarm manager. Use")
        # and when, then: to log in takes no swarm
        result = lab.manager.script("--login-only", "--region", REGION)
        assert result.returncode == 0, result
        assert f"Docker login succeeded for {ecr_host()}" in result.stderr


# Where it cannot write or look: how, and what is said of it.
FULL = 'mount -t tmpfs -o size=4k tmpfs "$HOME/.docker"; yes >"$HOME/.docker/full" 2>&-'
READ_ONLY = 'mount --bind "$HOME" "$HOME"; mount -o remount,ro,bind "$HOME"'
SURROUNDINGS = {
    "no proc": ("umount -l /proc", "1 refreshed"),
    "disk full": (FULL, "no space left on device"),
    "read-only": (READ_ONLY, "read-only file system"),
}


@stacks
@pytest.mark.parametrize("shell, says", SURROUNDINGS.values(), ids=SURROUNDINGS)
def test_surroundings(case, shell, says):
    # given
    case.create("web", "--replicas 0")
    # when
    result = run_in(shell, case.manager)
    # then: it is refreshed nevertheless
    assert says in result.stderr
    assert (result.returncode, refreshed(result.stderr)) == (0, {"web"}), result
