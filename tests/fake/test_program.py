"""The file as a program: a process of its own, whose streams, signals and surroundings are real."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import resource
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import Call, Fakes, Outcome
from pretend_services import login_opens
from pretend_swarm import ECR, ECR_US, UPDATE, PretendSwarm
from shared import PAUSED

SCRIPT = Path(__file__).resolve().parent.parent.parent / "ecr_swarm_login.py"
LOGIN = ("docker", "login")

Start = Callable[..., Outcome]


@pytest.fixture
def start(fakes: Fakes) -> Start:
    """Run the script to its end: start("--version", shell='exec "$@" >&-')."""

    def start(*arguments: str, shell: str = 'exec "$@"', **options: Any) -> Outcome:
        outcome = fakes.run_program(
            "/bin/sh", "-c", shell, "sh", sys.executable, SCRIPT, *arguments, **options
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
    beginning = outcome.stdout.partition("options")[0] + outcome.stdout.partition("]\n\n")[2][:400]
    assert "fresh token" in beginning
    assert beginning.count("  ecr_swarm_login.py --") == 2
    assert "Exit status: 0 " in outcome.stdout


@pytest.mark.parametrize("option", ["--region", "--registry", "--login-only", "--refresh-only", "--leader-only", "-h",
                                    "--all-services", "--no-restart", "--keep-rollback", "--tries", "--dry-run", "--quiet", "-n",
                                    "-q", "--version"])  # fmt: skip
def test_help_names_every_option(
    script: Any, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    with pytest.raises(SystemExit):
        script.main(["--help"])

    assert f"{option}" in capsys.readouterr().out.replace(",", " ").split()


def test_version(start: Start) -> None:
    outcome = start("--version")

    assert (outcome.status, outcome.stderr) == (0, "")
    assert re.fullmatch(r"ecr_swarm_login.py \d+\.\d+\.\d+\n", outcome.stdout)


@pytest.mark.parametrize(
    "arguments, status, stdout",
    [
        ((), 0, "web\n"),
        (("nix", "web"), 1, "web\n"),
        (("--keep-rollback", "11"), 2, ""),
        (("stuck",), 3, ""),
    ],
)
def test_exit_status(
    start: Start, swarm: PretendSwarm, arguments: tuple[str, ...], status: int, stdout: str
) -> None:
    swarm.add("web")
    if "stuck" in arguments:
        swarm.add("stuck", **PAUSED, hours_ago=7)

    assert start(*arguments)[:2] == (status, stdout)


# Its streams


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full"])
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
@pytest.mark.parametrize("closed, statuses", [(">&-", {2}), ("2>&-", {1, 2}), (">&- 2>&-", {1, 2})])
def test_usage_with_a_closed_stream(start: Start, closed: str, statuses: set[int]) -> None:
    assert start("--no-such-option", shell=f'exec "$@" {closed}').status in statuses


@pytest.mark.parametrize("closed, statuses", [(">&-", {0}), (">&- 2>&-", {0, 1})])
def test_help_with_a_closed_stream(start: Start, closed: str, statuses: set[int]) -> None:
    assert start("--help", shell=f'exec "$@" {closed}').status in statuses


def test_a_terminal(fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web")
    ours, theirs = pty.openpty()
    process = fakes.start_program(
        sys.executable, SCRIPT, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)

    text = read_all(ours)

    assert process.wait() == 0
    assert "web\r\n" in text and "1 refreshed" in text and "Traceback" not in text
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


@pytest.mark.parametrize("home", ["unset HOME", "HOME="])
def test_without_a_home(start: Start, swarm: PretendSwarm, tmp_path: Path, home: str) -> None:
    swarm.add("web")

    outcome = start(
        shell=f'{home}; exec "$@"', env={**os.environ, "DOCKER_CONFIG": str(tmp_path / "docker")}
    )

    assert outcome[:2] == (0, "web\n")


def test_a_folder_that_cannot_be_written(start: Start, swarm: PretendSwarm) -> None:
    # Root may write everywhere but here.
    swarm.add("web")

    outcome = start(env={**os.environ, "DOCKER_CONFIG": "/proc/docker"})

    assert (outcome.status, outcome.stdout) == (1, "")
    assert "/proc/docker" in outcome.stderr


def test_few_file_descriptors(start: Start, swarm: PretendSwarm) -> None:
    for number in range(30):
        swarm.add(f"web-{number:02}", rollout=None)

    def at_most_64() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    outcome = start(preexec_fn=at_most_64)

    assert outcome.status == 0
    assert len(outcome.stdout.split()) == 30


@pytest.mark.parametrize("name", ["json", "argparse", "sh", "logging", "sitecustomize"])
def test_nothing_beside_it_is_loaded(
    fakes: Fakes, swarm: PretendSwarm, tmp_path: Path, name: str
) -> None:
    """Root runs it, and others may write to the folder in which it lies, or lead PYTHONPATH."""
    swarm.add("web")
    for folder in ("bin", "path"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.py").write_text("import os\nos._exit(99)\n")
    copied = tmp_path / "bin" / SCRIPT.name
    copied.write_bytes(SCRIPT.read_bytes())
    environ = {**os.environ, "PYTHONPATH": str(tmp_path / "path")}
    # Python itself loads sitecustomize from there, before it reads the first line of any program.
    options = [] if name != "sitecustomize" else ["-I"]

    outcome = fakes.run_program(sys.executable, *options, copied, cwd=tmp_path / "bin", env=environ)

    assert outcome[:2] == (0, "web\n")


# Its end


def signalled(
    fakes: Fakes, call: tuple[str, ...], number: int, *arguments: str, **options: Any
) -> Outcome:
    """A run that gets a signal when it starts this program."""
    process = fakes.start_program(sys.executable, SCRIPT, *arguments, **options)
    fakes.when(*call, do=lambda: process.send_signal(number))
    stdout, stderr = process.communicate()
    assert "Traceback" not in stderr.decode()
    return Outcome(process.returncode, stdout.decode(), stderr.decode())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_process(fakes: Fakes, swarm: PretendSwarm, number: int) -> None:
    swarm.add("web")

    outcome = signalled(fakes, LOGIN, number)

    assert (outcome.status, outcome.stdout) == (128 + number, "")
    assert "Stopped by " + signal.Signals(number).name in outcome.stderr
    assert not fakes.calls_of(*UPDATE)
    assert fakes.still_running() == []


def test_a_terminal_that_hangs_up(fakes: Fakes, swarm: PretendSwarm) -> None:
    # Then nobody hears what is said, and what runs is to end all the same.
    for name in ("a", "b", "c"):
        swarm.add(name)
        fakes.answer(*swarm.update_of(name), orders=["hang"])
    reader, writer = os.pipe()
    process = fakes.start_program(sys.executable, SCRIPT, stderr=writer)
    os.close(writer)

    def hang_up() -> None:
        os.close(reader)
        process.send_signal(signal.SIGHUP)

    fakes.when(*UPDATE, do=hang_up)
    process.communicate()

    assert process.returncode == 128 + signal.SIGHUP
    assert fakes.still_running() == []


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_is_ignored_stays_so(fakes: Fakes, swarm: PretendSwarm, number: int) -> None:
    # As under nohup, and in the background of a script.
    swarm.add("web")

    outcome = signalled(
        fakes, LOGIN, number, preexec_fn=lambda: signal.signal(number, signal.SIG_IGN)
    )

    assert outcome[:2] == (0, "web\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_waiting_for_another_run(
    fakes: Fakes, swarm: PretendSwarm, number: int
) -> None:
    swarm.add("web")
    first_logs_in, go_on = threading.Event(), threading.Event()
    fakes.when(*LOGIN, do=lambda: (first_logs_in.set(), go_on.wait(10)))
    first = fakes.start_program(sys.executable, SCRIPT)
    assert first_logs_in.wait(10)
    second = fakes.start_program(sys.executable, SCRIPT)
    assert second.stderr and b"Waiting" in second.stderr.readline()

    second.send_signal(number)
    stderr = second.communicate()[1]
    go_on.set()

    assert first.communicate()[0] == b"web\n"
    assert "Traceback" not in stderr.decode()
    # To die of the signal is as good: a shell reads 128+n either way.
    assert second.returncode in (128 + number, -number)


def test_sigkill_at_any_moment(fakes: Fakes, swarm: PretendSwarm) -> None:
    names = ["web", "api", "us"]
    for name in names:
        swarm.add(name, f"{ECR_US if name == 'us' else ECR}/app:2")
    swarm.add("paused", rollout="paused", previous=f"{ECR}/app:1", on_previous=1)
    swarm.add("job", mode="replicated job", replicas="0/1")
    untouched = json.dumps(swarm.services[3:])
    victim: list[Any] = []
    countdown = random.Random(5)  # the same moments at every run

    def may_kill(_: Call) -> None:
        victim[-1][1] -= 1
        if victim[-1][1] == 0:
            victim[-1][0].kill()

    fakes.answerers.insert(0, may_kill)  # type: ignore[arg-type]
    for _ in range(KILLS):
        moment = countdown.randint(1, 16)
        victim.append([None, 10**6])
        process = fakes.start_program(sys.executable, SCRIPT)
        victim[-1][:] = [process, moment]
        stderr = process.communicate()[1].decode()
        assert process.returncode in (-signal.SIGKILL, 0) and "Traceback" not in stderr
        assert fakes.still_running() == []

    victim.append([None, 10**6])
    outcome = fakes.run_program(sys.executable, SCRIPT)

    assert (outcome.status, sorted(outcome.stdout.split())) == (0, sorted(names))
    assert all(
        login_opens(swarm.service(name)) and swarm.service(name)["restarted"] == 0 for name in names
    )
    assert json.dumps(swarm.services[3:]) == untouched


# Moments at which a run is killed. With more of them the test takes a third of a second for each.
KILLS = int(os.environ.get("KILLS", "6"))
