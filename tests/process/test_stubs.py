"""The stubs themselves; and that the runner without processes does what processes do."""

from __future__ import annotations

import os
import pty
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pretend.runner import NOT_REGISTERED, Runner
from pretend.services import ECR
from pretend.swarm import PretendSwarm
from stubs import PATIENCE, Stubs

import ecr_swarm_login as script

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


def test_a_call_without_an_answer_fails_the_test(stubs: Stubs, start: Start) -> None:
    status, _, stderr = start("docker", "system", "prune")

    assert status == NOT_REGISTERED
    assert b"not registered" in stderr
    with pytest.raises(AssertionError, match="docker system prune"):
        stubs.check()


def test_a_call_is_recorded_as_the_program_saw_it(
    stubs: Stubs, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "höchst privat")
    argv = ["docker", "login", "--password-stdin", "ü"]
    stubs.answer(*argv, stderr="a warning\n")

    assert start(*argv, stdin=b"\0\xff") == (0, b"", b"a warning\n")

    [call] = stubs.calls_of("docker", "login")
    assert (call.argv, call.stdin) == (argv, b"\0\xff")
    assert call.environ["AWS_PROFILE"] == "höchst privat"
    assert not any(call.are_terminals)
    assert stubs.leaks_of("privat") == [call]


def test_a_terminal_is_noticed(stubs: Stubs) -> None:
    stubs.answer("docker", "ps")
    ours, theirs = pty.openpty()
    actions = [(os.POSIX_SPAWN_DUP2, theirs, 1)]

    pid = os.posix_spawnp("docker", ["docker", "ps"], os.environ, file_actions=actions)
    os.waitpid(pid, 0)
    os.close(ours)
    os.close(theirs)

    assert stubs.calls[0].are_terminals[1]


@pytest.mark.parametrize("order", ["child", "daemon"])
def test_what_survives_is_noticed(stubs: Stubs, start: Start, order: str) -> None:
    stubs.answer("docker", "info", orders=[order])

    assert start("docker", "info")[0] == 0

    assert stubs.still_running(within=0.1) == stubs.calls


def test_sigterm_can_be_ignored(stubs: Stubs, tmp_path: Path) -> None:
    stubs.answer("docker", "info", orders=["ignore-sigterm", "hang"])
    pid = spawn("docker", "info", out=tmp_path / "out", err=tmp_path / "err")

    wait_until(lambda: ignores_sigterm(pid))
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGKILL)

    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


def test_what_hangs_ends_with_the_test(fp: Any, surroundings: Path, tmp_path: Path) -> None:
    with Stubs(fp) as stubs:
        stubs.answer("docker", "info", orders=["ignore-sigterm", "hang"])
        out = tmp_path / "out"
        pid = spawn(str(stubs.bin / "docker"), "info", out=out, err=out)
        wait_until(lambda: bool(stubs.calls))

    assert os.waitpid(pid, 0)[0] == pid


def test_what_is_taken_away_stays_on_the_machine(stubs: Stubs, tmp_path: Path) -> None:
    """Stubs of xargs and the like are links to the machine's own."""
    real = tmp_path / "real"
    real.write_text("the machine's own")
    (stubs.bin / "tool").symlink_to(real)

    stubs.remove("tool")

    assert real.read_text() == "the machine's own"
    assert "failed to run command ‘tool’" in (stubs.bin / "tool").read_text()


def test_a_test_s_own_answer_goes_before_the_swarm_s(
    stubs: Stubs, swarm: PretendSwarm, start: Start
) -> None:
    swarm.add("web", f"{ECR}/web:1")
    stubs.answer(*swarm.update_of("web"), stderr="update out of sequence\n", exit_status=1)

    assert start(*swarm.update_of("web"))[0] == 1
    assert start(*swarm.update_of("web"))[:2] == (0, f"{swarm.service('web')['id']}\n".encode())
    assert swarm.service("web")["version"] == 2


# What the runner without processes emulates

XARGS = ("xargs", "-r", "-P1", "-n1")
# A command, and how it goes: the answers to it, in turn.
ENDINGS: dict[str, tuple[tuple[str, ...], list[dict[str, Any]]]] = {
    "well": ((), [{"stdout": "said\n", "stderr": "warned\n"}]),
    "in vain": ((), [{"stderr": "denied\n", "exit_status": 1}]),
    "as timeout might": ((), [{"exit_status": 124}]),
    "by a signal": ((), [{"stdout": "half", "signal": 9}]),
    "never": ((), [{"stdout": "so far", "orders": ["hang"]}]),
    "in time": ((), [{"orders": ["sleep-0.1"]}]),
    "each well": (XARGS, [{"stdout": "1\n"}, {"stdout": "2\n"}]),
    "one in vain": (XARGS, [{"stderr": "denied\n", "exit_status": 1}, {"stdout": "2\n"}]),
    "one with 255": (XARGS, [{"exit_status": 255}]),
    "one by a signal": (XARGS, [{"signal": 9}]),
    "one never": (XARGS, [{"stdout": "1\n"}, {"orders": ["hang"]}]),
    "one after the time": (XARGS, [{"stdout": "1\n"}, {"stdout": "2\n", "orders": ["sleep-1"]}]),
}


def run_with(programs: Any, how: str) -> tuple[int, str, str]:
    """What Programs.start() returns for this ending."""
    through, answers = ENDINGS[how]
    for number, answer in enumerate(answers, 1):
        argv = ("docker", "it", *([str(number)] if through else []))
        programs.answer(*argv, **answer)
    starter = script.Programs(script.program_environment())
    # A second after xargs has gone is enough for what it has begun, and too little for what hangs.
    more = {"stdin": "1\n2\n", "drain_seconds": 2} if through else {}
    result: tuple[int, str, str] = starter.start((*through, "docker", "it"), 0.5, **more)
    return result


@pytest.mark.parametrize("how", ENDINGS)
def test_a_program_ends_as_one_that_is_a_process(
    stubs: Stubs, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    seen = run_with(stubs, how)

    runner = Runner(stubs.fp)
    runner.install(monkeypatch)
    emulated = run_with(runner, how)

    assert emulated == seen


@pytest.mark.parametrize("is_there", [False, True])
def test_a_program_that_does_not_start_looks_like_a_real_one(
    stubs: Stubs, start: Start, tmp_path: Path, is_there: bool
) -> None:
    if is_there:
        (tmp_path / "real").touch()
        stubs.forbid("docker")
    else:
        stubs.remove("docker")
    runner = Runner(stubs.fp)
    (runner.forbid if is_there else runner.remove)("docker")

    status, _, stderr = start("docker")
    real_status, _, real_stderr = start("timeout", "60", str(tmp_path / "real"))
    ended = runner.run(["docker"], b"", {}, 60, 0)

    assert status == real_status == ended.status
    for said in (stderr, ended.stderr):
        assert said.rpartition(b":")[2] == real_stderr.rpartition(b":")[2]
