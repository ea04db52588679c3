"""How fast the script is on a real swarm, next to the plain loop: make bench. Needs root.

Every case is a whole run, aws included. The commands that are compared take turns, after a
round to warm up; the table has the medians, their ratio and how far the rounds were apart.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from typing import Callable, NamedTuple

import registries
from lab import OTHER_REGION, REGION, SCRIPT, Lab, Node, ecr_host

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


def deploy(node: Node, count: int, image: str) -> None:
    """Services without replicas, so that what is measured are the updates."""
    there = len(node.api("/services"))
    for number in range(there, count):
        node.api(
            "/services/create",
            "POST",
            {
                "Name": f"service-{number:04}",
                "Mode": {"Replicated": {"Replicas": 0}},
                "TaskTemplate": {"ContainerSpec": {"Image": image}},
            },
        )


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
        regions = [
            f"--registry={ecr_host(region=region)}" for region in (OTHER_REGION, THIRD_REGION)
        ]
        ours, theirs, three = take_turns(
            rounds, self.script, self.seed, lambda: self.script(*regions)
        )
        return [
            Row("5 services, one region", "the loop", ours, theirs, 1.15),
            Row("3 regions", "1 region", three, ours, 1.5),
        ]

    def many(self, count: int, rounds: int, limit: float) -> list[Row]:
        ours, theirs = take_turns(rounds, self.script, self.seed)
        return [Row(f"{count} services due", "the loop", ours, theirs, limit)]

    def bare(self, rounds: int) -> list[Row]:
        ours, theirs = take_turns(rounds, self.script, self.floor)
        return [Row("200 services due", "bare xargs", ours, theirs, 1.15)]

    def dry(self, rounds: int) -> list[Row]:
        look = "docker service inspect $(docker service ls -q)"
        ours, theirs = take_turns(
            rounds, lambda: self.script("--dry-run"), lambda: self.shell(look)
        )
        return [Row("1,000 services, --dry-run", "ls and inspect", ours, theirs, 1.3)]


def measure(bench: Bench, rounds: int) -> list[Row]:
    image = bench.lab.image()
    deploy(bench.node, 5, image)
    rows = bench.few(rounds)
    deploy(bench.node, 200, image)
    rows += bench.many(200, rounds, 0.60) + bench.bare(rounds)
    small = rows[-2].ours
    deploy(bench.node, 1000, image)
    rows += bench.many(1000, max(3, rounds // 2), 0.56)
    per_service = [[value / 1000 for value in rows[-1].ours], [value / 200 for value in small]]
    rows.append(Row("1,000 services, each", "200, each", *per_service, 1.0))
    return rows + bench.dry(rounds)


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
        rows = measure(bench, options.rounds)
        peak = bench.peak_megabytes()
    print(
        f"{os.cpu_count()} processors, {platform.machine()}, engine {options.engine}, seconds: median (range)\n"
    )
    print("| case | against | this script | that | ratio | at most |\n|---|---|---|---|---|---|")
    for row in rows:
        ratio = statistics.median(row.ours) / statistics.median(row.theirs)
        print(
            f"| {row.case} | {row.against} | {spread(row.ours)} | {spread(row.theirs)} | {ratio:.2f} | {row.limit:.2f} |"
        )
    print(f"| 1,000 services, peak memory of this process | - | {peak:.0f} MB | - | - | 60 MB |")


if __name__ == "__main__":
    main()
