"""How fast the script is on a real swarm, next to the plain loop: make bench. Needs root.

Every case is a whole run, aws included. The commands that are compared take turns, after a
round to warm up; the table has the medians, their ratio and how far the rounds were apart.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, NamedTuple

from lab import OTHER_REGION, REGION, SCRIPT, Lab, Node, ecr_host, registries, wait_until

THIRD_REGION = "ap-southeast-2"
UPDATE = "docker service update -d -q --with-registry-auth"
PEAK = (
    "import runpy, resource, sys; sys.argv = sys.argv[1:]\ntry: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    "finally: open('/proc/self/fd/2', 'w').write('peak %d\\n' % resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
)

# How old the first question was when the last update that rests on it had ended, at most.
OLDEST_LOOK = """
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("ecr_swarm_login", sys.argv[1])
script = sys.modules["ecr_swarm_login"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
ages, update = [], script.update
def timed(run, host, due, asked_at):
    update(run, host, due, asked_at)
    ages.append(time.monotonic() - asked_at)
script.update = timed
status = script.main([])
sys.stderr.write("oldest %.3f\\n" % max(ages))
sys.exit(status)
"""

# Programs that answer as for services of many registries, and take as long for a login.
SLOW_AWS = """#!/bin/sh
sleep 0.5; echo a-token
"""
SLOW_DOCKER = """#!/bin/sh
cd {folder}
case "$1 $2" in
"login --username")
    cat >/dev/null; sleep 0.9
    echo 'WARNING! Your credentials are stored unencrypted' >&2
    mkdir -p "${{DOCKER_CONFIG:-$HOME/.docker}}"
    echo '{{"auths": {{"a host": {{"auth": "a long login that docker has written here"}}}}}}' \\
        >"${{DOCKER_CONFIG:-$HOME/.docker}}/config.json" ;;
login*) sleep 0.9 ;;
"version "*) echo default 1.50 1.50 ;;
"service ls") cat ls ;;
"service inspect") shift 4; for id; do cat "inspect-${{id%abc}}"; done ;;
"service ps") ;;
"service update") shift 5; date +%s.%N >>updated; echo "$1" ;;
esac
"""


class Row(NamedTuple):
    case: str
    against: str
    ours: list[float]
    theirs: list[float]
    limit: float


def deploy(
    node: Node, count: int, image: str, tasks: int = 0, runs: bool = True, constraint: str = ""
) -> None:
    """Services up to that number, with so many tasks each, which run or fit on no node."""
    there = {service["Spec"]["Name"] for service in node.api("/services")}
    constraint = constraint if runs else "node.labels.nowhere==yes"
    placement = {"Placement": {"Constraints": [constraint]}} if constraint else {}
    for number in range(count):
        name = f"service-{number:04}"
        if name not in there:
            spec = {
                "Name": name,
                "Mode": {"Replicated": {"Replicas": tasks}},
                "TaskTemplate": {"ContainerSpec": {"Image": image}, **placement},
            }
            node.api("/services/create", "POST", spec)
    wanted = "running" if runs else "pending"
    wait_until(lambda: count_tasks(node, wanted) == count * tasks, f"all tasks are {wanted}", 300)


def count_tasks(node: Node, state: str) -> int:
    return [task["Status"]["State"] for task in node.api("/tasks")].count(state)


def remove_all(node: Node) -> None:
    for service in node.api("/services"):
        node.api(f"/services/{service['ID']}", "DELETE")
    wait_until(lambda: not node.api("/tasks"), "all tasks are gone", 300)


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def take_turns(rounds: int, *commands: Callable[[], object]) -> list[list[float]]:
    """Seconds of each round of each command."""
    for command in commands:
        command()
    turns = [[seconds(command) for command in commands] for _ in range(rounds)]
    return [list(column) for column in zip(*turns)]


class Bench:
    def __init__(self, lab: Lab, python: str) -> None:
        self.lab, self.node, self.python = lab, lab.manager, python
        self.peak = self.oldest = 0.0

    def script(self, *options: str) -> None:
        ended = self.node.run(
            [self.python, "-I", SCRIPT, *options], timeout=600, env=self.node.environment
        )
        assert ended.returncode == 0, ended.stderr

    def shell(self, command: str) -> None:
        ended = self.node.run(["bash", "-euc", command], timeout=600, env=self.node.environment)
        assert ended.returncode == 0, ended.stderr

    def seed(self) -> None:
        assert self.node.seed(timeout=600).returncode == 0

    def floor(self) -> None:
        """One aws, one login, and nothing but the updates."""
        self.shell(
            f"aws ecr get-login-password --region {REGION} |"
            f" docker login --username AWS --password-stdin {ecr_host()}\n"
            f"docker service ls -q | GOMAXPROCS=1 GOGC=off xargs -P4 -n1 {UPDATE}"
        )

    def peak_megabytes(self) -> float:
        ended = self.node.run(
            [self.python, "-I", "-c", PEAK, SCRIPT], timeout=600, env=self.node.environment
        )
        return int(ended.stderr.split("peak ")[1].split()[0]) / 1024

    def few(self, rounds: int) -> list[Row]:
        hosts = [ecr_host(region=region) for region in (OTHER_REGION, THIRD_REGION)]
        regions = [f"--registry={host}" for host in hosts]
        three = functools.partial(self.script, *regions)
        ours, theirs, of_three = take_turns(rounds, self.script, self.seed, three)
        return [
            Row("5 services, a running task each", "the loop", ours, theirs, 1.15),
            Row("3 regions", "1 region", of_three, ours, 1.25),
        ]

    def oldest_look(self) -> float:
        """Seconds."""
        ended = self.node.run(
            [self.python, "-IB", "-c", OLDEST_LOOK, SCRIPT], timeout=600, env=self.node.environment
        )
        return float(ended.stderr.split("oldest ")[1].split()[0])

    def registries(self, rounds: int) -> list[Row]:
        """600 services of 60 registries in 20 regions, against 10 of one, with pretended programs:
        seconds until the last service is refreshed. Logins for deploys go on behind that.
        """
        times = []
        for count, regions in ((60, 20), (1, 1)):
            folder = self.lab.folder / f"registries-{count}"
            pretend_registries(folder, count, regions)
            times.append([self.last_update(folder) for _ in range(rounds)])
        what = "60 registries in 20 regions, a login of 0.9 s: the last service is refreshed"
        return [Row(what, "1 registry", *times, 4)]

    def last_update(self, folder: Path) -> float:
        """Seconds from the start of a run."""
        environment = {**self.node.environment, "PATH": f"{folder}:/usr/bin:/bin"}
        began = time.time()
        self.node.run([self.python, "-I", SCRIPT, "-q"], env=environment, check=True, timeout=600)
        updated = folder / "updated"
        last = max(map(float, updated.read_text().split()))
        updated.unlink()
        return last - began

    def many(self, what: str, rounds: int, limit: float) -> list[Row]:
        ours, theirs = take_turns(rounds, self.script, self.seed)
        return [Row(what, "the loop", ours, theirs, limit)]

    def bare(self, rounds: int) -> list[Row]:
        ours, theirs = take_turns(rounds, self.script, self.floor)
        return [Row("200 services due", "bare xargs, aws and a login", ours, theirs, 1.12)]

    def look(self, rounds: int) -> list[Row]:
        by_hand = (
            "ids=$(docker service ls -q)\n"
            "docker service inspect $ids\n"
            "docker service ps --no-trunc --no-resolve --format '{{json .}}' $ids"
        )
        ours, theirs = take_turns(
            rounds, lambda: self.script("--dry-run"), lambda: self.shell(by_hand)
        )
        what = "the look (--dry-run) at 1,000 services of 3 tasks"
        return [Row(what, "inspect and ps", ours, theirs, 2)]


def pretend_registries(folder: Path, count: int, regions: int) -> None:
    """Programs for ten services without tasks in each of so many registries."""
    folder.mkdir()
    rows = []
    for number in range(count * 10):
        host = (
            f"{100000000000 + number // 10}.dkr.ecr.eu-west-{number // 10 % regions}.amazonaws.com"
        )
        name, image = f"service-{number}", f"{host}/app:1"
        rows.append(f"{number:012} {image} {name}\n")
        template = {"ContainerSpec": {"Image": image}}
        spec = {"Name": name, "TaskTemplate": template, "Mode": {"Replicated": {"Replicas": 0}}}
        dates = dict.fromkeys(("CreatedAt", "UpdatedAt"), "2024-05-01T12:00:00Z")
        service = {"ID": f"{number:012}abc", "Version": {"Index": 1}, **dates, "Spec": spec}
        (folder / f"inspect-{number:012}").write_text(json.dumps(service) + "\n")
    (folder / "ls").write_text("".join(rows))
    for name, text in (("aws", SLOW_AWS), ("docker", SLOW_DOCKER.format(folder=folder))):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


def measure(bench: Bench, rounds: int) -> Iterator[Row]:
    image, node = bench.lab.image(), bench.node
    bench.lab.login(node)
    node.docker("pull", image)  # services made through the API have no login
    deploy(node, 5, image, tasks=1)
    yield from bench.few(rounds)
    deploy(node, 200, image, tasks=1)
    yield from bench.many("200 services, a running task each", max(3, rounds // 2), 0.66)
    remove_all(node)
    deploy(node, 200, image, tasks=1, constraint="node.platform.os==linux")
    bench.script()
    what = "200 services, a running task and a constraint each, refreshed before"
    yield from bench.many(what, max(3, rounds // 2), 0.66)
    remove_all(node)
    deploy(node, 200, image)
    small = bench.many("200 services due", rounds, 0.60)
    yield from small
    yield from bench.bare(rounds)
    deploy(node, 1000, image)
    [large] = bench.many("1000 services due", max(3, rounds // 2), 0.55)
    yield large
    per_service = [[each / 1000 for each in large.ours], [each / 200 for each in small[0].ours]]
    yield Row("1,000 services, each", "200, each", *per_service, 1.0)
    bench.peak = bench.peak_megabytes()
    bench.oldest = bench.oldest_look()
    remove_all(node)
    deploy(node, 1000, image, constraint="node.platform.os==linux")
    bench.script()
    what = "1,000 services with a constraint, refreshed before"
    yield from bench.many(what, max(3, rounds // 2), 0.55)
    remove_all(node)
    deploy(node, 1000, image, tasks=3, runs=False)
    yield from bench.look(rounds)
    yield from bench.registries(3)


def spread(values: list[float]) -> str:
    digits = 4 if max(values) < 0.1 else 2
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engine", default="20.10")
    parser.add_argument("--python", default=sys.executable, help="a Python that has sh")
    options = parser.parse_args()
    hosts = [ecr_host(region=THIRD_REGION)]
    registries.REGISTRIES[THIRD_REGION] = ("10.99.0.6", hosts)
    print(
        f"{os.cpu_count()} processors, {platform.machine()}, engine {options.engine}, seconds: median (range)\n"
    )
    print("| case | against | this script | that | ratio | at most |\n|---|---|---|---|---|---|")
    with Lab(engine=options.engine, managers=1, workers=0) as lab:
        bench = Bench(lab, options.python)
        for row in measure(bench, options.rounds):
            ratio = statistics.median(row.ours) / statistics.median(row.theirs)
            print(
                f"| {row.case} | {row.against} | {spread(row.ours)} | {spread(row.theirs)} | {ratio:.2f} | {row.limit:.2f} |",
                flush=True,
            )
    print(
        f"| 1,000 services, the oldest look of an update, seconds | - | {bench.oldest:.2f}"
        " | - | - | 1.20 |"
    )
    print(
        f"| 1,000 services, peak memory of this process | - | {bench.peak:.0f} MB | - | - | 60 MB |"
    )


if __name__ == "__main__":
    main()
