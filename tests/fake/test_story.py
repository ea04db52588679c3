"""What is said, word by word."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from fakes import Fakes
from pretend_swarm import ECR, ECR_US, PretendSwarm
from shared import (
    ONE_SHOT,
    PAUSED,
    REGION_US,
    TOKEN,
    UNSORTED,
    Run,
    last_line,
    refreshed,
    story,
    write_config,
)

from ecr_swarm_login import PAUSES  # before a fixture shortens them

SORTED = "the docker client sorts its mounts and ulimits (docker/cli#7226)"
RESTARTS = f"its tasks may restart once: {SORTED}"
GO_ON = "to go on: docker service update --with-registry-auth"
LOGGED_IN = f"Docker login succeeded for {ECR}"
IN_N = "in N seconds"
NO_SUCH = "there is no such service: see docker service ls"
HEADLINE = "Running docker update swarm services registry auth"


def stands_still(name: str, rollout: str) -> str:
    """Why a rollout is held back, and what a person can do."""
    return (
        f"its rollout is {rollout}, see docker service ps {name}; {GO_ON} {name};"
        f" to go back: docker service rollback {name}"
    )


LEFT_OR_HELD = [
    "job left alone: it is a job, and would run again",
    "once left alone: its finished tasks would run again",
    "other left alone: its image is in no ECR registry, and its login would be replaced",
    f"rolling held back: {stands_still('rolling', 'updating')}",
    "starting held back: its tasks are starting, and an update would start them once more",
    f"stuck held back too long: {stands_still('stuck', 'paused')}",
]


def a_swarm_of_all_kinds(swarm: PretendSwarm) -> None:
    """A service of each kind, not in the order of their names."""
    swarm.add("web")
    swarm.add("other", "nginx:1")
    swarm.add("job", mode="global job", **ONE_SHOT)
    swarm.add("once", restart="none", **ONE_SHOT)
    swarm.add("stuck", **PAUSED, hours_ago=7)
    swarm.add("rolling", **{**PAUSED, "rollout": "updating"})
    swarm.add("starting", replicas="1/2", others="Preparing")
    swarm.add("files", **UNSORTED)


def test_a_run(run: Run, swarm: PretendSwarm) -> None:
    a_swarm_of_all_kinds(swarm)

    outcome = run()

    assert refreshed(outcome) == ["files", "web"]
    assert story(outcome) == [
        LOGGED_IN,
        HEADLINE,
        f"files to be refreshed: {RESTARTS}",
        *LEFT_OR_HELD,
        f"files restarts: {SORTED}",
        f"1 login, 2 refreshed, 3 left alone, 2 held back, 1 held back too long, 1 restarted {IN_N}",
    ]


def test_a_run_with_names(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("web")
    swarm.add("stuck", **PAUSED, hours_ago=7)

    assert story(run("web", "stuck", "nix")) == [
        f"nix failed: {NO_SUCH}",
        LOGGED_IN,
        HEADLINE,
        f"stuck held back too long: {stands_still('stuck', 'paused')}",
        f"1 login, 1 refreshed, 1 held back too long, 1 failed {IN_N}; missing: nix: {NO_SUCH}",
    ]


def test_a_dry_run(run: Run, swarm: PretendSwarm) -> None:
    a_swarm_of_all_kinds(swarm)

    outcome = run("--dry-run", "--keep-rollback", "2", "--region", REGION_US)

    assert story(outcome) == [
        f"Would log in to {ECR}, your own registry in {REGION_US}",
        "Dry run: nothing is changed",
        f"files to be refreshed: {RESTARTS}",
        *LEFT_OR_HELD,
        "web to be refreshed: it pulls from ECR",
        "2 to be refreshed, 3 left alone, 2 held back, 1 held back too long in N seconds",
    ]
    assert outcome.stdout == ""


def test_a_dry_run_of_all_services(run: Run, swarm: PretendSwarm) -> None:
    """It says of each what would happen to it."""
    a_swarm_of_all_kinds(swarm)

    outcome = run("--dry-run", "--all-services")

    although = [line.partition(": ")[2] for line in LEFT_OR_HELD]
    names = [line.partition(" ")[0] for line in LEFT_OR_HELD]
    assert story(outcome) == [
        f"Would log in to {ECR}",
        "Dry run: nothing is changed",
        f"files to be refreshed: {RESTARTS}",
        *[
            f"{name} to be refreshed: as every service is, although {reason}"
            for name, reason in zip(names, although)
        ],
        "web to be refreshed: it pulls from ECR",
        "8 to be refreshed in N seconds",
    ]


def test_a_manager_that_does_not_lead(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("web")
    swarm.state["leader"] = False

    assert story(run("--leader-only")) == [
        LOGGED_IN,
        "Another manager leads the swarm, and refreshes its services",
        "1 login in N seconds",
    ]


def test_a_login(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("web")
    swarm.add("us", f"{ECR_US}/us:1")

    assert story(run("--login-only")) == [
        LOGGED_IN,
        f"Docker login succeeded for {ECR_US}",
        "2 logins in N seconds",
    ]


def test_a_swarm_without_services(run: Run, swarm: PretendSwarm) -> None:
    assert story(run()) == ["No service uses ECR", HEADLINE, "nothing to do in N seconds"]


def test_a_refresh_without_logins(run: Run, swarm: PretendSwarm, home: Path) -> None:
    good = {"auth": base64.b64encode(b"AWS:secret-eu-central-1-good").decode()}
    write_config(home, auths={ECR: good})
    swarm.add("web")
    swarm.add("us", f"{ECR_US}/us:1")

    outcome = run("--refresh-only")

    refused = (
        f"not logged in to {ECR_US}: docker holds no login that the registry takes:"
        f" docker login {ECR_US} failed with exit status 1: error: cannot perform an interactive"
        " login from a non-TTY device: leave out --refresh-only, or log in"
    )
    assert story(outcome) == [
        HEADLINE,
        refused,
        f"us failed: {refused}",
        f"1 refreshed, 1 failed in N seconds; missing: us: {refused}",
    ]


def test_a_registry_that_fails_gets_one_line_for_all_its_services(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    for number in range(30):
        swarm.add(f"web-{number:02}")
    fakes.answer(*TOKEN, fakes.fp.any(), stderr="Unable to locate credentials", exit_status=253)

    outcome = run()

    reason = (
        f"not logged in to {ECR}: Failed to acquire docker login credentials: aws ecr"
        " get-login-password failed with exit status 253: Unable to locate credentials"
    )
    assert story(outcome) == [
        reason,
        HEADLINE,
        f"30 services failed: {reason}",
        f"30 failed in N seconds; missing: 30 services: {reason}",
    ]


def test_more_than_three_reasons_stand_above(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    for number in range(5):
        name = f"web-{number}"
        swarm.add(name)
        update = swarm.update_of(name)
        fakes.answer(*update, stderr=f"reason {number}", exit_status=1, times=9)

    outcome = run()

    missing = last_line(outcome).partition("; missing: ")[2].split("; ")
    assert len(missing) == 4 and missing[-1] == "more is said above"
    for number in range(5):
        assert f"web-{number} failed: docker service update failed with exit status 1: reason" in (
            outcome.stderr
        )


def test_what_is_tried_again(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web")
    fakes.answer(*swarm.update_of("web"), stderr="out of sequence", exit_status=1, times=2)

    assert story(run()) == [
        LOGGED_IN,
        HEADLINE,
        "web to be tried again: docker service update failed: out of sequence",
        "web to be tried again: docker service update failed with exit status 1: out of sequence",
        "1 login, 1 refreshed in N seconds",
    ]


def test_what_docker_does_not_show_is_tried_again(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("web")
    fakes.answer("docker", "service", "inspect", fakes.fp.any(), stdout="", times=2)

    outcome = run()

    assert outcome[:2] == (0, "web\n")


def test_the_name_of_a_problem_has_ten_services_at_most(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    names = [f"web-{number:02}" for number in range(12)]
    for name in names:
        swarm.add(name)
        fakes.answer(*swarm.update_of(name), stderr="no", exit_status=1)

    lines = [line for line in story(run()) if "to be tried again" in line]

    assert [line.partition(" to be")[0].split() for line in lines] == [names[:10], names[10:]]


def test_no_other_story_is_told(run: Run, swarm: PretendSwarm) -> None:
    """That of the library sh names every program with its arguments."""
    swarm.add("web")

    assert "process started" not in run().stderr


def test_it_waits_longer_before_each_further_try(
    run: Run, fakes: Fakes, swarm: PretendSwarm, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PAUSES == (1, 3, 9)
    monkeypatch.setattr(script, "PAUSES", (7, 8, 9))
    (fakes.bin / "sleep").unlink()
    for seconds in ("7", "8"):
        fakes.answer("sleep", seconds)
    swarm.add("web")
    fakes.answer(*swarm.update_of("web"), stderr="out of sequence", exit_status=1, times=2)

    assert run().status == 0

    assert [call.argv for call in fakes.calls_of("sleep")] == [["sleep", "7"], ["sleep", "8"]]
