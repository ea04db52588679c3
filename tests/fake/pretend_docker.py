"""What the pretend swarm's docker prints: its command line and its documents."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pretend_services import (
    MISSING,
    Service,
    has_ended,
    is_job,
    moment,
    newest_tasks,
    node_id,
    pinned,
)

OPTIONS_WITH_VALUE = {"--filter", "--format", "--type", "--username"}
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
    states = [task["state"] for task in newest_tasks(service)]
    replicas = f"{states.count('Running')}/{len(states)}"
    if is_job(service):
        replicas += f" ({states.count('Complete')}/{len(states)} completed)"
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
        "CreatedAt": service["created"],
        "UpdatedAt": moment(0),  # as under an autoscaler, which updates all the time
        "Spec": spec(service, service["image"]),
        "Endpoint": {"Spec": {}},
    }
    if service["previous"]:
        document["PreviousSpec"] = previous_spec(service)
    if service["rollout"]:
        document["UpdateStatus"] = {"State": service["rollout"], "StartedAt": service["begun"]}
        if service["rollout"].endswith("completed"):
            document["UpdateStatus"]["CompletedAt"] = service["begun"]
    for path, value in service["inspect"].items():
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
    return document


def spec(service: Service, image: str) -> dict:
    """A service's Spec with this image."""
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
    """What a task with this image is made of."""
    digest = f"@sha256:{hashlib.sha256(image.encode()).hexdigest()}"
    return {
        "ContainerSpec": {
            "Image": image + digest if pinned(service) else image,
            "Mounts": [
                {"Type": "volume", "Source": source, "Target": target}
                for source, target in service["mounts"]
            ],
        },
        "RestartPolicy": {
            "Condition": service["restart"],
            "MaxAttempts": service["max_attempts"],
        },
        "Placement": service["placement"],
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


def place(service: Service, task: dict) -> dict:
    """Where a task is: a global service has one a node, and no slots."""
    if service["mode"] == "global":
        return {"NodeID": node_id(task["slot"])}
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
    rejected = f"No such image: {task['image']}"
    is_nowhere = service["mode"] != "global" and task["state"] in ("New", "Allocated", "Pending")
    return {
        "ID": task["id"],
        "Name": f"{service['id']}.{where}",
        "Image": task["image"],
        "Node": "" if is_nowhere else node_id(task.get("node", task["slot"])),
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
