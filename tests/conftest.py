"""Fixtures for tests in which `aws` and `docker` are fakes."""

from __future__ import annotations

import contextlib
import copy
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
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "fake")]

from fakes import Call, Fakes, Outcome
from pretend_swarm import PretendSwarm

SCRIPT = ROOT / "ecr_swarm_login.py"

# The script leaves alone what is ignored, as under nohup or in the background; the tests are not to be so.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def fakes(fp: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Fakes]:
    """Fake `aws` and `docker`, alone on PATH, and a HOME of their own."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "DOCKER_", "JOURNAL_", "PYTHON", "XDG_")):
            monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with Fakes(fp) as fakes:
        monkeypatch.setenv("PATH", str(fakes.bin))
        yield fakes
    fakes.check()


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
    """The script as a module, in no hurry to be patient."""
    script = importlib.import_module("ecr_swarm_login")
    monkeypatch.setattr(script, "PAUSES", tuple(0 for _ in script.PAUSES))
    return script


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
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in numbers}
    collections = {
        name: copy.copy(value)
        for name, value in vars(script).items()
        if isinstance(value, (dict, list, set)) and not name.startswith("__")
    }
    descriptors = lasting_descriptors()
    try:
        with mock.patch.dict(os.environ), log_restored():
            yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name, value in collections.items():
            setattr(script, name, value)
        for descriptor in lasting_descriptors() - descriptors:
            os.close(descriptor)


@contextlib.contextmanager
def log_restored() -> Iterator[None]:
    """Without pytest's handlers: with them logging.basicConfig would do nothing."""
    root, raise_exceptions = logging.getLogger(), logging.raiseExceptions
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.raiseExceptions = raise_exceptions


def lasting_descriptors() -> set[int]:
    """The open folders, for the script locks one, and /dev/null."""
    return {
        int(path.name)
        for path in Path("/proc/self/fd").iterdir()
        if path.is_dir() or (path.is_symlink() and path.resolve() == Path(os.devnull))
    }
