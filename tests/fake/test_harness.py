"""The fakes themselves: a test that relies on them relies on this."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import NOT_REGISTERED, PATIENCE, Fakes
from pretend_swarm import ECR, PretendSwarm

Start = Callable[..., "tuple[int, bytes, bytes]"]


def spawn(*argv: str, stdin: Path | str = os.devnull, out: Path, err: Path) -> int:
    """Start a program without subprocess, which is fake here."""
    write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, str(stdin), os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(out), write, 0o600),
        (os.POSIX_SPAWN_OPEN, 2, str(err), write, 0o600),
    ]
    return os.posix_spawnp(argv[0], list(argv), os.environ, file_actions=actions)


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait for something that comes."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def ignores_sigterm(pid: int) -> bool:
    """Whether a process has come so far that it ignores SIGTERM."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(re.findall("SigIgn:\\s+([0-9a-f]+)", status)[0], 16)
    return bool(mask >> (signal.SIGTERM - 1) & 1)


def children_of(pid: int) -> list[str]:
    """The processes that a process has started."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Run a program to its end, its streams being files, as the script does."""

    def start(*argv: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
        given, out, err = (tmp_path / name for name in ("stdin", "stdout", "stderr"))
        given.write_bytes(stdin)
        _, status = os.waitpid(spawn(*argv, stdin=given, out=out, err=err), 0)
        ending = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
        return ending, out.read_bytes(), err.read_bytes()

    return start


def test_a_call_without_an_answer_fails_the_test(fakes: Fakes, start: Start) -> None:
    status, _, stderr = start("docker", "system", "prune")

    assert status == NOT_REGISTERED
    assert b"not registered" in stderr
    with pytest.raises(AssertionError, match="docker system prune"):
        fakes.check()


def test_an_answer_is_given_once(fakes: Fakes, start: Start) -> None:
    fakes.answer("aws", "--version", stdout="first\n")
    fakes.answer("aws", "--version", stdout="second\n", exit_status=253)

    assert start("aws", "--version") == (0, b"first\n", b"")
    assert start("aws", "--version") == (253, b"second\n", b"")
    assert start("aws", "--version")[0] == NOT_REGISTERED
    with pytest.raises(AssertionError, match="aws --version"):
        fakes.check()


def test_a_call_is_recorded_as_the_program_saw_it(
    fakes: Fakes, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "höchst privat")
    fakes.answer("docker", "login", "--password-stdin", "ü", stderr="a warning\n")

    assert start("docker", "login", "--password-stdin", "ü", stdin=b"\0\xff") == (
        0,
        b"",
        b"a warning\n",
    )

    [call] = fakes.calls_of("docker", "login")
    assert call.argv == ["docker", "login", "--password-stdin", "ü"]
    assert call.stdin == b"\0\xff"
    assert call.environ["AWS_PROFILE"] == "höchst privat"
    assert not (call.stdin_is_terminal or call.stdout_is_terminal or call.stderr_is_terminal)
    assert fakes.leaks_of("privat") == [call]


def test_a_terminal_is_noticed(fakes: Fakes) -> None:
    fakes.answer("docker", "ps")
    ours, theirs = pty.openpty()
    actions = [(os.POSIX_SPAWN_DUP2, theirs, 1)]

    pid = os.posix_spawnp("docker", ["docker", "ps"], os.environ, file_actions=actions)
    os.waitpid(pid, 0)
    os.close(ours)
    os.close(theirs)

    assert fakes.calls[0].stdout_is_terminal


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGINT])
def test_death_by_signal(fakes: Fakes, start: Start, number: int) -> None:
    fakes.answer("aws", "sts", stdout="half an ans", signal=number)

    assert start("aws", "sts") == (-number, b"half an ans", b"")


def test_50_megabytes_that_are_no_text(fakes: Fakes, start: Start) -> None:
    flood = b"\xff\xfe\0\n\x80" * 10_000_000
    fakes.answer("docker", "info", stdout=flood)

    assert start("docker", "info") == (0, flood, b"")


def test_a_program_that_hangs_is_killed_with_its_child(fakes: Fakes, tmp_path: Path) -> None:
    fakes.answer("docker", "info", stdout="so far", orders=["child", "hang"])
    out, err = tmp_path / "out", tmp_path / "err"

    pid = spawn("timeout", "60", "docker", "info", out=out, err=err)
    wait_until(lambda: out.read_bytes() == b"so far")
    wait_until(lambda: len(children_of(fakes.calls[0].pid)) == 1)
    os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)

    assert fakes.still_running(within=60) == []


@pytest.mark.parametrize("order", ["child", "daemon"])
def test_what_survives_is_noticed(fakes: Fakes, start: Start, order: str) -> None:
    fakes.answer("docker", "info", orders=[order])

    assert start("docker", "info")[0] == 0

    assert fakes.still_running(within=0.1) == fakes.calls


def test_sigterm_can_be_ignored(fakes: Fakes, tmp_path: Path) -> None:
    fakes.answer("docker", "info", orders=["ignore-sigterm", "hang"])
    pid = spawn("docker", "info", out=tmp_path / "out", err=tmp_path / "err")

    wait_until(lambda: ignores_sigterm(pid))
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGKILL)

    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


def test_what_hangs_ends_with_the_test(fp: Any, tmp_path: Path) -> None:
    with Fakes(fp) as fakes:
        fakes.answer("docker", "info", orders=["ignore-sigterm", "hang"])
        out = tmp_path / "out"
        pid = spawn(str(fakes.bin / "docker"), "info", out=out, err=out)
        wait_until(lambda: bool(fakes.calls))

    assert os.waitpid(pid, 0)[0] == pid


def test_calls_side_by_side(fakes: Fakes, start: Start, tmp_path: Path) -> None:
    names = [f"service-{number}" for number in range(40)]
    for name in names:
        fakes.answer("docker", "service", "update", name, stdout=name + "\n", wait=0.01)

    command = ["xargs", "-P", "8", "-n", "1", "docker", "service", "update"]
    status, stdout, _ = start(*command, stdin="\n".join(names).encode())

    assert status == 0
    assert sorted(stdout.decode().split()) == sorted(names)


@pytest.mark.parametrize("is_there, take_away", [(False, Fakes.remove), (True, Fakes.forbid)])
def test_a_fake_that_does_not_start_looks_like_a_real_one(
    fakes: Fakes, start: Start, tmp_path: Path, is_there: bool, take_away: Any
) -> None:
    if is_there:
        (tmp_path / "real").touch()
    take_away(fakes, "docker")

    status, _, stderr = start("docker")
    real_status, _, real_stderr = start("timeout", "60", str(tmp_path / "real"))

    assert status == real_status
    assert stderr.rpartition(b":")[2] == real_stderr.rpartition(b":")[2]


@pytest.mark.parametrize("take_away", [Fakes.remove, Fakes.forbid])
def test_what_is_taken_away_stays_on_the_machine(
    fakes: Fakes, tmp_path: Path, take_away: Any
) -> None:
    """Fakes of xargs and the like are links to the machine's own."""
    real = tmp_path / "real"
    real.write_text("the machine's own")
    (fakes.bin / "tool").symlink_to(real)

    take_away(fakes, "tool")

    assert real.read_text() == "the machine's own"
    assert "failed to run command ‘tool’" in (fakes.bin / "tool").read_text()


def test_docker_keeps_a_login_where_it_is_told_to(swarm: PretendSwarm, tmp_path: Path) -> None:
    """An update sends the login of the folder that DOCKER_CONFIG names, and no other."""
    swarm.add("web")
    folder = tmp_path / "own"
    environ = {"DOCKER_CONFIG": str(folder), "HOME": str(tmp_path / "home")}
    token = b"secret-eu-central-1-1"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"auths": {ECR: {}}}))

    swarm.answer(["docker", "login", "--username", "AWS", "--password-stdin", ECR], token, environ)
    assert len((folder / "config.json").read_text()) > len(ECR) + 30
    swarm.answer(swarm.update_of("web"), b"", {**environ, "DOCKER_CONFIG": ""})
    assert swarm.service("web")["credentials"] == ""
    swarm.answer(swarm.update_of("web"), b"", environ)
    assert swarm.service("web")["credentials"] == token.decode()


def test_a_test_s_own_answer_goes_before_the_swarm_s(
    fakes: Fakes, swarm: PretendSwarm, start: Start
) -> None:
    swarm.add("web", f"{ECR}/web:1")
    fakes.answer(*swarm.update_of("web"), stderr="update out of sequence\n", exit_status=1)

    assert start(*swarm.update_of("web"))[0] == 1
    assert start(*swarm.update_of("web"))[:2] == (0, f"{swarm.service('web')['id']}\n".encode())
    assert swarm.service("web")["version"] == 2
