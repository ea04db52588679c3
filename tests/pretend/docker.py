"""What the pretend swarm's docker prints: its command line and its documents."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pretend.services import (
    MISSING,
    Service,
    has_ended,
    image_of,
    node_id,
    pinned,
    spells_out,
    with_digest,
)

# What the client fills in where it shows a service's Spec, and nowhere else: swarmkit, api/defaults.
DEFAULTS = {
    "RestartPolicy": {"Condition": "any", "Delay": 5 * 10**9, "MaxAttempts": 0},
    "ContainerSpec": {"StopGracePeriod": 10 * 10**9, "DNSConfig": {}},
}
OPTIONS_WITH_VALUE = {"--format", "--type", "--username"}
OPTIONS_WITHOUT_VALUE = {
    "-d",
    "-q",
    "--no-resolve",
    "--no-trunc",
    "--password-stdin",
    "--with-registry-auth",
}


# The command line


def parse(arguments: Sequence[str]) -> tuple[dict[str, list[str]], list[str]] | None:
    """Options with their values, and names, or None if an option is beyond the pretence."""
    options: dict[str, list[str]] = {}
    names: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            names.append(word)
        elif word in OPTIONS_WITH_VALUE:
            options.setdefault(word, []).append(rest.pop(0))
        elif word in OPTIONS_WITHOUT_VALUE:
            options[word] = []
        else:
            return None
    return options, names


def render(options: Mapping[str, list[str]], rows: Iterable[dict]) -> str:
    """A JSON array, or with --format a line for each: {{json .}}, {{.Field.Field}}."""
    if "--format" not in options:
        return json.dumps(list(rows), indent=4) + "\n"
    [template] = options["--format"]
    return "".join(fill_in(template, row) + "\n" for row in rows)


def fill_in(template: str, row: dict) -> str:
    """A line of a Go template."""

    def value(match: re.Match[str]) -> str:
        """One {{...}} of it; what is not there is null."""
        found: Any = row
        for key in match.group(2).split(".") if match.group(2) else ():
            found = found.get(key)
        if isinstance(found, str) and not match.group(1):
            return found
        # Go escapes U+2028, but neither U+0085 nor other letters.
        text = json.dumps(found, separators=(",", ":"), ensure_ascii=False)
        return text.replace("\u2028", "\\u2028")

    return re.sub(r"{{(json )?\.([\w.]*)}}", value, template)


# Documents


def listing(service: Service) -> dict:
    """A row of `docker service ls`."""
    return {
        "ID": service["id"][:12],
        "Name": service["name"],
        "Image": image_of(service["image"]),
        **service["listing"],
    }


def inspection(service: Service) -> dict:
    """A document of `docker service inspect`."""
    document = {
        "ID": service["id"],
        "Version": {"Index": service["version"]},
        "CreatedAt": service["created"],
        "UpdatedAt": service["changed"],
        "Spec": spec(service, service["image"]),
        "Endpoint": {"Spec": {}},
    }
    template = document["Spec"]["TaskTemplate"]
    for part, defaults in DEFAULTS.items():
        template[part] = {**defaults, **template[part]}
    if service["previous"]:
        document["PreviousSpec"] = previous_spec(service)
    if service["rollout"]:
        document["UpdateStatus"] = {"State": service["rollout"], "StartedAt": service["begun"]}
        if service["rollout"].endswith("completed"):
            document["UpdateStatus"]["CompletedAt"] = service["begun"]
    for path, value in service["inspect"].items():
        put(document, path, value)
    return document


def sent(service: Service) -> dict:
    """The same as the daemon sent it: a client that is older shows less."""
    document = inspection(service)
    for path, value in service["unknown_to_client"].items():
        put(document, path, value)
    return document


def previous_spec(service: Service) -> dict:
    """A service's Spec before the last update."""
    document = spec(service, service["previous"])
    if service["then"] == "labels":
        document["Labels"] = {"older": "label"}
    elif service["then"] == "replicas":
        document["Mode"] = {"Replicated": {"Replicas": 99}}
    elif service["placed"] is not None:
        document["TaskTemplate"]["Placement"] = service["placed"]
    elif service["then"] == "endpoint":
        document["EndpointSpec"] = {"Ports": [{"TargetPort": 8080}]}
    return document


def spec(service: Service, image: str) -> dict:
    """A service's Spec with this image, as swarm stores it."""
    names = {"replicated job": "ReplicatedJob", "global job": "GlobalJob", "global": "Global"}
    mode: dict = {names.get(service["mode"], "Replicated"): {}}
    if service["mode"] == "replicated":
        scaled_to = service["scaled_to"]
        mode["Replicated"]["Replicas"] = len(service["slots"]) if scaled_to is None else scaled_to
    return {
        "Name": service["name"],
        "Labels": {},
        "TaskTemplate": task_template(service, image),
        "Mode": mode,
        "UpdateConfig": {"Parallelism": 1, "FailureAction": service["on_failure"]},
    }


def task_template(service: Service, image: str) -> dict:
    """What a task with this image is made of, as swarm stores it."""
    policy = {"Condition": service["restart"], "MaxAttempts": service["max_attempts"]}
    stored = {key: value for key, value in policy.items() if value not in ("any", 0)}
    if spells_out(image):
        stored["Condition"] = service["restart"]
    return {
        "ContainerSpec": {
            "Image": with_digest(image) if pinned(service) else image_of(image),
            "Mounts": [
                {"Type": "volume", "Source": source, "Target": target}
                for source, target in service["mounts"]
            ],
            **{key: value for key, value in service["container"].items() if value is not None},
        },
        "RestartPolicy": stored,
        "Placement": service["placement"],
        "ForceUpdate": 0,
        "Runtime": "container",
    }


def put(document: dict, path: str, value: Any) -> None:
    """Set or remove one field: path is "Spec.TaskTemplate.RestartPolicy"."""
    *parents, field = path.split(".")
    for key in parents:
        document = document.setdefault(key, {})
    document[field] = copy.deepcopy(value)
    if value == MISSING:
        del document[field]


def place(service: Service, task: dict) -> dict:
    """Where a task is: a global service has one a node, and no slots."""
    if service["mode"] == "global":
        return {"NodeID": node_id(task["node"])}
    return {"Slot": task["slot"]}


def node(id_: str, is_leader: bool, facts: dict) -> dict:
    """A document of `docker node inspect`; the facts are PretendSwarm.set_node's."""
    return {
        "ID": id_,
        "Spec": {
            "Role": "manager",
            "Availability": facts.get("availability", "active"),
            "Labels": facts.get("labels", {}),
        },
        "Description": {
            "Hostname": "manager",
            "Platform": {"Architecture": "x86_64", "OS": "linux"},
            "Engine": {"EngineVersion": "29.7.2"},
        },
        "Status": {"State": facts.get("state", "ready"), "Addr": "10.0.0.1"},
        "ManagerStatus": {"Leader": is_leader, "Reachability": "reachable"},
    }


def ps_row(service: Service, task: dict) -> dict:
    """A row of `docker service ps --no-trunc --no-resolve`."""
    [where] = place(service, task).values()
    rejected = f"No such image: {image_of(task['image'])}"
    is_nowhere = service["mode"] != "global" and task["state"] in ("New", "Allocated", "Pending")
    return {
        "ID": task["id"],
        "Name": f"{service['id']}.{where}",
        "Image": image_of(task["image"]),
        "Node": "" if is_nowhere else node_id(task["node"]),
        "DesiredState": task["desired"],
        "CurrentState": f"{task['state']} {task['since']} ago",
        "Error": task.get("error", rejected if task["state"] == "Rejected" else ""),
        "Ports": "",
    }


def task_inspection(service: Service, task: dict) -> dict:
    """A document of `docker inspect --type task`."""
    status: dict = {"Timestamp": service["begun"], "State": task["state"].lower()}
    if task["state"] == "Running" or has_ended(task):
        exit_code = 1 if task["state"] == "Failed" else 0
        status["ContainerStatus"] = {"ContainerID": task["id"][::-1], "ExitCode": exit_code}
    template = task_template(service, task["image"])
    if service["placed"] is not None:
        template["Placement"] = service["placed"]
    return {
        "ID": task["id"],
        "CreatedAt": task["created"],
        "ServiceID": service["id"],
        **place(service, task),
        "Spec": template,
        "Status": status,
        "DesiredState": task["desired"].lower(),
    }
