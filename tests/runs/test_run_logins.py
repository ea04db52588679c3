"""The logins of the run, each in a folder of its own, and those that deploys from here use."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pretend.calls import (
    ECR_OTHER_ACCOUNT,
    REGION,
    Run,
    holders_of_dead_logins,
    is_of_run,
    is_untouched,
    log_out,
    login_of,
    refuse_to_keep_login,
    write_config,
)
from pretend.logins import (
    DEAD_HELPER,
    ECR_HELPER,
    EXPIRED,
    FORGETFUL_STORE,
    OLD_ECR_HELPER,
    STORE,
    held,
    token_opens,
)
from pretend.runner import Answers, Call
from pretend.services import ECR
from pretend.swarm import ECR_US, PretendSwarm
from pretend.texts import TEXTS

import ecr_swarm_login as script

ALL = ["us", "web-1", "web-2"]


@pytest.fixture
def web(swarm: PretendSwarm) -> PretendSwarm:
    """A swarm of two services of one registry, and one of another."""
    for name in ("web-1", "web-2"):
        swarm.add(name)
    swarm.add("us", f"{ECR_US}/us:1")
    return swarm


def watch(programs: Answers, *beginning: str, do: Callable[[Call], object]) -> None:
    """Do this at each call that begins so, before it is answered."""

    def look(call: Call) -> None:
        if call.argv[: len(beginning)] == list(beginning):
            do(call)

    programs.answerers.insert(0, look)  # type: ignore[arg-type]


# Of the run


def test_each_registry_has_a_folder_that_goes(
    run: Run, programs: Answers, web: PretendSwarm, memory: Path
) -> None:
    modes: set[int] = set()

    def note(call: Call) -> None:
        folder = Path(call.environ["DOCKER_CONFIG"])
        modes.update(each.stat().st_mode & 0o777 for each in (folder, folder.parent))

    watch(programs, *script.UPDATE, do=note)

    assert run().refreshed == ALL

    logins = [call for call in programs.calls_of(*script.LOGIN) if is_of_run(call)]
    folders = {call.argv[-1]: call.environ["DOCKER_CONFIG"] for call in logins}
    assert len(logins) == len(set(folders.values())) == 2
    for name, host in (("web-1", ECR), ("web-2", ECR), ("us", ECR_US)):
        [update] = programs.calls_of(*web.update_of(name))
        assert update.environ["DOCKER_CONFIG"] == folders[host]
    assert modes == {0o700}
    assert list(memory.iterdir()) == []
    assert holders_of_dead_logins(web) == []


@pytest.mark.parametrize(
    "given, can_use_memory, place",
    [
        (["RUNTIME_DIRECTORY", "TMPDIR"], True, "RUNTIME_DIRECTORY"),
        (["TMPDIR"], True, "/dev/shm"),
        (["TMPDIR"], False, "TMPDIR"),
        ([], False, "/tmp"),
    ],
)
def test_where_the_folder_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: list[str],
    can_use_memory: bool,
    place: str,
) -> None:
    """In memory, if that can be: a TMPDIR may be a disk."""
    for name in ("RUNTIME_DIRECTORY", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    for name in given:
        monkeypatch.setenv(name, name)

    def make(prefix: str, dir: str) -> str:
        if dir == "/dev/shm" and not can_use_memory:
            raise PermissionError(13, "Permission denied")
        return f"{dir}/{prefix}"

    monkeypatch.setattr("tempfile.mkdtemp", make)

    assert script.make_run_folder() == f"{place}/ecr_swarm_login-"


def no_room(*_: Any, **__: Any) -> str:
    """The disk is full."""
    raise OSError(28, "No space left on device")


def test_without_room_nothing_is_refreshed(
    run: Run, web: PretendSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.mkdtemp", no_room)

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (1, [])
    assert "No space left on device" in outcome.last_line
    assert sorted(holders_of_dead_logins(web)) == ALL


def test_the_token_is_in_no_other_file(
    run: Run,
    programs: Answers,
    web: PretendSwarm,
    home: Path,
    memory: Path,
    tmp_path: Path,
) -> None:
    found: set[Path] = set()
    marks = (b"secret-", base64.b64encode(b"AWS:secre"))

    def search(_: Call) -> None:
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        found.update(path for path in files if any(mark in path.read_bytes() for mark in marks))

    watch(programs, *script.UPDATE, do=search)

    outcome = run("--region", REGION)

    assert outcome.refreshed == ALL
    in_folders = {path for path in found if path.match(f"{memory}/*/*/config.json")}
    assert in_folders and found - in_folders <= {home / ".docker/config.json"}
    assert list(memory.iterdir()) == []
    assert [token for token in web.tokens if programs.leaks_of(token)] == []
    assert "secret-" not in outcome.stdout + outcome.stderr


def test_all_registries_are_logged_in_to_side_by_side(
    run: Run, programs: Answers, web: PretendSwarm
) -> None:
    web.add("other", f"{ECR_OTHER_ACCOUNT}/app:2")
    together = threading.Barrier(3)
    for host in (ECR, ECR_US, ECR_OTHER_ACCOUNT):
        programs.when(*script.LOGIN, host, do=lambda: together.wait(timeout=30))

    assert run().status == 0
    assert not together.broken


def test_the_folder_has_all_but_other_logins(home: Path, tmp_path: Path) -> None:
    """Contexts and certificates go on to count."""
    docker_s = home / ".docker"
    (docker_s / "contexts/meta").mkdir(parents=True)
    files = ("ca.pem", "cert.pem", "key.pem", "contexts/meta/meta.json")
    for name in (*files, "config.json", "config.json123456"):
        (docker_s / name).write_text(f'"{name}"')

    folder = Path(script.make_login_folder(str(tmp_path), ECR))

    assert {path.name for path in folder.iterdir()} == {
        "ca.pem", "cert.pem", "key.pem", "contexts", "config.json"
    }  # fmt: skip
    assert [name for name in files if (folder / name).read_text() != f'"{name}"'] == []
    assert json.loads((folder / "config.json").read_text()) == {"auths": {ECR: {}}}
    assert (folder.parent, folder.name[: len(ECR)]) == (tmp_path, ECR)


def test_a_second_folder_for_a_registry_is_another_one(home: Path, tmp_path: Path) -> None:
    """As when the first login failed; docker's own folder need not be there."""
    assert len({script.make_login_folder(str(tmp_path), ECR) for _ in range(3)}) == 3


def test_nobody_else_can_take_the_login_away(
    run: Run, programs: Answers, web: PretendSwarm, home: Path
) -> None:
    """A logout, or a login of somebody else's, at each call."""
    watch(programs, "docker", do=lambda _: write_config(home, auths={ECR: login_of(EXPIRED)}))

    assert run().refreshed == ALL
    assert holders_of_dead_logins(web) == []


def test_updates_send_the_login_of_the_run(
    run: Run, programs: Answers, swarm: PretendSwarm, home: Path, memory: Path
) -> None:
    """Whatever happens to the one for deploys; and to the same daemon."""
    swarm.add("web")
    programs.when(*script.UPDATE, do=lambda: log_out(home))
    swarm.state["context"] = "elsewhere"

    assert run().status == 0

    [update] = programs.calls_of(*script.UPDATE)
    [login] = [call for call in programs.calls_of(*script.LOGIN) if is_of_run(call)]
    [for_deploys] = [call for call in programs.calls_of(*script.LOGIN) if not is_of_run(call)]
    assert update.environ["DOCKER_CONFIG"] == login.environ["DOCKER_CONFIG"]
    assert update.environ["DOCKER_CONFIG"].startswith(str(memory))
    # Another folder has no current context.
    assert update.environ["DOCKER_CONTEXT"] == "elsewhere"
    assert "DOCKER_CONFIG" not in for_deploys.environ
    assert holders_of_dead_logins(swarm) == []


def test_without_its_context_nothing_is_updated(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    """Which one is the current one stands in the config.json that docker does not see."""
    swarm.add("web")
    swarm.state["context"] = "other-manager"
    programs.answer(*script.VERSION, stderr="out of memory", exit_status=1)

    assert run().refreshed == ["web"]

    assert len(programs.calls_of(*script.VERSION)) == 2
    contexts = {call.environ.get("DOCKER_CONTEXT") for call in programs.calls_of(*script.UPDATE)}
    assert contexts == {"other-manager"}


# A docker that does not use the folder


def be_wrapped(programs: Answers, swarm: PretendSwarm, home: Path) -> None:
    """A wrapper of docker sets DOCKER_CONFIG by itself."""

    def answer(call: Call) -> dict[str, Any] | None:
        environ = {**call.environ, "DOCKER_CONFIG": str(home / ".docker")}
        answer = swarm.answer(call.argv, call.stdin, environ)
        return answer and answer._asdict()

    programs.answerers.insert(0, answer)


def test_a_docker_that_does_not_use_the_folder(
    run: Run, programs: Answers, web: PretendSwarm, home: Path
) -> None:
    """A line says what to do, and that goes."""
    be_wrapped(programs, web, home)

    outcome = run("--tries", "8")

    assert (outcome.status, outcome.refreshed) == (1, [])
    for text in (
        f"Docker login failed for {ECR}: docker ignored DOCKER_CONFIG",
        " -> for a snap: run --login-only, then --refresh-only",
    ):
        assert text in outcome.last_line
    assert "next attempt" not in outcome.stderr
    assert sorted(holders_of_dead_logins(web)) == ALL

    assert run("--login-only").status == 0
    assert run("--refresh-only").refreshed == ALL
    assert holders_of_dead_logins(web) == []


# For deploys from here


def test_docker_gets_the_logins_for_deploys_one_by_one(
    run: Run,
    programs: Answers,
    web: PretendSwarm,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It replaces config.json without a lock."""
    answer_to = programs.answer_to
    at_work: list[Call] = []
    meetings: list[int] = []

    def wait_for_another(call: Call) -> Any:
        if call.argv[: len(script.LOGIN)] != list(script.LOGIN) or is_of_run(call):
            return answer_to(call)
        at_work.append(call)
        threading.Event().wait(0.1)
        meetings.append(len(at_work))
        at_work.remove(call)
        return answer_to(call)

    monkeypatch.setattr(programs, "answer_to", wait_for_another)

    assert run().status == 0

    assert meetings == [1, 1]
    for host in (ECR, ECR_US):
        assert token_opens(held(web.state, host, {"HOME": str(home)}), host)


def test_a_store_that_forgets_is_docker_s_own_affair(
    run: Run, web: PretendSwarm, home: Path
) -> None:
    """Its exit status and its words count, and no proof of ours."""
    write_config(home, credHelpers={ECR: FORGETFUL_STORE})

    outcome = run("--quiet")

    assert (outcome.status, outcome.stderr) == (0, "")
    assert holders_of_dead_logins(web) == []


def test_a_login_for_deploys_that_fails_is_a_warning(
    run: Run, programs: Answers, web: PretendSwarm, home: Path
) -> None:
    refuse_to_keep_login(programs, "no space left on device")

    outcome = run("--quiet")

    assert outcome.status == 0
    [line] = outcome.lines
    assert line == (
        f"Deploys from this host may lack a valid login: Docker login failed for {ECR}:"
        " docker login failed with exit status 1: no space left on device"
    )
    assert holders_of_dead_logins(web) == []


@pytest.mark.parametrize("client", TEXTS)
@pytest.mark.parametrize("helper", [STORE, ECR_HELPER, OLD_ECR_HELPER, DEAD_HELPER])
def test_a_helper_is_no_warning(
    run: Run, web: PretendSwarm, home: Path, client: str, helper: str
) -> None:
    """An old one stores no logins; those that it gives are its own affair."""
    web.state["client"] = client
    write_config(home, credHelpers={ECR: helper})

    outcome = run("--quiet")

    assert (outcome.status, outcome.stderr) == (0, "")
    assert holders_of_dead_logins(web) == []


def test_where_it_is_all_that_is_asked_for_a_login_for_deploys_has_to_succeed(
    run: Run, programs: Answers, web: PretendSwarm, home: Path
) -> None:
    refuse_to_keep_login(programs, "no space left on device")

    outcome = run("--login-only")

    assert outcome.status == 1
    assert f"; failed: registry {ECR}: Docker login failed for {ECR}: " in outcome.last_line
    assert outcome.last_line.startswith("1 login in ")
    assert token_opens(held(web.state, ECR_US, {"HOME": str(home)}), ECR_US)


def test_an_older_login_is_no_reason_to_go_on_when_the_token_is_refused(
    run: Run, programs: Answers, swarm: PretendSwarm, home: Path
) -> None:
    """It may be about to expire, and nobody would hear that AWS's tokens are no good."""
    write_config(home, auths={ECR: login_of("secret-eu-central-1-good")})
    swarm.add("web")
    programs.answer(*script.LOGIN, ECR, stderr="401 Unauthorized", exit_status=1, times=99)

    outcome = run()

    assert outcome.status == 1
    assert "Docker login failed" in outcome.last_line and "401" in outcome.last_line
    assert is_untouched(swarm, "web")


def test_nothing_is_written_but_logins(
    run: Run, swarm: PretendSwarm, home: Path, memory: Path
) -> None:
    """No lock, no home that does not exist, nothing in memory."""
    swarm.add("web")

    assert run("--dry-run").status == 0
    assert list(home.iterdir()) == []

    assert run().status == 0
    assert [path.name for path in home.rglob("*")] == [".docker", "config.json"]
    assert list(memory.iterdir()) == []
