"""A run has logins of its own: whatever becomes of docker's, services are refreshed, and can pull.

The login that deploys from here send is docker's own affair: where docker says that it could not
keep it, a warning passes that on, and it is a failure only if a login is all that was asked for.
With --refresh-only docker's login is proven before the first update. What a service was sent shows
when it is scaled up on nodes that never had its image. Needs root on Debian or Ubuntu; see lab/.
"""

import json
import signal
import subprocess
from pathlib import Path

import pytest
from case import SCRIPT, Case, refreshed
from lab import Lab, wait_until
from lab.wrappers import HOST, held_up, write_program
from logins import Logins
from promise import ENDS, or_skip

ALONE = "--refresh-only"
NOT_KEPT = f"Deploys from this host may lack a valid login: Docker login failed for {HOST}: "


@pytest.fixture(scope="session", params=[stack[:2] for stack in ENDS], ids="-".join)
def stack(request):
    with or_skip():
        lab = Lab(*request.param, managers=1, workers=1)
    with lab:
        yield lab


class Services:
    """Services without tasks; in the end each gets one, which has to pull."""

    def __init__(self, case, *names, config=None):
        self.case = case
        self.names = names
        for name in names:
            case.create(name, "--replicas 0", config=config)

    def come_to(self, result):
        """What became of them, and the exit status of the run."""
        words = {0: "untouched", len(self.names): "refreshed"}
        word = words.get(self.updates(), "not all refreshed")
        lost = len(self.lost())
        return f"{word}{f', {lost} cannot pull' if lost else ''}, exit {result.returncode}"

    def updates(self):
        """How many of them were updated."""
        return sum(bool(self.case.updates(name)) for name in self.names)

    def lost(self):
        """Those that cannot pull."""
        for name in self.names:
            self.case.scale(name, 1)
        wait_until(self.are_decided, "each service runs, or was rejected", 60)
        return [name for name in self.names if not self.case.running(name)]

    def are_decided(self):
        return all(self.case.running(name) or self.case.is_rejected(name) for name in self.names)


@pytest.fixture
def logins(stack):
    """A manager that is logged in."""
    logins = Logins(Case(stack, SCRIPT))
    yield logins.begin()
    left = list(stack.manager.memory.iterdir())
    subprocess.run(["rm", "-rf", *left], check=True)
    logins.end()
    for service in stack.manager.api("/services"):
        stack.manager.api(f"/services/{service['ID']}", "DELETE")


# ---------------------------------------------------------------- what docker holds


def expired(logins):
    logins.config.write_text(logins.dead)


def helper_that_only_gives(logins):
    """As the ECR helper before 0.9.0."""
    logins.helper("ours", logins.gives(), keep="echo not implemented; exit 1")
    logins.configure(credHelpers={HOST: "ours"})


def helper_with_a_dead_token(logins):
    logins.helper("ours", logins.gives("echo dead"), keep="echo not implemented; exit 1")
    logins.configure(credHelpers={HOST: "ours"})


def store_that_gives_nothing(logins):
    """It takes logins, and its key is locked."""
    logins.helper("ours", "echo the key is locked; exit 2")
    logins.configure(credsStore="ours")


def store_that_empties(logins):
    logins.helper("ours", logins.gives("true"))
    logins.configure(credsStore="ours")


def store_that_is_missing(logins):
    logins.configure(credsStore="ours")


def stores_on_the_path(logins):
    """Docker uses one of these where nothing is configured."""
    for name in ("pass", "secretservice"):
        logins.helper(name, "exit 2", keep="exit 2")
    write_program(logins.programs / "pass", "#!/bin/sh\n")
    logins.config.unlink()


def helper_without_name(logins):
    """Docker uses config.json then."""
    logins.helper("ours", "exit 2", keep="exit 2")
    auths = json.loads(logins.config.read_text())["auths"]
    logins.configure(auths=auths, credHelpers={HOST: ""}, credsStore="ours")


def link_to_nowhere(logins):
    logins.config.unlink()
    logins.config.symlink_to(logins.case.lab.folder / "nowhere" / "config.json")


def cut_short(logins):
    text = logins.config.read_text()
    logins.config.write_text(text[: len(text) // 2])


def empty(logins):
    logins.config.write_text("")


def read_only(logins):
    logins.read_only()


def read_only_and_expired(logins):
    expired(logins)
    logins.read_only()


def mounted_and_expired(logins):
    """As into a container."""
    expired(logins)
    logins.read_only_file()


def full(logins):
    logins.fill()


def ecr_helper(release, version):
    def state(logins):
        logins.ecr_helper(release)

    state.__name__ = f"ecr_helper_{version}"
    return state


UNTOUCHED, REFRESHED = "untouched, exit 1", "refreshed, exit 0"

# The state of docker's own place; whether docker says that it keeps a login; what a refresh alone
# comes to.
HELD = [
    (expired, True, UNTOUCHED),
    (helper_that_only_gives, True, REFRESHED),
    (helper_with_a_dead_token, True, UNTOUCHED),
    (store_that_gives_nothing, True, UNTOUCHED),
    (store_that_empties, True, UNTOUCHED),
    (store_that_is_missing, False, UNTOUCHED),
    (stores_on_the_path, False, UNTOUCHED),
    (helper_without_name, True, REFRESHED),
    # The client of 28 puts a file in place of the link.
    (link_to_nowhere, None, UNTOUCHED),
    (cut_short, True, UNTOUCHED),
    (empty, True, UNTOUCHED),
    # Newer clients, from 28 on, write nothing where nothing is new.
    (read_only, None, REFRESHED),
    (read_only_and_expired, False, UNTOUCHED),
    (mounted_and_expired, False, UNTOUCHED),
    (full, False, UNTOUCHED),
    (ecr_helper("bookworm", "0.6.0"), True, REFRESHED),
    (ecr_helper("trixie", "0.7.1"), True, REFRESHED),
    (ecr_helper("testing", "0.12.0"), True, REFRESHED),
]


@pytest.mark.parametrize("state, keeps, alone", HELD, ids=[held[0].__name__ for held in HELD])
def test_what_docker_holds(logins, state, keeps, alone):
    # given
    by_itself, web = Services(logins.case, "by-itself"), Services(logins.case, "web")
    state(logins)
    # when
    refresh_alone = logins.case.refresh(ALONE, *by_itself.names)
    result = logins.case.refresh(*web.names)
    # then
    assert by_itself.come_to(refresh_alone) == alone, refresh_alone
    assert web.come_to(result) == REFRESHED, result
    assert not list(logins.case.manager.memory.iterdir())
    if keeps is not None:
        assert (NOT_KEPT in result.stderr) == (not keeps), result
    if keeps is False:
        result = logins.case.refresh("--login-only")
        assert result.returncode == 1, result
        assert f"Docker login failed for {HOST}: " in result.stderr


def test_docker_that_keeps_its_logins_elsewhere(logins):
    """As a snap does."""
    # given
    web = Services(logins.case, "web")
    logins.keep_elsewhere(logins.case.lab.folder / "elsewhere")
    # when, then
    result = logins.case.refresh()
    assert (web.updates(), result.returncode) == (0, 1), result
    assert f"Docker login failed for {HOST}: docker ignored DOCKER_CONFIG" in result.stderr
    assert "--login-only, then --refresh-only" in result.stderr
    # and when, then
    result = logins.case.refresh("--login-only")
    assert result.returncode == 0, result
    assert web.come_to(logins.case.refresh(ALONE)) == REFRESHED


@pytest.mark.parametrize("release", ["bookworm", "testing"])
def test_ecr_helper_with_a_dead_token(logins, release):
    # given: the service has another token than the helper, a live one
    logins.ecr_helper(release)
    web = Services(logins.case, "web", config=logins.keep_dead_token())
    # when
    result = logins.case.refresh(ALONE)
    # then
    assert web.come_to(result) == UNTOUCHED, result


# ---------------------------------------------------------------- what happens meanwhile

PROOF = f"login-{HOST}"
MOMENTS = range(3, 10)  # from its first login on a run with one service starts docker six times


def dead_login(logins):
    return logins.replace(logins.dead)


def half_a_config(logins):
    return logins.replace(logins.dead[: len(logins.dead) // 2], "half")


def test_meanwhile(logins):
    """At each moment of a run docker is logged out; at all of them this, or something worse."""
    # given
    everything = (Logins.logout, Logins.login, dead_login, half_a_config)
    happens = {f"at-{moment}": ([moment], Logins.logout) for moment in MOMENTS}
    happens.update({what.__name__.replace("_", "-"): (MOMENTS, what) for what in everything})
    services = Services(logins.case, *happens)
    # when
    runs = {}
    for name, (moments, what) in happens.items():
        logins.config.unlink(missing_ok=True)
        logins.case.lab.login(logins.case.manager)
        logins.forget()
        for moment in moments:
            logins.happens("before", "docker", moment, what(logins))
        result = logins.case.refresh(name)
        runs[name] = result.returncode, refreshed(result.stderr)
    # then
    assert runs == {name: (0, {name}) for name in services.names}
    assert not services.lost()


def test_registry_that_is_down_when_a_login_is_proven(logins):
    # given
    web = Services(logins.case, "web")
    logins.happens("before", PROOF, 1, logins.registry_down())
    logins.happens("after", PROOF, 1, logins.registry_up())
    # when
    result = logins.case.refresh(ALONE)
    # then: it is proven in the next attempt
    assert web.come_to(result) == REFRESHED, result
    assert f"next attempt in 1 s: docker holds no valid login to {HOST}" in result.stderr


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_stopped(logins, number, status):
    """In the middle of updates."""
    # given
    services = Services(logins.case, "web1", "web2", "web3")
    # when
    with held_up(logins.case.lab, "docker", "*update*") as is_asked:
        run = logins.case.start(logins.case.manager)
        is_asked()
        logins.case.send(run, number)
    output = run.communicate(timeout=60)
    # then
    assert run.returncode == status, output
    left = len(list(logins.case.manager.memory.iterdir()))
    assert left == (number == signal.SIGKILL)
    assert not services.lost()


# ---------------------------------------------------------------- which docker it is


def make_context(logins, config=None):
    host = f"host=unix://{logins.case.manager.socket}"
    user = logins.case.lab.workers[0]
    user.docker("context create manager --docker", host, config=config)
    return user


def context_in_use(logins):
    make_context(logins).docker("context use manager")
    return {}


def named_context(logins):
    make_context(logins)
    return {"DOCKER_CONTEXT": "manager"}


def other_config(logins):
    folder = logins.case.lab.workers[0].home / ".docker/other"
    make_context(logins, folder).docker("context use manager", config=folder)
    return {"DOCKER_CONFIG": str(folder)}


def ssh(logins):
    logins.play_ssh(logins.case.manager)
    return {"DOCKER_HOST": "ssh://manager"}


def tls(logins):
    folder = logins.case.lab.workers[0].home / ".docker"
    folder.mkdir()
    for name, path in logins.answer_with_tls().items():
        (folder / name).symlink_to(path)
    return {"DOCKER_HOST": f"tcp://{logins.case.manager.address}:2376", "DOCKER_TLS_VERIFY": "1"}


@pytest.mark.parametrize("way", [context_in_use, named_context, other_config, ssh, tls])
def test_another_docker(logins, way):
    """Run on a worker, whose own docker can update nothing, for a manager elsewhere."""
    # given
    worker = logins.case.lab.workers[0]
    subprocess.run(["rm", "-rf", worker.home / ".docker"], check=True)
    environment = way(logins)
    web = Services(logins.case, "web")
    # when
    result = worker.script(**environment)
    # then
    assert web.come_to(result) == REFRESHED, result
    folder = environment.get("DOCKER_CONFIG", worker.home / ".docker")
    assert HOST in json.loads((Path(folder) / "config.json").read_text())["auths"]
    assert NOT_KEPT not in result.stderr
    assert not list(worker.memory.iterdir())
