"""What can go wrong, as a table: a row is a fault, what the user reads, the exit status, who is refreshed all the same.

The scene of every row: `web` pulls from one region, `us` from another.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fakes import Fakes, Outcome
from pretend_swarm import ACCOUNT, ECR, ECR_US, MISSING, UPDATE, PretendSwarm

Run = Callable[..., Outcome]

LS = ("docker", "service", "ls")
INSPECT = ("docker", "service", "inspect")
PS = ("docker", "service", "ps")
TASKS = ("docker", "inspect", "--type", "task")
LOGIN = ("docker", "login")
LOGIN_WEB = (*LOGIN, "--username", "AWS", "--password-stdin", ECR)
AWS = ("aws", "ecr", "get-login-password", "--region", "eu-central-1")
HELPER = "docker-credential-helper"
ECR_OTHER_ACCOUNT = ECR.replace(ACCOUNT, "999999999999")
TOKEN = "secret-eu-central-1-of-the-test"
STUCK = {"rollout": "paused", "previous": f"{ECR}/app:2"}  # a refresh that met an outage
ONCE = {"replicas": "0/1", "restart": "none"}
SECOND_OF_TWO = {"replicas": "1/2", "restart": "on-failure"}


class Scene(NamedTuple):
    """What a fault may break."""

    fakes: Fakes
    swarm: PretendSwarm
    patch: pytest.MonkeyPatch
    script: Any
    home: Path
    arguments: list[str]


Fault = Callable[[Scene], object]


# What the table is written in


def both(*faults: Fault) -> Fault:
    return lambda scene: [fault(scene) for fault in faults]


def missing(program: str) -> Fault:
    return lambda scene: scene.fakes.remove(program)


def not_executable(program: str) -> Fault:
    return lambda scene: scene.fakes.forbid(program)


def not_on_the_machine(program: str) -> Fault:
    return lambda scene: (scene.fakes.bin / program).unlink()


def says(*argv: str, **answer: Any) -> Fault:
    """The next call that begins so is answered so, or the next times."""
    return lambda scene: scene.fakes.answer(*argv, scene.fakes.fp.any(), **answer)


def fails(*argv: str, text: str = "denied by the test", status: int = 1, **answer: Any) -> Fault:
    return says(*argv, stderr=text, exit_status=status, **answer)


def floods(*argv: str, stream: str, **answer: Any) -> Fault:
    """50 MB, which do not stay in memory for all other tests."""
    return lambda scene: says(*argv, **{stream: b"x" * 50_000_000}, **answer)(scene)


def update_of(name: str, **answer: Any) -> Fault:
    return lambda scene: scene.fakes.answer(*scene.swarm.update_of(name), **answer)


def after(*event: str, then: Fault) -> Fault:
    """The fault comes with this call."""
    return lambda scene: scene.fakes.when(*event, do=lambda: then(scene))


def add(name: str, image: str = f"{ECR}/app:2", **facts: Any) -> Fault:
    return lambda scene: scene.swarm.add(name, image, **facts)


def removed(name: str) -> Fault:
    return lambda scene: scene.swarm.remove(name)


def option(*words: str) -> Fault:
    return lambda scene: scene.arguments.extend(words)


def environment(name: str, value: str) -> Fault:
    return lambda scene: scene.patch.setenv(name, value)


def config(text: str) -> Fault:
    """The content of docker's config.json."""

    def write(scene: Scene) -> None:
        (scene.home / ".docker").mkdir()
        (scene.home / ".docker" / "config.json").write_text(text)

    return write


def helper(**answer: Any) -> Fault:
    """A run that relies on a credential helper."""
    uses_it = both(
        option("--refresh-only"),
        config(json.dumps({"credHelpers": {ECR: "helper", ECR_US: "works"}})),
    )
    works = says("docker-credential-works", "get", stdout='{"Secret": "secret-of-a-helper"}')
    return both(uses_it, works, says(HELPER, "get", **answer) if answer else uses_nothing)


def uses_nothing(_: Scene) -> None:
    """The program is not there at all."""


def hangs(*argv: str, orders: tuple[str, ...] = ("hang",), **answer: Any) -> Fault:
    return both(impatient, says(*argv, orders=orders, **answer))


def impatient(scene: Scene) -> None:
    """Wait less for what hangs; for what is deaf to SIGTERM, too."""
    scene.patch.setattr(scene.script, "PROGRAM_SECONDS", 0.6)
    timeout = scene.fakes.bin / "timeout"
    real = timeout.resolve()
    timeout.unlink()
    timeout.write_text(
        "#!/bin/sh\n"
        'for word; do shift; case "$word" in --kill-after=*) word=--kill-after=0.2;; esac; set -- "$@" "$word"; done\n'
        f'exec {real} "$@"\n'
    )
    timeout.chmod(0o755)


def half_of_the_list(scene: Scene) -> None:
    """`docker service ls` is killed when it has said half of it."""
    row = {
        "ID": "1",
        "Name": "us",
        "Mode": "replicated",
        "Replicas": "1/1",
        "Image": f"{ECR_US}/app:2",
    }
    says(*LS, stdout=json.dumps(row) + "\n", signal=signal.SIGKILL, times=99)(scene)


def docker_is_gone(scene: Scene) -> None:
    for command in (LS, INSPECT):
        fails(*command, text=DAEMON_DOWN, times=9)(scene)


def no_process_left(scene: Scene) -> None:
    """The machine cannot start the next program."""
    fork = os.fork

    def fail_once() -> int:
        scene.patch.setattr(os, "fork", fork)
        raise BlockingIOError(11, "Resource temporarily unavailable")

    scene.patch.setattr(os, "fork", fail_once)


def half_of_the_tasks(scene: Scene) -> None:
    """`docker service ps` is killed before it comes to the task that has finished."""
    add("half", **SECOND_OF_TWO)(scene)
    running = scene.swarm.service("half")["tasks"][0]["id"]
    says(*PS, stdout=json.dumps(running) + "\n", signal=signal.SIGKILL)(scene)


class Row(NamedTuple):
    name: str
    fault: Fault
    says: str
    status: int
    refreshed: str


ALL = "us web"
DAEMON_DOWN = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
WORKER = (
    "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state."
)
NO_SWARM = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect.'
)
LOCKED = 'Swarm is encrypted and needs to be unlocked before it can be used. Please use "docker swarm unlock".'
NO_LEADER = "rpc error: code = Unknown desc = The swarm does not have a leader."
NOT_IMPLEMENTED = "Error saving credentials: error storing credentials - err: exit status 1, out: `not implemented`"
READ_ONLY = "Error saving credentials: open /root/.docker/config.json1: read-only file system"
DISK_FULL = "Error saving credentials: write /root/.docker/config.json1: no space left on device"

# fmt: off
TABLE = [
    # programs
    Row("aws is missing", missing("aws"), "aws ecr get-login-password is not installed, or not on the PATH", 1, ""),
    Row("aws is not executable", not_executable("aws"), "aws ecr get-login-password cannot be executed", 1, ""),
    Row("docker is missing", missing("docker"), "docker service ls is not installed, or not on the PATH", 1, ""),
    Row("docker is not executable", not_executable("docker"), "docker service ls cannot be executed", 1, ""),
    Row("timeout is missing", not_on_the_machine("timeout"), "timeout", 1, ""),
    Row("xargs is missing", not_on_the_machine("xargs"), "docker service inspect is not installed, or not on the PATH", 1, ""),
    Row("aws is killed", says(*AWS, signal=9), "aws ecr get-login-password was killed by signal 9", 1, "us"),
    Row("aws crashes", says(*AWS, signal=11), "was killed by signal 11", 1, "us"),
    Row("aws dies in mid token", says(*AWS, stdout=TOKEN, signal=9), "was killed by signal 9", 1, "us"),
    Row("aws hangs, and its child", hangs(*AWS, orders=("child", "hang")), "was killed after 0.6 seconds", 1, "us"),
    Row("it is deaf", hangs(*AWS, orders=("ignore-sigterm", "child", "hang")), "hung, and was killed after", 1, "us"),
    Row("its child keeps the output", says(*AWS, stdout=TOKEN, orders=["child"]), "2 refreshed", 0, ALL),
    Row("a daemon keeps the output", says(*AWS, stdout=TOKEN, orders=["daemon"]), "2 refreshed", 0, ALL),
    Row("no process is left", after(*INSPECT, then=no_process_left),
        "docker service update cannot be executed: [Errno 11] Resource temporarily unavailable", 0, ALL),
    Row("aws says 50 MB", floods(*AWS, stream="stderr", exit_status=254), "exit status 254: xxx", 1, "us"),
    Row("docker says 50 MB", floods(*LS, stream="stdout"), "docker service ls did not print JSON", 1, ""),
    Row("aws says no text", says(*AWS, stderr=b"\xff\xfe\x80", exit_status=1), "exit status 1: \ufffd", 1, "us"),
    Row("docker says no text", says(*LS, stdout=b"\xff\xfe{\0", times=9), "did not print JSON", 1, ""),
    Row("aws warns", says(*AWS, stdout=TOKEN, stderr="old\nTLS"), "succeeded, and said: old TLS", 0, ALL),
    Row("docker warns, as always", says(*LOGIN_WEB, stderr="unencrypted"), "Docker login succeeded", 0, ALL),
    Row("inspect warns", says(*INSPECT, stdout="", stderr="old"), "docker service inspect succeeded, and said: old", 0, ALL),
    Row("aws says nothing", says(*AWS), f"{ECR} failed: ", 1, "us"),
    Row("aws says an empty line", says(*AWS, stdout="\n"), f"{ECR} failed: ", 1, "us"),
    Row("aws fails in silence", says(*AWS, exit_status=1), "exit status 1: it said nothing", 1, "us"),
    # docker
    Row("daemon down", fails(*LS, text=DAEMON_DOWN), DAEMON_DOWN, 1, ""),
    Row("daemon restarts in mid-run", after(*LOGIN, then=fails(*INSPECT, text=DAEMON_DOWN)), DAEMON_DOWN, 0, ALL),
    Row("daemon goes for good", after(*LOGIN, then=docker_is_gone), "failed: docker service ls failed", 1, ""),
    Row("worker", fails(*LS, text=WORKER), WORKER, 1, ""),
    Row("no swarm", fails(*LS, text=NO_SWARM), NO_SWARM, 1, ""),
    Row("swarm locked", fails(*LS, text=LOCKED), LOCKED, 1, ""),
    Row("no leader", fails(*LS, text=NO_LEADER), NO_LEADER, 1, ""),
    Row("a new leader in mid-run", after(*LOGIN, then=fails(*INSPECT, text=NO_LEADER)), NO_LEADER, 0, ALL),
    Row("leader unknown", both(option("--leader-only"), fails("docker", "node", text=NO_LEADER)), NO_LEADER, 1, ""),
    Row("one login of three refused", both(add("a", f"{ECR_OTHER_ACCOUNT}/a:1"), fails(*LOGIN_WEB, text="401 No")),
        f"{ECR} failed: Docker login failed: docker login --username failed with exit status 1: 401", 1, "a us"),
    Row("docker login hangs", hangs(*LOGIN_WEB), "docker login --username hung, and was killed after", 1, "us"),
    Row("disk full", fails(*LOGIN_WEB, text=DISK_FULL), DISK_FULL, 1, "us"),
    Row("read-only", fails(*LOGIN_WEB, text=READ_ONLY), READ_ONLY, 1, "us"),
    Row("helper stores nothing", fails(*LOGIN_WEB, text=NOT_IMPLEMENTED), NOT_IMPLEMENTED, 1, "us"),
    Row("helper fails", helper(stderr="no profile", exit_status=1), f"{HELPER} get failed with exit status 1", 1, "us"),
    Row("helper is missing", helper(), f"{HELPER} get is not installed, or not on the PATH", 1, "us"),
    Row("helper knows nothing", helper(stdout='{"Secret": ""}'), f"echo {ECR} | {HELPER} get", 1, "us"),
    Row("config.json is no JSON", both(option("--refresh-only"), config("{auths:")), "config.json", 1, ""),
    Row("config.json is empty", both(option("--refresh-only"), config("")), "config.json", 1, ""),
    Row("no folder for the logins", environment("DOCKER_CONFIG", "/proc/nowhere"), "/proc/nowhere", 1, ""),
    Row("list cut short", half_of_the_list, "docker service ls was killed by signal 9", 1, ""),
    Row("list of null", says(*LS, stdout="null\n", times=9), "failed: ", 1, ""),
    Row("list without names", says(*LS, stdout='{"ID": "1"}\n', times=9), "failed: ", 1, ""),
    Row("inspect cut short", says(*INSPECT, stdout="", signal=9), "terminated by signal 9", 0, ALL),
    Row("tasks cut short", both(add("stuck", **STUCK), says(*TASKS, signal=9)), "terminated by signal 9", 0, "stuck us web"),
    Row("list of tasks cut short", half_of_the_tasks, "docker service ps was killed by signal 9", 0, ALL),
    # updates
    Row("web goes before its update", after(*UPDATE, then=removed("web")), "0 failed", 0, "us"),
    Row("out of sequence once", update_of("web", stderr="out of sequence", exit_status=1), "2 refreshed", 0, ALL),
    Row("three times", update_of("web", stderr="update out of sequence", exit_status=1, times=3), "sequence", 0, ALL),
    Row("always", update_of("web", stderr="update out of sequence", exit_status=1, times=9),
        "web failed: docker service update failed: update out of sequence", 1, "us"),
    Row("an update is killed", update_of("web", signal=9), "2 refreshed", 0, ALL),
    Row("an update is always killed", update_of("web", signal=9, times=9), "web failed: docker service update failed with exit status 125", 1, "us"),
    Row("an update ends with 255", update_of("web", exit_status=255), "2 refreshed", 0, ALL),
    Row("an update ends with 125", update_of("web", stderr="bad flag", exit_status=125, times=9), "web failed: docker service update failed: bad flag", 1, "us"),
    Row("an update hangs", both(impatient, update_of("web", orders=["child", "hang"])), "to be tried again", 0, ALL),
    Row("an update warns", update_of("web", stdout="{id}", stderr="digest"), "digest", 0, ALL),
]
# fmt: on


@pytest.fixture
def scene(
    fakes: Fakes, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch, script: Any, tmp_path: Path
) -> Scene:
    swarm.add("web")
    swarm.add("us", f"{ECR_US}/app:2")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return Scene(fakes, swarm, monkeypatch, script, tmp_path / "home", [])


@pytest.fixture
def debug_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the library sh logs at DEBUG, while the script's own log is at DEBUG, too."""
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(f"{record.getMessage()} {record.args}")  # type: ignore[method-assign]
    configure = logging.basicConfig
    monkeypatch.setattr(
        logging, "basicConfig", lambda **options: configure(**{**options, "level": logging.DEBUG})
    )
    logger = logging.getLogger("sh")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield records
    logger.removeHandler(handler)
    logger.setLevel(level)


def secrets_shown(scene: Scene, outcome: Outcome, debug_log: list[str]) -> list[str]:
    """Where a token can be read by who must not."""
    places = {f"argv of {call}": " ".join(call.argv) for call in scene.fakes.calls}
    for call in scene.fakes.calls:
        places[f"environment of {call}"] = repr(call.environ)
    for path in scene.home.parent.rglob("*"):
        if path.is_file() and path.name != "config.json":
            places[str(path)] = path.read_bytes().decode(errors="replace")
    places.update(
        {"stdout": outcome.stdout, "stderr": outcome.stderr, "log of sh": "\n".join(debug_log)}
    )
    return [place for place, text in places.items() if "secret-" in text]


@pytest.mark.parametrize("row", TABLE, ids=[row.name for row in TABLE])
def test_fault(run: Run, scene: Scene, debug_log: list[str], row: Row) -> None:
    row.fault(scene)

    outcome = run(*scene.arguments)

    assert row.says in outcome.stderr
    assert (outcome.status, " ".join(sorted(outcome.stdout.split()))) == (row.status, row.refreshed)
    assert "Traceback" not in outcome.stderr
    assert max(map(len, outcome.stderr.splitlines())) < 1500, "a line that nobody can read"
    assert secrets_shown(scene, outcome, debug_log) == []
    assert [it["name"] for it in scene.swarm.services if it["runs"] > 1 or it["restarted"]] == []
    # A daemon is in a session of its own, where nobody finds it.
    assert row.name.startswith("a daemon") or scene.fakes.still_running() == []


# A service of which docker says other things than today: the field, its value, and what becomes of it.
ODD_SERVICES: list[tuple[str, Any, str]] = [
    ("Spec", None, "failed"),
    ("Spec", MISSING, "failed"),
    ("Spec.Name", MISSING, "failed"),
    ("Spec.TaskTemplate", None, "failed"),
    ("Spec.TaskTemplate", MISSING, "failed"),
    ("ID", MISSING, "failed"),
    ("Spec.TaskTemplate.ContainerSpec", MISSING, "left alone"),  # a plugin
    ("Spec.TaskTemplate.ContainerSpec", None, "left alone"),
    ("Spec.TaskTemplate.ContainerSpec.Image", None, "left alone"),
    ("Spec.TaskTemplate.RestartPolicy", None, "refreshed"),
    ("Spec.TaskTemplate.RestartPolicy", MISSING, "refreshed"),
    ("Spec.TaskTemplate.RestartPolicy", {}, "refreshed"),
    ("Spec.TaskTemplate.RestartPolicy", {"Condition": "on-full-moon"}, "refreshed"),
    ("Spec.TaskTemplate.ContainerSpec.Mounts", None, "refreshed"),
    ("Spec.TaskTemplate.ContainerSpec.Mounts", [None], "refreshed"),
    ("Spec.TaskTemplate.ContainerSpec.Mounts", [{"Type": "tmpfs", "Target": "/tmp"}], "refreshed"),
    ("Spec.Mode", None, "held back"),
    ("Spec.Mode", {"Elastic": {"Replicas": 7}}, "held back"),
    ("Spec.OfALaterVersion", {"a": [1, None]}, "refreshed"),
    ("Spec.TaskTemplate.OfALaterVersion", [], "refreshed"),
    ("Version", None, "refreshed"),
    ("Endpoint", MISSING, "refreshed"),
    ("UpdatedAt", None, "refreshed"),
    ("PreviousSpec", None, "refreshed"),
    ("PreviousSpec", {"TaskTemplate": None}, "refreshed"),
    ("UpdateStatus", None, "refreshed"),
    ("UpdateStatus", {}, "refreshed"),
    ("UpdateStatus", {"State": "completed", "CompletedAt": None}, "refreshed"),
    ("UpdateStatus", {"State": "paused", "StartedAt": None}, "held back"),
    ("UpdateStatus", {"State": "paused", "StartedAt": "0001-01-01T00:00:00Z"}, "held back"),
    ("UpdateStatus", {"State": "paused_by_a_later_version"}, "held back"),
]


def test_odd_services(run: Run, swarm: PretendSwarm) -> None:
    names = [
        f"{number:02}-".ljust(63, "x") for number in range(len(ODD_SERVICES))
    ]  # as long as docker allows
    for name, (field, value, _) in zip(names, ODD_SERVICES):
        swarm.add(name, inspect={field: value})

    outcome = run()

    assert outcome.status == 1
    expected = {name: outcome for name, (_, _, outcome) in zip(names, ODD_SERVICES)}
    assert sorted(outcome.stdout.split()) == [
        name for name in names if expected[name] == "refreshed"
    ]
    last_words = {
        name: line for line in outcome.stderr.splitlines()[:-1] for name in names if name in line
    }
    others = [name for name in names if expected[name] != "refreshed"]
    assert [name for name in others if expected[name] not in last_words[name]] == []


@pytest.mark.parametrize(
    "task", ["null", "{}", '{"ServiceID": "%s", "Status": null, "Spec": null, "Slot": null}']
)
def test_an_odd_task_stops_nobody(run: Run, scene: Scene, task: str) -> None:
    add("once", **ONCE)(scene)
    says(*TASKS, stdout=task.replace("%s", scene.swarm.service("once")["id"]) + "\n", times=9)(
        scene
    )

    outcome = run()

    assert {"us", "web"} <= set(outcome.stdout.split())
    assert "Traceback" not in outcome.stderr


# What aws says, by the region that says it. The texts change between versions, so they are shown, not understood.
AWS_FAILURES = {
    "us-east-2": (252, "aws: error: argument command: Invalid choice"),
    "us-west-1": (
        253,
        "You must specify a region. You can also configure your region by running aws configure.",
    ),
    "us-west-2": (
        253,
        "Unable to locate credentials. You can configure credentials by running aws configure.",
    ),
    "eu-west-1": (
        254,
        "An error occurred (ExpiredTokenException) when calling the GetAuthorizationToken operation",
    ),
    "eu-west-2": (
        254,
        "An error occurred (ThrottlingException) when calling the GetAuthorizationToken operation",
    ),
    "eu-west-3": (
        254,
        "An error occurred (AccessDeniedException) when calling the GetAuthorizationToken operation",
    ),
    "eu-south-1": (255, "Error loading SSO Token: Token for default does not exist"),
    "ap-south-1": (255, "Unable to locate credentials"),
}


def test_what_aws_says_is_shown(run: Run, scene: Scene) -> None:
    for region, (status, text) in AWS_FAILURES.items():
        scene.arguments.extend(["--registry", ECR.replace("eu-central-1", region)])
        fails(*AWS[:-1], region, status=status, text=f"\n{text}\n")(scene)

    outcome = run(*scene.arguments)

    assert (outcome.status, sorted(outcome.stdout.split())) == (1, ["us", "web"])
    said = [f"{ECR.replace('eu-central-1', region)} failed: Failed to acquire docker login credentials: aws ecr "
            f"get-login-password failed with exit status {status}: {text}\n"
            for region, (status, text) in AWS_FAILURES.items()]  # fmt: skip
    assert [line for line in said if line not in outcome.stderr] == []


def test_the_check_for_secrets_sees_the_log_of_sh(
    run: Run, scene: Scene, debug_log: list[str]
) -> None:
    run()

    assert any("docker service ls" in record for record in debug_log)


# Signals


def stop_at(scene: Scene, call: tuple[str, ...], number: int) -> None:
    """Send the signal when this program is called, which is answered when the signal has been seen."""

    def stop() -> None:
        stopped_by = scene.script.stopped_by  # of this run
        signal.pthread_kill(
            threading.main_thread().ident or 0, number
        )  # wakes it, if it waits for a program
        deadline = time.monotonic() + 10
        while not stopped_by and time.monotonic() < deadline:
            time.sleep(0.001)

    scene.fakes.when(*call, do=stop)


MOMENTS = [
    (LS, signal.SIGTERM),
    (AWS, signal.SIGTERM),
    (LOGIN, signal.SIGTERM),
    (INSPECT, signal.SIGTERM),
    (PS, signal.SIGTERM),
    (TASKS, signal.SIGTERM),
    (UPDATE, signal.SIGTERM),
    (AWS, signal.SIGINT),
    (UPDATE, signal.SIGINT),
    (UPDATE, signal.SIGHUP),
]


@pytest.mark.parametrize("moment, number", MOMENTS)
def test_signal(run: Run, scene: Scene, moment: tuple[str, ...], number: int) -> None:
    scene.patch.setattr(scene.script, "XARGS", ("xargs", "-r", "-P2"))
    for name in ("a", "b", "c"):
        add(name)(scene)
        update_of(name, orders=["hang"])(scene)  # none ends before the signal comes
    add("stuck", **STUCK)(scene)
    for name in ("us", "web", "stuck"):
        update_of(name, orders=["hang"])(scene)
    add("once", **ONCE)(scene)
    stop_at(scene, moment, number)

    outcome = run()

    assert outcome.status == 128 + number
    assert outcome.stderr.count("Stopped by " + signal.Signals(number).name) == 1
    assert not re.search(r"[A-Z][a-z]+Error", outcome.stderr)
    assert "Traceback" not in outcome.stderr
    assert scene.fakes.still_running() == []
    assert len(scene.fakes.calls_of(*UPDATE)) <= (2 if moment == UPDATE else 0)
    assert [it["name"] for it in scene.swarm.services if it["runs"] > 1 or it["restarted"]] == []


@pytest.mark.parametrize("arguments", [["--login-only"], ["--leader-only"]])
def test_a_signal_in_the_last_program(run: Run, scene: Scene, arguments: list[str]) -> None:
    scene.swarm.state["leader"] = False
    scene.swarm.remove("us")
    stop_at(scene, ("docker", "node") if "--leader-only" in arguments else LOGIN, signal.SIGTERM)

    assert run(*arguments).status == 128 + signal.SIGTERM


def test_a_signal_while_a_program_starts(run: Run, scene: Scene) -> None:
    # It comes when the program runs, but is not yet known to be in flight.
    class Late(set):  # type: ignore[type-arg]
        def update(self, groups: list[int]) -> None:  # type: ignore[override]
            if groups and scene.fakes.calls_of(
                *LOGIN
            ):  # the next after the logins, which are no such groups
                os.kill(os.getpid(), signal.SIGTERM)
            super().update(groups)

    scene.patch.setattr(scene.script, "in_flight", Late())
    hangs(*INSPECT)(scene)

    outcome = run()

    assert outcome.status == 128 + signal.SIGTERM
    assert "hung" not in outcome.stderr


def test_a_signal_lets_a_login_end(run: Run, scene: Scene) -> None:
    # Or docker could leave a copy of config.json behind, with the token in it.
    stop_at(scene, LOGIN, signal.SIGTERM)

    outcome = run()

    assert outcome.status == 128 + signal.SIGTERM
    assert outcome.stderr.count("Docker login succeeded") == 1
    assert len(scene.fakes.calls_of(*LOGIN)) == 1


def test_a_signal_reaches_what_hangs(run: Run, scene: Scene) -> None:
    update_of("web", orders=["child", "hang"])(scene)
    stop_at(scene, tuple(scene.swarm.update_of("web")), signal.SIGTERM)

    assert run().status == 128 + signal.SIGTERM

    assert scene.fakes.still_running() == []
