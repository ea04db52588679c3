"""The command line: what each option does, and what makes no sense."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes import Fakes
from pretend_services import login_opens
from pretend_swarm import ECR, ECR_US, UPDATE, PretendSwarm
from shared import (
    LS,
    ONE_SHOT,
    PAUSED,
    REGION,
    REGION_US,
    UNSORTED,
    Run,
    hosts_logged_in,
    is_untouched,
    last_line,
    story,
)


def test_login_only(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web")

    outcome = run("--login-only")

    assert (outcome.status, outcome.stdout) == (0, "")
    assert hosts_logged_in(fakes) == [ECR]
    assert not fakes.calls_of("docker", "service", "ps")
    assert is_untouched(swarm, "web")


@pytest.mark.parametrize("named", [["--region", REGION], ["--registry", ECR]])
def test_login_only_before_the_node_is_in_a_swarm(
    run: Run, fakes: Fakes, swarm: PretendSwarm, named: list[str]
) -> None:
    swarm.state["node"] = "none"

    outcome = run("--login-only", *named)

    assert outcome.status == 0
    assert hosts_logged_in(fakes) == [ECR]
    assert story(outcome) == [
        "Not in a swarm yet",
        f"Docker login succeeded for {ECR}",
        "1 login in N seconds",
    ]


def test_login_only_without_a_daemon(run: Run, swarm: PretendSwarm) -> None:
    swarm.state["node"] = "down"

    outcome = run("--login-only", "--registry", ECR)

    assert outcome.status == 1
    assert "failed to connect to the docker API" in last_line(outcome)
    assert "swarm yet" not in outcome.stderr


def test_a_refresh_before_the_node_is_in_a_swarm(run: Run, swarm: PretendSwarm) -> None:
    swarm.state["node"] = "none"

    outcome = run()

    assert outcome.status == 1
    assert "the run: not in a swarm yet: docker service ls failed" in last_line(outcome)


@pytest.mark.parametrize("leads, refreshed", [(True, "web\n"), (False, "")])
def test_leader_only(
    run: Run, fakes: Fakes, swarm: PretendSwarm, leads: bool, refreshed: str
) -> None:
    swarm.add("web")
    swarm.state["leader"] = leads

    outcome = run("--leader-only")

    assert (outcome.status, outcome.stdout) == (0, refreshed)
    assert hosts_logged_in(fakes) == [ECR]
    assert ("Another manager leads the swarm" in outcome.stderr) is not leads


@pytest.mark.parametrize(
    "created_hours_ago, status, outcome_of_it", [(1, 0, "held back"), (7, 3, "held back too long")]
)
def test_no_restart(
    run: Run, swarm: PretendSwarm, created_hours_ago: float, status: int, outcome_of_it: str
) -> None:
    swarm.add("web")
    swarm.add("it", **UNSORTED, created_hours_ago=created_hours_ago)

    outcome = run("--no-restart")

    assert (outcome.status, outcome.stdout) == (status, "web\n")
    assert f"it {outcome_of_it}: its tasks may restart once" in outcome.stderr
    assert swarm.service("it")["restarted"] == 0


@pytest.mark.parametrize("hours, kept", [("0", False), ("1", False), ("2", True), ("10", True)])
def test_keep_rollback(run: Run, swarm: PretendSwarm, hours: str, kept: bool) -> None:
    swarm.add("it", rollout="completed", previous=f"{ECR}/app:1", hours_ago=1)

    outcome = run("--keep-rollback", hours)

    assert (outcome.status, outcome.stdout) == (0, "" if kept else "it\n")
    assert ("it left alone: docker service rollback is kept" in outcome.stderr) is kept
    assert swarm.service("it")["previous"] == (f"{ECR}/app:1" if kept else f"{ECR}/app:2")


@pytest.mark.parametrize("option", ["-n", "--dry-run"])
def test_dry_run(run: Run, fakes: Fakes, swarm: PretendSwarm, home: Path, option: str) -> None:
    swarm.add("web")
    swarm.add("job", mode="global job", **ONE_SHOT)
    swarm.add("it", **UNSORTED)

    outcome = run(option, "--region", REGION_US)

    assert (outcome.status, outcome.stdout) == (0, "")
    assert not fakes.calls_of("aws") and not hosts_logged_in(fakes) and not fakes.calls_of(*UPDATE)
    assert f"Would log in to {ECR}, your own registry in {REGION_US}" in outcome.stderr
    for says in (
        "web to be refreshed: it pulls from ECR\n",
        "job left alone: it is a job",
        "it to be refreshed: its tasks may restart",
    ):
        assert says in outcome.stderr
    assert "Running docker update" not in outcome.stderr
    assert last_line(outcome).startswith("2 to be refreshed, 1 left alone in ")
    assert list(home.iterdir()) == []


def test_dry_run_without_aws(
    run: Run, fakes: Fakes, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks whether there is one, without a call."""
    swarm.add("web")
    monkeypatch.setattr("shutil.which", {"aws": None}.get)

    outcome = run("--dry-run")

    assert outcome.status == 1
    assert "aws: is not installed, or not on the PATH" in last_line(outcome)
    assert "web to be refreshed" in outcome.stderr
    assert not fakes.calls_of("aws")


def test_dry_run_without_aws_that_is_not_needed(
    run: Run, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm.add("web")
    monkeypatch.setattr("shutil.which", {"aws": None}.get)

    assert run("--dry-run", "--refresh-only").status == 0


def test_dry_run_of_all_services(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("job", mode="global job", **ONE_SHOT)
    swarm.add("other", "nginx:1")

    outcome = run("-n", "--all-services")

    for says in (
        "job to be refreshed: as every service is, although it is a job, and would run again",
        "other to be refreshed: as every service is, although its image is in no ECR registry",
    ):
        assert says in outcome.stderr
    assert [it["version"] for it in swarm.services] == [1, 1]


@pytest.mark.parametrize("option", ["-q", "--quiet"])
def test_quiet(run: Run, swarm: PretendSwarm, option: str) -> None:
    swarm.add("web")
    swarm.add("it", **PAUSED)

    assert run(option) == (0, "", "")
    assert login_opens(swarm.service("web"))


def test_quiet_still_warns(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("stuck", **PAUSED, hours_ago=7)

    outcome = run("--quiet", "no-such-service", "stuck")

    assert outcome.status == 1
    assert "no-such-service failed" in outcome.stderr
    assert "stuck held back too long" in outcome.stderr


# --tries


@pytest.mark.parametrize("node", ["down", "worker"])
@pytest.mark.parametrize("number, runs", [(["--tries", "3"], 3), (["--tries=1"], 1), ([], 1)])
def test_tries_after_a_failure(
    run: Run, fakes: Fakes, swarm: PretendSwarm, number: list[str], runs: int, node: str
) -> None:
    swarm.state["node"] = node

    outcome = run(*number)

    assert outcome.status == 1
    assert outcome.stderr.count("missing: the run: docker service ls") == runs
    assert outcome.stderr.count("Trying again in 0 seconds, ") == runs - 1
    if runs == 3:
        assert "Trying again in 0 seconds, 2 more" in outcome.stderr
        assert "Trying again in 0 seconds, 1 more" in outcome.stderr


def test_tries_end_with_the_first_that_goes_well(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("web")
    swarm.state["node"] = "worker"
    for do in (lambda: None, lambda: swarm.state.update(node="manager")):
        fakes.when(*LS, do=do)

    outcome = run("--tries", "8")

    assert (outcome.status, outcome.stdout) == (0, "web\n")
    assert outcome.stderr.count("Trying again") == 1


@pytest.mark.parametrize("hours_ago, status", [(1, 0), (7, 3)])
def test_nothing_is_tried_again_that_did_not_fail(
    run: Run, fakes: Fakes, swarm: PretendSwarm, hours_ago: float, status: int
) -> None:
    swarm.add("stuck", **PAUSED, hours_ago=hours_ago)

    assert run("--tries", "5").status == status

    assert len(fakes.calls_of(*LS)) == 1


def test_what_makes_no_sense_is_not_tried_again(run: Run, fakes: Fakes) -> None:
    assert run("--tries", "5", "--no-such-option").status == 2
    assert run("--tries", "5", "--keep-rollback", "11").status == 2


def test_each_try_is_a_minute_after_the_last(
    run: Run, fakes: Fakes, swarm: PretendSwarm, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "TRY_SECONDS", 60)
    (fakes.bin / "sleep").unlink()
    fakes.answer("sleep", "60")
    swarm.state["node"] = "worker"

    run("--tries", "2")

    assert [call.argv for call in fakes.calls_of("sleep")] == [["sleep", "60"]]


def test_each_try_has_the_time_of_a_run(
    run: Run, fakes: Fakes, swarm: PretendSwarm, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause is not taken from it, nor from what the pause is given."""
    monkeypatch.setattr(script, "RUN_SECONDS", 2.0)
    monkeypatch.setattr(script, "CLOSING_SECONDS", 0.1)
    monkeypatch.setattr(script, "TRY_SECONDS", 1.9)
    swarm.add("web")
    swarm.state["node"] = "worker"
    for do in (lambda: None, lambda: swarm.state.update(node="manager")):
        fakes.when(*LS, do=do)

    assert run("--tries", "2")[:2] == (0, "web\n")


# What makes no sense


ONLY = "--refresh-only logs in nowhere: leave out --login-only, --region and --registry"
SPARES = "--all-services spares none: leave out --no-restart and --keep-rollback"
A_REGION = "--region takes a region such as eu-central-1"
USAGE = [
    (["--no-such-option"], "unrecognized arguments: --no-such-option"),
    # a later version may have two options that begin so
    (["--dry"], "unrecognized arguments: --dry"),
    (["--refresh-only", "--login-only"], ONLY),
    (["--refresh-only", "--region", REGION], ONLY),
    (["--refresh-only", "--registry", ECR], ONLY),
    (["--all-services", "--no-restart"], SPARES),
    (["--all-services", "--keep-rollback", "2"], SPARES),
    *[
        (
            [f"--keep-rollback={hours}"],
            f"argument --keep-rollback: takes a number from 0 to 10, not '{hours}'",
        )
        for hours in ("-1", "11", "", "two", "1e9", "0.5", "nan", "-inf", "+1", " 1", "١", "007")
    ],
    *[
        ([f"--tries={tries}"], f"argument --tries: takes a number from 0 to 60, not '{tries}'")
        for tries in ("-1", "61", "", "two", "100")
    ],
    *[
        (["--region", region], A_REGION)
        for region in (
            "eu",
            "EU-CENTRAL-1",
            "eu-central-1.evil.example",
            "eu central 1",
            "-",
            "eu-central-1\n",
            "https://eu-central-1",
        )
    ],
    (["--region", "--login-only"], "argument --region: expected one argument"),
    (["--registry", f"https://{ECR}"], "--registry takes a host alone: leave out https://"),
    (["--registry", f"http://{ECR}/"], "--registry takes a host alone: leave out https://"),
]
A_HOST = "--registry takes a host such as 123456789012.dkr.ecr.eu-central-1.amazonaws.com"
LOOK_ALIKES = [
    "",
    "nginx",
    "public.ecr.aws",
    "ghcr.io",
    f"{ECR}.evil.example",
    f"evil.{ECR}",
    f"{ECR}/app",
    f"{ECR}:443",
    ECR.upper(),
    f"{ECR}\n",
    f" {ECR}",
    f"{ECR}.",
    ECR[1:],
    f"1{ECR}",
    ECR.replace(".dkr", "-dkr"),
]


@pytest.mark.parametrize("arguments, says", USAGE)
def test_usage(run: Run, fakes: Fakes, arguments: list[str], says: str) -> None:
    outcome = run(*arguments)

    assert outcome.status == 2
    assert last_line(outcome).partition(" error: ")[2] == says
    assert outcome.stdout == "" and "usage: " in outcome.stderr
    assert not fakes.calls


def test_a_look_alike_gets_no_token(run: Run, fakes: Fakes) -> None:
    outcomes = {host: run("--registry", host) for host in LOOK_ALIKES}

    assert {host: outcome.status for host, outcome in outcomes.items() if outcome.status != 2} == {}
    assert all(outcome.stderr.endswith(f" error: {A_HOST}\n") for outcome in outcomes.values())
    assert not fakes.calls


def test_one_look_alike_among_registries(run: Run, fakes: Fakes) -> None:
    outcome = run("--registry", ECR, "--registry", f"{ECR_US}.evil.example")

    assert outcome.status == 2
    assert not fakes.calls


# Without sh


@pytest.mark.parametrize(
    "arguments, status", [(["--help"], 0), (["--version"], 0), (["--no-such-option"], 2)]
)
def test_what_goes_without_sh(fakes: Fakes, script: Any, arguments: list[str], status: int) -> None:
    # Without site-packages there is no sh.
    outcome = fakes.run_program(sys.executable, "-IS", script.__file__, *arguments)

    assert outcome.status == status
    assert "library sh" not in outcome.stderr and "Traceback" not in outcome.stderr


def test_without_sh_one_line_says_how_to_get_it(fakes: Fakes, script: Any) -> None:
    outcome = fakes.run_program(sys.executable, "-IS", script.__file__)

    assert (outcome.status, outcome.stdout) == (1, "")
    [line] = outcome.stderr.splitlines()
    assert re.search("apt-get install python3-sh, or pip3 install 'sh<3'", line)
