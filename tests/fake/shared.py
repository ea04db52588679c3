"""What the tests share: commands by their beginning, kinds of services, and questions to a run."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import Call, Fakes, Outcome
from pretend_services import login_opens
from pretend_swarm import ACCOUNT, ECR, PretendSwarm

Run = Callable[..., Outcome]

REGION, REGION_US = "eu-central-1", "us-east-1"
ECR_OTHER_ACCOUNT = ECR.replace(ACCOUNT, "999999999999")

# How the calls begin.
LS = ("docker", "service", "ls")
INSPECT = ("docker", "service", "inspect", "--format", "{{json .}}")
CONTEXT = ("docker", "context", "inspect")
STATUS = ("docker", "service", "inspect", "--format", "{{.ID}} {{json .UpdateStatus}}")
PS = ("docker", "service", "ps", "--no-trunc", "--no-resolve", "--format", "{{json .}}")
SPECS = ("docker", "inspect", "--type", "task")
NODES = ("docker", "node", "inspect", "--format", "{{json .}}")
LEADER = ("docker", "node", "inspect", "self")
LOGIN = ("docker", "login", "--username", "AWS", "--password-stdin")
PROOF = ("docker", "login")  # and a host; LOGIN begins so, too
STS = ("aws", "sts", "get-caller-identity")
TOKEN = ("aws", "ecr", "get-login-password", "--region")
CONFIGURE = ("aws", "configure", "get", "region")

HEADLINE = "Running docker update swarm services registry auth"

# Kinds of services, as facts of pretend_services.
ONE_SHOT = {"replicas": "0/1", "others": "Complete"}
PAUSED = {
    "rollout": "paused",
    "previous": f"{ECR}/app:1",
    "replicas": "4/4",
    "on_previous": 3,
    "works": False,
}
UNSORTED = {"mounts": [("b", "/a"), ("a", "/b")]}
# A refresh that met an outage of the registry: nothing is left to roll out.
TOKEN_ONLY = {"rollout": "paused", "previous": f"{ECR}/app:2"}


class Bounds:
    """The script's constants, to be shortened."""

    def __init__(self, script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.script, self.monkeypatch = script, monkeypatch

    def set(self, **constants: Any) -> None:
        """By their names in the script, in small letters."""
        for name, value in constants.items():
            self.monkeypatch.setattr(self.script, name.upper(), value)
        if "program_seconds" in constants:
            defaults = self.script.Programs.run.__kwdefaults__
            self.monkeypatch.setitem(defaults, "seconds", constants["program_seconds"])


def hosts_logged_in(fakes: Fakes) -> list[str]:
    """The registries, in the order of the first login to each."""
    return list(dict.fromkeys(call.argv[-1] for call in fakes.calls_of(*LOGIN)))


def proofs(fakes: Fakes) -> list[Call]:
    """The calls in which docker shows that it holds a login."""
    return [call for call in fakes.calls_of(*PROOF) if len(call.argv) == 3]


def is_own(call: Call) -> bool:
    """Whether docker was given a folder of the run's own."""
    return "ecr_swarm_login-" in call.environ.get("DOCKER_CONFIG", "")


def ids_in(calls: list[Call]) -> list[str]:
    """The services or tasks that were asked for, in order, as far as the IDs are whole."""
    return sorted(
        word for call in calls for word in call.argv if re.fullmatch("[0-9a-f]{25}", word)
    )


def is_untouched(swarm: PretendSwarm, name: str) -> bool:
    """Whether nothing has updated the service."""
    return bool(swarm.service(name)["version"] == 1)


def holders_of_dead_logins(swarm: PretendSwarm) -> list[str]:
    """The services that no node could pull for."""
    return [service["name"] for service in swarm.services if not login_opens(service)]


def updates_of(fakes: Fakes, swarm: PretendSwarm, name: str) -> int:
    """How often docker was asked to update the service."""
    return len(fakes.calls_of(*swarm.update_of(name)))


def add_all(swarm: PretendSwarm, number: int) -> list[str]:
    """So many services, in the order of their names."""
    names = [f"web-{each:02}" for each in range(number)]
    for name in names:
        swarm.add(name)
    return names


def last_line(outcome: Outcome) -> str:
    """What the run did, in a line."""
    return outcome.stderr.splitlines()[-1]


def story(outcome: Outcome) -> list[str]:
    """What was said, line by line, whatever time it took."""
    return re.sub(r"[0-9]+(\.[0-9]+)? seconds", "N seconds", outcome.stderr).splitlines()


def refreshed(outcome: Outcome) -> list[str]:
    """The services that were refreshed, by name."""
    return sorted(outcome.stdout.split())


def write_config(home: Path, **config: Any) -> None:
    """The file in which docker keeps its logins."""
    (home / ".docker").mkdir(exist_ok=True)
    (home / ".docker" / "config.json").write_text(json.dumps(config))


def login_of(password: str) -> dict[str, str]:
    """An entry of config.json."""
    return {"auth": base64.b64encode(f"AWS:{password}".encode()).decode()}


def log_out(home: Path) -> None:
    """As `docker logout` does."""
    write_config(home, auths={})
