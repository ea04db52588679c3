"""Where it runs: the journal, the environment, its folder, and other runs."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from fakes import Fakes, Outcome
from pretend_services import login_opens
from pretend_swarm import ECR, UPDATE, PretendSwarm
from shared import CONTEXT, PAUSED, Run, last_line

# The journal


def be_the_journal(monkeypatch: pytest.MonkeyPatch, descriptor: int) -> None:
    """What systemd sets where it reads this stream."""
    stream = os.fstat(descriptor)
    monkeypatch.setenv("JOURNAL_STREAM", f"{stream.st_dev}:{stream.st_ino}")


def priorities(outcome: Outcome) -> dict[str, str]:
    """The journal's priority of each line, by the line's beginning."""
    return {line[3:].partition(":")[0]: line[:3] for line in outcome.stderr.splitlines()}


def test_journal_priorities(run: Run, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch) -> None:
    swarm.add("web", is_of_older_engine=True)
    swarm.add("stuck", **PAUSED, hours_ago=7)
    swarm.add("fresh", **PAUSED)
    be_the_journal(monkeypatch, 2)

    found = priorities(run("nix", "web", "stuck", "fresh"))

    assert found["nix failed"] == "<3>"
    assert found["stuck held back too long"] == "<4>"
    assert found["web restarts"] == "<4>"
    assert found["fresh held back"] == "<5>"
    assert found[f"Docker login succeeded for {ECR}"] == "<6>"


@pytest.mark.parametrize(
    "arguments, status, priority", [([], 0, 6), (["stuck"], 3, 4), (["x"], 1, 3)]
)
def test_the_last_line_has_the_priority_of_the_run(
    run: Run,
    swarm: PretendSwarm,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    status: int,
    priority: int,
) -> None:
    swarm.add("web")
    if "stuck" in arguments:
        swarm.add("stuck", **PAUSED, hours_ago=7)
    be_the_journal(monkeypatch, 2)

    outcome = run(*arguments)

    assert outcome.status == status
    assert last_line(outcome).startswith(f"<{priority}>")


@pytest.mark.parametrize("stream", ["", "1:2", "not a stream"])
def test_no_priorities_elsewhere(
    run: Run, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", stream)

    assert "<" not in run("-n", "nix").stderr


def test_the_journal_reads_sentences(
    run: Run, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm.add("web")
    be_the_journal(monkeypatch, 1)

    outcome = run()

    assert outcome.stdout == ""
    assert "web refreshed\n" in outcome.stderr


def test_a_pipe_reads_names(run: Run, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch) -> None:
    swarm.add("web")
    be_the_journal(monkeypatch, 2)

    outcome = run()

    assert outcome.stdout == "web\n"
    assert "web refreshed" not in outcome.stderr


# The environment


def test_the_environment_goes_to_all_programs(
    run: Run, fakes: Fakes, swarm: PretendSwarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm.add("web")
    given = {
        "DOCKER_HOST": "unix:///elsewhere",
        "DOCKER_CONFIG": str(tmp_path / "logins"),
        "AWS_PROFILE": "höchst",
        "AWS_CONFIG_FILE": "",
        "DOCKER_CONTEXT": "a b\nc",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    assert run().status == 0

    assert len(fakes.calls) >= 5
    changed = ("PATH", "GOGC", "GOMAXPROCS", "DOCKER_CONFIG", "DOCKER_CONTEXT")
    before = {name: value for name, value in os.environ.items() if name not in changed}
    for call in fakes.calls:
        assert {name: call.environ.get(name) for name in before} == before
    assert (tmp_path / "logins" / "config.json").exists()


@pytest.mark.parametrize("fails", [False, True])
def test_the_context_is_told_to_a_docker_with_another_folder(
    run: Run, fakes: Fakes, swarm: PretendSwarm, fails: bool
) -> None:
    """Which one is the current one stands in the config.json that it does not see."""
    swarm.add("web")
    swarm.state["context"] = "other manager"
    if fails:
        fakes.answer(*CONTEXT, fakes.fp.any(), stderr="out of memory", exit_status=1)

    assert run().status == 0

    assert len(fakes.calls_of(*CONTEXT)) == 1 + fails, "without it nothing is updated"
    contexts = {call.environ.get("DOCKER_CONTEXT") for call in fakes.calls_of(*UPDATE)}
    assert contexts == {"other manager"}


def test_an_old_api_is_not_asked_for(
    run: Run, fakes: Fakes, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It strips settings that it does not know from each service."""
    swarm.add("web")
    monkeypatch.setenv("DOCKER_API_VERSION", "1.40")

    assert run().status == 0

    assert [call for call in fakes.calls if "DOCKER_API_VERSION" in call.environ] == []


@pytest.mark.parametrize(
    "given, path",
    [
        ("/a:/b", "/a:/b"),
        ("/a::/b", "/a:/b"),
        (":/a", "/a"),
        ("/a:", "/a"),
        ("/a:.:bin:./c:../d", "/a"),
        ("", ""),
        (None, "/bin:/usr/bin"),
    ],
)
def test_the_current_folder_is_not_on_the_path(
    script: Any, monkeypatch: pytest.MonkeyPatch, given: str | None, path: str
) -> None:
    with mock.patch.dict(os.environ):
        os.environ.pop("PATH")
        if given is not None:
            os.environ["PATH"] = given
        script.set_up_environment()
        found = os.environ["PATH"]

    assert found == ":".join(filter(None, [path, "/usr/local/bin", "/snap/bin"]))


SET_FOR_ALL = {
    # with cli_auto_prompt in its profile, aws would ask a terminal
    "AWS_CLI_AUTO_PROMPT": "off",
    # the ECR credential helper would refuse a docker login
    "AWS_ECR_IGNORE_CREDS_STORAGE": "true",
    # the docker client of 28 would prefer these logins to those in config.json
    "DOCKER_AUTH_CONFIG": "",
    "GOGC": "off",
    "GOMAXPROCS": "1",
}


@pytest.mark.parametrize("arguments", [[], ["--region", "us-east-1"], ["--leader-only"]])
def test_what_is_set_for_all_programs(
    run: Run,
    fakes: Fakes,
    swarm: PretendSwarm,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:
    logins = {"auths": {ECR: {"auth": "QVdTOmE="}}}
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps(logins))
    monkeypatch.setenv("AWS_CLI_AUTO_PROMPT", "on")
    swarm.add("web", restart="none")

    assert run(*arguments).status == 0

    assert len(fakes.calls) > 6
    for call in fakes.calls:
        assert {name: call.environ.get(name) for name in SET_FOR_ALL} == SET_FOR_ALL


def test_no_program_sees_a_terminal(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web")

    assert run().status == 0

    assert not any(call.stdout_is_terminal or call.stdin_is_terminal for call in fakes.calls)


@pytest.mark.parametrize("empty, given", [("HOME", "DOCKER_CONFIG"), ("DOCKER_CONFIG", "HOME")])
def test_empty_environment_variables(
    run: Run,
    swarm: PretendSwarm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    empty: str,
    given: str,
) -> None:
    monkeypatch.setenv(given, str(tmp_path))
    others = ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "JOURNAL_STREAM", "DOCKER_HOST")
    for name in (empty, *others):
        monkeypatch.setenv(name, "")
    swarm.add("web")

    assert run()[:2] == (0, "web\n")


# The user and the folder of the logins


@pytest.mark.parametrize(
    "environment, folder",
    [
        ({"DOCKER_CONFIG": "/c", "HOME": "/h"}, "/c"),
        ({"DOCKER_CONFIG": "/c"}, "/c"),
        ({"DOCKER_CONFIG": "", "HOME": "/h"}, "/h/.docker"),
        ({"HOME": "/h"}, "/h/.docker"),
    ],
)
def test_where_docker_keeps_its_logins(
    script: Any, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], folder: str
) -> None:
    for name in ("DOCKER_CONFIG", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert script.docker_folder() == folder


def test_a_user_without_a_name(
    run: Run, swarm: PretendSwarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that runs with a user ID of its own."""

    def unknown(_: int) -> None:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("os.getuid", lambda: 12345)
    monkeypatch.delenv("HOME")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    swarm.add("web")

    assert run()[:2] == (0, "web\n")


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


def test_a_second_run_refreshes_again(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("web")

    assert run()[:2] == (0, "web\n")
    first = swarm.service("web")["credentials"]

    assert run()[:2] == (0, "web\n")
    assert swarm.service("web")["credentials"] != first


def test_two_runs_at_once(fakes: Fakes, swarm: PretendSwarm, script: Any) -> None:
    """Each has logins of its own, and neither waits for the other."""
    swarm.add("web")
    together = threading.Barrier(2)
    for _ in range(2):
        fakes.when(*UPDATE, do=lambda: together.wait(timeout=60))

    runs = [fakes.start_program(sys.executable, "-I", script.__file__) for _ in range(2)]

    assert [process.communicate()[0] for process in runs] == [b"web\n", b"web\n"]
    assert [process.returncode for process in runs] == [0, 0]
    assert not together.broken
    assert login_opens(swarm.service("web"))
