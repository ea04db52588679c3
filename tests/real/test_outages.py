"""What goes wrong around a run, on real engines: what the user reads, and the exit status.

tests/fake/test_faults.py has the long table, in which stub programs say these texts; here they
are the engines' own. Needs root on Debian or Ubuntu; see lab.py.
"""

import pytest
from case import SCRIPT, Case
from engines import Unavailable
from helpers import held_up
from lab import Lab, ecr_host, wait_until
from promise import STACKS

# Where it cannot write: a shell that the script is started by, in mounts of its own.
NO_PROC = 'umount -l /proc; exec "$@"'
READ_ONLY = 'mount --bind "$HOME" "$HOME"; mount -o remount,ro,bind "$HOME"; exec "$@"'
DISK_FULL = (
    'mount -t tmpfs -o size=4k tmpfs "$HOME/.docker"; yes >"$HOME/.docker/full" 2>&-; exec "$@"'
)


@pytest.fixture(params=STACKS, ids="-".join)
def start_lab(request):
    """start_lab(managers, workers): a lab with the service `web`, whose token is dead."""
    labs = []

    def start_lab(managers, workers):
        engine, client, aws = request.param
        try:
            lab = Lab(engine, client, managers, workers, aws)
        except Unavailable as reason:
            pytest.skip(str(reason))
        labs.append(lab.__enter__())
        lab.login(lab.manager)
        Case(lab, SCRIPT).create("web", "--replicas", "0")
        lab.rotate()
        return lab

    yield start_lab
    for lab in labs:
        lab.close()


def daemon_is_down(lab):
    lab.manager.crash_docker()


def node_left_its_swarm(lab):
    lab.manager.docker("swarm", "leave", "--force")


def swarm_is_locked(lab):
    lab.manager.docker("swarm", "update", "--autolock")
    key = lab.manager.folder / "data/swarm/certificates/swarm-node.key"
    wait_until(lambda: "ENCRYPTED" in key.read_text(), "its key is encrypted")
    lab.manager.restart_docker()


def quorum_is_lost(lab):
    for manager in lab.managers[1:]:
        manager.power_off()
    wait_until(lambda: not lab.elected(), "no manager leads", 60)


def nothing(_):
    """All is well with the swarm."""


def on_worker(lab):
    return lab.workers[0]


def on_first(lab):
    return lab.nodes[0]


# what happens, on which node of how many managers and workers it is run, how, what it says, exit status, who is refreshed
OUTAGES = [
    (daemon_is_down, on_first, (1, 0), "", "Cannot connect to the Docker daemon", 1, ""),
    (
        nothing,
        on_worker,
        (1, 1),
        "",
        "This node is not a swarm manager. Worker nodes can't be used",
        1,
        "",
    ),
    (node_left_its_swarm, on_first, (1, 0), "", "This node is not a swarm manager. Use", 1, ""),
    (swarm_is_locked, on_first, (1, 0), "", "Swarm is encrypted and needs to be unlocked", 1, ""),
    (quorum_is_lost, on_first, (3, 0), "", "The swarm does not have a leader", 1, ""),
    (nothing, on_first, (1, 0), NO_PROC, "1 refreshed", 0, "web\n"),
    (nothing, on_first, (1, 0), READ_ONLY, "read-only file system", 0, "web\n"),
    (nothing, on_first, (1, 0), DISK_FULL, "no space left on device", 0, "web\n"),
]


@pytest.mark.parametrize(
    "happens, where, counts, shell, says, status, refreshed",
    OUTAGES,
    ids=[
        "daemon down",
        "worker",
        "no swarm",
        "locked",
        "no quorum",
        "no proc",
        "read-only",
        "disk full",
    ],
)
def test_outage(start_lab, happens, where, counts, shell, says, status, refreshed):
    # given
    lab = start_lab(*counts)
    happens(lab)
    node = where(lab)
    # when
    command = ["unshare", "--mount", "sh", "-c", shell or 'exec "$@"', "sh", *node.script_argv()]
    result = node.run(command, env=node.environment, timeout=120)
    # then
    assert says in result.stderr
    assert (result.returncode, result.stdout) == (status, refreshed), result
    assert "Traceback" not in result.stderr


def test_login_only_needs_no_swarm(start_lab):
    # given
    lab = start_lab(1, 0)
    node_left_its_swarm(lab)
    # when
    result = lab.manager.script("--login-only", "--region", ecr_host().split(".")[3])
    # then
    assert result.returncode == 0, result
    assert f"Docker login succeeded for {ecr_host()}" in result.stderr


def test_the_daemon_restarts_in_the_middle_of_a_run(start_lab):
    # given
    lab = start_lab(1, 0)
    case = Case(lab, SCRIPT)
    names = ["web", *(f"web{number}" for number in range(30))]
    for name in names[1:]:
        case.create(name, "--replicas", "0")
    last = lab.service(names[-1])["ID"]
    # when
    with held_up(lab, "docker", f"*update*{last}"):
        run = case.start(lab.manager)
        wait_until(lab.manager.update_calls, "the run has begun to refresh")
        lab.manager.crash_docker()
    lab.manager.revive_docker()
    stdout, stderr = run.communicate()
    # then
    assert (run.returncode, sorted(stdout.split())) == (0, sorted(names)), stderr
    assert "to be tried again in 1 second: docker service update" in stderr
