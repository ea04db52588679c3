"""The pretend swarm's services in words, for the demo's table."""

from __future__ import annotations

from pretend.logins import DEPLOYED, EXPIRED, OWN_LOGIN
from pretend.services import Service, in_state, is_job, login_opens, newest_tasks

ROLLOUTS = {
    None: "",
    "completed": "",
    "rollback_completed": "",
    "updating": "rollout under way",
    "paused": "rollout paused",
    "rollback_paused": "rollback stuck",
}


def describe(service: Service) -> str:
    """The service in a line: its rollout, its tasks, its login."""
    behind = sum(
        task["image"] != service["image"] and task["state"] == "Running"
        for task in newest_tasks(service)
    )
    parts = [
        ROLLOUTS.get(service["rollout"], service["rollout"]),
        service["went_back"] and "rolled back",
        "" if is_job(service) else count_of_tasks(service),
        behind and f"{behind} of them old",
        in_state(service, "Complete") and "ran " + times(service["runs"]),
        service["restarted"] and f"{service['restarted']} restarted",
        login_in_words(service),
    ]
    return ", ".join(part for part in parts if part)


def count_of_tasks(service: Service) -> str:
    """How many are running, and what happened to the others."""
    states = [state for state in ("Rejected", "Failed") if in_state(service, state)]
    count = f"{in_state(service, 'Running')}/{len(service['slots'])} running"
    return count + "".join(f", {in_state(service, state)} {state.lower()}" for state in states)


def times(number: int) -> str:
    """How often."""
    return "once" if number == 1 else f"{number} times"


def login_in_words(service: Service) -> str:
    """What the swarm would show a registry."""
    if service["credentials"] == OWN_LOGIN:
        return "own login"
    if service["credentials"] == EXPIRED:
        return "token expired"
    if service["credentials"] == DEPLOYED:
        return "token of its deploy"
    return "token fresh" if login_opens(service) else "login wiped"
