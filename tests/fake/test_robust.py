"""One bad thing costs one service: odd characters, odd names, odd documents."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes import Call, Fakes
from pretend_services import MISSING, all_tasks, login_opens, new_service
from pretend_swarm import ECR, PretendSwarm
from shared import (
    INSPECT,
    LS,
    PS,
    SPECS,
    STATUS,
    TOKEN_ONLY,
    Run,
    is_untouched,
    last_line,
    refreshed,
)

# Python takes each of them for a line's end; Go's JSON writes only the last two in another way.
LINE_ENDS = "\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def break_lines_of(
    fakes: Fakes, swarm: PretendSwarm, beginning: tuple[str, ...], name: str, text: str
) -> None:
    """From now on docker prints this for each line that is about a service, and ends with 0."""
    id_ = swarm.service(name)["id"][:12]  # more of it is not in the list

    def answer(call: Call) -> dict[str, Any] | None:
        if call.argv[: len(beginning)] != list(beginning):
            return None
        answer = swarm.answer(call.argv, call.stdin, call.environ)
        assert answer
        lines = answer.stdout.splitlines(keepends=True)
        broken = text.replace("ID", swarm.service(name)["id"]) + "\n"
        is_about = [f'"{id_}' in line or line.startswith(id_) for line in lines]
        stdout = [broken if it else line for line, it in zip(lines, is_about)]
        return {**answer._asdict(), "stdout": "".join(stdout)}

    fakes.answerers.insert(0, answer)


# Characters


@pytest.mark.parametrize("character", LINE_ENDS)
def test_a_line_end_in_a_value(run: Run, swarm: PretendSwarm, character: str) -> None:
    """One in one service's environment failed all services, each hour."""
    text = f"before{character}after"
    swarm.add("odd", inspect={"Spec.Labels": {"text": text, text: "text"}})
    swarm.add("web", listing={"Ports": text})

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (0, ["odd", "web"])


# Lines that are no JSON

NO_JSON = ["{", "null", "[]", '"ID"', '{"ID": "ID"', "\ufffd\0"]


@pytest.mark.parametrize("text", NO_JSON)
def test_a_line_of_the_list_that_is_no_json(
    run: Run, fakes: Fakes, swarm: PretendSwarm, text: str
) -> None:
    swarm.add("odd")
    swarm.add("web")
    break_lines_of(fakes, swarm, LS, "odd", text)

    outcome = run()

    # Which one it is, nobody knows.
    assert (outcome.status, outcome.stdout) == (1, "web\n")
    assert "1 services are listed in a way that cannot be read" in last_line(outcome)


@pytest.mark.parametrize("text", [*NO_JSON, "", "ID"])
@pytest.mark.parametrize("beginning", [INSPECT, PS])
def test_a_line_that_is_no_json_costs_its_own_service(
    run: Run, fakes: Fakes, swarm: PretendSwarm, beginning: tuple[str, ...], text: str
) -> None:
    swarm.add("odd")
    swarm.add("web")
    swarm.add("api")
    break_lines_of(fakes, swarm, beginning, "odd", text)

    outcome = run()

    is_named = beginning == INSPECT or "ID" in text
    assert refreshed(outcome) == ["api", *["odd"] * (not is_named), "web"]
    assert outcome.status == (1 if is_named else 0)
    assert ("odd failed: docker" in outcome.stderr) is is_named
    assert is_untouched(swarm, "odd") is is_named


def test_a_line_of_the_look_again_that_is_no_json(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("odd")
    swarm.add("web", is_of_older_engine=True)
    break_lines_of(fakes, swarm, STATUS, "odd", "ID {")

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (0, ["odd", "web"])
    assert "web restarts" in outcome.stderr


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"ID": None},
        {"Name": None},
        {"Name": ""},
        {"Image": None},
        {"Image": 7},
        {"ID": 7, "Name": ["web"]},
    ],
)
def test_an_odd_row_of_the_list(
    run: Run, fakes: Fakes, swarm: PretendSwarm, row: dict[str, Any]
) -> None:
    swarm.add("web")
    swarm.add("odd", listing=row)

    outcome = run()

    assert "web" in refreshed(outcome)
    assert "Traceback" not in outcome.stderr


# Names


def test_a_name_that_is_another_service_s_id(run: Run, swarm: PretendSwarm) -> None:
    id_ = swarm.add("web")
    swarm.add(id_)
    swarm.add(id_[:12])
    swarm.add("api")

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (0, sorted(["web", "api", id_, id_[:12]]))
    assert [it["name"] for it in swarm.services if it["version"] != 2] == []
    assert [it["name"] for it in swarm.services if not login_opens(it)] == []


def test_two_services_named_after_each_other(run: Run, swarm: PretendSwarm) -> None:
    ids = [new_service(name, "")["id"] for name in ("a", "b")]
    for id_, other in zip(ids, reversed(ids)):
        swarm.services.append({**new_service(other[:12], f"{ECR}/app:2"), "id": id_})

    outcome = run()

    assert outcome.status == 0
    assert [it["version"] for it in swarm.services] == [2, 2]


def test_a_name_that_is_an_id_does_not_lend_its_tasks(run: Run, swarm: PretendSwarm) -> None:
    """The tasks of each are its own: the one that starts is held back, and no other."""
    id_ = swarm.add("web", replicas="1/2", others="Preparing")
    swarm.add(id_[:12])

    outcome = run()

    assert (outcome.status, outcome.stdout) == (0, f"{id_[:12]}\n")
    assert "web held back: its tasks are starting" in outcome.stderr


def test_a_name_that_is_asked_for_is_not_an_id(run: Run, swarm: PretendSwarm) -> None:
    id_ = swarm.add("web")
    swarm.add(id_[:12])

    outcome = run(id_[:12])

    assert (outcome.status, outcome.stdout) == (0, f"{id_[:12]}\n")
    assert is_untouched(swarm, "web")


# A service of which docker says other things than today: the field, its value, what becomes of it.
ODD_SERVICES: list[tuple[str, Any, str]] = [
    ("Spec", None, "failed"),
    ("Spec", MISSING, "failed"),
    ("Spec.Name", MISSING, "failed"),
    ("Spec.TaskTemplate", None, "failed"),
    ("Spec.TaskTemplate", MISSING, "failed"),
    ("ID", MISSING, "failed"),
    ("Spec.TaskTemplate.ContainerSpec", MISSING, "left alone"),  # a plugin
    ("Spec.TaskTemplate.ContainerSpec", None, "left alone"),
    ("Spec.TaskTemplate.ContainerSpec.Image", None, "left alone"),
    ("Spec.TaskTemplate.RestartPolicy", None, "refreshed"),
    ("Spec.TaskTemplate.RestartPolicy", MISSING, "refreshed"),
    ("Spec.TaskTemplate.RestartPolicy", {}, "refreshed"),
    ("Spec.TaskTemplate.RestartPolicy", {"Condition": "on-full-moon"}, "refreshed"),
    ("Spec.TaskTemplate.ContainerSpec.Mounts", None, "refreshed"),
    ("Spec.TaskTemplate.ContainerSpec.Mounts", [None], "refreshed"),
    ("Spec.TaskTemplate.ContainerSpec.Mounts", [{"Type": "tmpfs", "Target": "/tmp"}], "refreshed"),
    ("Spec.Mode", None, "held back"),
    ("Spec.Mode", {"Elastic": {"Replicas": 7}}, "held back"),
    ("Spec.OfALaterVersion", {"a": [1, None]}, "refreshed"),
    ("Spec.TaskTemplate.OfALaterVersion", [], "refreshed"),
    ("Version", None, "refreshed"),
    ("Endpoint", MISSING, "refreshed"),
    ("CreatedAt", None, "refreshed"),
    ("UpdatedAt", None, "refreshed"),
    ("PreviousSpec", None, "refreshed"),
    ("PreviousSpec", {"TaskTemplate": None}, "refreshed"),
    ("UpdateStatus", None, "refreshed"),
    ("UpdateStatus", {}, "refreshed"),
    ("UpdateStatus", {"State": "completed", "CompletedAt": None}, "refreshed"),
    # Nobody knows since when, but nothing of the old is left: its only task has the new spec.
    ("UpdateStatus", {"State": "paused", "StartedAt": "0001-01-01T00:00:00Z"}, "refreshed"),
    ("UpdateStatus", {"State": "rollback_started", "StartedAt": None}, "held back"),
    ("UpdateStatus", {"State": "paused_by_a_later_version"}, "held back"),
]


def test_odd_services(run: Run, swarm: PretendSwarm) -> None:
    # as long as docker allows
    names = [f"{number:02}-".ljust(63, "x") for number in range(len(ODD_SERVICES))]
    for name, (field, value, _) in zip(names, ODD_SERVICES):
        swarm.add(name, inspect={field: value})

    outcome = run()

    assert outcome.status == 1
    expected = {name: outcome for name, (_, _, outcome) in zip(names, ODD_SERVICES)}
    assert refreshed(outcome) == [name for name in names if expected[name] == "refreshed"]
    lines = outcome.stderr.splitlines()[:-1]
    last_words = {name: line for line in lines for name in names if name in line}
    others = [name for name in names if expected[name] != "refreshed"]
    assert [name for name in others if expected[name] not in last_words[name]] == []


def test_a_service_that_docker_does_not_show_costs_itself(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("odd", inspect={"Spec": None})
    swarm.add("web")

    outcome = run()

    assert (outcome.status, outcome.stdout) == (1, "web\n")
    assert "odd: docker shows nothing of it that can be read" in last_line(outcome)
    assert is_untouched(swarm, "odd")


@pytest.mark.parametrize(
    "spec", ["null", "{}", '{"ID": "%s", "Spec": null}', '{"ID": "%s", "Spec": 7}', '["%s"]']
)
def test_an_odd_task_costs_its_own_service(
    run: Run, fakes: Fakes, swarm: PretendSwarm, spec: str
) -> None:
    swarm.add("web")
    swarm.add("stuck", **TOKEN_ONLY)
    [task] = all_tasks(swarm.service("stuck"))
    stdout = spec.replace("%s", task["id"]) + "\n"
    fakes.answer(*SPECS, fakes.fp.any(), stdout=stdout, times=99)

    outcome = run()

    assert "web" in refreshed(outcome)
    assert "Traceback" not in outcome.stderr
    assert is_untouched(swarm, "stuck")


def test_a_thing_that_nobody_thought_of_is_one_line(
    run: Run, swarm: PretendSwarm, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm.add("web")
    monkeypatch.setattr(script, "refresh_all", lambda *_: json.loads(None))  # type: ignore[arg-type]

    outcome = run()

    assert outcome.status == 1
    assert "the run failed: TypeError(" in outcome.stderr
    assert "Traceback" not in outcome.stderr
