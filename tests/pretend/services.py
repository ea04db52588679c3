"""The pretend swarm's services as plain data, and what updates and rollouts do to them."""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Collection
from typing import Any

from pretend import logins
from pretend.logins import EXPIRED, OWN_LOGIN

MISSING = "(missing)"  # as a value in `inspect`: the field is not there at all

# swarmkit's task states, in its order.
WAITING = ("New", "Allocated", "Pending", "Assigned", "Accepted", "Preparing")
SERVING = ("Ready", "Starting", "Running")
OVER = ("Complete", "Shutdown", "Failed", "Rejected", "Remove", "Orphaned")

ECR = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"

Service = dict  # JSON through and through
Task = dict

# What a test or the demo may say of a service, and what it is if nobody says.
FACTS: dict[str, Any] = {
    "mode": "replicated",
    "replicas": "1/1",  # running/wanted
    "others": "Complete",  # the tasks that do not run, as in `slots`
    "past": (),  # the ends of each slot's former tasks, which had another image
    # Instead of these three: slot by slot its tasks, the newest first, or one task alone, in the
    # language of parts_of: ["Pending 7 hours", "Rejected"].
    "slots": None,
    "scaled_to": None,  # the replicas, if there are more slots: they are left over
    "restart": "any",
    "max_attempts": 0,
    "rollout": None,  # UpdateStatus.State
    "hours_ago": 1,  # when it began
    "created_hours_ago": 24,
    "changed_hours_ago": 0,  # as under an autoscaler, which updates all the time
    # The image before the last deploy. An image that ends in +any is of a spec that spells out a
    # default: --restart-condition any.
    "previous": None,
    "on_previous": 0,  # how many tasks still have it
    "oldest": None,  # the one they have if a second update overwrote the previous spec
    "works": True,  # whether the image's program comes up
    "on_failure": "pause",
    "placement": {},  # TaskTemplate.Placement
    "placed": None,  # the one that its tasks have, if it was changed since they began
    "then": None,  # what an update without a token has changed: labels, replicas, endpoint
    "mounts": (),  # (source, target) in the order of the spec
    "container": {},  # other settings of ContainerSpec
    "unknown_to_client": {},  # what an older client does not show, by its path in the document
    "has_digest": True,  # the image is pinned, as docker does when it can ask the registry
    "is_of_older_engine": False,  # docker writes its spec in another way than the one before
    "credentials": EXPIRED,
    "listing": {},  # fields of `docker service ls` that differ
    "inspect": {},  # the same for `docker service inspect`: {"Spec.Mode": None, "Spec": MISSING}
}

# Kinds of services, as facts.
ONE_SHOT = {"replicas": "0/1", "others": "Complete"}
# A deploy of an image that does not work: three of its four tasks are of the one before.
PAUSED: dict[str, Any] = {
    "rollout": "paused",
    "previous": f"{ECR}/app:1",
    "replicas": "3/4",
    "others": "Failed 10 minutes",
    "on_previous": 3,
    "works": False,
}
UNSORTED = {"mounts": [("b", "/a"), ("a", "/b")]}
# A refresh that met an outage of the registry: nothing is left to roll out.
TOKEN_ONLY: dict[str, Any] = {
    "rollout": "paused",
    "previous": f"{ECR}/app:2",
    "replicas": "1/2",
    "others": "Rejected 10 minutes",
}


def new_service(name: str, image: str, **facts: Any) -> Service:
    """A service; the facts are those of FACTS."""
    unknown = set(facts).difference(FACTS)
    assert not unknown, f"no such facts: {unknown}"
    service = {**FACTS, **facts, "id": made_up_id(name), "name": name, "image": image}
    service["begun"] = moment(service.pop("hours_ago"))
    service["created"] = moment(service.pop("created_hours_ago"))
    service["changed"] = moment(service.pop("changed_hours_ago"))
    service["broken"] = [] if service.pop("works") else [image]
    service["mounts"] = [list(mount) for mount in service["mounts"]]
    service["slots"] = new_slots(service)
    if service["placed"] is not None or service["then"]:
        service["previous"] = service["previous"] or image
    service.update(runs=1, restarted=0, went_back=False, version=1)
    return service


def new_slots(service: Service) -> list[list[Task]]:
    """The tasks, slot by slot, the newest first."""
    running, wanted = (int(number) for number in service.pop("replicas").split("/"))
    others, past = service.pop("others"), service.pop("past")
    slots = service["slots"]
    if slots is None:
        slots = [["Running" if slot < running else others, *past] for slot in range(wanted)]
    on_previous = service.pop("on_previous")
    oldest = service.pop("oldest") or service["previous"] or f"{service['image']}-older"
    tasks = []
    for number, texts in enumerate(slots, 1):
        slot = []
        for age, text in enumerate([texts] if isinstance(texts, str) else texts):
            is_older = number <= on_previous or "*" in text
            newest = oldest if is_older else service["image"]
            is_former = bool(slot) and not is_wanted(new_task("", 0, "", text))
            image = f"{service['image']}-former" if is_former else newest
            slot.append(new_task(f"{service['name']}.{number - 1}.{age}", number, image, text))
        tasks.append(slot)
    return tasks


def new_task(seed: str, slot: int, image: str, text: str) -> Task:
    """A task, by a text in the language of parts_of; a node is a number, and the mark is "*" if it
    is of an older spec.
    """
    state, age, desired, node, _ = parts_of(text)
    is_over = state in OVER
    usual = {"Ready": "Ready", "Remove": "Remove"}.get(state, "Shutdown" if is_over else "Running")
    return {
        "id": made_up_id(seed),
        "slot": slot,
        "node": int(node or slot),
        "image": image,
        "state": state,
        "since": age or "2 hours",
        "created": moment(hours_of(age or "2 hours")),
        "desired": desired or usual,
    }


def parts_of(text: str) -> list[str]:
    """What a text says of a task, in all tests: its state, its age as docker writes it, its desired
    state and its node where they are not as usual, and a mark: "Running", "Pending 7 hours",
    "Complete/Remove", "Running@2*". What is not said is "".
    """
    found = re.fullmatch(r"(\w+)( [^/@*~<-]+)?(/\w+)?(@\w+)?([*~<-]?)", text)
    assert found, text
    state, age, desired, node, mark = (part or "" for part in found.groups())
    return [state, age[1:], desired[1:], node[1:], mark]


def hours_of(age: str) -> float:
    """How long something lasts of which docker says "7 hours", or "less than a second"."""
    number, _, unit = age.partition(" ")
    units = {"second": 1 / 3600, "minute": 1 / 60, "hour": 1, "day": 24, "week": 7 * 24}
    return float(number) * units.get(unit.rstrip("s"), 0) if number.isdigit() else 0


def node_id(number: int) -> str:
    """The ID of a node: the tasks of the first slot are on node 1."""
    return made_up_id(f"node {number}")


def made_up_id(seed: str) -> str:
    """25 characters, as swarm's IDs have, the same at every run."""
    return hashlib.sha256(seed.encode()).hexdigest()[:25]


def image_of(image: str) -> str:
    """What docker calls it."""
    return image.partition("+")[0]


def spells_out(image: str) -> bool:
    """Whether it is of a spec that spells out a default."""
    return image.endswith("+any")


def with_digest(image: str) -> str:
    """As docker pins it, when it can ask the registry."""
    return f"{image_of(image)}@sha256:{hashlib.sha256(image_of(image).encode()).hexdigest()}"


def moment(hours_ago: float) -> str:
    """Docker's form: nanoseconds and a Z."""
    now = datetime.datetime.now(datetime.timezone.utc)
    then = now - datetime.timedelta(hours=hours_ago)
    return then.strftime("%Y-%m-%dT%H:%M:%S.%f") + "789Z"


# What they are


def is_job(service: Service) -> bool:
    """Whether its tasks are to end."""
    return str(service["mode"]).endswith("job")


def pinned(service: Service) -> bool:
    """Whether its image has a digest."""
    return bool(service["has_digest"])


def newest_tasks(service: Service) -> list[Task]:
    """The newest task of each slot."""
    return [slot[0] for slot in service["slots"]]


def all_tasks(service: Service) -> list[Task]:
    """Slot by slot, the newest first."""
    return [task for slot in service["slots"] for task in slot]


def is_wanted(task: Task) -> bool:
    """Whether swarm wants it to run."""
    return task["desired"] in ("Ready", "Running")


def has_ended(task: Task) -> bool:
    """Whether it ran, and is over."""
    return task["state"] in ("Complete", "Shutdown", "Failed")


def is_spared(service: Service, task: Task) -> bool:
    """Whether a changed login leaves it alone: swarmkit orchestrator/task.go, IsTaskDirty."""
    if task["desired"] == "Remove":
        return True
    return is_wanted(task) and task["state"] in SERVING and service["placed"] is None


def in_state(service: Service, state: str) -> int:
    """How many of the service's newest tasks are in this state."""
    return [task["state"] for task in newest_tasks(service)].count(state)


def login_opens(service: Service) -> bool:
    """Whether a node that does not have the image can pull it."""
    host, credentials = logins.registry_of(service["image"]), service["credentials"]
    return not host or credentials == OWN_LOGIN or logins.token_opens(credentials, host)


# What an update does


def update(service: Service, login: str, lost: Collection[int] = ()) -> None:
    """`docker service update --with-registry-auth`, with all that it does besides.

    What is on lost nodes, which a global service may not use, stays as it is.
    """
    is_new_login = login != service["credentials"]
    service["changed"] = moment(0)
    is_rewritten = rewrite(service)
    slots = [slot for slot in service["slots"] if not is_out(service, slot[0], lost)]
    dirty = [slot for slot in slots if not is_spared(service, slot[0]) and is_new_login]
    # With no login the docker client sends `{}`, and the daemon stores that.
    service.update(credentials=login, previous=service["image"], then=None)
    service["version"] += 1
    # Every update raises a job's iteration (swarmkit, manager/controlapi/service.go).
    if is_job(service):
        for slot in service["slots"]:
            replace(service, slot)
        service["runs"] += 1
        return
    # An update resets UpdateStatus and lets the rollout go on with the next batch.
    was, service["rollout"] = service["rollout"], None
    if slots_behind(service):
        # Nor does it matter whether UpdateStatus was wiped away before.
        next_batch(service, was or "paused")
        return
    service["placed"] = None
    service["runs"] += any(task[0]["state"] in ("Complete", "Failed", "Running") for task in dirty)
    begin_rollout(service, slots if is_rewritten else dirty)


def is_out(service: Service, task: Task, lost: Collection[int]) -> bool:
    """Whether an update starts nothing in its place: on a lost node, or after a scale-down."""
    if service["mode"] == "global":
        return task["node"] in lost
    return service["scaled_to"] is not None and task["slot"] > service["scaled_to"]


def rewrite(service: Service) -> bool:
    """Write the spec as the docker client does; tell whether it is another one now."""
    # It sorts the mounts (docker/cli#7226), and adds the tag that is missing.
    mounts, image = sorted(service["mounts"]), service["image"]
    if ":" not in image.rpartition("/")[2]:
        image += ":latest"
    is_other = mounts != service["mounts"] or image != service["image"]
    is_other = is_other or service["is_of_older_engine"] or bool(service["unknown_to_client"])
    service.update(mounts=mounts, image=image, is_of_older_engine=False, unknown_to_client={})
    return is_other


def begin_rollout(service: Service, dirty: list[list[Task]]) -> None:
    """Replace tasks. Without any that counts (see restarts_itself), there is no rollout."""
    is_rollout = any(is_wanted(slot[0]) or not restarts_itself(service, slot[0]) for slot in dirty)
    for slot in dirty:
        service["restarted"] += is_wanted(slot[0]) and slot[0]["state"] in SERVING
        replace(service, slot)
    if is_rollout:
        service["rollout"], service["begun"] = "completed", moment(0)


def restarts_itself(service: Service, task: Task) -> bool:
    """Whether swarm starts it again by itself: restart.go, shouldRestart."""
    if service["restart"] == "none" or service["max_attempts"]:
        return False
    return service["restart"] == "any" or task["state"] != "Complete"


def slots_behind(service: Service) -> list[list[Task]]:
    """The slots whose newest task has an older image."""
    return [slot for slot in service["slots"] if slot[0]["image"] != service["image"]]


def next_batch(service: Service, was: str) -> None:
    """The rollout takes the next task; a broken image stops it again after that one."""
    behind = slots_behind(service)
    is_broken = service["image"] in service["broken"]
    for slot in behind[:1] if is_broken else behind:
        replace(service, slot)
    service["rollout"] = was if is_broken else "completed"
    service["begun"] = moment(0)


def end_rollout(service: Service) -> None:
    """What becomes of a rollout that is under way."""
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
    """Go back to the previous image, which works."""
    service["image"] = service["previous"]
    service["rollout"], service["went_back"] = "rollback_completed", True
    for slot in slots_behind(service):
        replace(service, slot)


def replace(service: Service, slot: list[Task]) -> None:
    """A new task in the slot; the one before it is stopped."""
    before = slot[0]
    if not login_opens(service):
        state = "Rejected"
    elif service["image"] in service["broken"]:
        state = "Failed"
    else:
        state = "Complete" if before["state"] == "Complete" else "Running"
    seed = f"{service['name']}.{before['slot']}.after.{before['id']}"
    slot.insert(0, new_task(seed, before["slot"], service["image"], f"{state} less than a second"))
    before["desired"] = "Shutdown"
    if before["state"] not in OVER:
        before["state"] = "Shutdown"
