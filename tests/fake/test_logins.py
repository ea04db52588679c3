"""Logins of the run's own, and the logins that deploys from here use."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import Call, Fakes
from pretend_logins import (
    DEAD_HELPER,
    ECR_HELPER,
    EXPIRED,
    FORGETFUL_STORE,
    OLD_ECR_HELPER,
    STORE,
    held,
    token_opens,
)
from pretend_swarm import ECR, ECR_US, UPDATE, PretendSwarm
from shared import (
    ECR_OTHER_ACCOUNT,
    LOGIN,
    PROOF,
    Run,
    holders_of_dead_logins,
    is_own,
    is_untouched,
    last_line,
    login_of,
    refreshed,
    write_config,
)

ALL = ["us", "web-1", "web-2"]
NOT_HELD = "docker holds no login that the registry takes: docker login"
NOT_KEPT = "docker does not keep the login to {}, and a deploy from here sends none: "


@pytest.fixture
def web(swarm: PretendSwarm) -> PretendSwarm:
    """A swarm of two services of one registry, and one of another."""
    for name in ("web-1", "web-2"):
        swarm.add(name)
    swarm.add("us", f"{ECR_US}/us:1")
    return swarm


def watch(fakes: Fakes, *beginning: str, do: Callable[[Call], object]) -> None:
    """Do this at each call that begins so, before it is answered."""

    def look(call: Call) -> None:
        if call.argv[: len(beginning)] == list(beginning):
            do(call)

    fakes.answerers.insert(0, look)  # type: ignore[arg-type]


# The run's own


def test_each_registry_has_a_folder_that_goes(run: Run, fakes: Fakes, web: PretendSwarm) -> None:
    modes: set[int] = set()

    def note(call: Call) -> None:
        folder = Path(call.environ["DOCKER_CONFIG"])
        modes.update(each.stat().st_mode & 0o777 for each in (folder, folder.parent))

    watch(fakes, *UPDATE, do=note)

    assert refreshed(run()) == ALL

    logins = [call for call in fakes.calls_of(*LOGIN) if is_own(call)]
    folders = {call.argv[-1]: call.environ["DOCKER_CONFIG"] for call in logins}
    assert len(logins) == len(set(folders.values())) == 2
    for name, host in (("web-1", ECR), ("web-2", ECR), ("us", ECR_US)):
        [update] = fakes.calls_of(*web.update_of(name))
        assert update.environ["DOCKER_CONFIG"] == folders[host]
    assert modes == {0o700}
    assert not any(Path(folder).parent.exists() for folder in folders.values())
    assert holders_of_dead_logins(web) == []


@pytest.mark.parametrize(
    "given, place",
    [
        (["RUNTIME_DIRECTORY", "TMPDIR"], "RUNTIME_DIRECTORY"),
        (["TMPDIR"], "TMPDIR"),
        ([], "/dev/shm"),
    ],
)
def test_where_the_folder_is(
    script: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: list[str],
    place: str,
) -> None:
    for name in ("RUNTIME_DIRECTORY", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    for name in given:
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))

    folder = Path(script.make_run_folder())

    assert folder.parent == tmp_path / place
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.rmdir()


def test_a_place_without_room_is_left_out(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "gone"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert Path(script.make_run_folder()).parent == tmp_path

    monkeypatch.setattr("tempfile.mkdtemp", no_room)
    assert script.make_run_folder() == "/dev/null/none"


def no_room(*_: Any, **__: Any) -> str:
    """The disk is full."""
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("name", ["make_run_folder", "make_login_folder"])
def test_without_room_docker_s_own_place_has_to_do(
    run: Run, web: PretendSwarm, script: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    make = getattr(script, name)

    def fail(*arguments: str) -> str:
        with monkeypatch.context() as patch:
            patch.setattr("tempfile.mkdtemp", no_room)
            return str(make(*arguments))

    monkeypatch.setattr(script, name, fail)

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (0, ALL)
    assert outcome.stderr.count(" in its own place only\n") == 2
    assert holders_of_dead_logins(web) == []


def test_the_token_is_in_no_other_file(
    run: Run,
    fakes: Fakes,
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

    watch(fakes, *UPDATE, do=search)

    outcome = run("--region", "eu-central-1")

    assert refreshed(outcome) == ALL
    in_folders = {path for path in found if path.match(f"{memory}/*/*/config.json")}
    assert in_folders and found - in_folders <= {home / ".docker/config.json"}
    assert list(memory.iterdir()) == []
    assert [token for token in web.tokens if fakes.leaks_of(token)] == []
    assert "secret-" not in outcome.stdout + outcome.stderr


def test_all_registries_are_logged_in_to_side_by_side(
    run: Run, fakes: Fakes, web: PretendSwarm
) -> None:
    web.add("other", f"{ECR_OTHER_ACCOUNT}/app:2")
    together = threading.Barrier(3)
    for host in (ECR, ECR_US, ECR_OTHER_ACCOUNT):
        fakes.when(*LOGIN, host, do=lambda: together.wait(timeout=30))

    assert run().status == 0
    assert not together.broken


def test_the_folder_has_all_but_other_logins(script: Any, home: Path, tmp_path: Path) -> None:
    """Contexts and certificates go on to count."""
    own = home / ".docker"
    (own / "contexts/meta").mkdir(parents=True)
    files = ("ca.pem", "cert.pem", "key.pem", "contexts/meta/meta.json")
    for name in (*files, "config.json", "config.json123456"):
        (own / name).write_text(f'"{name}"')

    folder = Path(script.make_login_folder(str(tmp_path), ECR))

    assert {path.name for path in folder.iterdir()} == {
        "ca.pem", "cert.pem", "key.pem", "contexts", "config.json"
    }  # fmt: skip
    assert [name for name in files if (folder / name).read_text() != f'"{name}"'] == []
    assert json.loads((folder / "config.json").read_text()) == {"auths": {ECR: {}}}
    assert (folder.parent, folder.name[: len(ECR)]) == (tmp_path, ECR)


def test_a_second_folder_for_a_registry_is_another_one(
    script: Any, home: Path, tmp_path: Path
) -> None:
    """As when the first login failed; docker's own folder need not be there."""
    assert len({script.make_login_folder(str(tmp_path), ECR) for _ in range(3)}) == 3


def test_nobody_else_can_take_the_login_away(
    run: Run, fakes: Fakes, web: PretendSwarm, home: Path
) -> None:
    """A logout, or a login of somebody else's, at each call."""
    watch(fakes, "docker", do=lambda _: write_config(home, auths={ECR: login_of(EXPIRED)}))

    assert refreshed(run()) == ALL
    assert holders_of_dead_logins(web) == []


# docker's own place


@pytest.mark.parametrize("config", [{}, {"credsStore": STORE}])
def test_docker_s_own_place_gets_the_logins_one_by_one(
    run: Run, fakes: Fakes, web: PretendSwarm, home: Path, config: dict[str, Any]
) -> None:
    write_config(home, **config)
    came: list[int] = []

    def in_own_place() -> list[Call]:
        return [call for call in fakes.calls_of(*PROOF) if not is_own(call)]

    def wait_for_another(call: Call) -> None:
        # The first one does, and none must come meanwhile.
        deadline = time.monotonic() + 0.3 * (not is_own(call) and not came)
        while time.monotonic() < deadline and len(in_own_place()) < 2:
            time.sleep(0.01)
        came.append(len(in_own_place()))

    watch(fakes, *PROOF, do=wait_for_another)

    assert run().status == 0

    calls = [call.argv for call in in_own_place()]
    kinds = [LOGIN, PROOF] if config else [LOGIN]
    hosts = [argv[-1] for argv in calls[:: len(kinds)]]
    assert sorted(hosts) == [ECR, ECR_US]
    # docker proves what it does not say of itself.
    assert calls == [[*kind, host] for host in hosts for kind in kinds]
    assert sorted(came) != [] and came[0] <= 1
    for host in hosts:
        assert token_opens(held(web.state, host, {"HOME": str(home)}), host)


@pytest.mark.parametrize("helper", [FORGETFUL_STORE, DEAD_HELPER])
def test_what_docker_does_not_keep_is_a_warning(
    run: Run, web: PretendSwarm, home: Path, helper: str
) -> None:
    write_config(home, credHelpers={ECR: helper})

    outcome = run("--quiet")

    assert outcome.status == 0
    [line] = outcome.stderr.splitlines()
    assert line.startswith(NOT_KEPT.format(ECR)) and "not refreshed" not in line
    assert holders_of_dead_logins(web) == []


@pytest.mark.parametrize("helper", [STORE, ECR_HELPER, OLD_ECR_HELPER])
def test_a_store_or_helper_with_a_good_login_is_no_warning(
    run: Run, web: PretendSwarm, home: Path, helper: str
) -> None:
    write_config(home, credHelpers={ECR: helper})

    outcome = run("--quiet")

    assert (outcome.status, outcome.stderr) == (0, "")
    assert holders_of_dead_logins(web) == []


@pytest.mark.parametrize("arguments", [["--login-only"], ["--leader-only"]])
def test_where_nothing_is_refreshed_the_login_has_to_be_kept(
    run: Run, fakes: Fakes, web: PretendSwarm, home: Path, arguments: list[str]
) -> None:
    web.state["leader"] = False
    write_config(home, credHelpers={ECR: FORGETFUL_STORE})

    outcome = run(*arguments)

    assert outcome.status == 1
    text = f"; failed: registry {ECR}: Docker login failed for {ECR}: "
    assert last_line(outcome).startswith("1 login, 1 failed in ") and text in last_line(outcome)
    assert NOT_HELD in last_line(outcome)
    assert not any(map(is_own, fakes.calls))
    assert token_opens(held(web.state, ECR_US, {"HOME": str(home)}), ECR_US)


def test_an_older_login_is_no_reason_to_go_on_when_the_token_is_refused(
    run: Run, fakes: Fakes, swarm: PretendSwarm, home: Path
) -> None:
    """It may be about to expire, and nobody would hear that AWS's tokens are no good."""
    good = {"auth": base64.b64encode(b"AWS:secret-eu-central-1-good").decode()}
    write_config(home, auths={ECR: good})
    swarm.add("web")
    fakes.answer(*LOGIN, ECR, stderr="401 Unauthorized", exit_status=1, times=8)

    outcome = run()

    assert outcome.status == 1
    assert "Docker login failed" in last_line(outcome) and "401" in last_line(outcome)
    assert is_untouched(swarm, "web")
