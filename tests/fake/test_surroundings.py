"""Where it runs: the journal, the environment, its folder, and other runs."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import Fakes, Outcome
from pretend_swarm import ECR, UPDATE, PretendSwarm
from shared import LOGIN, PAUSED, Run, is_untouched, last_line

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
    changed = ("PATH", "GOGC", "GOMAXPROCS")
    before = {name: value for name, value in os.environ.items() if name not in changed}
    for call in fakes.calls:
        assert {name: call.environ.get(name) for name in before} == before
    assert (tmp_path / "logins" / "config.json").exists()


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


def test_aws_is_found_from_cron(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web")

    assert run().status == 0

    before = os.environ["PATH"].split(":")
    for call in fakes.calls:
        folders = call.environ["PATH"].split(":")
        assert folders[: len(before)] == before
        assert {"/usr/local/bin", "/snap/bin"} <= set(folders)


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


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a name, as in a container that runs with a user ID of its own."""

    def unknown(_: int) -> None:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("os.getuid", lambda: 12345)
    monkeypatch.delenv("HOME")


def test_a_user_without_a_name(
    run: Run, swarm: PretendSwarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nobody: None
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    swarm.add("web")

    assert run()[:2] == (0, "web\n")


def test_a_user_without_a_home(run: Run, fakes: Fakes, swarm: PretendSwarm, nobody: None) -> None:
    swarm.add("web")

    outcome = run()

    assert (outcome.status, outcome.stdout) == (1, "")
    assert "user 12345 has no home folder: set HOME or DOCKER_CONFIG" in last_line(outcome)
    assert not fakes.calls


def test_the_folder_of_the_logins_is_the_user_s_alone(
    run: Run, swarm: PretendSwarm, home: Path
) -> None:
    swarm.add("web")

    assert run().status == 0

    assert (home / ".docker").stat().st_mode & 0o777 == 0o700


def test_a_second_run_refreshes_again(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("web")

    assert run()[:2] == (0, "web\n")
    first = swarm.service("web")["credentials"]

    assert run()[:2] == (0, "web\n")
    assert swarm.service("web")["credentials"] != first


# Another run


class Other:
    """Another run in a process of its own, which waits in its first login."""

    def __init__(self, fakes: Fakes, script: Any) -> None:
        self.go_on = threading.Event()
        has_come = threading.Event()
        fakes.when(*LOGIN, do=lambda: (has_come.set(), self.go_on.wait(20)))
        self.process = fakes.start_program(sys.executable, script.__file__)
        assert has_come.wait(10)

    def end(self) -> tuple[int, bytes]:
        """Let it go on, to its end: its exit status, and what it printed."""
        self.go_on.set()
        stdout, _ = self.process.communicate()
        return self.process.returncode, stdout


@pytest.fixture
def other(fakes: Fakes, swarm: PretendSwarm, script: Any) -> Iterator[Other]:
    swarm.add("web")
    other = Other(fakes, script)
    yield other
    other.end()


def test_two_runs_wait_for_each_other(fakes: Fakes, script: Any, other: Other) -> None:
    calls_of_the_first = len(fakes.calls)

    second = fakes.start_program(sys.executable, script.__file__)
    assert second.stderr
    line = second.stderr.readline().decode()
    assert line == f"Waiting for another run, process {other.process.pid}, to end\n"
    assert len(fakes.calls) == calls_of_the_first

    assert other.end() == (0, b"web\n")
    assert second.communicate()[0] == b"web\n"
    assert second.returncode == 0
    logins = [number for number, call in enumerate(fakes.calls) if call in fakes.calls_of(*LOGIN)]
    updates = [number for number, call in enumerate(fakes.calls) if call in fakes.calls_of(*UPDATE)]
    assert logins[0] < updates[0] < logins[1] < updates[1]


def test_the_wait_for_another_run_is_bounded(
    run: Run,
    fakes: Fakes,
    swarm: PretendSwarm,
    script: Any,
    other: Other,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(script, "RUN_SECONDS", 0.9)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (1, "")
    assert f"another run, process {other.process.pid}, has not ended within" in last_line(outcome)
    assert outcome.stderr.count("Waiting for another run") == 1
    assert is_untouched(swarm, "web")


def test_a_dry_run_waits_for_nobody(run: Run, other: Other) -> None:
    assert run("--dry-run").status == 0


def test_a_run_that_was_killed_is_not_waited_for(run: Run, other: Other) -> None:
    other.process.send_signal(signal.SIGKILL)
    other.process.communicate()

    assert run()[:2] == (0, "web\n")


def test_a_lock_that_says_nothing(
    run: Run, script: Any, other: Other, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "RUN_SECONDS", 0.9)
    (home / ".docker" / "ecr_swarm_login.lock").write_text("")

    assert "another run, process unknown, has not ended" in last_line(run())
