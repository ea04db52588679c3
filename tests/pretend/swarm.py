"""A pretend swarm: what `docker` and `aws` answer about it, and what an update does to it.

The tests hold it in memory, the demo's programs keep it in a file. It changes
as a real swarm was seen to change, at the speed of a test: an update takes effect at once, and
`let_time_pass` ends the rollouts that are under way. Standard library only.

Here are the two programs; services.py has the services and what becomes of them,
docker.py what docker prints, texts.py what it says when something is wrong, and
logins.py the logins that it holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pretend import docker, logins
from pretend.docker import render
from pretend.services import (
    ECR,
    Service,
    all_tasks,
    end_rollout,
    is_wanted,
    new_service,
    node_id,
    update,
)
from pretend.texts import TEXTS

ACCOUNT = "123456789012"
ECR_US = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com"
UPDATE = ("docker", "service", "update", "-d", "-q", "--with-registry-auth")

State = dict  # JSON: kept in a file by the demo


class Answer(NamedTuple):
    """What a program prints, and its exit status."""

    stdout: str = ""
    stderr: str = ""
    exit_status: int = 0


class Asked(NamedTuple):
    """What a program was asked."""

    options: dict[str, list[str]]
    names: list[str]
    stdin: bytes
    environ: Mapping[str, str]


class PretendSwarm:
    """The services and the logins; `answer` is the two programs' command line."""

    def __init__(self, state: State | None = None) -> None:
        self.state: State = state or {
            "account": ACCOUNT,
            "client": "29",  # whose texts docker speaks
            "node": "manager",  # or worker, none (in no swarm), locked, down (no daemon)
            "leader": True,
            "context": "default",  # docker's current one
            "client_api": "1.52",
            "engine_api": "1.52",
            "nodes": {},  # by ID: what is not usual, as set_node has it
            "issued": [],  # the tokens that aws has handed out
            "kept": {},  # by host: what docker's credential store keeps
            "services": [],
        }

    # What a test says, and asks

    def add(self, name: str, image: str = f"{ECR}/app:2", **facts: Any) -> str:
        """Deploy a service; the facts are new_service's. Returns its ID."""
        service = new_service(name, image, **facts)
        self.services.append(service)
        return str(service["id"])

    def service(self, name: str) -> Service:
        """The service of this name or ID, which is there."""
        found = self._find(name)
        assert found, f"no service {name} in the pretend swarm"
        return found

    @property
    def services(self) -> list[Service]:
        """All services, in the order of their deploys."""
        services: list[Service] = self.state["services"]
        return services

    def update_of(self, name: str) -> tuple[str, ...]:
        """The argv that updates this service."""
        return (*UPDATE, self.service(name)["id"])

    def remove(self, name: str) -> None:
        """Remove a service, as somebody may at any moment."""
        self.services.remove(self.service(name))

    def set_node(self, number: int, **facts: Any) -> None:
        """Node 1 has the tasks of the first slot; the facts: availability, labels, and
        state: ready, down, or gone, of one that docker no longer shows."""
        self.state["nodes"][node_id(number)] = facts

    @property
    def tokens(self) -> list[str]:
        """Every token that aws has handed out: none may show up where it can be read."""
        return list(self.state["issued"])

    def let_time_pass(self) -> None:
        """The rollouts that are under way come to their end."""
        for service in self.services:
            if service["rollout"] == "updating":
                end_rollout(service)

    # The two programs

    def answer(
        self, argv: Sequence[str], stdin: bytes, environ: Mapping[str, str]
    ) -> Answer | None:
        """What the program says, or None if this is beyond the pretence."""
        program, *arguments = argv
        if program == "aws":
            return self._aws(arguments)
        if program != "docker":
            return None
        for words, command in self._docker_commands().items():
            if tuple(arguments[: len(words)]) == words:
                parsed = docker.parse(arguments[len(words) :])
                return parsed and self._docker(words, command, Asked(*parsed, stdin, environ))
        return None

    def _aws(self, arguments: list[str]) -> Answer | None:
        if arguments[:2] == ["ecr", "get-login-password"]:
            return self._get_login_password(arguments)
        if arguments[:2] == ["sts", "get-caller-identity"]:
            return Answer(self.state["account"] + "\n")
        return None

    def _get_login_password(self, arguments: list[str]) -> Answer:
        if "--region" not in arguments:
            return Answer(stderr="\nYou must specify a region.\n", exit_status=253)
        region = arguments[arguments.index("--region") + 1]
        return Answer(logins.new_token(self.state, region) + "\n")

    def _docker_commands(self) -> dict[tuple[str, ...], Any]:
        return {
            ("login",): self._login,
            ("version",): self._version,
            ("service", "ls"): self._service_ls,
            ("service", "inspect"): self._service_inspect,
            ("service", "update"): self._service_update,
            ("service", "ps"): self._service_ps,
            ("inspect",): self._inspect,
            ("node", "inspect"): self._node_inspect,
        }

    def _docker(self, words: tuple[str, ...], command: Any, asked: Asked) -> Answer:
        """The command's answer, or that of a daemon that cannot give one."""
        text = self._say(self.state["node"])
        if self.state["node"] == "down":
            known = f"{self.state['context']} {self.state['client_api']} "
            return Answer(known if words == ("version",) else "", text, 1)
        if words[0] in ("service", "node") and text:
            return Answer(stderr=f"Error response from daemon: {text}", exit_status=1)
        answer: Answer = command(asked)
        warning = logins.warning(self.state["client"], asked.environ)
        return answer._replace(stderr=warning + answer.stderr)

    def _say(self, what: str) -> str:
        """A text of this client, or the empty string."""
        text = TEXTS[self.state["client"]].get(what, "")
        return text and f"{text}\n"

    # docker

    def _find(self, name: str) -> Service | None:
        """By ID, else by name, else by the beginning of the ID, as docker does."""
        for is_meant in (
            lambda service: service["id"] == name,
            lambda service: service["name"] == name,
            lambda service: service["id"].startswith(name),
        ):
            for service in filter(is_meant, self.services):
                return service
        return None

    def _login(self, asked: Asked) -> Answer:
        """Log in with the token on stdin, or with the login that docker holds."""
        if "--password-stdin" in asked.options:
            said = logins.log_in(self.state, asked.names[0], asked.stdin, asked.environ)
        else:
            said = logins.prove(self.state, asked.names[0], asked.environ)
        return Answer(*said)

    def _version(self, asked: Asked) -> Answer:
        client = {"Context": self.state["context"], "DefaultAPIVersion": self.state["client_api"]}
        engine = {"APIVersion": self.state["engine_api"]}
        return Answer(render(asked.options, [{"Client": client, "Server": engine}]))

    def _service_ls(self, asked: Asked) -> Answer:
        return Answer(render(asked.options, map(docker.listing, self.services)))

    def _service_inspect(self, asked: Asked) -> Answer:
        found = [self._find(name) for name in asked.names]
        documents = [docker.inspection(service) for service in found if service]
        gone = [name for name in asked.names if not self._find(name)]
        prefix = TEXTS[self.state["client"]]["before no such service"]
        stderr = "".join(f"{prefix}no such service: {name}\n" for name in gone)
        return Answer(render(asked.options, documents), stderr, 1 if gone else 0)

    def _service_update(self, asked: Asked) -> Answer:
        if len(asked.names) != 1:
            text = '"docker service update" requires exactly 1 argument.\n'
            return Answer(stderr=text, exit_status=1)
        [name] = asked.names
        service = self._find(name)
        if not service:
            text = f"Error response from daemon: service {name} not found\n"
            return Answer(stderr=text, exit_status=1)
        host = logins.registry_of(service["image"])
        update(service, logins.held(self.state, host, asked.environ), self._lost_nodes())
        return Answer(name + "\n")

    def _lost_nodes(self) -> list[int]:
        """The numbers of the nodes that are drained or down."""
        nodes = {node_id(number): number for number in range(1, 10)}
        return [
            nodes[name]
            for name, facts in self.state["nodes"].items()
            if facts.get("availability", "active") != "active" or facts.get("state")
        ]

    def _service_ps(self, asked: Asked) -> Answer:
        rows = [
            docker.ps_row(service, task)
            for service in map(self._find, asked.names)
            if service
            for task in all_tasks(service)
        ]
        gone = [name for name in asked.names if not self._find(name)]
        stderr = "\n".join(f"no such service: {name}" for name in gone)
        return Answer(render(asked.options, rows), stderr, 1 if gone else 0)

    def _inspect(self, asked: Asked) -> Answer:
        """Of tasks, or of services as the daemon sends them."""
        if asked.options["--type"] == ["service"]:
            found = [self._find(name) for name in asked.names]
            return Answer(render(asked.options, [docker.sent(each) for each in found if each]))
        documents = {
            task["id"]: docker.task_inspection(service, task)
            for service in self.services
            for task in all_tasks(service)
        }
        found = [documents[name] for name in asked.names if name in documents]
        gone = [name for name in asked.names if name not in documents]
        stderr = "".join(f"Error: No such task: {name}\n" for name in gone)
        return Answer(render(asked.options, found), stderr, 1 if gone else 0)

    def _node_inspect(self, asked: Asked) -> Answer:
        nodes = {name: self.state["nodes"].get(name, {}) for name in asked.names}
        gone = [name for name in nodes if nodes[name].get("state") == "gone"]
        documents = [
            docker.node(name, self.state["leader"], nodes[name])
            for name in asked.names
            if name not in gone
        ]
        stderr = "".join(f"Error response from daemon: node {name} not found\n" for name in gone)
        return Answer(render(asked.options, documents), stderr, 1 if gone else 0)


def harmed(swarm: PretendSwarm) -> list[str]:
    """The services of which a task ran again, was stopped while it served, or lost its login."""
    return [
        service["name"]
        for service in swarm.services
        if service["runs"] > 1 or service["restarted"] or not service["credentials"]
    ]


def running(service: Service) -> list[str]:
    """The IDs of the tasks that run and are to go on."""
    return [
        task["id"] for task in all_tasks(service) if is_wanted(task) and task["state"] == "Running"
    ]
