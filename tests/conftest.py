"""Fixtures for tests in which `aws` and `docker` are fakes."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "fake"), str(ROOT / "tests" / "pretend")]

from fakes import Call, Fakes, Outcome
from pretend_swarm import PretendSwarm
from runner import Runner
from shared import Bounds

SCRIPT = ROOT / "ecr_swarm_login.py"

# The script leaves alone what is ignored, as under nohup or in the background; the tests are not to
# be so.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def fakes(fp: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Fakes]:
    """Fake `aws` and `docker`, alone on PATH, and a HOME of their own."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "DOCKER_", "JOURNAL_", "PYTHON", "RUNTIME_", "XDG_")):
            monkeypatch.delenv(name)
    for name in ("home", "memory"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if os.environ.get("RUNNER") == "here":
        yield from here(fp, monkeypatch, tmp_path)
        return
    with Fakes(fp) as fakes:
        monkeypatch.setenv("PATH", str(fakes.bin))
        # Not before: the fakes' own folder must have a short name.
        monkeypatch.setenv("TMPDIR", str(tmp_path / "memory"))
        yield fakes
    fakes.check()


class InThisProcess(Runner):
    """The runner with what old tests ask of processes, as far as that goes."""

    bin: Path

    def program(self, name: str) -> Path:
        return self.bin / name

    def still_running(self, within: float = 0) -> list[Call]:
        return []


def here(fp: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    runner = InThisProcess(fp)
    runner.bin = tmp_path / "bin"
    runner.bin.mkdir()
    (runner.bin / "sleep").touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "memory"))
    monkeypatch.setenv("PATH", str(runner.bin))
    runner.install(importlib.import_module("ecr_swarm_login"), monkeypatch)
    yield runner
    runner.check()


@pytest.fixture
def home(fakes: Fakes) -> Path:
    """The folder in which docker's logins are."""
    return Path(os.environ["HOME"])


@pytest.fixture
def memory(fakes: Fakes) -> Path:
    """The folder in which the script makes that of a run's logins."""
    return Path(os.environ["TMPDIR"])


@pytest.fixture
def swarm(fakes: Fakes) -> PretendSwarm:
    """A pretend swarm that answers every call for which the test has no answer of its own."""
    swarm = PretendSwarm()

    def answer(call: Call) -> dict[str, Any] | None:
        answer = swarm.answer(call.argv, call.stdin, call.environ)
        return answer and answer._asdict()

    fakes.answerers.append(answer)
    return swarm


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module.

    It does not wait before it tries again; what a machine that is busy may be late with is not
    late.
    """
    script = importlib.import_module("ecr_swarm_login")
    monkeypatch.setattr(script, "PAUSES", (0.001, 0.002, 0.003))
    monkeypatch.setattr(script, "TRY_SECONDS", 0)
    for name in ("STALE_SECONDS", "PATIENCE_SECONDS", "READER_SECONDS"):
        monkeypatch.setattr(script, name, 30)
    return script


@pytest.fixture
def bounds(script: Any, monkeypatch: pytest.MonkeyPatch) -> Bounds:
    """For tests of what hangs or is slow."""
    return Bounds(script, monkeypatch)


@pytest.fixture
def run(script: Any, fakes: Fakes, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the script in this process: run("--region", "eu-central-1")."""

    def run(*arguments: str) -> Outcome:
        capfd.readouterr()
        with process_restored(script):
            try:
                status = script.main(list(arguments))
            except SystemExit as exit_request:  # argparse: usage, --help, --version
                status = exit_request.code
        outcome = Outcome(status, *capfd.readouterr())
        fakes.check()
        return outcome

    return run


@contextlib.contextmanager
def process_restored(script: Any) -> Iterator[None]:
    """Undo what the script leaves to the end of its process, for the next run in this one."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
    handlers = {number: signal.getsignal(number) for number in numbers}
    descriptors = null_devices()
    try:
        with mock.patch.dict(os.environ), log_restored(script):
            yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for descriptor in null_devices() - descriptors:
            os.close(descriptor)


@contextlib.contextmanager
def log_restored(script: Any) -> Iterator[None]:
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
