"""What a test asks of the calls of a run, and how these begin."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any, Callable

from pretend.runner import Answers, Call, Outcome
from pretend.services import login_opens
from pretend.swarm import ACCOUNT, ECR, PretendSwarm

import ecr_swarm_login as script

Run = Callable[..., Outcome]

REGION, REGION_US = "eu-central-1", "us-east-1"
ECR_OTHER_ACCOUNT = ECR.replace(ACCOUNT, "999999999999")

HEADLINE = "Running docker update swarm services registry auth"


def registry(number: int, region: str = REGION) -> str:
    """Every account has a registry of its own in each region."""
    return f"{number:012}.dkr.ecr.{region}.amazonaws.com"


# Calls


def hosts_logged_in(programs: Answers) -> list[str]:
    """The registries, in the order of the first login to each."""
    return list(dict.fromkeys(call.argv[-1] for call in programs.calls_of(*script.LOGIN)))


def proofs(programs: Answers) -> list[Call]:
    """The calls in which docker shows that it holds a login."""
    return [call for call in programs.calls_of(*script.PROOF) if len(call.argv) == 3]


def is_of_run(call: Call) -> bool:
    """Whether docker was given a folder of the run."""
    return "ecr_swarm_login-" in call.environ.get("DOCKER_CONFIG", "")


def ids_in(calls: list[Call]) -> list[str]:
    """The services or tasks that were asked for, in order, as far as the IDs are whole."""
    return sorted(
        word for call in calls for word in call.argv if re.fullmatch("[0-9a-f]{25}", word)
    )


def updates_of(programs: Answers, swarm: PretendSwarm, name: str) -> int:
    """How often docker was asked to update the service."""
    return len(programs.calls_of(*swarm.update_of(name)))


def looks_at(programs: Answers, swarm: PretendSwarm, name: str) -> list[int]:
    """Where among the calls those are that looked at the service before its update."""
    id_ = swarm.service(name)["id"][:12]
    return [
        programs.calls.index(call)
        for call in programs.calls_of(*script.INSPECT)
        if id_ in call.argv
    ]


def last_look(swarm: PretendSwarm, name: str) -> tuple[str, ...]:
    """How the last look begins, at services that were updated, the first of which is this: by their
    whole IDs.
    """
    return (*script.INSPECT, swarm.service(name)["id"])


def refuse_to_keep_login(programs: Answers, text: str) -> None:
    """docker keeps no login to ECR where it keeps logins by itself, and says this; in the folder of
    the run it does.
    """

    def refuse(call: Call) -> dict[str, Any] | None:
        is_meant = call.argv == [*script.LOGIN, ECR] and not is_of_run(call)
        return {"stderr": text, "exit_status": 1} if is_meant else None

    programs.answerers.insert(0, refuse)


# Services


def is_untouched(swarm: PretendSwarm, name: str) -> bool:
    """Whether nothing has updated the service."""
    return bool(swarm.service(name)["version"] == 1)


def holders_of_dead_logins(swarm: PretendSwarm) -> list[str]:
    """The services that no node could pull for."""
    return [service["name"] for service in swarm.services if not login_opens(service)]


def add_all(swarm: PretendSwarm, number: int) -> list[str]:
    """So many services, in the order of their names."""
    names = [f"web-{each:02}" for each in range(number)]
    for name in names:
        swarm.add(name)
    return names


# Logins that docker keeps


def write_config(home: Path, **config: object) -> None:
    """The file in which docker keeps its logins."""
    (home / ".docker").mkdir(exist_ok=True)
    (home / ".docker" / "config.json").write_text(json.dumps(config))


def login_of(password: str) -> dict[str, str]:
    """An entry of config.json."""
    return {"auth": base64.b64encode(f"AWS:{password}".encode()).decode()}


def log_out(home: Path) -> None:
    """As `docker logout` does."""
    write_config(home, auths={})
