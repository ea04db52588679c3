"""A pretend swarm: what `docker` and `aws` answer about it, and what an update does to it.

The tests hold it in memory (see fakes.py), the demo's programs keep it in a file.
It changes as a real swarm was seen to change, at the speed of a test: an update
takes effect at once, and `let_time_pass` ends the rollouts that are under way.
Standard library only.
"""

from __future__ import annotations

import base64
import copy
import datetime
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ACCOUNT = "123456789012"
ECR = f"{ACCOUNT}.dkr.ecr.eu-central-1.amazonaws.com"
ECR_US = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com"
UPDATE = ("docker", "service", "update", "-d", "-q", "--with-registry-auth")

EXPIRED = "expired token"
DEPLOYED = "secret-eu-central-1-deployed"  # still good
OWN_LOGIN = "login of another registry"
MISSING = "(missing)"  # as a value in `inspect`: the field is not there at all

OPTIONS_WITH_VALUE = {"--format", "--type", "--username"}
OPTIONS_WITHOUT_VALUE = {
    "-d",
    "--detach",
    "-q",
    "--quiet",
    "--no-resolve",
    "--no-trunc",
    "--password-stdin",
    "--with-registry-auth",
}

State = dict  # JSON: kept in a file by the demo
Service = dict


class Answer(NamedTuple):
    stdout: str = ""
    stderr: str = ""
    exit_status: int = 0


class PretendSwarm:
    """The services and the logins; `answer` is the two programs' command line."""

    def __init__(self, state: State | None = None) -> None:
        self.state: State = state or {
            "account": ACCOUNT,
            "region": "",
            "leader": True,
            "issued": [],
            "services": [],
        }

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
        services: list[Service] = self.state["services"]
        return services

    def update_of(self, name: str) -> tuple[str, ...]:
        """The argv that updates this service."""
        return (*UPDATE, self.service(name)["id"])

    def remove(self, name: str) -> None:
        self.services.remove(self.service(name))

    @property
    def tokens(self) -> list[str]:
        """Every token that aws has handed out: none may show up where it can be read."""
        return list(self.state["issued"])

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
                parsed = parse(arguments[len(words) :])
                return parsed and command(*parsed, stdin, environ)
        return None

    def let_time_pass(self) -> None:
        """The rollouts that are under way come to their end."""
        for service in self.services:
            if service["rollout"] == "updating":
                end_rollout(service)

    # aws

    def _aws(self, arguments: list[str]) -> Answer | None:
        if arguments[:2] == ["ecr", "get-login-password"]:
            return self._get_login_password(arguments)
        if arguments[:2] == ["sts", "get-caller-identity"]:
            return Answer(self.state["account"] + "\n")
        if arguments == ["configure", "get", "region"]:
            region = self.state["region"]
            return Answer(region + "\n") if region else Answer(exit_status=1)
        return None

    def _get_login_password(self, arguments: list[str]) -> Answer:
        if "--region" not in arguments:
            return Answer(stderr="\nYou must specify a region.\n", exit_status=253)
        region = arguments[arguments.index("--region") + 1]
        # ECR hands out another token at each call, all of them good for 12 hours.
        token = f"secret-{region}-{len(self.state['issued']) + 1}"
        self.state["issued"].append(token)
        return Answer(token + "\n")

    # docker

    def _docker_commands(self) -> dict[tuple[str, ...], Any]:
        return {
            ("login",): self._login,
            ("service", "ls"): self._service_ls,
            ("service", "inspect"): self._service_inspect,
            ("service", "update"): self._service_update,
            ("service", "ps"): self._service_ps,
            ("inspect",): self._task_inspect,
            ("node", "inspect"): self._node_inspect,
        }

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

    def _login(
        self, options: dict, names: list[str], stdin: bytes, environ: Mapping[str, str]
    ) -> Answer:
        [host], token = names, stdin.decode().strip()
        if not token:
            text = "Error: Cannot perform an interactive login from a non TTY device\n"
            return Answer(stderr=text, exit_status=1)
        if not token_opens(token, host):
            text = f"login attempt to https://{host}/v2/ failed with status: 401 Unauthorized"
            return Answer(stderr=f"Error response from daemon: {text}\n", exit_status=1)
        path = docker_config(environ)
        config = json.loads(path.read_text()) if path.exists() else {}
        auth = base64.b64encode(f"{options['--username']}:{token}".encode()).decode()
        config.setdefault("auths", {})[host] = {"auth": auth}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config))
        return Answer("Login Succeeded\n")

    def _service_ls(self, options: dict, names: list[str], *_: Any) -> Answer:
        rows = [listing(service) for service in self.services]
        return Answer(render(options, rows))

    def _service_inspect(self, options: dict, names: list[str], *_: Any) -> Answer:
        found = [self._find(name) for name in names]
        documents = [inspection(service) for service in found if service]
        gone = [name for name in names if not self._find(name)]
        stderr = "".join(f"Error: no such service: {name}\n" for name in gone)
        return Answer(render(options, documents), stderr, 1 if gone else 0)

    def _service_update(
        self, options: dict, names: list[str], stdin: bytes, environ: Mapping[str, str]
    ) -> Answer:
        if len(names) != 1:
            text = '"docker service update" requires exactly 1 argument.\n'
            return Answer(stderr=text, exit_status=1)
        service = self._find(names[0])
        if not service:
            text = f"Error response from daemon: service {names[0]} not found\n"
            return Answer(stderr=text, exit_status=1)
        update(service, stored_login(service["image"], environ))
        return Answer(names[0] + "\n")

    def _service_ps(self, options: dict, names: list[str], *_: Any) -> Answer:
        found = [self._find(name) for name in names]
        rows = [
            ps_row(service, task)
            for service in found
            if service
            for task in in_order(all_tasks(service))
        ]
        gone = [name for name in names if not self._find(name)]
        if {"-q", "--quiet"} & set(options):
            options = {"--format": "{{.ID}}"}
        stderr = "".join(f"no such service: {name}\n" for name in gone)
        return Answer(render(options, rows), stderr, 1 if gone else 0)

    def _task_inspect(self, options: dict, names: list[str], *_: Any) -> Answer:
        documents = [
            task_inspection(service, task)
            for service in self.services
            for task in all_tasks(service)
            if task["id"] in names
        ]
        return Answer(render(options, documents), "", 0 if len(documents) == len(names) else 1)

    def _node_inspect(self, options: dict, names: list[str], *_: Any) -> Answer:
        document = {"ManagerStatus": {"Leader": self.state["leader"], "Reachability": "reachable"}}
        return Answer(render(options, [document]))


# The services


STARTING = ("pending", "assigned", "accepted", "preparing")  # what comes before a task's container

# What a test or the demo may say of a service, and what it is if nobody says.
FACTS: dict[str, Any] = {
    "mode": "replicated",
    "replicas": "1/1",  # running/wanted
    "others": "complete",  # the tasks that do not run: complete, rejected, failed, preparing, lost
    "past": (),  # the ends of each slot's former tasks, which had another image
    "restart": "any",
    "rollout": None,  # UpdateStatus.State
    "hours_ago": 1,  # when it began
    "previous": None,  # the image before the last deploy
    "on_previous": 0,  # how many running tasks still have it
    "oldest": None,  # the image they have if it is another: a second update overwrote the previous spec
    "works": True,  # whether the image's program comes up
    "on_failure": "pause",
    "mounts": (),  # (source, target) in the order of the spec
    "credentials": EXPIRED,
    "listing": {},  # fields of `docker service ls` that differ
    "inspect": {},  # the same for `docker service inspect`: {"Spec.Mode": None, "Spec": MISSING}
}


def new_service(name: str, image: str, **facts: Any) -> Service:
    """A service as plain data, JSON through and through."""
    unknown = set(facts).difference(FACTS)
    assert not unknown, f"no such facts: {unknown}"
    service = {**FACTS, **facts, "id": made_up_id(name), "name": name, "image": image}
    service["begun"] = moment(service.pop("hours_ago"))
    service["broken"] = [] if service.pop("works") else [image]
    service["mounts"] = [list(mount) for mount in service["mounts"]]
    service["tasks"] = new_tasks(service)
    service.update(runs=1, restarted=0, went_back=False, version=1)
    return service


def new_tasks(service: Service) -> list[dict]:
    running, wanted = (int(number) for number in service.pop("replicas").split("/"))
    others, on_previous = service.pop("others"), service.pop("on_previous")
    oldest = service.pop("oldest") or service["previous"]
    return [
        new_task(
            service["name"],
            slot,
            oldest if slot < on_previous else service["image"],
            "running" if slot < running else others,
        )
        for slot in range(wanted)
    ]


def all_tasks(service: Service) -> list[dict]:
    return [*service["tasks"], *past_tasks(service)]


def past_tasks(service: Service) -> list[dict]:
    """The tasks that swarm keeps of each slot besides the newest, the last one first."""
    former = f"{service['image']}-former"
    return [
        new_task(service["name"], task["slot"] - 1, former, state, generation=-1 - age)
        for task in service["tasks"]
        for age, state in enumerate(service["past"])
    ]


def new_task(name: str, slot: int, image: str, state: str, generation: int = 0) -> dict:
    return {
        "id": made_up_id(f"{name}.{slot}.{generation}"),
        "slot": slot + 1,
        "image": image,
        "state": state,
        "generation": generation,
    }


def made_up_id(seed: str) -> str:
    """25 characters, as swarm's IDs have, the same at every run."""
    return hashlib.sha256(seed.encode()).hexdigest()[:25]


def moment(hours_ago: float) -> str:
    """Docker's form: nanoseconds and a Z."""
    now = datetime.datetime.now(datetime.timezone.utc)
    then = now - datetime.timedelta(hours=hours_ago)
    return then.strftime("%Y-%m-%dT%H:%M:%S.%f") + "789Z"


def is_job(service: Service) -> bool:
    return str(service["mode"]).endswith("job")


def in_state(service: Service, state: str) -> int:
    """How many of the service's tasks are in this state."""
    return sum(task["state"] == state for task in service["tasks"])


# What an update does to a service


def update(service: Service, login: str) -> None:
    """`docker service update --with-registry-auth`, with all that it does besides."""
    # With no login the docker client sends `{}`, and the daemon stores that.
    is_new_login = login != service["credentials"]
    # The client sorts the mounts: https://github.com/docker/cli/issues/7226
    in_order = sorted(service["mounts"])
    is_resorted = service["mounts"] != in_order
    service.update(credentials=login, mounts=in_order, previous=service["image"])
    service["version"] += 1
    # Every update raises a job's iteration (swarmkit, manager/controlapi/service.go).
    if is_job(service):
        run_again(service)
        return
    # An update resets UpdateStatus and lets the rollout go on with the next batch.
    was, service["rollout"] = service["rollout"], None
    is_behind = any(task["image"] != service["image"] for task in service["tasks"])
    if is_behind and was in ("updating", "paused", "rollback_paused"):
        next_batch(service, was)
        return
    has_ended = any(task["state"] in ("complete", "failed", "lost") for task in service["tasks"])
    for task in service["tasks"]:
        # A changed login replaces the tasks that do not run (swarmkit, orchestrator/task.go).
        if is_resorted or (is_new_login and task["state"] != "running"):
            service["restarted"] += task["state"] == "running"
            replace(service, task)
    service["runs"] += is_new_login and has_ended


def run_again(service: Service) -> None:
    for task in service["tasks"]:
        replace(service, task)
    service["runs"] += 1


def next_batch(service: Service, was: str) -> None:
    """The rollout takes the next task; a broken image stops it again after that one."""
    behind = [task for task in service["tasks"] if task["image"] != service["image"]]
    is_broken = service["image"] in service["broken"]
    for task in behind[:1] if is_broken else behind:
        replace(service, task)
    service["rollout"] = was if is_broken else "completed"
    service["begun"] = moment(0)


def end_rollout(service: Service) -> None:
    if service["image"] not in service["broken"]:
        next_batch(service, "updating")
    elif service["on_failure"] != "rollback":
        service["rollout"] = "paused"
    elif service["previous"] in service["broken"]:
        # The rollback's target is the broken image itself: it stops there.
        next_batch(service, "rollback_paused")
    else:
        roll_back(service)


def roll_back(service: Service) -> None:
    service["image"] = service["previous"]
    service["rollout"], service["went_back"] = "rollback_completed", True
    for task in service["tasks"]:
        if task["image"] != service["image"]:
            replace(service, task)


def replace(service: Service, task: dict) -> None:
    """A new task in the slot of this one."""
    was_finished = task["state"] == "complete"
    slot, generation = task["slot"] - 1, task["generation"] + 1
    if not login_opens(service):
        state = "rejected"
    elif service["image"] in service["broken"]:
        state = "failed"
    else:
        state = "complete" if was_finished else "running"
    task.update(new_task(service["name"], slot, service["image"], state, generation))


# Logins


def registry_of(image: str) -> str:
    """The image's host, or the empty string for Docker Hub."""
    host, slash, _ = image.partition("/")
    return host if slash and ("." in host or ":" in host) else ""


def token_opens(token: str, host: str) -> bool:
    """One token opens all registries of its region, and those only."""
    match = re.search(r"\.dkr[.-]ecr(?:-fips)?\.([a-z0-9-]+)\.", host)
    return bool(match and token.startswith(f"secret-{match.group(1)}-"))


def login_opens(service: Service) -> bool:
    """Whether a node that does not have the image can pull it."""
    host, credentials = registry_of(service["image"]), service["credentials"]
    return not host or credentials == OWN_LOGIN or token_opens(credentials, host)


def docker_config(environ: Mapping[str, str]) -> Path:
    folder = environ.get("DOCKER_CONFIG") or os.path.join(environ.get("HOME", "/"), ".docker")
    return Path(folder, "config.json")


def stored_login(image: str, environ: Mapping[str, str]) -> str:
    """What the docker client finds for the image's registry; nothing is an empty string."""
    path = docker_config(environ)
    config = json.loads(path.read_text()) if path.exists() else {}
    host = registry_of(image)
    if host in config.get("credHelpers", {}) or "credsStore" in config:
        return OWN_LOGIN
    auth = config.get("auths", {}).get(host, {}).get("auth", "")
    return base64.b64decode(auth).decode().partition(":")[2]


# The command line


def parse(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]] | None:
    """Options and names, or None if an option is beyond the pretence."""
    options: dict[str, str] = {}
    names: list[str] = []
    rest = list(arguments)
    while rest:
        word, equals, value = rest.pop(0).partition("=")
        if not word.startswith("-"):
            names.append(word)
        elif word in OPTIONS_WITH_VALUE:
            options[word] = value if equals else rest.pop(0)
        elif word in OPTIONS_WITHOUT_VALUE:
            options[word] = ""
        else:
            return None
    return options, names


def render(options: Mapping[str, str], rows: list[dict]) -> str:
    """A JSON array, or with --format a line for each: {{json .}}, {{.Field.Field}}."""
    template = options.get("--format")
    if template is None:
        return json.dumps(rows, indent=4) + "\n"
    return "".join(fill_in(template, row) + "\n" for row in rows)


def fill_in(template: str, row: dict) -> str:
    def value(match: re.Match[str]) -> str:
        found: Any = row
        for key in match.group(2).split(".") if match.group(2) else ():
            found = found[key]
        if isinstance(found, str) and not match.group(1):
            return found
        return json.dumps(found, separators=(",", ":"))

    return re.sub(r"{{(json )?\.([\w.]*)}}", value, template)


# Docker's documents


def listing(service: Service) -> dict:
    """A row of `docker service ls`."""
    wanted = len(service["tasks"])
    replicas = f"{in_state(service, 'running')}/{wanted}"
    if is_job(service):
        replicas += f" ({in_state(service, 'complete')}/{wanted} completed)"
    return {
        "ID": service["id"][:12],
        "Name": service["name"],
        "Mode": service["mode"],
        "Replicas": replicas,
        "Image": service["image"],
        "Ports": "",
        **service["listing"],
    }


def inspection(service: Service) -> dict:
    """A document of `docker service inspect`."""
    document = {
        "ID": service["id"],
        "Version": {"Index": service["version"]},
        "CreatedAt": moment(24),
        "UpdatedAt": service["begun"],
        "Spec": spec(service, service["image"]),
        "Endpoint": {"Spec": {}},
    }
    if service["previous"]:
        document["PreviousSpec"] = spec(service, service["previous"])
    if service["rollout"]:
        document["UpdateStatus"] = {"State": service["rollout"], "StartedAt": service["begun"]}
        if service["rollout"].endswith("completed"):
            document["UpdateStatus"]["CompletedAt"] = service["begun"]
    for path, value in service["inspect"].items():
        put(document, path, value)
    return document


def spec(service: Service, image: str) -> dict:
    names = {"replicated job": "ReplicatedJob", "global job": "GlobalJob", "global": "Global"}
    mode: dict = {names.get(service["mode"], "Replicated"): {}}
    if service["mode"] == "replicated":
        mode["Replicated"]["Replicas"] = len(service["tasks"])
    return {
        "Name": service["name"],
        "Labels": {},
        "TaskTemplate": task_template(service, image),
        "Mode": mode,
        "UpdateConfig": {"Parallelism": 1, "FailureAction": service["on_failure"]},
    }


def task_template(service: Service, image: str) -> dict:
    return {
        "ContainerSpec": {
            # A deploy pins the tag to its digest.
            "Image": f"{image}@sha256:{hashlib.sha256(image.encode()).hexdigest()}",
            "Mounts": [
                {"Type": "volume", "Source": source, "Target": target}
                for source, target in service["mounts"]
            ],
        },
        "RestartPolicy": {"Condition": service["restart"]},
        "ForceUpdate": 0,
        "Runtime": "container",
    }


def put(document: dict, path: str, value: Any) -> None:
    """Set or remove one field: path is "Spec.TaskTemplate.RestartPolicy"."""
    *parents, field = path.split(".")
    for key in parents:
        document = document[key]
    document[field] = copy.deepcopy(value)
    if value == MISSING:
        del document[field]


def in_order(tasks: list[dict]) -> list[dict]:
    """Slot by slot, the newest first."""
    return sorted(tasks, key=lambda task: (task["slot"], -task["generation"]))


def ps_row(service: Service, task: dict) -> dict:
    """A row of `docker service ps --no-trunc --no-resolve`."""
    ended = task["state"] not in ("running", *STARTING)
    place = f"node-{task['slot']}" if service["mode"] == "global" else task["slot"]
    state = "running" if task["state"] == "lost" else task["state"]
    return {
        "ID": task["id"],
        "Name": f"{service['id']}.{place}",
        "Image": task["image"],
        "Node": f"node-{task['slot']}",
        "DesiredState": "Shutdown" if ended else "Running",
        "CurrentState": f"{state.capitalize()} 2 hours ago",
        "Error": f"No such image: {task['image']}" if task["state"] == "rejected" else "",
        "Ports": "",
    }


def task_inspection(service: Service, task: dict) -> dict:
    """A document of `docker inspect --type task`."""
    state = task["state"]
    # A node that is down says no more: its tasks stay as they were.
    status: dict = {"Timestamp": service["begun"], "State": "running" if state == "lost" else state}
    # A task that was rejected never had a container: it never ran.
    if state == "rejected":
        status["Err"] = f"No such image: {task['image']}"
    elif state in ("running", "complete", "failed", "lost"):
        exit_code = 1 if state == "failed" else 0
        status["ContainerStatus"] = {"ContainerID": made_up_id(task["id"]), "ExitCode": exit_code}
    return {
        "ID": task["id"],
        "ServiceID": service["id"],
        # A global service has one task a node, and no slots.
        **(
            {"NodeID": f"node-{task['slot']}"}
            if service["mode"] == "global"
            else {"Slot": task["slot"]}
        ),
        "Spec": task_template(service, task["image"]),
        "Status": status,
        # Swarm wants none of the tasks that have ended, restarted or not.
        "DesiredState": "running" if state in ("running", *STARTING) else "shutdown",
    }


# In words, for the demo


def describe(service: Service) -> str:
    """The service in a line: its rollout, its tasks, its login."""
    behind = sum(
        task["image"] != service["image"] and task["state"] == "running"
        for task in service["tasks"]
    )
    parts = [
        ROLLOUTS.get(service["rollout"], service["rollout"]),
        service["went_back"] and "rolled back",
        "" if is_job(service) else count_of_tasks(service),
        behind and f"{behind} of them old",
        in_state(service, "complete") and "ran " + times(service["runs"]),
        service["restarted"] and f"{service['restarted']} restarted",
        login_in_words(service),
    ]
    return ", ".join(part for part in parts if part)


ROLLOUTS = {
    None: "",
    "completed": "",
    "rollback_completed": "",
    "updating": "rollout under way",
    "paused": "rollout paused",
    "rollback_paused": "rollback stuck",
}


def count_of_tasks(service: Service) -> str:
    states = [state for state in ("rejected", "failed") if in_state(service, state)]
    count = f"{in_state(service, 'running')}/{len(service['tasks'])} run"
    return count + "".join(f", {in_state(service, state)} {state}" for state in states)


def times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def login_in_words(service: Service) -> str:
    if service["credentials"] == OWN_LOGIN:
        return "own login"
    if service["credentials"] == EXPIRED:
        return "token expired"
    if service["credentials"] == DEPLOYED:
        return "token of its deploy"
    return "token fresh" if login_opens(service) else "login wiped"
