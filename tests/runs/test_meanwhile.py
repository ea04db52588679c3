"""What happens while a run is under way: at which call, what, and who is refreshed then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from pretend.calls import ECR_OTHER_ACCOUNT, Run, add_all, is_untouched, updates_of
from pretend.runner import Answers, Call
from pretend.services import ECR, PAUSED, all_tasks
from pretend.swarm import ECR_US, PretendSwarm, harmed

import ecr_swarm_login as script

Event = Callable[[PretendSwarm], object]


class Row(NamedTuple):
    """At this call, which is still to be answered, this happens to a service or all of them."""

    at: tuple[str, ...]
    event: Event
    refreshed: str = "us web"
    says: str = ""


def goes(swarm: PretendSwarm) -> None:
    """Somebody removes it."""
    swarm.remove("it")


def becomes(**facts: Any) -> Event:
    """Somebody changes it, or deploys another of this name."""

    def change(swarm: PretendSwarm) -> None:
        swarm.remove("it")
        swarm.add("it", **facts)

    return change


def all_go(swarm: PretendSwarm) -> None:
    """As when a stack is removed."""
    swarm.services.clear()


def tasks_are_reaped(swarm: PretendSwarm) -> None:
    """As with a task history limit of 1 and a crash loop: docker no longer knows them."""
    for task in all_tasks(swarm.service("it")):
        task["id"] = task["id"][::-1]


def comes(swarm: PretendSwarm) -> None:
    """Somebody deploys one more."""
    swarm.add("new")


MOVED = "it held back: its image has just moved to another registry"
STARTS = "it held back: its tasks are starting"
ROLLS = "it held back: its rollout is paused"

TABLE = {
    "it goes before the login": Row(script.LOGIN, goes),
    "it goes before it is looked at": Row(script.INSPECT, goes),
    "it goes in mid-look": Row(script.TASKS, goes),
    "it goes before its tasks are looked at": Row(script.SPECS, goes),
    "it goes before its update": Row(script.UPDATE, goes),
    "all go": Row(script.LOGIN, all_go, refreshed=""),
    "one comes": Row(script.LOGIN, comes, refreshed="it us web"),
    "its tasks are reaped": Row(script.SPECS, tasks_are_reaped, refreshed="it us web"),
    "it moves to another registry": Row(
        script.LOGIN, becomes(image=f"{ECR_OTHER_ACCOUNT}/app:2"), says=MOVED
    ),
    "it moves to a registry that is known": Row(
        script.LOGIN, becomes(image=f"{ECR_US}/app:2"), says=MOVED
    ),
    "it moves out of ECR": Row(script.LOGIN, becomes(image="nginx:1"), says=MOVED),
    "it is scaled up while aws is slow": Row(
        script.AWS_TOKEN, becomes(replicas="1/3", others="Preparing 1 second"), says=STARTS
    ),
    "a rollout begins, and pauses": Row(script.LOGIN, becomes(**PAUSED), says=ROLLS),
}


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)
def test_meanwhile(run: Run, programs: Answers, swarm: PretendSwarm, row: Row) -> None:
    swarm.add("it")
    swarm.add("web")
    swarm.add("us", f"{ECR_US}/app:2")
    programs.when(*row.at, do=lambda: row.event(swarm))

    outcome = run()

    assert (outcome.status, " ".join(outcome.refreshed)) == (0, row.refreshed)
    assert row.says in outcome.stderr
    # What has gone, or is held back, has not failed.
    assert "failed" not in outcome.last_line and "will be" not in outcome.last_line
    assert harmed(swarm) == []
    assert not row.says or is_untouched(swarm, "it")


def test_a_rollout_that_begins_at_the_update(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    """That is looked at anew before the update is tried again."""
    swarm.add("it")
    update = swarm.update_of("it")
    programs.answer(*update, stderr="update out of sequence", exit_status=1)
    programs.when(*update, do=lambda: becomes(**PAUSED)(swarm))

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (0, [])
    assert ROLLS in outcome.stderr and is_untouched(swarm, "it")


def test_each_attempt_goes_by_a_new_list(run: Run, programs: Answers, swarm: PretendSwarm) -> None:
    """A registry that no service uses any more is not asked again, nor is a service that went."""
    swarm.add("moves", f"{ECR_OTHER_ACCOUNT}/app:2")
    swarm.add("goes", f"{ECR_OTHER_ACCOUNT}/app:2")
    programs.answer(*script.LOGIN, ECR_OTHER_ACCOUNT, stderr="denied", exit_status=1, times=99)

    def change() -> None:
        for name in ("moves", "goes"):
            swarm.remove(name)
        swarm.add("moves", f"{ECR}/app:2")
        swarm.add("comes")

    programs.when(*script.LIST, do=lambda: programs.when(*script.LIST, do=change))

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (0, ["comes", "moves"])
    assert outcome.last_line.startswith("1 login, 2 refreshed in ")


def test_services_that_vanish_all_the_time(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    """As of a CI system: nearly each look fails for the whole batch."""
    names = add_all(swarm, 5)
    left = [f"ci-{number}" for number in range(8)]
    for name in left:
        swarm.add(name)

    def remove_one(call: Call) -> None:
        if left and call.argv[: len(script.TASKS)] == list(script.TASKS):
            swarm.remove(left.pop())

    programs.answerers.insert(0, remove_one)  # type: ignore[arg-type]

    outcome = run()

    assert outcome.status == 0
    assert set(names) <= set(outcome.refreshed)


def test_what_fails_beside_a_service_that_vanishes(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    """It is alone in its batch in the end, and nobody is updated twice."""
    names = add_all(swarm, 4)
    swarm.add("gone")
    programs.when(*script.TASKS, do=lambda: swarm.remove("gone"))

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (0, names)
    assert [updates_of(programs, swarm, name) for name in names] == [1, 1, 1, 1]
