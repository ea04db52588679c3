"""How a test answers the programs that the script starts, in the test's own process.

`Programs.start()` is the one place that starts programs. Here it hands its command line to
pytest-subprocess, which answers with what a test has registered, or with what the pretend swarm
says. A call for which there is no answer fails the test. `timeout` and `xargs` are emulated, and
time is the clock's: what hangs, sleeps or pauses moves it, and nothing else does.

What is about processes themselves, such as signals and streams, is in tests/process.
"""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pytest_subprocess import FakeProcess
from pytest_subprocess.exceptions import ProcessNotRegisteredError

import ecr_swarm_login as script

NOT_REGISTERED = 97
TIMED_OUT = 124
MISSING = (127, "No such file or directory")
FORBIDDEN = (126, "Permission denied")

Answerer = Callable[["Call"], "dict[str, Any] | None"]


class Outcome(NamedTuple):
    """What a run of the script left for its caller."""

    status: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        """The log, whatever time the run took."""
        return re.sub(
            r"-?[0-9]+\.[0-9] seconds$|-?[0-9]+\.[0-9] seconds(?=;)", "N seconds", self.stderr
        ).splitlines()

    @property
    def last_line(self) -> str:
        """What the run did, in a line."""
        return self.stderr.splitlines()[-1]

    @property
    def refreshed(self) -> list[str]:
        """The services that were refreshed, by name."""
        return sorted(re.findall(r"(?m)^(?:<[0-9]>)?(\S+) refreshed$", self.stderr))


class Ending(int):
    """How a program ends: the exit status, or minus a signal's number, and what it does before.

    The orders are "hang" and "sleep-0.5". Programs that are processes know more: see
    tests/process/stubs.py.
    """

    orders: tuple[str, ...] = ()

    def __new__(cls, status: int, orders: Sequence[str] = ()) -> Ending:
        ending = super().__new__(cls, status)
        ending.orders = tuple(orders)
        return ending

    @property
    def seconds(self) -> float:
        """How long the program takes."""
        if "hang" in self.orders:
            return float("inf")
        return sum(float(order[6:]) for order in self.orders if order.startswith("sleep-"))


class Call:
    """One start of a program, as the program saw it."""

    def __init__(self, argv: Sequence[str], stdin: bytes, environ: Mapping[str, str]) -> None:
        self.argv, self.stdin, self.environ = list(argv), stdin, dict(environ)

    def __repr__(self) -> str:
        return " ".join(self.argv)


class Answers:
    """What programs are to say, and the calls that they got."""

    def __init__(self, fake_process: FakeProcess) -> None:
        self.fp = fake_process
        self.calls: list[Any] = []
        self.answerers: list[Answerer] = []
        self._events: list[tuple[list[str], Callable[[], object]]] = []
        self._failures: list[str] = []
        # pytest-subprocess is not thread-safe.
        self._lock = threading.Lock()

    # What a test says

    def answer(
        self,
        *argv: Any,
        stdout: str | bytes = b"",
        stderr: str | bytes = b"",
        exit_status: int = 0,
        signal: int = 0,
        orders: Sequence[str] = (),
        times: int = 1,
        **options: Any,
    ) -> None:
        """Register the answer to one call, or to several.

        Answers to the same argv are given in the order of their registration.
        """
        self.fp.register(
            list(argv),
            stdout=stdout,
            stderr=stderr,
            returncode=Ending(-signal if signal else exit_status, orders),
            occurrences=times,
            **options,
        )

    def when(self, *beginning: str, do: Callable[[], object]) -> None:
        """Do this, once, when a call that begins like this comes in, before it is answered."""
        self._events.append((list(beginning), do))

    # What a test asks

    def calls_of(self, *beginning: str) -> list[Any]:
        """The calls whose argv begins like this."""
        return [call for call in self.calls if call.argv[: len(beginning)] == list(beginning)]

    def leaks_of(self, secret: str) -> list[Any]:
        """The calls that show the secret to everyone who may run ps."""
        return [
            call
            for call in self.calls
            if any(secret in text for text in (*call.argv, *call.environ.values()))
        ]

    def check(self) -> None:
        """Fail the test if there was a call for which it registered no answer."""
        failures, self._failures = self._failures, []
        assert not failures, "\n".join(failures)

    # How a call is answered

    def answer_to(self, call: Any) -> tuple[bytes, bytes, int]:
        """What the program prints to stdout and to stderr, and its ending."""
        try:
            self._let_happen(call)
            process = self._popen(call)
            stdout, stderr = process.communicate(call.stdin)
            return stdout, stderr, process.returncode
        except Exception as error:  # noqa: BLE001 (whatever it is, the test is to fail with it)
            self._failures.append(f"{call}: {error!r}")
            return b"", f"{error}\n".encode(), NOT_REGISTERED

    def _let_happen(self, call: Any) -> None:
        with self._lock:
            due = [event for event in self._events if call.argv[: len(event[0])] == event[0]][:1]
            self._events = [event for event in self._events if event not in due]
        for _, do in due:
            do()

    def _popen(self, call: Any) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        with self._lock:
            try:
                return subprocess.Popen(call.argv, stdin=pipe, stdout=pipe, stderr=pipe)
            except ProcessNotRegisteredError:
                answers = (answerer(call) for answerer in self.answerers)
                answer = next((answer for answer in answers if answer is not None), None)
                if answer is None:
                    raise
                self.answer(*call.argv, **answer)
                return subprocess.Popen(call.argv, stdin=pipe, stdout=pipe, stderr=pipe)


class Clock:
    """The script's `time`: it stands still, unless a program takes time."""

    def __init__(self) -> None:
        self._began, self._moved = time.monotonic(), 0.0
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return self._began + self._moved

    def time(self) -> float:
        """Seconds since the epoch, by which services and tasks are old."""
        return time.time() + self._moved

    def sleep(self, seconds: float) -> None:
        """As time.sleep(), at once."""
        self.move_to(self.monotonic() + seconds)

    def move_to(self, moment: float) -> None:
        """It is that late, or later."""
        with self._lock:
            self._moved = max(self._moved, moment - self._began)


class Ended(NamedTuple):
    """What a program has left, and when."""

    status: int
    stdout: bytes
    stderr: bytes
    at: float


class Runner(Answers):
    """Programs that are no processes."""

    def __init__(self, fake_process: FakeProcess) -> None:
        super().__init__(fake_process)
        self.clock = Clock()
        self._unstartable: dict[str, tuple[int, str]] = {}
        self.answerers.append(sleep)

    def remove(self, name: str) -> None:
        """From now on the program is missing."""
        self._unstartable[name] = MISSING

    def forbid(self, name: str) -> None:
        """From now on the program is not executable."""
        self._unstartable[name] = FORBIDDEN

    def install(self, monkeypatch: Any) -> None:
        """Stand in for `Programs.start()`: the one place that knows its signature."""

        def start(
            programs: Any,
            command: Sequence[str],
            seconds: float,
            stdin: str = "",
            environment: Mapping[str, str] | None = None,
            drain_seconds: float = 0,
            through: Sequence[str] = (),
            **__: Any,
        ) -> tuple[int, str, str]:
            environ = {**programs.environment, **(environment or {})}
            argv = [*through, *command]
            ended = self.run(argv, stdin.encode(), environ, seconds, drain_seconds)
            stdout, stderr = (text.decode(errors="replace") for text in ended[1:3])
            return ended.status, stdout.strip(), stderr.strip()

        monkeypatch.setattr(script.Programs, "start", start)
        monkeypatch.setattr(script, "time", self.clock)

    def run(
        self,
        argv: Sequence[str],
        stdin: bytes,
        environ: Mapping[str, str],
        seconds: float,
        drain_seconds: float,
    ) -> Ended:
        """What `timeout SECONDS` and the program leave; it has begun at this moment."""
        began = self.clock.monotonic()
        run = self._xargs if argv[0] == "xargs" else self._program
        limits = (began, began + seconds, began + seconds + drain_seconds)
        ended = run(list(argv), stdin, environ, limits)
        self.clock.move_to(ended.at)
        return ended

    def _program(
        self, argv: list[str], stdin: bytes, environ: Mapping[str, str], limits: tuple[float, ...]
    ) -> Ended:
        began, until, _ = limits
        if argv[0] in self._unstartable:
            status, reason = self._unstartable[argv[0]]
            text = f"timeout: failed to run command ‘{argv[0]}’: {reason}\n"
            return Ended(status, b"", text.encode(), began)
        call = Call(argv, stdin, environ)
        self.calls.append(call)
        stdout, stderr, ending = self.answer_to(call)
        at = began + Ending(ending, getattr(ending, "orders", ())).seconds
        if at > until:
            return Ended(TIMED_OUT, stdout, stderr, until)
        return Ended(int(ending), stdout, stderr, at)

    def _xargs(
        self, argv: list[str], stdin: bytes, environ: Mapping[str, str], limits: tuple[float, ...]
    ) -> Ended:
        """`xargs -r -P4 -n1 PROGRAM`: what has begun goes on when timeout has ended xargs itself."""
        if "xargs" in self._unstartable:
            return self._program(argv, stdin, environ, limits)
        began, until, drained = limits
        options = [word for word in argv[1:4] if word.startswith("-")]
        [lanes] = [int(word[2:]) for word in options if word.startswith("-P")]
        free_at = [began] * lanes
        status, ends = 0, []
        for item in stdin.decode().split():
            start = min(free_at)
            if start >= until or status in (124, 125):
                break
            command = [*argv[1 + len(options) :], item]
            ended = self._program(command, b"", environ, (start, float("inf"), 0))
            free_at[free_at.index(start)] = ended.at
            ends.append(ended)
            status = status_of_xargs(ended.status) or status
        said = [ended for ended in ends if ended.at <= drained]
        end = max([began, *(ended.at for ended in ends)])
        stderr = b"".join(ended.stderr + complaint(ended.status) for ended in said)
        stdout = b"".join(ended.stdout for ended in said)
        if end > until:
            return Ended(TIMED_OUT, stdout, stderr, min(end, drained))
        return Ended(status, stdout, stderr, end)


def sleep(call: Call) -> dict[str, Any] | None:
    """`sleep SECONDS` moves the clock."""
    return {"orders": [f"sleep-{call.argv[1]}"]} if call.argv[0] == "sleep" else None


def status_of_xargs(status: int) -> int:
    """What xargs makes of the exit status of what it has started: xargs(1)."""
    if status < 0:
        return 125
    return {0: 0, 255: 124, 126: 126, 127: 127}.get(status, 123)


def complaint(status: int) -> bytes:
    """What xargs says when it stops."""
    if status < 0:
        return b"xargs: docker: terminated by signal %d\n" % -status
    return b"xargs: docker: exited with status 255; aborting\n" if status == 255 else b""
