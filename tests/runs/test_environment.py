"""Where it runs: the journal, the environment of the programs, the user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pretend.calls import Run
from pretend.runner import Answers, Outcome
from pretend.services import ECR, PAUSED
from pretend.swarm import PretendSwarm

import ecr_swarm_login as script

# The journal


def be_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What systemd sets where it reads stderr."""
    stream = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{stream.st_dev}:{stream.st_ino}")


def priorities(outcome: Outcome) -> dict[str, str]:
    """The journal's priority of each line, by the line's beginning."""
    return {line[3:].partition(":")[0]: line[:3] for line in outcome.stderr.splitlines()}


def test_journal_priorities(run: Run, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch) -> None:
    swarm.add("web", is_of_older_engine=True)
    swarm.add("fresh", **PAUSED)
    swarm.add("files", mounts=[("b", "/a"), ("a", "/b")])
    be_the_journal(monkeypatch)

    found = priorities(run())

    assert found["web restarts"] == "<4>"
    assert found["files will be refreshed, which restarts its tasks"] == "<4>"
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
    be_the_journal(monkeypatch)

    outcome = run(*arguments)

    assert outcome.status == status
    assert outcome.last_line.startswith(f"<{priority}>")


@pytest.mark.parametrize("stream", ["", "1:2", "not a stream"])
def test_no_priorities_elsewhere(
    run: Run, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", stream)

    assert "<" not in run("-n", "nix").stderr


def test_stdout_is_not_used(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("web")

    outcome = run()

    assert outcome.stdout == "" and "web refreshed\n" in outcome.stderr


# The environment of the programs

# What they find there, whatever stood there before.
SET = {
    # with cli_auto_prompt in its profile, aws would ask a terminal
    "AWS_CLI_AUTO_PROMPT": "off",
    # the ECR credential helper would refuse a docker login
    "AWS_ECR_IGNORE_CREDS_STORAGE": "true",
    # the docker client of 28 would prefer these logins to those in config.json
    "DOCKER_AUTH_CONFIG": "",
    "GOGC": "off",
    "GOMAXPROCS": "1",
}


def test_the_environment_of_all_programs(
    run: Run, programs: Answers, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What passes through, what is set, and what goes: an old API would strip settings that it does
    not know from each service.
    """
    given = {"DOCKER_HOST": "unix:///elsewhere", "AWS_PROFILE": "höchst", "AWS_CONFIG_FILE": ""}
    for name, value in {**given, **dict.fromkeys(SET, "on"), "DOCKER_API_VERSION": "1.40"}.items():
        monkeypatch.setenv(name, value)
    swarm.add("web")

    assert run().status == 0

    assert len(programs.calls) > 6
    for call in programs.calls:
        assert {name: call.environ.get(name) for name in (*given, *SET)} == {**given, **SET}
        assert "DOCKER_API_VERSION" not in call.environ


def test_docker_config_is_where_docker_keeps_its_logins(
    run: Run, swarm: PretendSwarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "logins"))
    swarm.add("web")

    assert run().refreshed == ["web"]
    assert (tmp_path / "logins" / "config.json").exists()


@pytest.mark.parametrize(
    "given, path",
    [
        ("/a:/b", "/a:/b"),
        ("/a:.:bin:./c:../d::", "/a"),
        ("", ""),
        (None, "/bin:/usr/bin"),
    ],
)
def test_the_current_folder_is_not_on_the_path(
    monkeypatch: pytest.MonkeyPatch, given: str | None, path: str
) -> None:
    monkeypatch.delenv("PATH")
    if given is not None:
        monkeypatch.setenv("PATH", given)

    found = script.program_environment()["PATH"]

    assert found == ":".join(filter(None, [path, "/usr/local/bin", "/snap/bin"]))


@pytest.mark.parametrize("empty, given", [("HOME", "DOCKER_CONFIG"), ("DOCKER_CONFIG", "HOME")])
def test_empty_variables(
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

    assert run().refreshed == ["web"]


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

    assert run().refreshed == ["web"]


def test_no_other_story_is_told(run: Run, programs: Answers, swarm: PretendSwarm) -> None:
    """Neither by a library nor by a program that has nothing to say."""
    swarm.add("web")

    outcome = run()

    assert len(outcome.lines) == 4 and len(programs.calls_of(*script.UPDATE)) == 1
