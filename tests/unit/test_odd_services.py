"""Services of which docker says other things than today: the field, its value, what happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pretend.services import ECR, MISSING
from pretend.swarm import PretendSwarm

DUE, TOO_LONG, FAILED = "will be refreshed", "held back too long", "failed"
CONTAINER = "Spec.TaskTemplate.ContainerSpec"
POLICY = "Spec.TaskTemplate.RestartPolicy"

ODD_SERVICES: list[tuple[str, Any, str]] = [
    ("Spec", None, FAILED),
    ("Spec", MISSING, FAILED),
    ("Spec", 7, FAILED),
    ("Spec.Name", MISSING, FAILED),
    ("Spec.TaskTemplate", None, FAILED),
    ("Spec.TaskTemplate", MISSING, FAILED),
    ("ID", MISSING, FAILED),
    (CONTAINER, MISSING, FAILED),  # a plugin
    (CONTAINER, None, FAILED),
    (f"{CONTAINER}.Image", None, FAILED),
    (POLICY, None, DUE),
    (POLICY, MISSING, DUE),
    (POLICY, {}, DUE),
    (POLICY, {"MaxAttempts": "many"}, FAILED),
    (POLICY, {"MaxAttempts": [1]}, FAILED),
    (f"{CONTAINER}.Mounts", [{"Source": 7}, {"Source": "a"}], "held back"),
    ("Spec.Mode", None, FAILED),
    ("Spec.Mode", {}, FAILED),
    ("Spec.Mode", {"Replicated": {}, "Global": {}}, FAILED),
    ("Spec.Mode", {"Replicated": {"Replicas": "many"}}, FAILED),
    ("Spec.Mode", {"Elastic": {"Replicas": 7}}, TOO_LONG),
    ("Spec.OfALaterVersion", {"a": [1, None]}, DUE),
    ("Endpoint", MISSING, DUE),
    ("CreatedAt", None, FAILED),
    ("UpdatedAt", None, FAILED),
    ("PreviousSpec", None, DUE),
    ("PreviousSpec", {"TaskTemplate": None}, FAILED),
    ("UpdateStatus", None, DUE),
    ("UpdateStatus", {}, DUE),
    ("UpdateStatus", {"State": "completed", "CompletedAt": None}, DUE),
    ("UpdateStatus", {"State": "updating", "StartedAt": "yesterday"}, FAILED),
    ("UpdateStatus", {"State": "updating", "StartedAt": 7}, FAILED),
    ("UpdateStatus", {"State": "paused_by_a_later_version"}, TOO_LONG),
]


@pytest.mark.parametrize("field, value, outcome", ODD_SERVICES)
def test_an_odd_service(
    script: Any,
    swarm: PretendSwarm,
    looked_at: Callable[[str], Any],
    field: str,
    value: Any,
    outcome: str,
) -> None:
    # A name as long as docker allows.
    name = "odd".ljust(63, "x")
    swarm.add(name, inspect={field: value})

    try:
        service = looked_at(name)
        found = script.decide(service, ECR, script.parse([]))[0]
    except Exception:  # noqa: BLE001 (whatever it is, the service fails, and no other)
        found = FAILED
    assert found == outcome
