"""Services for tables of single functions, read by the script as docker shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pretend.services import ECR
from pretend.swarm import PretendSwarm

Made = Callable[..., Any]


@pytest.fixture
def made(swarm: PretendSwarm, looked_at: Callable[[str], Any]) -> Made:
    """made("Running", ["Preparing", "Rejected"], restart="none"): the service `web` as the script
    reads it. The tasks are in the language of pretend.services.new_task, the facts those of FACTS.

    A task's ID is the number of its slot, and a letter if there is a newer one: 1, 1a, 1b.
    """

    def made(*slots: str | list[str], image: str = f"{ECR}/app:1", **facts: Any) -> Any:
        swarm.services.clear()
        swarm.add("web", image, slots=list(slots), **facts)
        for number, tasks in enumerate(swarm.service("web")["slots"], 1):
            for age, task in enumerate(tasks):
                task["id"] = f"{number}{'abc'[age - 1] if age else ''}"
        return looked_at("web")

    return made


@pytest.fixture
def looked_at(script: Any, programs: Any, swarm: PretendSwarm) -> Callable[[str], Any]:
    """What the script makes of a service: the one place that knows how it looks. Raises Problem."""

    def look(name: str) -> Any:
        starter = script.Programs(script.program_environment())
        starter.begin_try(0)
        row = script.Row(swarm.service(name)["id"][:12], name, ECR)
        [service] = script.look(starter, "", [row]).services
        return service

    return look
