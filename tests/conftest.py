"""What all tests share: a pretend swarm, and a run of the script in this process."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

# So that `ls` goes on to show five names, whoever starts pytest: make says so by the environment.
sys.dont_write_bytecode = True

from pretend.runner import Answers, Call, Outcome, Runner
from pretend.swarm import PretendSwarm

import ecr_swarm_login as script

# Those on real swarms need root, and are run by make e2e.
collect_ignore = [] if os.geteuid() == 0 else ["real"]

# The script leaves alone what is ignored, as under nohup or in the background; the tests are not to
# be so.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment without what a person may have set, and a HOME of the test's own."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "DOCKER_", "JOURNAL_", "PYTHON", "RUNTIME_", "XDG_")):
            monkeypatch.delenv(name)
    for name, folder in (("HOME", "home"), ("RUNTIME_DIRECTORY", "memory")):
        (tmp_path / folder).mkdir()
        monkeypatch.setenv(name, str(tmp_path / folder))
    return tmp_path


@pytest.fixture
def programs(fp: Any, surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    """The programs that the script starts: here they are answers, in tests/process stubs."""
    runner = Runner(fp)
    runner.install(monkeypatch)
    yield runner
    runner.check()


@pytest.fixture
def swarm(programs: Answers) -> PretendSwarm:
    """A pretend swarm that answers every call for which the test has no answer of its own."""
    swarm = PretendSwarm()

    def answer(call: Call) -> dict[str, Any] | None:
        answer = swarm.answer(call.argv, call.stdin, call.environ)
        return answer and answer._asdict()

    programs.answerers.append(answer)
    return swarm


@pytest.fixture
def home(surroundings: Path) -> Path:
    """The folder in which docker's logins are."""
    return surroundings / "home"


@pytest.fixture
def memory(surroundings: Path) -> Path:
    """The folder in which the script makes that of a run's logins."""
    return surroundings / "memory"


@pytest.fixture
def run(programs: Answers, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the script in this process: run("--region", "eu-central-1")."""

    def run(*arguments: str) -> Outcome:
        capfd.readouterr()
        with process_restored():
            try:
                status = script.main(list(arguments))
            except SystemExit as exit_request:  # argparse: usage, --help, --version
                status = exit_request.code
        outcome = Outcome(status, *capfd.readouterr())
        programs.check()
        assert "Traceback" not in outcome.stderr
        return outcome

    return run


@contextlib.contextmanager
def process_restored() -> Iterator[None]:
    """Undo what the script leaves to the end of its process, for the next run in this one."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
    handlers = {number: signal.getsignal(number) for number in numbers}
    descriptors = null_devices()
    try:
        with mock.patch.dict(os.environ), log_restored():
            yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for descriptor in null_devices() - descriptors:
            os.close(descriptor)


@contextlib.contextmanager
def log_restored() -> Iterator[None]:
    """Without pytest's handlers: with them logging.basicConfig would do nothing."""
    root, raise_exceptions = logging.getLogger(), logging.raiseExceptions
    handlers, level = root.handlers[:], root.level
    names = {each: logging.getLevelName(each) for each in script.PRIORITIES}
    root.handlers[:] = []
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.raiseExceptions = raise_exceptions
        script.log.disabled = False  # a signal silences it
        for each, name in names.items():
            logging.addLevelName(each, name)


def null_devices() -> set[int]:
    """The descriptors of /dev/null, of which the script opens three."""
    return {
        int(path.name)
        for path in Path("/proc/self/fd").iterdir()
        if path.is_symlink() and path.resolve() == Path(os.devnull)
    }
