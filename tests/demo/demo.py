#!/usr/bin/env python3
"""The script at work on a pretend swarm, next to the loop that it replaces.

Needs no root, no Docker and no AWS: `aws` and `docker` are the programs in bin/.
Exits with 1 if what happened to the services is not what is expected, so it is a test, too.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
SCRIPT = HERE.parent.parent / "ecr_swarm_login.py"
sys.path.insert(0, str(HERE.parent))

from pretend.logins import DEPLOYED, OWN_LOGIN
from pretend.swarm import ECR, ECR_US, PretendSwarm
from words import describe

HELD_BACK_TOO_LONG = 3

INTRODUCTION = """
The swarm, aws and docker are simulated here; the script is real. The services
pull from AWS ECR, and most of their tokens have expired. The script runs twice,
an hour apart, and so does the usual update loop, in a copy of the swarm."""

LEGEND = """
old: tasks that still run the image from before the last deploy
token of its deploy: not refreshed, and not expired yet
^ why the loop does harm there"""


class Row(NamedTuple):
    """A service, and what is expected to happen to it in two runs, an hour apart."""

    name: str
    facts: dict
    before: str
    after: str
    after_loop: str
    lesson: str = ""  # if the loop does harm: why


ROWS = [
    Row(
        "web",
        {"image": f"{ECR}/web:7", "replicas": "3/3"},
        before="3/3 running, token expired",
        after="3/3 running, token fresh",
        after_loop="3/3 running, token fresh",
    ),
    Row(
        "cache",
        {"image": f"{ECR}/cache:1", "restart": "none"},
        before="1/1 running, token expired",
        after="1/1 running, token fresh",
        after_loop="1/1 running, token fresh",
    ),
    Row(
        "worker",
        {
            "image": f"{ECR}/worker:5",
            "replicas": "0/2",
            "restart": "on-failure",
            "others": "Rejected",
        },
        before="0/2 running, 2 rejected, token expired",
        after="2/2 running, token fresh",
        after_loop="2/2 running, token fresh",
    ),
    Row(
        "files",
        {
            "image": f"{ECR}/files:2",
            "replicas": "2/2",
            "mounts": [("uploads", "/srv"), ("cache", "/var/cache")],
        },
        before="2/2 running, token expired",
        after="2/2 running, 2 restarted, token fresh",
        after_loop="2/2 running, 2 restarted, token fresh",
    ),
    Row(
        "api",
        {"image": f"{ECR_US}/api:3", "mode": "global", "replicas": "2/2"},
        before="2/2 running, token expired",
        after="2/2 running, token fresh",
        after_loop="2/2 running, login wiped",
        lesson="It logs in to one region; services of others get an empty login.",
    ),
    Row(
        "search",
        {
            "image": "registry.example.com/search:2",
            "replicas": "2/2",
            "credentials": OWN_LOGIN,
        },
        before="2/2 running, own login",
        after="2/2 running, own login",
        after_loop="2/2 running, login wiped",
        lesson="An empty login replaces its registry's: new nodes cannot pull.",
    ),
    Row(
        "migrate",
        {"image": f"{ECR}/migrate:7", "mode": "replicated job", "replicas": "0/1"},
        before="ran once, token expired",
        after="ran once, token expired",
        after_loop="ran 3 times, token fresh",
        lesson="Every update runs a job again: this one migrates the database.",
    ),
    Row(
        "audit",
        {"image": f"{ECR}/audit:1", "mode": "global job", "replicas": "0/2"},
        before="ran once, token expired",
        after="ran once, token expired",
        after_loop="ran 3 times, token fresh",
        lesson="Every update runs a job again, on every node.",
    ),
    Row(
        "backup",
        {"image": f"{ECR}/backup:4", "replicas": "0/1", "restart": "none"},
        before="0/1 running, ran once, token expired",
        after="0/1 running, ran once, token expired",
        after_loop="0/1 running, ran 3 times, token fresh",
        lesson="A finished task runs again as soon as the token differs.",
    ),
    Row(
        "checkout",
        {
            "image": f"{ECR}/checkout:9",
            "works": False,
            "previous": f"{ECR}/checkout:8",
            "replicas": "3/4",
            "on_previous": 3,
            "others": "Failed",
            "rollout": "updating",
            "hours_ago": 0.1,
            "on_failure": "rollback",
            "credentials": DEPLOYED,
        },
        before="rollout under way, 3/4 running, 1 failed, 3 of them old, token of its deploy",
        after="rolled back, 4/4 running, token fresh",
        after_loop="rollback stuck, 0/4 running, 4 failed, token fresh",
        lesson="The update overwrites the spec that worked: no rollback to it.",
    ),
    Row(
        "billing",
        {
            "image": f"{ECR}/billing:3",
            "works": False,
            "previous": f"{ECR}/billing:2",
            "replicas": "2/4",
            "on_previous": 2,
            "others": "Failed",
            "rollout": "paused",
            "hours_ago": 9,
            "credentials": DEPLOYED,
        },
        before="rollout paused, 2/4 running, 2 failed, 2 of them old, token of its deploy",
        after="rollout paused, 2/4 running, 2 failed, 2 of them old, token of its deploy",
        after_loop="rollout paused, 0/4 running, 4 failed, token fresh",
        lesson="The update resumes it: each run takes down another healthy task.",
    ),
    Row(
        "mailer",
        {
            "image": f"{ECR}/mailer:5",
            "previous": f"{ECR}/mailer:4",
            "replicas": "3/3",
            "on_previous": 2,
            "rollout": "paused",
            "hours_ago": 1,
            "credentials": DEPLOYED,
        },
        before="rollout paused, 3/3 running, 2 of them old, token of its deploy",
        after="rollout paused, 3/3 running, 2 of them old, token of its deploy",
        after_loop="3/3 running, token fresh",
        lesson="Someone paused this rollout on purpose; the update resumes it.",
    ),
    Row(
        "canary",
        {"image": f"{ECR}/canary:1", "replicas": "2/2", "rollout": "deferred"},
        before="deferred, 2/2 running, token expired",
        after="deferred, 2/2 running, token expired",
        after_loop="2/2 running, token fresh",
        lesson="Its rollout's state is unknown: an update may do anything.",
    ),
]


class Stage:
    """A folder with a pretend swarm and a home, and the environment of what runs there."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.state = folder / "swarm.json"
        # The machine's own aws and docker come after the demo's: they are never reached.
        path = [str(HERE / "bin"), str(Path(sys.executable).parent), "/usr/bin", "/bin"]
        self.environ = {
            "PATH": os.pathsep.join(path),
            "HOME": str(folder),
            "PRETEND_SWARM": str(self.state),
            "TERM": os.environ.get("TERM", "dumb"),
        }
        swarm = PretendSwarm()
        for row in ROWS:
            swarm.add(row.name, **row.facts)
        self.save(swarm)

    def swarm(self) -> PretendSwarm:
        return PretendSwarm(json.loads(self.state.read_text()))

    def save(self, swarm: PretendSwarm) -> None:
        self.state.write_text(json.dumps(swarm.state))

    def let_an_hour_pass(self) -> None:
        swarm = self.swarm()
        swarm.let_time_pass()
        self.save(swarm)

    def run(self, *argv: str | Path, stdout: int | None = None) -> int:
        sys.stdout.flush()
        stderr = subprocess.STDOUT  # one stream, as on a terminal
        run = subprocess.run(argv, check=False, env=self.environ, stdout=stdout, stderr=stderr)
        return run.returncode

    def run_script(self, *arguments: str) -> int:
        print("\n$", " ".join([SCRIPT.name, *arguments]), flush=True)
        status = self.run(sys.executable, SCRIPT, *arguments)
        too_long = ": a service is held back too long" if status == HELD_BACK_TOO_LONG else ""
        print(f"(exit status {status}{too_long})")
        return status

    def services_in_words(self) -> dict[str, str]:
        return {service["name"]: describe(service) for service in self.swarm().services}


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="ecr-swarm-login-demo-"))
    try:
        surprises = show(Stage(folder / "script"), Stage(folder / "loop"))
    finally:
        shutil.rmtree(folder)
    for surprise in surprises:
        print("NOT AS EXPECTED:", surprise)
    return 1 if surprises else 0


def show(stage: Stage, loop_stage: Stage) -> list[str]:
    """Run the script and the loop; tell what was not as expected."""
    before = stage.services_in_words()
    surprises = run_script_twice(stage)
    run_loop_twice(loop_stage)
    after, after_loop = stage.services_in_words(), loop_stage.services_in_words()
    show_table(before, after, after_loop)
    for row in ROWS:
        for when, seen, expected in (
            ("before", before, row.before),
            ("after the script", after, row.after),
            ("after the loop", after_loop, row.after_loop),
        ):
            if seen[row.name] != expected:
                surprises.append(f"{row.name} {when}: {seen[row.name]}; expected: {expected}")
    return surprises


def run_script_twice(stage: Stage) -> list[str]:
    print(INTRODUCTION)
    headline("Dry run, for three of them")
    untouched = stage.swarm().services
    statuses = [stage.run_script("--dry-run", "web", "migrate", "billing")]
    surprises = [] if stage.swarm().services == untouched else ["--dry-run changed the swarm"]
    headline(f"The run, for all {len(ROWS)}")
    statuses.append(stage.run_script())
    headline("An hour later, the timer's run: warnings only")
    stage.let_an_hour_pass()
    statuses.append(stage.run_script("--quiet"))
    if set(statuses) != {HELD_BACK_TOO_LONG}:
        surprises.append(f"the exit statuses are {statuses}; expected: {HELD_BACK_TOO_LONG} each")
    return surprises


def run_loop_twice(stage: Stage) -> None:
    for _ in range(2):
        stage.run("sh", HERE / "loop.sh", stdout=subprocess.DEVNULL)
        stage.let_an_hour_pass()


def show_table(before: dict[str, str], after: dict[str, str], after_loop: dict[str, str]) -> None:
    headline("What happened to each service")
    print()
    print_columns("service", "before", "after this script", "after the loop")
    for row in ROWS:
        is_same = before[row.name] == after[row.name]
        print_columns(
            row.name,
            before[row.name],
            "the same" if is_same else after[row.name],
            after_loop[row.name],
        )
        if row.lesson:
            print(" " * 10 + "^ " + row.lesson)
    print(LEGEND)


def print_columns(name: str, *texts: str) -> None:
    """Long descriptions go on below, so that the table fits 80 columns."""
    columns = (textwrap.wrap(text, 22) for text in texts)
    for label, *cells in itertools.zip_longest([name], *columns, fillvalue=""):
        print(f"{label:<10}{''.join(f'{cell:<24}' for cell in cells)}".rstrip())


def headline(text: str) -> None:
    print(f"\n== {text} ".ljust(79, "="))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # whoever read it has gone, as with `make demo | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is still to be flushed
