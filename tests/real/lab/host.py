"""A machine of its own on this machine, and the janitor that leaves no trace of it.

Each host has its own network, mounts, process ids and host name, and nothing of it has
a name outside: when its first process ends, the kernel kills whatever runs in it, and
with the last process go the mounts, the network and its interfaces. The first process
ends when the pipe from this Python process closes, so not even `kill -9` leaves a
container behind.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

UNSHARE = "unshare --net --mount --pid --uts --fork --kill-child --mount-proc"
# `ip netns exec` would need /etc/netns and hides the cgroups under a fresh /sys; a
# mount namespace of our own needs neither. Docker's default socket, its runtime files
# and lock files live under /run, so every host gets a /run of its own, and a /dev/shm, where
# runs of the script keep their logins.
SET_UP = """
set -e
hostname "$1"
mount --bind "$2/hosts" /etc/hosts
mount --bind "$2/$1/run" /run
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
exec "$3" -c "$4"
"""

# The first process waits for the pipe to close, and has the kernel reap the orphans
# (containerd's shims). Not the shell: its `read` ends when an orphan does.
FIRST_PROCESS = """
import signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("up", flush=True)
sys.stdin.read()
"""

CGROUPS = Path("/sys/fs/cgroup")


class Host:
    """Network, mounts, processes and name of one machine; `enter` is the argv prefix into it."""

    def __init__(self, name, lab_folder):
        self.name = name
        self.folder = Path(lab_folder) / name
        self._lab_folder = lab_folder
        self._holder = None
        self.pid = None

    @property
    def running(self):
        return self._holder is not None

    @property
    def enter(self):
        return f"nsenter -t {self.pid} -n -m -p -u --".split()

    @property
    def memory(self):
        """Its /dev/shm, seen from outside."""
        return Path(f"/proc/{self.pid}/root/dev/shm")

    def power_on(self):
        (self.folder / "run" / "lock").mkdir(parents=True, exist_ok=True)
        arguments = [self.name, str(self._lab_folder), sys.executable, FIRST_PROCESS]
        self._holder = subprocess.Popen(
            [*shlex.split(UNSHARE), "sh", "-c", SET_UP, "sh", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        if self._holder.stdout.readline() != b"up\n":
            raise RuntimeError(f"host {self.name} did not start")
        self._holder.stdout.close()
        holder = self._holder.pid
        self.pid = int(Path(f"/proc/{holder}/task/{holder}/children").read_text().split()[0])

    def power_off(self):
        """As if the plug were pulled: everything in the host dies at once."""
        if self._holder is None:
            return
        self._holder.stdin.close()
        self._holder.wait(timeout=30)
        self._holder = self.pid = None
        shutil.rmtree(self.folder / "run", ignore_errors=True)

    def popen(self, argv, **options):
        options.setdefault("start_new_session", True)
        return subprocess.Popen([*self.enter, *map(str, argv)], **options)

    def start_program(self, argv, **options):
        """Start a program in the host; communicate() then has its output as text."""
        none, pipe = subprocess.DEVNULL, subprocess.PIPE
        return self.popen(argv, text=True, stdin=none, stdout=pipe, stderr=pipe, **options)

    def run(self, argv, *, timeout=120, check=False, **options):
        """Run a program in the host and return its CompletedProcess, output as text."""
        process = self.start_program(argv, **options)
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        result = subprocess.CompletedProcess(argv, process.returncode, stdout, stderr)
        if check and result.returncode:
            raise RuntimeError(f"{argv} on {self.name}: exit {result.returncode}: {stderr}")
        return result

    def daemon(self, argv, *, env=None):
        """Start a program that stays; what it says goes to PROGRAM.log in the host's folder."""
        with open(self.folder / f"{Path(argv[0]).name}.log", "ab") as log:
            return self.popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def ip(self, *lines):
        subprocess.run(
            ["nsenter", "-t", str(self.pid), "-n", "ip", "-batch", "-"],
            input="\n".join(lines),
            text=True,
            check=True,
        )


class Janitor:
    """A process that waits for this one to end, however it ends, and then sweeps the folder."""

    def __init__(self, folder):
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def sweep(self):
        self._process.stdin.close()
        if self._process.wait(timeout=60):
            raise RuntimeError("the lab could not be removed entirely")


def remove_cgroups(name):
    """Engines leave the cgroups of containers that died with them."""
    for root in [*CGROUPS.glob(f"*/{name}"), *CGROUPS.glob(name)]:
        for folder, _, _ in os.walk(root, topdown=False):
            os.rmdir(folder)


def sweep(folder, seconds=30):
    """Remove all traces; while the last processes are still dying this has to be tried again."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            remove_cgroups(folder.name)
            shutil.rmtree(folder)
            return
        except FileNotFoundError:
            if not folder.exists():
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


if __name__ == "__main__":
    sys.stdin.read()
    sweep(Path(sys.argv[1]))
