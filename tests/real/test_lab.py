"""The lab leaves nothing behind, however it ends. Needs root; see lab/."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from lab import Lab, wait_until
from lab.engines import Unavailable

# A program with a lab, a service that runs in it, and then what the test wants to see.
PROGRAM = """
import sys, time
sys.path.insert(0, {folder!r})
from lab import Lab, Node, wait_until
{before}
with Lab() as lab:
    print(lab.folder, flush=True)
    lab.login(lab.manager)
    lab.manager.docker("service create -d --name web --with-registry-auth", lab.image())
    wait_until(lambda: lab.states("web") == ["running"], "it runs")
    print("runs", flush=True)
    {then}
"""


@pytest.fixture
def temporary():
    """A folder for the labs of one test; it has to be empty again in the end."""
    if os.getuid():
        pytest.skip("needs root")
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:
        yield Path(folder)


def start(temporary, then="time.sleep(600)", before=""):
    text = PROGRAM.format(folder=str(Path(__file__).parent), then=then, before=before)
    return subprocess.Popen(
        [sys.executable, "-c", text],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(temporary)},
    )


def cgroups(lab):
    """Those of that lab. Not glob(), which fails when another lab's go while it looks."""
    folders = (folder for folder, _, _ in os.walk("/sys/fs/cgroup"))
    return [folder for folder in folders if Path(folder).name == lab]


def traces(temporary, lab="no lab"):
    """Files, processes, mounts and cgroups that name that folder or the lab in it."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return [
        *temporary.iterdir(),
        *(
            process
            for process in Path("/proc").glob("[0-9]*")
            if str(temporary) in command(process)
        ),
        *(mount for mount in mounts if str(temporary) in mount),
        *cgroups(lab),
    ]


def command(process):
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace")
    except OSError:  # it has ended meanwhile
        return ""


def wait_for_service(process):
    """Wait until the program's service runs; returns the name of its lab."""
    folder = process.stdout.readline().strip()
    assert process.stdout.readline() == "runs\n", process.stderr.read()
    return Path(folder).name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_after_a_signal(temporary, number):
    # given
    process = start(temporary)
    lab = wait_for_service(process)
    assert cgroups(lab)
    # when
    process.send_signal(number)
    process.communicate(timeout=60)
    # then
    wait_until(lambda: not traces(temporary, lab), "nothing is left")


@pytest.mark.parametrize("then", ["pass", "raise RuntimeError('a test failed')"])
def test_nothing_is_left_at_the_end(temporary, then):
    # given
    process = start(temporary, then)
    lab = wait_for_service(process)
    # when
    process.communicate(timeout=60)
    # then: at once, since the program itself waits for it
    assert not traces(temporary, lab)


def test_nothing_is_left_when_a_node_fails_to_start(temporary):
    # given
    broken = "def fail(node): raise RuntimeError('no start')\nNode.answers = fail"
    # when
    process = start(temporary, before=broken)
    _, errors = process.communicate(timeout=60)
    # then
    assert "no start" in errors
    assert not traces(temporary)


def test_several_labs_at_once(temporary):
    # given
    processes = [start(temporary, then="pass") for _ in range(2)]
    # when
    labs = [wait_for_service(process) for process in processes]
    # then
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert not any(traces(temporary, lab) for lab in labs)


def test_an_engine_that_cannot_be_had_says_so():
    with pytest.raises(Unavailable, match="no such engine: 1.13"):
        Lab(engine="1.13")
