"""What docker is asked, and when; what one odd answer costs; and the last look."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pretend.calls import REGION, Run, add_all, ids_in, is_untouched, last_look
from pretend.runner import Answers, Call
from pretend.services import (
    ECR,
    ONE_SHOT,
    PAUSED,
    TOKEN_ONLY,
    UNSORTED,
    all_tasks,
    new_service,
    node_id,
)
from pretend.swarm import PretendSwarm, running

import ecr_swarm_login as script

# Which looks, and when


def test_a_run_asks_logs_in_looks_and_refreshes(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    """One question for all services, and one token for both logins."""
    names = add_all(swarm, 12)

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (0, names)
    for once in (
        script.LIST,
        script.VERSION,
        script.AWS_TOKEN,
        script.INSPECT,
        script.TASKS,
        script.SPECS,
    ):
        assert len(programs.calls_of(*once)) == 1 + (once == script.INSPECT), once
    calls = [call.argv for call in programs.calls]
    token, login = calls.index([*script.AWS_TOKEN, REGION]), calls.index([*script.LOGIN, ECR])
    [looks] = [calls.index(call.argv) for call in programs.calls_of(*script.SPECS)]
    assert token < login < looks < calls.index(programs.calls_of(*script.UPDATE)[0].argv)
    assert {call.stdin.decode().strip() for call in programs.calls_of(*script.LOGIN)} == set(
        swarm.tokens
    )


def test_only_services_in_ecr_are_looked_at(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    swarm.add("web")
    swarm.add("job", mode="global job", **ONE_SHOT)
    swarm.add("other", "nginx:1")

    run()

    [look] = programs.calls_of(*script.TASKS)
    ids = [swarm.service(name)["id"][:12] for name in ("web", "job")]
    assert sorted(look.argv[len(script.TASKS) :]) == sorted(ids)


def test_each_batch_is_looked_at_right_before_its_updates(
    run: Run, programs: Answers, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "BATCHES", (2, 1))
    monkeypatch.setattr(script, "BATCHES_AT_ONCE", 1)
    add_all(swarm, 6)

    run()

    steps = [
        step
        for call in programs.calls
        for step, beginning in (("look", script.TASKS), ("update", script.UPDATE))
        if call.argv[: len(beginning)] == list(beginning)
    ]
    assert steps == ["look", "update", "update"] * 3
    assert len(programs.calls_of(*script.LIST)) == 1


def test_which_tasks_and_nodes_are_looked_at(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    """All tasks that serve, in each run; the newest of each slot where a rollout is not settled; and
    the nodes of global services of which an update would touch something.
    """
    swarm.add("plain", replicas="2/2", past=["Failed", "Rejected"])
    swarm.add("global", mode="global", replicas="2/2")
    swarm.add("spread", mode="global", slots=["Running", "Complete"], restart="on-failure")
    swarm.add("paused", **PAUSED)

    run()

    wanted = [
        task for name in ("plain", "global", "spread") for task in running(swarm.service(name))
    ]
    wanted += [slot[0]["id"] for slot in swarm.service("paused")["slots"]]
    assert ids_in(programs.calls_of(*script.SPECS)) == sorted(wanted)
    assert ids_in(programs.calls_of(*script.NODES)) == sorted(map(node_id, (1, 2)))


def test_what_the_list_says_besides_is_read_nowhere(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    """Replicas count tasks on lost nodes, and those that are being stopped."""
    swarm.add("web")

    run()

    [call] = programs.calls_of(*script.LIST)
    assert call.argv[-1] == "{{.ID}} {{.Image}} {{.Name}}"


# Odd answers: one bad thing costs one service


def rewrite(
    programs: Answers, swarm: PretendSwarm, change: Callable[[str], str], *beginning: str
) -> None:
    """From now on docker prints its lines so, and ends with 0."""

    def answer(call: Call) -> dict[str, Any] | None:
        if call.argv[: len(beginning)] != list(beginning):
            return None
        answer = swarm.answer(call.argv, call.stdin, call.environ)
        assert answer
        lines = answer.stdout.split("\n")
        return {**answer._asdict(), "stdout": "\n".join(map(change, lines))}

    programs.answerers.insert(0, answer)


def spoil(
    programs: Answers, swarm: PretendSwarm, beginning: tuple[str, ...], name: str, text: str
) -> None:
    """From now on docker prints this instead of each line that is about a service."""
    id_ = swarm.service(name)["id"]

    def change(line: str) -> str:
        # More of an ID is not in the list.
        is_about = f'"{id_[:12]}' in line or line.startswith(id_[:12])
        return text.replace("ID", id_) if is_about else line

    rewrite(programs, swarm, change, *beginning)


# Python takes each of them for a line's end; Go's JSON writes only the last two in another way.
LINE_ENDS = "\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def test_line_ends_in_values(run: Run, swarm: PretendSwarm) -> None:
    """One in one service's environment failed all services, each hour."""
    names = []
    for number, character in enumerate(LINE_ENDS):
        text = f"before{character}after"
        names.append(f"odd-{number}")
        swarm.add(names[-1], inspect={"Spec.Labels": {"text": text, text: "text"}})

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (0, names)


# What cost the whole run: as docker prints it, and as the pretend swarm may say it.
HOSTILE = {
    '"DEEP"': "[" * 300_000 + "]" * 300_000,
    "Running 77 hours": f"Running {'7' * 5000} hours",
}


@pytest.mark.parametrize(
    "facts",
    [
        {"inspect": {"Spec.Labels": {"a": "DEEP"}}},
        {"slots": ["Running 77 hours"]},
        {"inspect": {"Spec.TaskTemplate.RestartPolicy.MaxAttempts": "many"}},
    ],
)
def test_what_cost_the_whole_run(
    run: Run, programs: Answers, swarm: PretendSwarm, facts: dict[str, Any]
) -> None:
    def change(line: str) -> str:
        for text, docker_prints in HOSTILE.items():
            line = line.replace(text, docker_prints)
        return line

    rewrite(programs, swarm, change, "docker", "service")
    swarm.add("web")
    swarm.add("odd", **facts)

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (1, ["web"])
    assert "; failed: odd: docker's output is unexpected" in outcome.last_line
    assert is_untouched(swarm, "odd")
    assert max(map(len, outcome.lines)) < 1500


@pytest.mark.parametrize("line", ["{", "id web", "id a b web"])
def test_a_line_of_the_list_that_cannot_be_read(
    run: Run, programs: Answers, swarm: PretendSwarm, line: str
) -> None:
    """Which service it is nobody knows, nor what else is not as it was."""
    swarm.add("odd")
    swarm.add("web")
    spoil(programs, swarm, script.LIST, "odd", line)

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (1, [])
    assert "; failed: docker's output is unexpected, or" in outcome.last_line


@pytest.mark.parametrize(
    "beginning, text",
    [
        (script.INSPECT, "{"),
        (script.TASKS, "null"),
        (script.TASKS, '{"ID": "ID"'),
        (script.SPECS, "null"),
        (script.SPECS, "{"),
    ],
)
def test_a_line_that_is_no_document_costs_its_own_service(
    run: Run, programs: Answers, swarm: PretendSwarm, beginning: tuple[str, ...], text: str
) -> None:
    """A dry run names it, too."""
    swarm.add("odd")
    swarm.add("web")
    [task] = all_tasks(swarm.service("odd"))
    task["id"] = swarm.service("odd")["id"]
    spoil(programs, swarm, beginning, "odd", text)

    dry, outcome = run("--dry-run"), run()

    assert (outcome.status, outcome.refreshed) == (1, ["web"])
    assert "; failed: odd: docker" in outcome.last_line
    assert "web will be refreshed" in dry.stderr and "; failed: odd: docker" in dry.last_line
    assert is_untouched(swarm, "odd")


def test_a_plugin_has_no_image(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("web")
    swarm.add("plugin", listing={"Image": ""})

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (0, ["web"])
    assert "plugin left alone: its image is " in outcome.stderr


def test_a_name_that_begins_another_service_s_id(run: Run, swarm: PretendSwarm) -> None:
    """docker prefers a name to the beginning of an ID: it shows, and would update, that one."""
    id_ = swarm.add("web")
    swarm.add(id_[:12])
    swarm.add("api")

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (1, sorted([id_[:12], "api"]))
    assert f"; failed: web: docker shows {id_[:12]} for ID {id_[:12]}" in outcome.last_line
    assert is_untouched(swarm, "web")


def test_two_services_named_after_each_other(run: Run, swarm: PretendSwarm) -> None:
    ids = [new_service(name, "")["id"] for name in ("a", "b")]
    for id_, other in zip(ids, reversed(ids)):
        swarm.services.append({**new_service(other[:12], f"{ECR}/app:2"), "id": id_})

    outcome = run()

    assert outcome.status == 0
    assert [it["version"] for it in swarm.services] == [2, 2]


@pytest.mark.parametrize("look", [script.INSPECT, script.TASKS])
def test_a_look_that_fails_once_is_taken_again(
    run: Run, programs: Answers, swarm: PretendSwarm, look: tuple[str, ...]
) -> None:
    names = add_all(swarm, 3)
    programs.answer(*look, programs.fp.any(), stderr="context deadline exceeded", exit_status=1)

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (0, names)
    assert "fail" not in outcome.stderr, "a batch that fails is no failure of its services"


def test_tasks_that_are_reaped_meanwhile_cost_nothing(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    """As with a task history limit of 1 and a few crash loops: docker names them, and fails."""
    names = add_all(swarm, 4)
    gone = all_tasks(swarm.service(names[0]))[0]

    def reap() -> None:
        gone["id"] = "reaped"

    programs.when(*script.SPECS, do=reap)

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (0, names)
    assert len(programs.calls_of(*script.SPECS)) == 1


# The last look

UNFORESEEN = (
    "restarts: its tasks are being replaced, which could not be foreseen; likely cause: after an"
    " engine upgrade docker writes the same spec differently"
)


def test_whose_tasks_are_replaced_is_named(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    """8: what is known, and a likely reason as a likely one. As a warning, and once: of files it was
    said before.
    """
    swarm.add("web")
    swarm.add("checked", is_of_older_engine=True, replicas="2/2")
    swarm.add("files", **UNSORTED)
    swarm.add("stuck", **PAUSED)
    swarm.add("refused")
    argv = swarm.update_of("refused")
    programs.answer(*argv, stderr="invalid argument", exit_status=1, times=99)

    outcome = run("--quiet")

    assert f"checked {UNFORESEEN}\n" in outcome.stderr
    assert "files will be refreshed, which restarts its tasks: the docker client" in outcome.stderr
    assert outcome.stderr.count("restarts: ") == 1
    assert "3 refreshed, 1 held back, 1 failed, 2 restarted in " in outcome.last_line
    # Only what was refreshed, and has no effects that were foreseen, is looked at again.
    again = [swarm.service(name)["id"] for name in ("web", "checked")]
    assert ids_in(programs.calls_of(*script.INSPECT)) == sorted(again)


def test_whose_image_is_not_pinned_may_run_a_newer_one(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("tagged", is_of_older_engine=True, has_digest=False)

    outcome = run()

    text = f"tagged {UNFORESEEN}; its tag is not pinned, so a newer image may start\n"
    assert text in outcome.stderr


STAY: dict[str, dict[str, Any]] = {
    "after a rollout": {"rollout": "completed", "previous": f"{ECR}/app:1", "hours_ago": 0},
    "rejected ones": {"replicas": "0/1", "others": "Rejected"},
    "some rejected": {"replicas": "1/2", "others": "Rejected", "restart": "on-failure"},
    "waiting ones": {"replicas": "0/1", "others": "Pending 7 hours"},
    "a refresh that met an outage": TOKEN_ONLY,
}


@pytest.mark.parametrize("facts", STAY.values(), ids=STAY)
def test_whose_tasks_stay_is_not_named(
    run: Run, swarm: PretendSwarm, facts: dict[str, Any]
) -> None:
    """Or that nobody misses."""
    swarm.add("web", **facts)

    outcome = run()

    assert outcome.refreshed == ["web"]
    assert "restart" not in outcome.stderr


def test_a_last_look_that_fails_costs_no_refresh(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    swarm.add("web", is_of_older_engine=True)
    programs.answer(*last_look(swarm, "web"), stderr="deadline exceeded", exit_status=1)

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (0, ["web"])
    assert swarm.service("web")["version"] == 2
    assert "docker service inspect failed with exit status 1: deadline exceeded" in outcome.stderr


def test_what_goes_before_the_last_look_hides_no_other(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    swarm.add("web", is_of_older_engine=True)
    swarm.add("gone")
    programs.when(*last_look(swarm, "gone"), do=lambda: swarm.remove("gone"))

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (0, ["gone", "web"])
    assert f"web {UNFORESEEN}" in outcome.stderr


def test_a_last_look_that_cannot_be_read_costs_no_refresh(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    swarm.add("web")
    programs.answer(*last_look(swarm, "web"), stdout="{")

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (0, ["web"])
    assert swarm.service("web")["version"] == 2
