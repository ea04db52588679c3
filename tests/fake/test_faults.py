"""What can go wrong, as a table: a row is a fault, what the user reads, the exit status, who is
refreshed all the same.

The scene of every row: `web` pulls from one region, `us` from another.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from fakes import Fakes, Outcome
from faults import (
    Fault,
    Scene,
    add,
    after,
    both,
    config_text,
    fails,
    floods,
    half_of_the_list,
    half_of_the_tasks,
    hangs,
    helper,
    impatient,
    no_process_left,
    node_is,
    not_at_home,
    option,
    removed,
    says,
    update_of,
)
from pretend_logins import DEAD_HELPER, FORGETFUL_STORE
from pretend_swarm import ECR, ECR_US, UPDATE, PretendSwarm
from pretend_texts import OF_THE_DAEMON, TEXTS
from shared import (
    ECR_OTHER_ACCOUNT,
    INSPECT,
    LEADER,
    LOGIN,
    LS,
    PS,
    REGION,
    SPECS,
    STATUS,
    TOKEN,
    TOKEN_ONLY,
    Bounds,
    Run,
    refreshed,
)


class Row(NamedTuple):
    """A fault, and what comes of it."""

    name: str
    fault: Fault
    says: str
    status: int
    refreshed: str


AWS = (*TOKEN, REGION)
LOGIN_WEB = (*LOGIN, ECR)
# A token, and what it looks like in the log.
PRINTS = "secret-eu-central-1-of-the-test"
ALL = "us web"
DOWN = TEXTS["29"]["down"]
NO_LEADER = "rpc error: code = Unknown desc = The swarm does not have a leader."
DISK_FULL = "Error saving credentials: write /root/.docker/config.json1: no space left on device"
NO_TOKEN = "aws ecr get-login-password"
DENIED = f"Docker login failed for {ECR}: docker login"
NOT_KEPT = f"docker does not keep the login to {ECR}, and a deploy from here sends none: "

# fmt: off
TABLE = [
    # programs
    Row("aws crashes once", says(*AWS, signal=11), f"seconds: Docker login failed for {ECR}: aws", 0, ALL),
    Row("aws dies in mid token", says(*AWS, stdout=PRINTS, signal=9, times=9), "killed by signal 9", 1, "us"),
    Row("aws hangs, and its child", hangs(*AWS, orders=("ignore-sigterm", "child", "hang")), "hung, and was killed", 1, "us"),
    Row("its child keeps the output", says(*AWS, stdout=PRINTS, orders=["child"]), "2 refreshed", 0, ALL),
    Row("a daemon keeps the output", says(*AWS, stdout=PRINTS, orders=["daemon"]), "2 refreshed", 0, ALL),
    Row("no process is left", after(*UPDATE, then=no_process_left), "BlockingIOError(11, ", 0, ALL),
    Row("aws says 5 MB", floods(*AWS, stream="stderr", exit_status=254, times=9), "exit status 254: xxx", 1, "us"),
    Row("docker says 5 MB", floods(*LS, stream="stdout"), "tried again in 0.001 seconds: docker shows what cannot be read: ValueError(", 0, ALL),
    Row("aws says no text", fails(*AWS, text=b"\xff\xfe\x80", times=9), "status 1: \ufffd", 1, "us"),
    Row("docker says no text", says(*LS, stdout=b"\xff\xfe{\0"), "2 refreshed", 0, ALL),
    Row("aws warns", says(*AWS, stdout=PRINTS, stderr="old\nTLS"), f"{NO_TOKEN} succeeded, and said: old TLS", 0, ALL),
    Row("docker warns, as always", says(*LOGIN_WEB, stderr="unencrypted"), "Docker login succeeded", 0, ALL),
    Row("inspect warns", says(*INSPECT, stdout="", stderr="old"), "inspect succeeded, and said: old", 0, ALL),
    Row("aws says nothing", says(*AWS, times=9), f"{DENIED} failed with exit status 1: ", 1, "us"),
    Row("aws says an empty line", says(*AWS, stdout="\n", times=9), f"{DENIED} failed with exit status 1: ", 1, "us"),
    Row("aws fails in silence", says(*AWS, exit_status=1, times=9), "exit status 1: it said nothing", 1, "us"),
    # tokens that a program shows
    Row("a wrapper of aws traces", says(*AWS, stdout=PRINTS, stderr=f"+ t={PRINTS}\n+ echo {PRINTS}\n"),
        "said: + t=[secret] + echo [secret]", 0, ALL),
    Row("docker quotes what it read", both(says(*AWS, stdout=PRINTS), fails(*LOGIN_WEB, text=f'no "{PRINTS[:25]}..."', times=9)),
        f'{DENIED} failed with exit status 1: no "[secret]..."', 1, "us"),
    # docker
    Row("daemon down", node_is("down"), DOWN, 1, ""),
    Row("daemon restarts in mid-run", after(*LOGIN, then=fails(*INSPECT, text=DOWN)), DOWN, 0, ALL),
    Row("daemon goes for good", after(*LOGIN, then=node_is("down")), DOWN, 1, ""),
    Row("no swarm", node_is("none"), f"the run failed: docker service ls failed with exit status 1: "
        f"Error response from daemon: {OF_THE_DAEMON['none']}", 1, ""),
    Row("no leader", fails(*LS, text=NO_LEADER, times=9), NO_LEADER, 1, ""),
    Row("a new leader in mid-run", after(*LOGIN, then=fails(*INSPECT, text=NO_LEADER)), NO_LEADER, 0, ALL),
    Row("leader unknown", both(option("--leader-only"), fails(*LEADER, text=NO_LEADER, times=9)), NO_LEADER, 1, ""),
    Row("list cut short", half_of_the_list, "docker service ls was killed by signal 9", 1, ""),
    Row("inspect cut short", says(*INSPECT, stdout="", signal=9), "docker service inspect was killed by signal 9", 0, ALL),
    Row("specs cut short", both(add("stuck", **TOKEN_ONLY), says(*SPECS, signal=9)), "3 refreshed", 0, "stuck us web"),
    Row("list of tasks cut short", half_of_the_tasks, "half held back: its tasks are starting", 0, ALL),
    Row("look again cut short", says(*STATUS, signal=9), "Could not check whether tasks restarted", 0, ALL),
    # logins
    Row("one login of three refused", both(add("a", f"{ECR_OTHER_ACCOUNT}/a:1"), fails(*LOGIN_WEB, text="401 No", times=9)),
        f"{DENIED} failed with exit status 1: 401 No", 1, "a us"),
    Row("refused once", fails(*LOGIN_WEB, text="EOF"), "2 logins, 2 refreshed", 0, ALL),
    Row("docker login hangs", hangs(*LOGIN_WEB, times=2), f"{DENIED} hung, and was killed", 1, "us"),
    Row("disk full", not_at_home(DISK_FULL), f"{NOT_KEPT}docker login failed with exit status 1: {DISK_FULL}", 0, ALL),
    Row("disk full, to log in", both(option("--login-only"), not_at_home(DISK_FULL)), f"{DENIED} failed with exit status 1: {DISK_FULL}", 1, ""),
    Row("helper's login is dead", helper(DEAD_HELPER), f"{NOT_KEPT}docker login failed", 0, ALL),
    Row("store gives nothing back", helper(FORGETFUL_STORE), NOT_KEPT, 0, ALL),
    Row("config.json is no JSON", both(option("--refresh-only"), config_text("{auths:")), "config file", 1, ""),
    Row("config.json is mended", config_text("{auths:"), "2 logins, 2 refreshed", 0, ALL),
    Row("config.json is empty", both(option("--refresh-only"), config_text("")), "no login that", 1, ""),
    # updates
    Row("web goes before its update", after(*UPDATE, then=removed("web")), "web to be tried again in 0.001 seconds: ", 0, "us"),
    Row("an update is killed", update_of("web", signal=9, times=9), "web failed: docker service update failed with exit status 125: xargs: docker: termin", 1, "us"),
    Row("an update ends with 255", update_of("web", exit_status=255), "2 refreshed", 0, ALL),
    Row("an update hangs", both(impatient, update_of("web", orders=["child", "hang"])), "web failed: docker service update hung", 1, "us"),
    Row("an update warns", update_of("web", stdout="", stderr="digest"), "update succeeded, and said: digest", 0, ALL),
]
# fmt: on


@pytest.fixture
def scene(
    fakes: Fakes,
    swarm: PretendSwarm,
    monkeypatch: pytest.MonkeyPatch,
    bounds: Bounds,
    home: Path,
) -> Scene:
    """Two services; what fails is tried twice."""
    bounds.set(pauses=(0.001,))
    swarm.add("web")
    swarm.add("us", f"{ECR_US}/app:2")
    return Scene(fakes, swarm, monkeypatch, bounds, home, [])


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
    assert (outcome.status, " ".join(refreshed(outcome))) == (row.status, row.refreshed)
    assert "Traceback" not in outcome.stderr
    assert max(map(len, outcome.stderr.splitlines())) < 1500, "a line that nobody can read"
    assert secrets_shown(scene, outcome, debug_log) == []
    assert [it["name"] for it in scene.swarm.services if it["runs"] > 1 or it["restarted"]] == []
    # A daemon is in a session of its own, where nobody finds it.
    assert row.name.startswith("a daemon") or scene.fakes.still_running() == []


# What aws says, by the region that says it. The texts change between versions, so they are shown,
# not understood.
AWS_FAILURES = {
    "us-east-2": (252, "aws: error: argument command: Invalid choice"),
    "us-west-1": (253, "You must specify a region. You can also run aws configure."),
    "us-west-2": (253, "Unable to locate credentials. You can also run aws configure."),
    "eu-west-1": (254, "An error occurred (ExpiredTokenException) when calling an operation"),
    "eu-west-2": (254, "An error occurred (ThrottlingException) when calling an operation"),
    "eu-west-3": (254, "An error occurred (AccessDeniedException) when calling an operation"),
    "eu-south-1": (255, "Error loading SSO Token: Token for default does not exist"),
    "ap-south-1": (255, "Unable to locate credentials"),
}


def test_what_aws_says_is_shown(run: Run, scene: Scene) -> None:
    for region, (status, text) in AWS_FAILURES.items():
        scene.arguments.extend(["--registry", ECR.replace(REGION, region)])
        fails(*TOKEN, region, status=status, text=f"\n{text}\n", times=9)(scene)

    outcome = run(*scene.arguments)

    assert (outcome.status, refreshed(outcome)) == (1, ["us", "web"])
    said = [
        f"Docker login failed for {ECR.replace(REGION, region)}: aws"
        f" ecr get-login-password failed with exit status {status}: {text}\n"
        for region, (status, text) in AWS_FAILURES.items()
    ]
    assert [line for line in said if line not in outcome.stderr] == []


def test_the_check_for_secrets_sees_the_log_of_sh(
    run: Run, scene: Scene, debug_log: list[str]
) -> None:
    run()

    assert any("docker service ls" in record for record in debug_log)


def test_the_beginning_of_what_a_program_says_is_cut_off(run: Run, scene: Scene) -> None:
    """The last words tell most."""
    text = "first words " + "x" * 5000 + " last words"
    fails(*AWS, text=text, status=254, times=9)(scene)

    outcome = run()

    assert "last words" in outcome.stderr and "first words" not in outcome.stderr


def test_a_service_without_any_task_is_asked_for_once_more(run: Run, scene: Scene) -> None:
    """An empty list, with exit status 0, must not pass for a service of which none starts."""
    add("starting", replicas="1/2", others="Preparing")(scene)
    says(*PS, stdout="")(scene)

    assert refreshed(run()) == ["us", "web"]
