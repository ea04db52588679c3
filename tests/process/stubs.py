"""Stubs: real programs on PATH, for what is about processes.

Each hands what it was given over a Unix socket to the test's process, which answers as it does in
the runner without processes, and the stub plays the answer back. A stub may also hang, ignore
SIGTERM, or leave children behind: see Stubs.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from pretend.runner import FORBIDDEN, MISSING, Answers, Call, Outcome
from pytest_subprocess import FakeProcess

# What the script starts besides; they are the machine's own.
REAL_PROGRAMS = ("timeout", "xargs", "sleep")

PATIENCE = 90  # seconds, after which a test that waits for a program fails

# A test starts ten of these, so every millisecond counts: without site-packages (-S)
# and with the C module below `socket`, which takes half the start-up, it is 10 ms.
STUB = """#!{python} -IS
import marshal, os, sys, _socket

def give_way_to_orders(orders):
    if "ignore-sigterm" in orders:
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if ("child" in orders or "daemon" in orders) and os.fork() == 0:
        if "daemon" in orders:
            os.setsid()
        wait_for_the_end_of_the_test()
    if "hang" in orders:
        wait_for_the_end_of_the_test()
    for order in orders:
        if order.startswith("sleep-"):
            import time
            time.sleep(float(order[6:]))

def wait_for_the_end_of_the_test():
    reader.read(1)
    os._exit(0)

def die_of(number):
    import signal
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)

def is_read(argv):
    # Reading what the real program does not read could wait for ever.
    is_file = os.fstat(0).st_mode & 0o170000 == 0o100000
    return is_file or b"--password-stdin" in argv or b"docker-credential-" in argv[0]

argv = [os.path.basename(os.fsencode(sys.argv[0])), *map(os.fsencode, sys.argv[1:])]
stdin = open(0, "rb").read() if is_read(argv) else b""
terminals = [os.isatty(number) for number in (0, 1, 2)]
request = marshal.dumps((argv, stdin, dict(os.environb), terminals, os.getpid()))
connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
connection.connect({address!r})
connection.sendall(b"%d\\n" % len(request) + request)
reader = open(connection.fileno(), "rb", closefd=False)
stdout, stderr, status, *orders = reader.readline().decode().split()
try:
    for number, length in ((1, int(stdout)), (2, int(stderr))):
        with open(number, "wb", closefd=False) as stream:
            stream.write(reader.read(length))
finally:
    give_way_to_orders(orders)
    if int(status) < 0:
        die_of(-int(status))
    connection.sendall(b".")
    os._exit(int(status))
"""


class Process(Call):
    """A call that is a process."""

    def __init__(self, request: bytes) -> None:
        # The stub is run by this very Python, so the format is the same. (And unlike
        # ast.literal_eval it is safe in threads: https://github.com/python/cpython/issues/106905)
        argv, stdin, environ, self.are_terminals, self.pid = marshal.loads(request)
        variables = {os.fsdecode(name): os.fsdecode(value) for name, value in environ.items()}
        super().__init__([os.fsdecode(word) for word in argv], stdin, variables)
        # Set when the program and all its children have ended: they hold the connection.
        self.is_over = threading.Event()
        # Whether it came to its own end: nobody killed it.
        self.has_ended_by_itself = False


class Stubs(Answers):
    """The folder of stubs on PATH, the answers they are to give, and the calls they got.

    Besides "hang" and "sleep-0.5" they know these orders: "ignore-sigterm", and the start of a
    "child" or a "daemon" (a child in a session of its own), which keep the output open. All these
    live until they are killed or the test ends.
    """

    def __init__(self, fake_process: FakeProcess) -> None:
        super().__init__(fake_process)
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._patience = threading.Timer(PATIENCE, self._give_up)
        self._patience.daemon = True
        # A Unix socket's path is limited to 107 bytes: pytest's own folders are too deep.
        self._folder = Path(tempfile.mkdtemp(prefix="stubs-"))
        self.bin = self._folder / "bin"
        self._address = str(self._folder / "socket")

    # What a test says

    def program(self, name: str) -> Path:
        """Put a stub on PATH."""
        path = self.bin / name
        if not path.exists():
            path.write_text(STUB.format(python=interpreter(), address=self._address))
            path.chmod(0o755)
        return path

    def remove(self, name: str) -> None:
        """From now on the program is missing."""
        self._make_unstartable(name, *MISSING)

    def forbid(self, name: str) -> None:
        """From now on the program is not executable."""
        self._make_unstartable(name, *FORBIDDEN)

    # What a test asks

    def still_running(self, within: float = 2.0) -> list[Process]:
        """The calls of which some process is alive after so many seconds."""
        deadline = time.monotonic() + within
        return [
            call
            for call in self.calls
            if not call.is_over.wait(max(0.0, deadline - time.monotonic()))
        ]

    def run_program(self, *argv: Any, stdin: bytes = b"", **options: Any) -> Outcome:
        """Run a real program, such as the script itself, as a process of its own."""
        process = self.start_program(*argv, **options)
        stdout, stderr = process.communicate(stdin)
        self.check()
        return Outcome(process.returncode, (stdout or b"").decode(), (stderr or b"").decode())

    def start_program(self, *argv: Any, **options: Any) -> subprocess.Popen[bytes]:
        """Start a real program; its streams are pipes, unless an option says otherwise."""
        words, pipe = [str(word) for word in argv], subprocess.PIPE
        with self._lock:
            self.fp.pass_command(words)
            return subprocess.Popen(
                words, **{"stdin": pipe, "stdout": pipe, "stderr": pipe, **options}
            )

    def _make_unstartable(self, name: str, status: int, reason: str) -> None:
        # The script adds folders to PATH, where the machine may have a real one. So
        # something has to be there, and says what `timeout` would say.
        text = f"timeout: failed to run command ‘{name}’: {reason}"
        # What is there may be a link to the machine's own, which is not to be written to.
        (self.bin / name).unlink(missing_ok=True)
        self.program(name).write_text(f'#!/bin/sh\necho "{text}" >&2\nexit {status}\n')

    # The server

    def __enter__(self) -> Stubs:
        self.bin.mkdir()
        for name in REAL_PROGRAMS:
            (self.bin / name).symlink_to(shutil.which(name) or f"/usr/bin/{name}")
        for name in ("aws", "docker"):
            self.program(name)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self._address)
        self._listener.listen(128)
        self._in_thread(self._accept)
        self._patience.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._patience.cancel()
        # Wakes the thread that accepts, and all programs that hang: they see the end.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for connection in self._connections:
            hang_up(connection)
        for thread in self._threads:
            thread.join()
        self._listener.close()
        shutil.rmtree(self._folder)

    def _give_up(self) -> None:
        """End what hangs, and all that comes: the script did not."""
        running = [str(call) for call in self.calls if not call.is_over.is_set()]
        self._failures.append(f"still running after {PATIENCE} seconds: {running}")
        for connection in self._connections:
            hang_up(connection)

    def _in_thread(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            self._in_thread(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as reader:
            request = receive(reader)
            if request is None:
                return
            call = Process(request)
            self.calls.append(call)
            if self._patience.finished.is_set():
                return
            with contextlib.suppress(OSError):  # killed before it has heard all
                connection.sendall(self._reply_to(call))
            with contextlib.suppress(OSError):
                call.has_ended_by_itself = reader.read() == b"."
            call.is_over.set()

    def _reply_to(self, call: Process) -> bytes:
        stdout, stderr, ending = self.answer_to(call)
        orders = getattr(ending, "orders", ())
        head = " ".join([str(len(stdout)), str(len(stderr)), str(int(ending)), *orders])
        return head.encode() + b"\n" + stdout + stderr


def interpreter() -> str:
    """The Python below a virtual environment, which starts faster."""
    return os.path.realpath(sys.executable)


def receive(reader: BinaryIO) -> bytes | None:
    """A stub's request, or None if the stub was killed before it had said all."""
    try:
        length = int(reader.readline() or -1)
        request = reader.read(max(length, 0))
    except OSError:
        return None
    return request if len(request) == length else None


def hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended by itself
        connection.shutdown(socket.SHUT_RDWR)
