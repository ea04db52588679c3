"""The language of the table in test_faults.py: what may break, and how."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fakes import Call, Fakes
from pretend_swarm import ECR, ECR_US, PretendSwarm
from pretend_texts import TEXTS
from shared import LS, PS, Bounds, is_own, write_config

NO_TERMINAL = TEXTS["29"]["no terminal"]


class Scene(NamedTuple):
    """What a fault may break: `web` pulls from one region, `us` from another."""

    fakes: Fakes
    swarm: PretendSwarm
    patch: pytest.MonkeyPatch
    bounds: Bounds
    home: Path
    arguments: list[str]


Fault = Callable[[Scene], object]


def both(*faults: Fault) -> Fault:
    """One after the other."""
    return lambda scene: [fault(scene) for fault in faults]


def after(*event: str, then: Fault) -> Fault:
    """The fault comes with this call."""
    return lambda scene: scene.fakes.when(*event, do=lambda: then(scene))


# Programs


def says(*argv: str, **answer: Any) -> Fault:
    """The next call that begins so is answered so, or the next times."""
    return lambda scene: scene.fakes.answer(*argv, scene.fakes.fp.any(), **answer)


def fails(*argv: str, text: str = "denied by the test", status: int = 1, **answer: Any) -> Fault:
    """The same with a failure."""
    return says(*argv, stderr=text, exit_status=status, **answer)


def floods(*argv: str, stream: str, **answer: Any) -> Fault:
    """5 MB, which do not stay in memory for all other tests."""
    return lambda scene: says(*argv, **{stream: b"x" * 5_000_000}, **answer)(scene)


def hangs(*argv: str, orders: tuple[str, ...] = ("hang",), **answer: Any) -> Fault:
    """It hangs, in a run that is not patient."""
    return both(impatient, says(*argv, orders=orders, **answer))


def impatient(scene: Scene) -> None:
    """Wait less for what hangs, for what is deaf to SIGTERM, too, and try it once."""
    scene.bounds.set(
        program_seconds=3, stale_seconds=3, update_seconds=0.3, kill_seconds=0.2, pauses=()
    )


def not_at_home(text: str) -> Fault:
    """docker keeps no login to `web`'s registry in its own place; it says this."""

    def give(call: Call) -> dict[str, Any] | None:
        if is_own(call) or call.argv[-1] != ECR or call.argv[:2] != ["docker", "login"]:
            return None
        is_proof = len(call.argv) == 3
        return {"stderr": NO_TERMINAL if is_proof else text, "exit_status": 1}

    return lambda scene: scene.fakes.answerers.insert(0, give)


def no_process_left(scene: Scene) -> None:
    """The machine cannot start the next program."""
    fork = os.fork

    def fail_once() -> int:
        scene.patch.setattr(os, "fork", fork)
        raise BlockingIOError(11, "Resource temporarily unavailable")

    scene.patch.setattr(os, "fork", fail_once)


# The swarm


def node_is(state: str) -> Fault:
    """The node is no manager, or has no daemon."""
    return lambda scene: scene.swarm.state.update(node=state)


def update_of(name: str, **answer: Any) -> Fault:
    """What the next update of this service says."""
    return lambda scene: scene.fakes.answer(*scene.swarm.update_of(name), **answer)


def add(name: str, image: str = f"{ECR}/app:2", **facts: Any) -> Fault:
    """One more service."""
    return lambda scene: scene.swarm.add(name, image, **facts)


def removed(name: str) -> Fault:
    """One service less."""
    return lambda scene: scene.swarm.remove(name)


def half_of_the_list(scene: Scene) -> None:
    """`docker service ls` is killed when it has said half of it."""
    row = {"ID": "1", "Name": "us", "Image": f"{ECR_US}/app:2"}
    says(*LS, stdout=json.dumps(row) + "\n", signal=signal.SIGKILL, times=99)(scene)


def half_of_the_tasks(scene: Scene) -> None:
    """`docker service ps` is killed before it comes to the task that starts."""
    add("half", replicas="1/2", others="Preparing")(scene)
    says(*PS, stdout="", signal=signal.SIGKILL)(scene)


# The surroundings


def option(*words: str) -> Fault:
    """The run has this option."""
    return lambda scene: scene.arguments.extend(words)


def config_text(text: str) -> Fault:
    """The content of docker's config.json, as a person may have written it."""

    def write(scene: Scene) -> None:
        write_config(scene.home)
        (scene.home / ".docker" / "config.json").write_text(text)

    return write


def helper(name: str) -> Fault:
    """The credential helper of one registry."""
    return lambda scene: write_config(scene.home, credHelpers={ECR: name})
