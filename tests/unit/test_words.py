"""What is said, word by word."""

from __future__ import annotations

import base64
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from fakes import Fakes
from pretend_swarm import ECR, ECR_US, PretendSwarm
from shared import (
    HEADLINE,
    ONE_SHOT,
    PAUSED,
    REGION_US,
    TOKEN,
    UNSORTED,
    Run,
    refreshed,
    story,
    write_config,
)

from ecr_swarm_login import PAUSES, TRY_SECONDS  # before a fixture shortens them

SORTED = "the docker client sorts its mounts and ulimits (docker/cli#7226)"
RESTARTS = f"its tasks restart: {SORTED}"
GO_ON = "to continue: docker service update --with-registry-auth"
LOGGED_IN = f"Docker login succeeded for {ECR}"
IN_N = "in N seconds"
NO_SUCH = "there is no such service: see docker service ls"


def stands_still(name: str, rollout: str) -> str:
    """Why a rollout is held back, and what a person can do."""
    return (
        f"its rollout is {rollout}, see docker service ps {name}; {GO_ON} {name};"
        f" to roll back: docker service rollback {name}"
    )


OTHER = "other left alone: its image is in no ECR registry, and its login would be replaced"
LEFT_OR_HELD = [
    "job left alone: it is a job, and would run again",
    "once left alone: its finished tasks would run again",
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
        HEADLINE,
        OTHER,
        LOGGED_IN,
        f"files to be refreshed: {RESTARTS}",
        *LEFT_OR_HELD,
        (
            "1 login, 2 refreshed, 3 left alone, 2 held back, 1 held back too long, 1 restarted"
            f" {IN_N}; held back too long: stuck: {stands_still('stuck', 'paused')}"
        ),
    ]


def test_a_run_with_names(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("web")
    swarm.add("stuck", **PAUSED, hours_ago=7)

    assert story(run("web", "stuck", "nix")) == [
        HEADLINE,
        LOGGED_IN,
        f"stuck held back too long: {stands_still('stuck', 'paused')}",
        f"nix failed: {NO_SUCH}",
        f"1 login, 1 refreshed, 1 held back too long, 1 failed {IN_N}; failed: nix: {NO_SUCH}",
    ]


def test_a_dry_run(run: Run, swarm: PretendSwarm) -> None:
    a_swarm_of_all_kinds(swarm)

    outcome = run("--dry-run", "--keep-rollback", "2", "--region", REGION_US)

    assert story(outcome) == [
        "Dry run: nothing is changed",
        OTHER,
        f"Would log in to {ECR}, your own registry in {REGION_US}",
        f"files to be refreshed: {RESTARTS}",
        *LEFT_OR_HELD,
        "web to be refreshed: it pulls from ECR",
        (
            "2 to be refreshed, 3 left alone, 2 held back, 1 held back too long in N seconds;"
            f" held back too long: stuck: {stands_still('stuck', 'paused')}"
        ),
    ]
    assert outcome.stdout == ""


def test_a_dry_run_of_all_services(run: Run, swarm: PretendSwarm) -> None:
    """It says of each what would happen to it."""
    a_swarm_of_all_kinds(swarm)

    outcome = run("--dry-run", "--all-services")

    other, *others = [
        re.sub("^(\\S+) .*?: ", r"\1 to be refreshed: as every service is, although ", line)
        for line in (OTHER, *LEFT_OR_HELD)
    ]
    lines = story(outcome)
    lines.remove(other)  # services of other registries come before or after those of ECR
    assert lines == [
        "Dry run: nothing is changed",
        f"Would log in to {ECR}",
        f"files to be refreshed: {RESTARTS}",
        *others,
        "web to be refreshed: it pulls from ECR",
        "8 to be refreshed in N seconds",
    ]


def test_a_manager_that_does_not_lead(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("web")
    swarm.state["leader"] = False

    assert story(run("--leader-only")) == [
        HEADLINE,
        "Another manager leads the swarm, and refreshes its services",
        LOGGED_IN,
        "1 login in N seconds",
    ]


def test_a_login(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("web")
    swarm.add("us", f"{ECR_US}/us:1")

    *logins, last = story(run("--login-only"))

    assert sorted(logins) == [LOGGED_IN, f"Docker login succeeded for {ECR_US}"]
    assert last == "2 logins in N seconds"


def test_a_swarm_without_services(run: Run, swarm: PretendSwarm) -> None:
    assert story(run()) == [HEADLINE, "No service uses ECR", "nothing was done in N seconds"]


def test_a_refresh_without_logins(run: Run, swarm: PretendSwarm, home: Path) -> None:
    good = {"auth": base64.b64encode(b"AWS:secret-eu-central-1-good").decode()}
    write_config(home, auths={ECR: good})
    swarm.add("web")
    swarm.add("us", f"{ECR_US}/us:1")

    outcome = run("--refresh-only")

    refused = (
        "docker holds no login that the registry takes:"
        f" docker login {ECR_US} failed with exit status 1: error: cannot perform an interactive"
        " login from a non-TTY device"
    )
    assert story(outcome) == [
        HEADLINE,
        *[f"us to be tried again in N seconds: {refused}"] * 3,
        f"us failed: {refused}",
        f"1 refreshed, 1 failed in N seconds; failed: us: {refused}",
    ]


def test_a_registry_that_fails_gets_one_line_for_all_its_services(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    for number in range(30):
        swarm.add(f"web-{number:02}")
    denied = {"stderr": "Unable to locate credentials", "exit_status": 253}
    fakes.answer(*TOKEN, fakes.fp.any(), **denied, times=4)

    outcome = run()

    reason = (
        f"Docker login failed for {ECR}: aws ecr"
        " get-login-password failed with exit status 253: Unable to locate credentials"
    )
    assert story(outcome) == [
        HEADLINE,
        *[f"30 services to be tried again in N seconds: {reason}"] * 3,
        f"30 services failed: {reason}",
        f"30 failed in N seconds; failed: 30 services: {reason}",
    ]


def test_more_than_three_reasons_stand_above(script: Any, capfd: Any) -> None:
    report = script.Report()
    script.log.addHandler(logging.StreamHandler(script.Stream(2)))
    for number in range(5):
        report.conclude(script.FAILED, f"reason {number}", f"web-{number}")

    assert report.end(logins=0) == 1
    script.log.handlers.clear()

    *lines, last = capfd.readouterr().err.splitlines()
    assert lines == [f"web-{number} failed: reason {number}" for number in range(5)]
    missing = last.partition("; failed: ")[2].split("; ")
    assert len(missing) == 4 and missing[-1] == "more is said above"


def test_what_is_tried_again(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("api")
    swarm.add("web")
    fakes.answer(*swarm.update_of("web"), stderr="out of sequence", exit_status=1, times=2)

    outcome = run()

    failed = "docker service update failed with exit status 123: out of sequence"
    assert story(outcome) == [
        HEADLINE,
        LOGGED_IN,
        *[f"web to be tried again in N seconds: {failed}"] * 2,
        "1 login, 2 refreshed in N seconds",
    ]
    # What is refreshed is not done again.
    assert outcome.stdout == "api\nweb\n"
    assert len(fakes.calls_of(*swarm.update_of("api"))) == 1


@pytest.mark.parametrize(
    "names, says",
    [
        (["a"], "a"),
        (["a", "b", "c"], "a, b, c"),
        (["a", "b", "c", "d"], "4 services"),
    ],
)
def test_services_are_named_as_long_as_they_are_few(
    script: Any, names: list[str], says: str
) -> None:
    assert script.label(names) == says


def test_no_other_story_is_told(run: Run, swarm: PretendSwarm) -> None:
    """That of the library sh names every program with its arguments."""
    swarm.add("web")

    assert "process started" not in run().stderr


def test_it_waits_longer_before_each_further_try(
    run: Run, fakes: Fakes, swarm: PretendSwarm, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (PAUSES, TRY_SECONDS) == ((1, 3, 9), 60)
    monkeypatch.setattr(script, "PAUSES", PAUSES)
    monkeypatch.setattr(script, "TRY_SECONDS", TRY_SECONDS)
    pauses = ["1", "3", "9", "60", "1"]
    (fakes.bin / "sleep").unlink()
    for seconds in pauses:
        fakes.answer("sleep", seconds)
    swarm.add("web")
    fakes.answer(*swarm.update_of("web"), stderr="out of sequence", exit_status=1, times=5)

    outcome = run("--tries", "2")

    assert (outcome.status, outcome.stdout) == (0, "web\n")
    assert [call.argv[1] for call in fakes.calls_of("sleep")] == pauses
    said = re.findall("web to be tried again in ([0-9]+) seconds?", outcome.stderr)
    assert said == pauses
