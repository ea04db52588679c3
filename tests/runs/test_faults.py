"""What can go wrong, as a table: a row is a fault, what the user reads, the exit status, who is
refreshed nevertheless.

The scene of every row: `web` pulls from one region, `us` from another.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pretend.calls import ECR_OTHER_ACCOUNT, REGION, Run, refuse_to_keep_login, write_config
from pretend.logins import DEAD_HELPER
from pretend.runner import Answers, Outcome
from pretend.services import ECR
from pretend.swarm import ECR_US, PretendSwarm
from pretend.texts import OF_THE_DAEMON, TEXTS

import ecr_swarm_login as script


class Scene(NamedTuple):
    """What a fault may break."""

    programs: Answers
    swarm: PretendSwarm
    home: Path
    arguments: list[str]


Fault = Callable[[Scene], object]


class Row(NamedTuple):
    """A fault, and what comes of it."""

    name: str
    fault: Fault
    says: str
    status: int
    refreshed: str


# The language of faults


def both(*faults: Fault) -> Fault:
    """One after the other."""
    return lambda scene: [fault(scene) for fault in faults]


def after(*event: str, then: Fault) -> Fault:
    """The fault comes with this call."""
    return lambda scene: scene.programs.when(*event, do=lambda: then(scene))


def says(*argv: str, **answer: Any) -> Fault:
    """The next call that begins so is answered so, or the next times."""
    return lambda scene: scene.programs.answer(*argv, scene.programs.fp.any(), **answer)


def fails(*argv: str, text: str = "denied by the test", status: int = 1, **answer: Any) -> Fault:
    """The same with a failure."""
    return says(*argv, stderr=text, exit_status=status, **answer)


def node_is(state: str) -> Fault:
    """The node is no manager, or has no daemon."""
    return lambda scene: scene.swarm.state.update(node=state)


def update_of(name: str, **answer: Any) -> Fault:
    """What the next update of this service says."""
    return lambda scene: scene.programs.answer(*scene.swarm.update_of(name), **answer)


def add(name: str, image: str = f"{ECR}/app:2", **facts: Any) -> Fault:
    """One more service."""
    return lambda scene: scene.swarm.add(name, image, **facts)


def option(*words: str) -> Fault:
    """The run has this option."""
    return lambda scene: scene.arguments.extend(words)


def config_text(text: str) -> Fault:
    """The content of docker's config.json, as a person may have written it."""

    def write(scene: Scene) -> None:
        write_config(scene.home)
        (scene.home / ".docker" / "config.json").write_text(text)

    return write


def not_at_home(text: str) -> Fault:
    """docker keeps no login to `web`'s registry where it keeps logins by itself; it says this."""
    return lambda scene: refuse_to_keep_login(scene.programs, text)


AWS = (*script.AWS_TOKEN, REGION)
LOGIN_WEB = (*script.LOGIN, ECR)
# A token, and what it looks like in the log.
PRINTS = "secret-eu-central-1-of-the-test"
ALL = "us web"
DOWN = TEXTS["29"]["down"]
NO_LEADER = "rpc error: code = Unknown desc = The swarm does not have a leader."
DISK_FULL = "Error saving credentials: write /root/.docker/config.json1: no space left on device"
GET = "aws ecr get-login-password"
NO_TOKEN = f"Failed to acquire docker login credentials: {GET}"
NONE = "Failed to acquire docker login credentials: aws printed no valid token (output hidden) -> look for an aws"
DENIED = f"Docker login failed for {ECR}: docker login"
FOR_DEPLOYS = f"Deploys from this host may lack a valid login: {DENIED}"
UNREADABLE = "docker's output is unexpected, or this host lacks something: "

# fmt: off
TABLE = [
    # aws
    Row("aws crashes once", says(*AWS, signal=11), f"web failed; next attempt in 1 s: {NO_TOKEN} failed with exit status -11", 0, ALL),
    Row("aws dies in mid token", says(*AWS, stdout=PRINTS, signal=9, times=9), f"{NO_TOKEN} failed with exit status -9: no output", 1, "us"),
    Row("aws hangs", says(*AWS, orders=["hang"], times=9), f"{NO_TOKEN} hung, and was killed", 1, "us"),
    Row("aws says much", fails(*AWS, text="x" * 200_000, status=254, times=9), "exit status 254: xxx", 1, "us"),
    Row("aws says no text", says(*AWS, stderr=b"\xff\xfe\x80", exit_status=1, times=9), "status 1: \ufffd", 1, "us"),
    Row("aws fails in silence", says(*AWS, exit_status=1, times=9), f"{NO_TOKEN} failed with exit status 1: no output", 1, "us"),
    # what is no token: 5 of the public reports
    Row("aws prints nothing", says(*AWS, times=9), NONE, 1, "us"),
    Row("aws prints a banner", says(*AWS, stdout=f"Welcome!\n{PRINTS}\n", times=9), NONE, 1, "us"),
    Row("aws prints two words", says(*AWS, stdout=f"{PRINTS} {PRINTS}", times=9), NONE, 1, "us"),
    Row("aws prints escape codes", says(*AWS, stdout=f"\033[32m{PRINTS}\033[0m", times=9), NONE, 1, "us"),
    # docker
    Row("docker says much", says(*script.LIST, stdout="x" * 5_000_000), f"The run failed; next attempt in 1 s: {UNREADABLE}ValueError: ", 0, ALL),
    Row("docker says no text", says(*script.LIST, stdout=b"\xff\xfe{\0"), f"{UNREADABLE}ValueError: ", 0, ALL),
    Row("docker names no context", fails(*script.VERSION, text="out of memory"), "docker version failed with exit status 1: out of memory", 0, ALL),
    Row("daemon down", node_is("down"), DOWN, 1, ""),
    Row("daemon restarts in mid-run", after(*script.LOGIN, then=fails(*script.INSPECT, text=DOWN, times=2)), DOWN, 0, ALL),
    Row("daemon goes for good", after(*script.LOGIN, then=node_is("down")), DOWN, 1, ""),
    Row("no swarm", node_is("none"), f"in N seconds; failed: docker service ls failed with exit status 1: Error response from daemon: {OF_THE_DAEMON['none']}", 1, ""),
    Row("no leader", fails(*script.LIST, text=NO_LEADER, times=9), NO_LEADER, 1, ""),
    Row("leader unknown", both(option("--leader-only"), fails(*script.LEADER, text=NO_LEADER, times=9)), NO_LEADER, 1, ""),
    Row("null for who leads", both(option("--leader-only"), says(*script.LEADER, stdout="null\n", times=9)), UNREADABLE, 1, ""),
    Row("no word on who leads", both(option("--leader-only"), says(*script.LEADER, stdout="maybe\n", times=9)), UNREADABLE, 1, ""),
    Row("list cut short", says(*script.LIST, stdout=f"0123 {ECR_US}/app:2 us\n", signal=9, times=99), "docker service ls failed with exit status -9", 1, ""),
    Row("inspect cut short", says(*script.INSPECT, signal=9), "2 refreshed", 0, ALL),
    Row("inspect prints nothing", says(*script.INSPECT, stderr="old", times=99), "docker service inspect printed too little", 1, ""),
    Row("list of tasks cut short", both(add("half", replicas="1/2", others="Preparing"), says(*script.TASKS, signal=9)), "half held back: its tasks are starting", 0, ALL),
    Row("specs of tasks cut short", says(*script.SPECS, signal=9), "2 refreshed", 0, ALL),
    # logins
    Row("one login of three refused", both(add("a", f"{ECR_OTHER_ACCOUNT}/a:1"), fails(*LOGIN_WEB, text="401 Unauthorized", times=9)),
        f"{DENIED} failed with exit status 1: 401 Unauthorized -> ", 1, "a us"),
    Row("refused once", fails(*LOGIN_WEB, text="EOF"), "2 logins, 2 refreshed", 0, ALL),
    Row("docker login hangs", says(*LOGIN_WEB, orders=["hang"], times=9), f"{DENIED} hung, and was killed", 1, "us"),
    Row("docker quotes what it read", both(says(*AWS, stdout=PRINTS), fails(*LOGIN_WEB, text=f'no "{PRINTS}"', times=9)),
        f'{DENIED} failed with exit status 1: no "[secret]"', 1, "us"),
    Row("disk full", not_at_home(DISK_FULL), f"{FOR_DEPLOYS} failed with exit status 1: {DISK_FULL}", 0, ALL),
    Row("disk full, to log in", both(option("--login-only"), not_at_home(DISK_FULL)), f"{DENIED} failed with exit status 1: {DISK_FULL}", 1, ""),
    Row("a helper that stores nothing", lambda scene: write_config(scene.home, credHelpers={ECR: DEAD_HELPER}), f"The credential helper of {ECR} supplies logins, and stores none", 0, ALL),
    Row("config.json is no JSON", both(option("--refresh-only"), config_text("{auths:")), "config file", 1, ""),
    Row("config.json is mended", config_text("{auths:"), "2 logins, 2 refreshed", 0, ALL),
    # updates
    Row("an update is killed", update_of("web", signal=9, times=99), "web: docker service update failed with exit status 125: xargs: docker: terminated", 1, "us"),
    Row("an update ends with 255", update_of("web", exit_status=255), "2 refreshed", 0, ALL),
    Row("an update is not confirmed", update_of("web", times=99), "; failed: web: docker did not confirm the update", 1, "us"),
    Row("an update hangs", both(option("web"), update_of("web", orders=["hang"], times=99)), "web: docker service update hung, and was killed", 1, ""),
]
# fmt: on


@pytest.fixture
def scene(
    programs: Answers, swarm: PretendSwarm, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Scene:
    """Two services, of two registries: what hangs for one moves the clock of both."""
    monkeypatch.setattr(script, "STALE_SECONDS", 10**6)
    swarm.add("web")
    swarm.add("us", f"{ECR_US}/app:2")
    return Scene(programs, swarm, home, [])


def secrets_shown(scene: Scene, outcome: Outcome) -> list[str]:
    """Where a token can be read by who must not."""
    places = {f"argv of {call}": " ".join(call.argv) for call in scene.programs.calls}
    for call in scene.programs.calls:
        places[f"environment of {call}"] = repr(call.environ)
    for path in scene.home.parent.rglob("*"):
        if path.is_file() and path.name != "config.json":
            places[str(path)] = path.read_bytes().decode(errors="replace")
    places.update({"stdout": outcome.stdout, "stderr": outcome.stderr})
    return [place for place, text in places.items() if "secret-" in text]


@pytest.mark.parametrize("row", TABLE, ids=[row.name for row in TABLE])
def test_fault(run: Run, scene: Scene, row: Row) -> None:
    row.fault(scene)

    outcome = run(*scene.arguments)

    assert row.says in "\n".join(outcome.lines)
    assert (outcome.status, " ".join(outcome.refreshed)) == (row.status, row.refreshed)
    assert max(map(len, outcome.lines)) < 1500, "a line that nobody can read"
    assert secrets_shown(scene, outcome) == []
    assert [it["name"] for it in scene.swarm.services if it["runs"] > 1 or it["restarted"]] == []


# What aws says, by the region that says it. The texts change between versions, so they are shown,
# not understood.
AWS_FAILURES = {
    "us-east-2": (252, "aws: error: argument command: Invalid choice"),
    "us-west-1": (253, "You must specify a region. You can also run aws configure."),
    "eu-west-1": (254, "An error occurred (ExpiredTokenException) when calling an operation"),
    "eu-west-2": (254, "An error occurred (ThrottlingException) when calling an operation"),
    "eu-south-1": (255, "Error loading SSO Token: Token for default does not exist"),
}


def test_what_aws_says_is_shown(run: Run, scene: Scene) -> None:
    for region, (status, text) in AWS_FAILURES.items():
        scene.arguments.extend(["--registry", ECR.replace(REGION, region)])
        fails(*script.AWS_TOKEN, region, status=status, text=f"\n{text}\n", times=9)(scene)

    outcome = run(*scene.arguments)

    assert (outcome.status, outcome.refreshed) == (1, ["us", "web"])
    said = [
        f"registry {ECR.replace(REGION, region)} failed; next attempt in 1 s: "
        f"{NO_TOKEN} failed with exit status {status}: {text}"
        for region, (status, text) in AWS_FAILURES.items()
    ]
    assert [line for line in said if line not in outcome.stderr] == []


def test_the_beginning_of_what_a_program_says_is_cut_off(run: Run, scene: Scene) -> None:
    """The last words tell most."""
    text = "first words " + "x" * 5000 + " last words"
    fails(*AWS, text=text, status=254, times=9)(scene)

    outcome = run()

    assert "last words" in outcome.stderr and "first words" not in outcome.stderr


def test_a_service_without_any_task_is_asked_for_once_more(run: Run, scene: Scene) -> None:
    """An empty list, with exit status 0, must not pass for a service of which none starts."""
    add("starting", replicas="1/2", others="Preparing")(scene)
    says(*script.TASKS, stdout="")(scene)

    assert run().refreshed == ["us", "web"]


@pytest.mark.parametrize("look", [script.INSPECT, script.TASKS, script.SPECS])
@pytest.mark.parametrize("how", [{"signal": 9}, {}])
def test_nobody_is_refreshed_blindly(
    run: Run, scene: Scene, look: tuple[str, ...], how: dict[str, Any]
) -> None:
    """Whatever docker prints nothing of, be it by a failure or not, is not touched."""
    says(*look, stdout="", **how, times=99)(scene)

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (1, [])
    assert {it["version"] for it in scene.swarm.services} == {1}


def test_a_thing_that_nobody_thought_of_is_one_line(
    run: Run, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError("nobody thought of it")

    monkeypatch.setattr(script, "decide", fail)

    outcome = run()

    assert outcome.status == 1
    assert "this host lacks something: MemoryError: " in outcome.last_line
