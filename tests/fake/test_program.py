"""The file as a program: a process of its own, whose streams, signals and surroundings are real."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import random
import re
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import Call, Fakes, Outcome
from pretend_services import login_opens
from pretend_swarm import ECR, ECR_US, UPDATE, PretendSwarm

SCRIPT = Path(__file__).resolve().parent.parent.parent / "ecr_swarm_login.py"
LOGIN = ("docker", "login")

Start = Callable[..., Outcome]

F_SETPIPE_SZ = 1031  # fcntl has a name for it from Python 3.10 on


@pytest.fixture
def start(fakes: Fakes) -> Start:
    """Run the script to its end: start("--version", shell='exec "$@" >&-')."""

    def start(*arguments: str, shell: str = 'exec "$@"', **options: Any) -> Outcome:
        outcome = fakes.run_program(
            "/bin/sh", "-c", shell, "sh", sys.executable, "-I", SCRIPT, *arguments, **options
        )
        assert "Traceback" not in outcome.stderr
        assert "Exception ignored" not in outcome.stderr
        return outcome

    return start


# Start-up


def test_it_starts_by_itself() -> None:
    first_line = SCRIPT.read_text().splitlines()[0]

    assert first_line == "#!/usr/bin/python3 -I"
    assert os.access(SCRIPT, os.X_OK)


def test_help_opens_with_what_it_does_and_two_examples(start: Start) -> None:
    outcome = start("--help", env={**os.environ, "COLUMNS": "100"})

    assert (outcome.status, outcome.stderr) == (0, "")
    beginning = outcome.stdout.partition("positional arguments")[0]
    assert "fresh token" in beginning
    assert beginning.count("\n  ecr_swarm_login.py ") == 2
    assert "Exit status: 0 " in outcome.stdout


OPTIONS = ("--region", "--registry", "--login-only", "--refresh-only", "--leader-only", "-h",
           "--all-services", "--no-restart", "--keep-rollback", "--tries", "--dry-run", "-n",
           "--quiet", "-q", "--version")  # fmt: skip


def test_help_names_every_option(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.main(["--help"])

    words = capsys.readouterr().out.replace(",", " ").split()
    assert [option for option in OPTIONS if option not in words] == []


def test_version(start: Start) -> None:
    outcome = start("--version")

    assert (outcome.status, outcome.stderr) == (0, "")
    assert re.fullmatch(r"ecr_swarm_login.py \d+\.\d+\.\d+\n", outcome.stdout)


def test_another_python_starts_itself_again(fakes: Fakes, swarm: PretendSwarm) -> None:
    """As a virtual environment's, which is not isolated."""
    swarm.add("web")

    outcome = fakes.run_program(sys.executable, SCRIPT, "web", "--quiet")

    assert (outcome.status, outcome.stderr) == (0, "")
    assert login_opens(swarm.service("web"))


@pytest.mark.parametrize("options, status", [([], 1), (["-I"], 0)])
def test_from_stdin(fakes: Fakes, swarm: PretendSwarm, options: list[str], status: int) -> None:
    """As ssh manager python3 -I - <ecr_swarm_login.py: it works, or says how."""
    swarm.add("web")

    outcome = fakes.run_program(sys.executable, *options, "-", "web", stdin=SCRIPT.read_bytes())

    assert (outcome.status, outcome.stdout) == (status, "web\n" * (not status))
    text = "ecr_swarm_login: from stdin, run python3 -I - [options] <ecr_swarm_login.py\n"
    assert status == 0 or outcome.stderr == text


# Its streams


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">/dev/full", "2>/dev/full"])
def test_a_stream_that_is_closed_or_full(
    start: Start, fakes: Fakes, swarm: PretendSwarm, closed: str
) -> None:
    swarm.add("web")
    swarm.add("us", f"{ECR_US}/app:2")

    outcome = start(shell=f'exec "$@" {closed}')

    assert outcome.status == 0
    assert all(login_opens(service) for service in swarm.services)
    assert outcome.stdout in ("", "us\nweb\n", "web\nus\n")
    assert not [call for call in fakes.calls if call.stdout_is_terminal]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_has_gone(start: Start, swarm: PretendSwarm, stream: str) -> None:
    swarm.add("web")
    reader, writer = os.pipe()
    os.close(reader)

    outcome = start(**{stream: writer})

    os.close(writer)
    assert outcome.status == 0
    assert login_opens(swarm.service("web"))


# With stderr closed the argparse of older Pythons, Debian 12's among them, ends with 1.
@pytest.mark.parametrize("closed, statuses", [(">&-", {2}), (">&- 2>&-", {1, 2})])
def test_usage_with_a_closed_stream(start: Start, closed: str, statuses: set[int]) -> None:
    assert start("--no-such-option", shell=f'exec "$@" {closed}').status in statuses


# An isolated run whose reader is not patient for long.
IMPATIENT = f"""import sys; sys.path.insert(0, {str(SCRIPT.parent)!r})
import ecr_swarm_login
ecr_swarm_login.READER_SECONDS = 0.3
sys.exit(ecr_swarm_login.main())"""


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_reader_that_stalls(fakes: Fakes, swarm: PretendSwarm, is_stopped: bool) -> None:
    """What nobody reads is dropped: the run goes on, and ends at a signal, too."""
    swarm.add("web")
    for number in range(60):
        swarm.add(f"other-{number}".ljust(63, "x"), "nginx:1")
    if is_stopped:
        fakes.answer(*swarm.update_of("web"), orders=["hang"])
    reader, writer = os.pipe()
    fcntl.fcntl(writer, F_SETPIPE_SZ, 4096)
    process = fakes.start_program(sys.executable, "-I", "-c", IMPATIENT, stderr=writer)
    os.close(writer)
    if is_stopped:
        fakes.when(*UPDATE, do=lambda: process.send_signal(signal.SIGTERM))

    process.communicate()

    assert process.returncode == (128 + signal.SIGTERM if is_stopped else 0)
    assert login_opens(swarm.service("web")) is not is_stopped
    assert fakes.still_running(within=10) == []
    os.close(reader)


def test_a_reader_that_is_slow_gets_all(script: Any) -> None:
    reader, writer = os.pipe()
    line = "x" * 99 + "\n"
    read: list[bytes] = []

    def be_slow() -> None:
        while sum(map(len, read)) < 1000 * len(line):
            read.append(os.read(reader, 3000))

    thread = threading.Thread(target=be_slow)
    thread.start()
    stream = script.Stream(writer)
    for _ in range(1000):
        stream.write(line)
    thread.join()

    assert b"".join(read).decode() == line * 1000
    os.close(reader)
    os.close(writer)


def test_a_terminal(fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web")
    ours, theirs = pty.openpty()
    process = fakes.start_program(
        sys.executable, "-I", SCRIPT, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)

    text = read_all(ours)

    assert process.wait() == 0
    assert "web refreshed\r\n" in text and "1 refreshed" in text and "Traceback" not in text
    assert not [call for call in fakes.calls if call.stdout_is_terminal or call.stderr_is_terminal]


def read_all(terminal: int) -> str:
    """What comes until the other side is closed, which a terminal says with EIO."""
    parts = []
    while True:
        try:
            parts.append(os.read(terminal, 4096))
        except OSError:
            os.close(terminal)
            return b"".join(parts).decode()


# Its surroundings


def test_few_file_descriptors(start: Start, swarm: PretendSwarm) -> None:
    for number in range(20):
        swarm.add(f"web-{number:02}", f"{ECR_US if number % 2 else ECR}/app:2")

    def at_most_64() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    outcome = start(preexec_fn=at_most_64)

    assert outcome.status == 0
    assert len(outcome.stdout.split()) == 20


def test_nothing_beside_it_is_loaded(fakes: Fakes, swarm: PretendSwarm, tmp_path: Path) -> None:
    """Root runs it, and others may write to the folder in which it lies, or lead PYTHONPATH."""
    swarm.add("web")
    for folder in ("bin", "path"):
        (tmp_path / folder).mkdir()
        for name in ("json", "argparse", "sh", "logging", "sitecustomize"):
            # Python itself loads sitecustomize from there, before it reads a line of any program.
            if (folder, name) != ("path", "sitecustomize"):
                (tmp_path / folder / f"{name}.py").write_text("import os\nos._exit(99)\n")
    copied = tmp_path / "bin" / SCRIPT.name
    copied.write_bytes(SCRIPT.read_bytes())
    environ = {**os.environ, "PYTHONPATH": str(tmp_path / "path")}

    outcome = fakes.run_program(sys.executable, copied, cwd=tmp_path / "bin", env=environ)

    assert outcome[:2] == (0, "web\n")


# Its end


def signalled(
    fakes: Fakes, call: tuple[str, ...], number: int, *arguments: str, **options: Any
) -> Outcome:
    """A run that gets a signal when it starts this program."""
    process = fakes.start_program(sys.executable, "-I", SCRIPT, *arguments, **options)
    fakes.when(*call, do=lambda: process.send_signal(number))
    stdout, stderr = process.communicate()
    assert "Traceback" not in stderr.decode()
    return Outcome(process.returncode, stdout.decode(), stderr.decode())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process(
    fakes: Fakes, swarm: PretendSwarm, memory: Path, number: int
) -> None:
    swarm.add("web")
    fakes.answer(*swarm.update_of("web"), orders=["hang"])

    outcome = signalled(fakes, UPDATE, number)

    assert (outcome.status, outcome.stdout) == (128 + number, "")
    assert "Stopped by " + signal.Signals(number).name in outcome.stderr
    assert fakes.still_running(within=10) == []
    assert list(memory.iterdir()) == []


def test_a_terminal_that_hangs_up(fakes: Fakes, swarm: PretendSwarm) -> None:
    # Then nobody hears what is said, and what runs is to end all the same.
    for name in ("a", "b", "c"):
        swarm.add(name)
        fakes.answer(*swarm.update_of(name), orders=["hang"])
    reader, writer = os.pipe()
    process = fakes.start_program(sys.executable, "-I", SCRIPT, stderr=writer)
    os.close(writer)

    def hang_up() -> None:
        os.close(reader)
        process.send_signal(signal.SIGHUP)

    fakes.when(*UPDATE, do=hang_up)
    process.communicate()

    assert process.returncode == 128 + signal.SIGHUP
    assert fakes.still_running(within=10) == []


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_is_ignored_stays_so(fakes: Fakes, swarm: PretendSwarm, number: int) -> None:
    # As under nohup, and in the background of a script.
    swarm.add("web")

    outcome = signalled(
        fakes, LOGIN, number, preexec_fn=lambda: signal.signal(number, signal.SIG_IGN)
    )

    assert outcome[:2] == (0, "web\n")


def programs_of(fakes: Fakes) -> list[Path]:
    """What the script has started, and has not ended."""
    wanted = f"{fakes.bin}/timeout".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += [path] * (path.read_bytes().split(b"\0")[0] == wanted)
    return found


def test_what_is_still_started_after_sigkill(fakes: Fakes, swarm: PretendSwarm) -> None:
    """Some of the batch in hand, and nothing two seconds after the look that it rests on."""
    names = [f"web-{number:02}" for number in range(40)]
    for name in names:
        swarm.add(name)
        fakes.answer(*swarm.update_of(name), orders=["hang"])
    process = fakes.start_program(sys.executable, "-I", SCRIPT)
    fakes.when(*UPDATE, do=process.kill)

    process.communicate()

    deadline = time.monotonic() + 60
    while programs_of(fakes) and time.monotonic() < deadline:
        time.sleep(0.05)
    begun = fakes.calls_of(*UPDATE)
    for call in begun:
        with contextlib.suppress(ProcessLookupError):
            os.kill(call.pid, signal.SIGKILL)
    assert not programs_of(fakes)
    assert fakes.still_running(within=10) == []
    assert fakes.calls_of(*UPDATE) == begun and len(begun) < len(names)


def test_sigkill_at_any_moment(fakes: Fakes, swarm: PretendSwarm) -> None:
    for name, host in (("web", ECR), ("api", ECR), ("us", ECR_US)):
        swarm.add(name, f"{host}/app:2")
    swarm.add("paused", rollout="paused", previous=f"{ECR}/app:1", on_previous=1)
    swarm.add("job", mode="replicated job", replicas="0/1")
    untouched = json.dumps(swarm.services[3:])
    moments = random.Random(5)  # the same ones at every run
    process: Any = None
    calls_left = 0

    def may_kill(_: Call) -> None:
        nonlocal calls_left
        calls_left -= 1
        if calls_left == 0:
            process.kill()

    fakes.answerers.insert(0, may_kill)  # type: ignore[arg-type]
    for _ in range(KILLS):
        calls_left = moments.randint(2, 16)
        process = fakes.start_program(sys.executable, "-I", SCRIPT)
        assert "Traceback" not in process.communicate()[1].decode()
        assert process.returncode in (-signal.SIGKILL, 0)
        assert fakes.still_running(within=60) == []

    outcome = fakes.run_program(sys.executable, "-I", SCRIPT)

    assert (outcome.status, sorted(outcome.stdout.split())) == (0, ["api", "us", "web"])
    assert all(login_opens(it) and it["restarted"] == 0 for it in swarm.services[:3])
    assert json.dumps(swarm.services[3:]) == untouched


# Moments at which a run is killed. With more of them the test takes a third of a second for each.
KILLS = int(os.environ.get("KILLS", "4"))
