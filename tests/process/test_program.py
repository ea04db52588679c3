"""The file as a program: a process of its own, whose streams, signals and surroundings are real."""

from __future__ import annotations

import ast
import contextlib
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
from pretend.runner import Call, Outcome
from pretend.services import ECR, login_opens
from pretend.swarm import ECR_US, PretendSwarm
from stubs import Stubs

import ecr_swarm_login as script

SCRIPT = Path(script.__file__)

Start = Callable[..., Outcome]


@pytest.fixture
def start(stubs: Stubs) -> Start:
    """Run the script to its end: start("--version", shell='exec "$@" >&-')."""

    def start(*arguments: str, shell: str = 'exec "$@"', **options: Any) -> Outcome:
        outcome = stubs.run_program(
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


def test_help_fits_a_terminal_and_has_two_examples(start: Start) -> None:
    outcome = start("--help", env={**os.environ, "COLUMNS": "80"})

    assert (outcome.status, outcome.stderr) == (0, "")
    assert [line for line in outcome.stdout.splitlines() if len(line) > 80] == []
    beginning = outcome.stdout.partition("positional arguments")[0]
    assert "fresh token" in beginning
    assert beginning.count("\n  ecr_swarm_login.py ") == 2
    assert "Exit status: 0 " in outcome.stdout


def test_version(start: Start) -> None:
    outcome = start("--version")

    assert (outcome.status, outcome.stderr) == (0, "")
    assert re.fullmatch(r"ecr_swarm_login.py \d+\.\d+\.\d+\n", outcome.stdout)


def test_another_python_starts_itself_again(stubs: Stubs, swarm: PretendSwarm) -> None:
    """As a virtual environment's, which is not isolated."""
    swarm.add("web")

    outcome = stubs.run_program(sys.executable, SCRIPT, "web", "--quiet")

    assert outcome == (0, "", "")
    assert login_opens(swarm.service("web"))


@pytest.mark.parametrize("options, status", [([], 1), (["-I"], 0)])
def test_from_stdin(stubs: Stubs, swarm: PretendSwarm, options: list[str], status: int) -> None:
    """As ssh manager python3 -I - <ecr_swarm_login.py: it works, or says how."""
    swarm.add("web")

    outcome = stubs.run_program(sys.executable, *options, "-", "web", stdin=SCRIPT.read_bytes())

    assert (outcome.status, outcome.refreshed) == (status, ["web"] * (not status))
    text = "ecr_swarm_login: from stdin, run python3 -I - [options] <ecr_swarm_login.py\n"
    assert status == 0 or outcome.stderr == text


@pytest.mark.parametrize(
    "arguments, status", [(["--help"], 0), (["--version"], 0), (["--no-such-option"], 2)]
)
def test_what_goes_without_sh(stubs: Stubs, arguments: list[str], status: int) -> None:
    # Without site-packages there is no sh.
    outcome = stubs.run_program(sys.executable, "-IS", SCRIPT, *arguments)

    assert outcome.status == status
    assert "library sh" not in outcome.stderr and "Traceback" not in outcome.stderr


# Instead of the library sh: not there, or broken.
WITHOUT = "import sys; sys.path.insert(0, {folder!r}); sys.argv = ['x']; "
AS_MAIN = "exec(compile(open({script!r}).read(), {script!r}, 'exec'), {{'__name__': '__main__'}})"


def test_without_sh_one_line_says_how_to_get_it(stubs: Stubs) -> None:
    outcome = stubs.run_program(sys.executable, "-IS", SCRIPT)

    assert (outcome.status, outcome.stdout) == (1, "")
    [line] = outcome.stderr.splitlines()
    # Python 3.15 shows the module's name as well.
    assert "cannot load sh: ModuleNotFoundError(\"No module named 'sh'\"" in line
    assert line.endswith(" -> apt-get install python3-sh, or pip3 install 'sh<3'")


def test_a_broken_sh_is_one_line(stubs: Stubs, tmp_path: Path) -> None:
    (tmp_path / "sh.py").write_text("raise OSError('on purpose')\n")
    code = (WITHOUT + AS_MAIN).format(folder=str(tmp_path), script=str(SCRIPT))

    outcome = stubs.run_program(sys.executable, "-I", "-c", code)

    assert outcome.status == 1
    [line] = outcome.stderr.splitlines()
    assert "cannot load sh: OSError('on purpose') -> apt-get install" in line


# 6 of the public reports: an older Python, another system. What comes before the check has to be
# such that an older Python understands it.
CHECKS = {
    "sys.version_info = (3, 7, 16, 'final', 0)": "needs Python 3.9 or newer; this is 3.7",
    "sys.version_info = (3, 8, 10, 'final', 0)": "needs Python 3.9 or newer; this is 3.8",
    "sys.platform = 'darwin'": "runs on Linux only; this is darwin",
}


@pytest.mark.parametrize("given", CHECKS)
@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_where_it_does_not_run_one_line_says_so(
    stubs: Stubs, given: str, arguments: list[str]
) -> None:
    code = f"import sys; sys.argv = ['x', *sys.argv[1:]]; {given}; "
    code += AS_MAIN.format(script=str(SCRIPT))

    outcome = stubs.run_program(sys.executable, "-I", "-c", code, *arguments)

    assert (outcome.status, outcome.stdout) == (1, "")
    assert outcome.stderr == f"ecr_swarm_login: {CHECKS[given]}\n"


@pytest.mark.parametrize("version", [(3, 7), (3, 8)])
def test_older_pythons_come_as_far_as_the_check(version: tuple[int, int]) -> None:
    ast.parse(SCRIPT.read_text(), feature_version=version)


# Its streams


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">/dev/full", "2>/dev/full", "2>&-"])
def test_a_stream_that_is_closed_or_full(
    start: Start, stubs: Stubs, swarm: PretendSwarm, closed: str
) -> None:
    swarm.add("web")
    swarm.add("us", f"{ECR_US}/app:2")

    outcome = start(shell=f'exec "$@" {closed}')

    assert (outcome.status, outcome.stdout) == (0, "")
    assert all(login_opens(service) for service in swarm.services)
    assert not any(call.are_terminals[1] for call in stubs.calls)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_has_gone(start: Start, swarm: PretendSwarm, stream: str) -> None:
    """A closed pipe ends nothing that has begun."""
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


def test_a_terminal(stubs: Stubs, swarm: PretendSwarm) -> None:
    swarm.add("web")
    ours, theirs = pty.openpty()
    process = stubs.start_program(
        sys.executable, "-I", SCRIPT, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)

    text = read_all(ours)

    assert process.wait() == 0
    assert "web refreshed\r\n" in text and "1 refreshed" in text and "Traceback" not in text
    assert not any(is_terminal for call in stubs.calls for is_terminal in call.are_terminals)


def read_all(terminal: int) -> str:
    """What comes until the other side is closed, which a terminal says with EIO."""
    parts = []
    while True:
        try:
            parts.append(os.read(terminal, 4096))
        except OSError:
            os.close(terminal)
            return b"".join(parts).decode()


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_another_locale(start: Start, swarm: PretendSwarm, locale: str) -> None:
    """What a program says may be in any language."""
    swarm.add("web")

    outcome = start("wéb", env={**os.environ, "LC_ALL": locale, "PYTHONCOERCECLOCALE": "0"})

    assert outcome.status == 1 and "there is no such service" in outcome.stderr


# Its surroundings


def test_few_file_descriptors(start: Start, swarm: PretendSwarm) -> None:
    for number in range(8):
        swarm.add(f"web-{number:02}", f"{ECR_US if number % 2 else ECR}/app:2")

    def at_most_64() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    outcome = start(preexec_fn=at_most_64)

    assert (outcome.status, len(outcome.refreshed)) == (0, 8)


def test_nothing_beside_it_is_loaded(stubs: Stubs, swarm: PretendSwarm, tmp_path: Path) -> None:
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

    outcome = stubs.run_program(sys.executable, copied, cwd=tmp_path / "bin", env=environ)

    assert (outcome.status, outcome.refreshed) == (0, ["web"])


def test_two_runs_at_once(stubs: Stubs, swarm: PretendSwarm) -> None:
    """Each has logins of its own, and neither waits for the other."""
    swarm.add("web")
    together = threading.Barrier(2)
    for _ in range(2):
        stubs.when(*script.UPDATE, do=lambda: together.wait(timeout=60))

    runs = [stubs.start_program(sys.executable, "-I", SCRIPT) for _ in range(2)]

    said = [process.communicate()[1].decode() for process in runs]
    assert [text.count("web refreshed\n") for text in said] == [1, 1]
    assert [process.returncode for process in runs] == [0, 0]
    assert not together.broken
    assert login_opens(swarm.service("web"))


# Its end


def signalled(
    stubs: Stubs, call: tuple[str, ...], number: int, *arguments: str, **options: Any
) -> Outcome:
    """A run that gets a signal when it starts this program."""
    process = stubs.start_program(sys.executable, "-I", SCRIPT, *arguments, **options)
    stubs.when(*call, do=lambda: process.send_signal(number))
    stdout, stderr = process.communicate()
    assert "Traceback" not in stderr.decode()
    return Outcome(process.returncode, stdout.decode(), stderr.decode())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process(
    stubs: Stubs, swarm: PretendSwarm, memory: Path, number: int
) -> None:
    swarm.add("web")
    stubs.answer(*swarm.update_of("web"), orders=["hang"])

    outcome = signalled(stubs, script.UPDATE, number)

    assert (outcome.status, outcome.stdout) == (128 + number, "")
    assert "Stopped by " + signal.Signals(number).name in outcome.stderr
    assert stubs.still_running(within=10) == []
    assert list(memory.iterdir()) == []


def test_a_terminal_that_hangs_up(stubs: Stubs, swarm: PretendSwarm) -> None:
    # Then nobody hears what is said, and what runs is to end all the same.
    for name in ("a", "b", "c"):
        swarm.add(name)
        stubs.answer(*swarm.update_of(name), orders=["hang"])
    reader, writer = os.pipe()
    process = stubs.start_program(sys.executable, "-I", SCRIPT, stderr=writer)
    os.close(writer)

    def hang_up() -> None:
        os.close(reader)
        process.send_signal(signal.SIGHUP)

    stubs.when(*script.UPDATE, do=hang_up)
    process.communicate()

    assert process.returncode == 128 + signal.SIGHUP
    assert stubs.still_running(within=10) == []


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_is_ignored_stays_so(stubs: Stubs, swarm: PretendSwarm, number: int) -> None:
    # As under nohup, and in the background of a script.
    swarm.add("web")

    outcome = signalled(
        stubs, script.LOGIN, number, preexec_fn=lambda: signal.signal(number, signal.SIG_IGN)
    )

    assert (outcome.status, outcome.refreshed) == (0, ["web"])


def test_sigchld_that_is_ignored_does_not_stay_so(start: Start, swarm: PretendSwarm) -> None:
    # Or nobody could wait for a program.
    swarm.add("web")

    outcome = start(preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))

    assert (outcome.status, outcome.refreshed) == (0, ["web"])


def programs_of(stubs: Stubs) -> list[Path]:
    """What the script has started, and has not ended."""
    wanted = f"{stubs.bin}/timeout".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += [path] * (path.read_bytes().split(b"\0")[0] == wanted)
    return found


def test_what_is_still_started_after_sigkill(stubs: Stubs, swarm: PretendSwarm) -> None:
    """Some of the batch in hand, and nothing two seconds after the look that it rests on."""
    names = [f"web-{number:02}" for number in range(32)]
    for name in names:
        swarm.add(name)
        stubs.answer(*swarm.update_of(name), orders=["hang"])
    process = stubs.start_program(sys.executable, "-I", SCRIPT)
    stubs.when(*script.UPDATE, do=process.kill)

    process.communicate()

    deadline = time.monotonic() + 60
    while programs_of(stubs) and time.monotonic() < deadline:
        time.sleep(0.05)
    begun = stubs.calls_of(*script.UPDATE)
    for call in begun:
        with contextlib.suppress(ProcessLookupError):
            os.kill(call.pid, signal.SIGKILL)
    assert not programs_of(stubs)
    assert stubs.still_running(within=10) == []
    assert stubs.calls_of(*script.UPDATE) == begun and len(begun) < len(names)


def test_sigkill_at_any_moment(stubs: Stubs, swarm: PretendSwarm) -> None:
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

    stubs.answerers.insert(0, may_kill)  # type: ignore[arg-type]
    for _ in range(KILLS):
        calls_left = moments.randint(2, 16)
        process = stubs.start_program(sys.executable, "-I", SCRIPT)
        assert "Traceback" not in process.communicate()[1].decode()
        assert process.returncode in (-signal.SIGKILL, 0)
        assert stubs.still_running(within=60) == []

    outcome = stubs.run_program(sys.executable, "-I", SCRIPT)

    assert (outcome.status, outcome.refreshed) == (0, ["api", "us", "web"])
    assert all(login_opens(it) and it["restarted"] == 0 for it in swarm.services[:3])
    assert json.dumps(swarm.services[3:]) == untouched


# Moments at which a run is killed. With more of them the test takes a third of a second for each.
KILLS = int(os.environ.get("KILLS", "4"))
