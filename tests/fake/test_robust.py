"""One bad thing costs one service: odd characters, odd names, odd documents."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import Call, Fakes
from made import made
from pretend_services import MISSING, all_tasks, login_opens, new_service
from pretend_swarm import ECR, PretendSwarm
from shared import (
    INSPECT,
    LS,
    PS,
    SPECS,
    STATUS,
    TOKEN_ONLY,
    Bounds,
    Run,
    is_untouched,
    last_line,
    refreshed,
)

# Python takes each of them for a line's end; Go's JSON writes only the last two in another way.
LINE_ENDS = "\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def rewrite(
    fakes: Fakes, swarm: PretendSwarm, change: Callable[[str], str], *beginning: str
) -> None:
    """From now on docker prints its lines so, and ends with 0."""

    def answer(call: Call) -> dict[str, Any] | None:
        if call.argv[: len(beginning)] != list(beginning):
            return None
        answer = swarm.answer(call.argv, call.stdin, call.environ)
        assert answer
        lines = answer.stdout.split("\n")
        return {**answer._asdict(), "stdout": "\n".join(map(change, lines))}

    fakes.answerers.insert(0, answer)


def spoil(
    fakes: Fakes, swarm: PretendSwarm, beginning: tuple[str, ...], name: str, text: str
) -> None:
    """From now on docker prints this instead of each line that is about a service."""
    id_ = swarm.service(name)["id"]

    def change(line: str) -> str:
        # More of an ID is not in the list.
        is_about = f'"{id_[:12]}' in line or line.startswith(id_[:12])
        return text.replace("ID", id_) if is_about else line

    rewrite(fakes, swarm, change, *beginning)


# Characters


def test_line_ends_in_values(run: Run, swarm: PretendSwarm) -> None:
    """One in one service's environment failed all services, each hour."""
    names = []
    for number, character in enumerate(LINE_ENDS):
        text = f"before{character}after"
        names.append(swarm.service(swarm.add(f"odd-{number}"))["name"])
        swarm.service(names[-1])["inspect"] = {"Spec.Labels": {"text": text, text: "text"}}

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (0, names)


# What cost the whole run: as docker prints it, and as the pretend swarm may say it.
HOSTILE = {
    '"DEEP"': "[" * 300_000 + "]" * 300_000,
    "Running 77 hours": f"Running {'7' * 5000} hours",
}


@pytest.mark.parametrize(
    "name, facts, is_refreshed",
    [
        ("odd", {"inspect": {"Spec.Labels": {"a": "DEEP"}}}, False),
        ("odd", {"slots": [["Running 77 hours"]]}, False),
        ("odd", {"inspect": {"Spec.TaskTemplate.RestartPolicy.MaxAttempts": "many"}}, False),
    ],
)
def test_what_cost_the_whole_run(
    run: Run,
    fakes: Fakes,
    swarm: PretendSwarm,
    name: str,
    facts: dict[str, Any],
    is_refreshed: bool,
) -> None:
    def change(line: str) -> str:
        for text, docker_prints in HOSTILE.items():
            line = line.replace(text, docker_prints)
        return line

    rewrite(fakes, swarm, change, "docker", "service")
    swarm.add("web")
    swarm.add(name, **facts)

    outcome = run()

    assert "web" in refreshed(outcome) and login_opens(swarm.service("web"))
    assert outcome.status == (0 if is_refreshed else 1)
    assert is_untouched(swarm, name) is not is_refreshed
    assert "Traceback" not in outcome.stderr
    assert max(map(len, outcome.stderr.splitlines())) < 1500


# Lines that are no JSON


@pytest.mark.parametrize("line", ["", "{", "web", "id web"])
def test_a_line_of_the_list_that_cannot_be_read(
    run: Run, fakes: Fakes, swarm: PretendSwarm, line: str
) -> None:
    """Which service it is nobody knows, nor what else is not as it was."""
    swarm.add("odd")
    swarm.add("web")
    spoil(fakes, swarm, LS, "odd", line)

    outcome = run()

    is_line = bool(line)
    assert (outcome.status, refreshed(outcome)) == ((1, []) if is_line else (0, ["web"]))
    assert is_untouched(swarm, "web") is is_line
    assert (
        "failed: the run: docker shows what cannot be read: ValueError(" in last_line(outcome)
    ) is is_line


@pytest.mark.parametrize("beginning, text", [(INSPECT, "{"), (PS, "null"), (PS, '{"ID": "ID"')])
def test_a_line_that_is_no_json_costs_its_own_service(
    run: Run, fakes: Fakes, swarm: PretendSwarm, beginning: tuple[str, ...], text: str
) -> None:
    swarm.add("odd")
    swarm.add("web")
    spoil(fakes, swarm, beginning, "odd", text)

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (1, ["web"])
    assert "odd failed: docker" in outcome.stderr and "; failed: odd: docker" in outcome.stderr
    assert is_untouched(swarm, "odd")


def test_a_line_of_the_look_again_that_is_no_json(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("odd")
    swarm.add("web", is_of_older_engine=True)
    spoil(fakes, swarm, STATUS, "odd", "ID {")

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (0, ["odd", "web"])
    assert "web restarts" in outcome.stderr


def test_a_plugin_has_no_image(run: Run, swarm: PretendSwarm) -> None:
    """At the end of the list, where a space may be lost."""
    swarm.add("web")
    swarm.add("plugin", listing={"Image": ""})

    outcome = run()

    assert (outcome.status, outcome.stdout) == (0, "web\n")
    assert "plugin left alone: its image is in no ECR registry" in outcome.stderr


# Names


def test_a_name_that_begins_another_service_s_id(run: Run, swarm: PretendSwarm) -> None:
    """docker prefers a name to the beginning of an ID: it shows, and would update, that one."""
    id_ = swarm.add("web")
    swarm.add(id_[:12])
    swarm.add("api")

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (1, sorted([id_[:12], "api"]))
    assert f"web failed: docker shows {id_[:12]} for its ID {id_[:12]}" in outcome.stderr
    assert is_untouched(swarm, "web")


def test_a_name_that_is_a_whole_id(run: Run, swarm: PretendSwarm) -> None:
    id_ = swarm.add("web")
    swarm.add(id_)

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (0, sorted([id_, "web"]))
    assert [it["version"] for it in swarm.services] == [2, 2]


def test_two_services_named_after_each_other(run: Run, swarm: PretendSwarm) -> None:
    ids = [new_service(name, "")["id"] for name in ("a", "b")]
    for id_, other in zip(ids, reversed(ids)):
        swarm.services.append({**new_service(other[:12], f"{ECR}/app:2"), "id": id_})

    outcome = run()

    assert outcome.status == 0
    assert [it["version"] for it in swarm.services] == [2, 2]


# Documents


def what_becomes_of(script: Any, swarm: PretendSwarm, name: str) -> str:
    """Of one service in a run that asks the pretend swarm without starting a program."""

    def ask(*command: str, **_: Any) -> Any:
        answer = swarm.answer(command, b"", {})
        assert answer
        problem = script.Problem(answer.stderr) if answer.exit_status else None
        return script.Result(problem, (answer.stdout), answer.stderr)

    row = script.Row(swarm.service(name)["id"][:12], name, ECR)
    try:
        [service], _ = script.look(SimpleNamespace(run=ask), {name: row}, {})
        outcome, _ = script.decide(service, ECR, script.parse([]))
    except Exception:  # noqa: BLE001 (whatever it is, the service fails, and no other)
        return "failed"
    return str(outcome)


# A service of which docker says other things than today: the field, its value, what becomes of it.
ODD_SERVICES: list[tuple[str, Any, str]] = [
    ("Spec", None, "failed"),
    ("Spec", MISSING, "failed"),
    ("Spec", 7, "failed"),
    ("Spec.Name", MISSING, "failed"),
    ("Spec.TaskTemplate", None, "failed"),
    ("Spec.TaskTemplate", MISSING, "failed"),
    ("ID", MISSING, "failed"),
    ("Spec.TaskTemplate.ContainerSpec", MISSING, "failed"),  # a plugin
    ("Spec.TaskTemplate.ContainerSpec", None, "failed"),
    ("Spec.TaskTemplate.ContainerSpec.Image", None, "failed"),
    ("Spec.TaskTemplate.RestartPolicy", None, "to be refreshed"),
    ("Spec.TaskTemplate.RestartPolicy", MISSING, "to be refreshed"),
    ("Spec.TaskTemplate.RestartPolicy", {}, "to be refreshed"),
    ("Spec.TaskTemplate.RestartPolicy", {"Condition": "on-full-moon"}, "to be refreshed"),
    ("Spec.TaskTemplate.RestartPolicy", {"MaxAttempts": "many"}, "failed"),
    ("Spec.TaskTemplate.RestartPolicy", {"MaxAttempts": [1]}, "failed"),
    ("Spec.TaskTemplate.ContainerSpec.Mounts", None, "to be refreshed"),
    ("Spec.TaskTemplate.ContainerSpec.Mounts", [None], "to be refreshed"),
    ("Spec.TaskTemplate.ContainerSpec.Mounts", [{"Target": "/tmp"}], "to be refreshed"),
    ("Spec.TaskTemplate.ContainerSpec.Mounts", [{"Source": 7}, {"Source": "a"}], "failed"),
    ("Spec.Mode", None, "failed"),
    ("Spec.Mode", {}, "failed"),
    ("Spec.Mode", {"Elastic": {"Replicas": 7}}, "held back too long"),
    ("Spec.OfALaterVersion", {"a": [1, None]}, "to be refreshed"),
    ("Spec.TaskTemplate.OfALaterVersion", [], "to be refreshed"),
    ("Version", None, "failed"),
    ("Endpoint", MISSING, "to be refreshed"),
    ("CreatedAt", None, "failed"),
    ("UpdatedAt", None, "failed"),
    ("PreviousSpec", None, "to be refreshed"),
    ("PreviousSpec", {"TaskTemplate": None}, "failed"),
    ("UpdateStatus", None, "to be refreshed"),
    ("UpdateStatus", {}, "to be refreshed"),
    ("UpdateStatus", {"State": "completed", "CompletedAt": None}, "to be refreshed"),
    ("UpdateStatus", {"State": "rollback_started", "StartedAt": None}, "failed"),
    ("UpdateStatus", {"State": "paused_by_a_later_version"}, "held back too long"),
]


@pytest.mark.parametrize("field, value, outcome", ODD_SERVICES)
def test_an_odd_service(
    script: Any, swarm: PretendSwarm, field: str, value: Any, outcome: str
) -> None:
    # As long as docker allows.
    name = "odd".ljust(63, "x")
    swarm.add(name, inspect={field: value})

    assert what_becomes_of(script, swarm, name) == outcome


@pytest.mark.parametrize("spec", ["null", '{"ID": "%s", "Spec": null}'])
def test_an_odd_task_costs_its_own_service(
    run: Run, fakes: Fakes, swarm: PretendSwarm, spec: str
) -> None:
    swarm.add("web")
    swarm.add("stuck", **TOKEN_ONLY)
    [task] = all_tasks(swarm.service("stuck"))
    stdout = spec.replace("%s", task["id"]) + "\n"
    fakes.answer(*SPECS, fakes.fp.any(), stdout=stdout, times=99)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (1, "web\n")
    assert "Traceback" not in outcome.stderr
    assert is_untouched(swarm, "stuck")


def test_a_thing_that_nobody_thought_of_is_one_line(
    run: Run, swarm: PretendSwarm, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm.add("web")
    monkeypatch.setattr(script, "refresh_services", lambda *_: json.loads(None))  # type: ignore[arg-type]

    outcome = run()

    assert outcome.status == 1
    assert "; failed: the run: docker shows what cannot be read: TypeError(" in last_line(outcome)
    assert "Traceback" not in outcome.stderr


# What a first audit and an attack with stub programs found


def test_a_dry_run_names_the_one_that_spoils_a_batch(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("web")
    swarm.add("odd")
    spoil(fakes, swarm, INSPECT, "odd", "{")

    outcome = run("--dry-run")

    assert outcome.status == 1
    assert "web to be refreshed: it pulls from ECR" in outcome.stderr
    assert "failed: odd: docker shows what cannot be read" in last_line(outcome)


@pytest.mark.parametrize(
    "begin, length, is_shown", [(0, 400, False), (7, 50, False), (9, 15, True)]
)
def test_parts_of_a_token_are_not_shown(
    script: Any, begin: int, length: int, is_shown: bool
) -> None:
    token = "".join(chr(ord("a") + number * 7 % 26) + str(number) for number in range(300))
    part = token[begin : begin + length]

    said = script.in_one_line(f"AWS/{part}_x\n and password-{part}", [token])

    assert (part in said) is is_shown
    assert is_shown or said == "AWS/[secret]_x and password-[secret]"


def test_what_failed_and_is_refreshed_then_has_not_failed(script: Any) -> None:
    report = script.Report()

    report.conclude(script.FAILED, "some reason", "web")
    report.conclude(script.FAILED, "another", "api")
    report.conclude(script.DUE, script.PULLS, "web")
    assert report.reasons(script.FAILED) == "api: another"
    report.refreshed(made("Running", name="api"))

    assert report.end(1) == 0


def test_a_terminal_that_nobody_reads_holds_nobody_up(script: Any, bounds: Bounds) -> None:
    bounds.set(reader_seconds=0.1)
    master, slave = os.openpty()
    stream = script.Stream(slave)

    for _ in range(1000):
        stream.write(f"{'x' * 200}\n")

    assert os.read(master, 200) == b"x" * 200
    os.close(master)
    os.close(slave)
