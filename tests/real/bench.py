"""How fast the script is on a real swarm, next to the plain loop: make bench. Needs root.

Every case is a whole run, aws included. The commands that are compared take turns, after a
round to warm up; the table has the medians, their ratio and how far the rounds were apart.
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Callable, NamedTuple

import registries
from lab import OTHER_REGION, REGION, SCRIPT, Lab, Node, ecr_host, wait_until

THIRD_REGION = "ap-southeast-2"
UPDATE = "docker service update -d -q --with-registry-auth"
PEAK = (
    "import runpy, resource, sys; sys.argv = sys.argv[1:]\ntry: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    "finally: open('/proc/self/fd/2', 'w').write('peak %d\\n' % resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
)


class Row(NamedTuple):
    case: str
    against: str
    ours: list[float]
    theirs: list[float]
    limit: float


def deploy(node: Node, count: int, image: str, tasks: int = 0, runs: bool = True) -> None:
    """Services up to that number, with so many tasks each, which run or fit on no node."""
    there = {service["Spec"]["Name"] for service in node.api("/services")}
    nowhere = {"Placement": {"Constraints": ["node.labels.nowhere==yes"]}}
    for number in range(count):
        name = f"service-{number:04}"
        if name not in there:
            spec = {
                "Name": name,
                "Mode": {"Replicated": {"Replicas": tasks}},
                "TaskTemplate": {"ContainerSpec": {"Image": image}, **({} if runs else nowhere)},
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
        self.peak = 0.0

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
            Row("5 services, a running task each", "the loop", ours, theirs, 1.25),
            Row("3 regions", "1 region", of_three, ours, 1.75),
        ]

    def many(self, what: str, rounds: int, limit: float) -> list[Row]:
        ours, theirs = take_turns(rounds, self.script, self.seed)
        return [Row(what, "the loop", ours, theirs, limit)]

    def bare(self, rounds: int) -> list[Row]:
        ours, theirs = take_turns(rounds, self.script, self.floor)
        return [Row("200 services due", "bare xargs", ours, theirs, 1.2)]

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
        return [Row(what, "inspect and ps", ours, theirs, 1.5)]


def measure(bench: Bench, rounds: int) -> Iterator[Row]:
    image, node = bench.lab.image(), bench.node
    bench.lab.login(node)
    node.docker("pull", image)  # services made through the API have no login
    deploy(node, 5, image, tasks=1)
    yield from bench.few(rounds)
    deploy(node, 200, image, tasks=1)
    yield from bench.many("200 services, a running task each", max(3, rounds // 2), 0.60)
    remove_all(node)
    deploy(node, 200, image)
    small = bench.many("200 services due", rounds, 0.60)
    yield from small
    yield from bench.bare(rounds)
    deploy(node, 1000, image)
    [large] = bench.many("1000 services due", max(3, rounds // 2), 0.56)
    yield large
    per_service = [[each / 1000 for each in large.ours], [each / 200 for each in small[0].ours]]
    yield Row("1,000 services, each", "200, each", *per_service, 1.0)
    bench.peak = bench.peak_megabytes()
    remove_all(node)
    deploy(node, 1000, image, tasks=3, runs=False)
    yield from bench.look(rounds)


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
    with Lab(engine=options.engine, managers=1, workers=0) as lab:
        bench = Bench(lab, options.python)
        rows = list(measure(bench, options.rounds))
    print(
        f"{os.cpu_count()} processors, {platform.machine()}, engine {options.engine}, seconds: median (range)\n"
    )
    print("| case | against | this script | that | ratio | at most |\n|---|---|---|---|---|---|")
    for row in rows:
        ratio = statistics.median(row.ours) / statistics.median(row.theirs)
        print(
            f"| {row.case} | {row.against} | {spread(row.ours)} | {spread(row.theirs)} | {ratio:.2f} | {row.limit:.2f} |"
        )
    print(
        f"| 1,000 services, peak memory of this process | - | {bench.peak:.0f} MB | - | - | 60 MB |"
    )


if __name__ == "__main__":
    main()
