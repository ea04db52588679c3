"""Which registries: whose tokens are asked for, and where the run logs in."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from fakes import Fakes
from pretend_swarm import ACCOUNT, ECR, ECR_US, PretendSwarm
from shared import (
    CONFIGURE,
    ECR_OTHER_ACCOUNT,
    LOGIN,
    REGION,
    REGION_US,
    STS,
    TOKEN,
    Run,
    hosts_logged_in,
    is_untouched,
    last_line,
    proofs,
    refreshed,
)


@pytest.mark.parametrize(
    "arguments, environment, hosts",
    [
        ([], {}, [ECR]),
        (["--registry", ECR_US], {}, [ECR, ECR_US]),
        (
            ["--registry", ECR_US, "--registry", ECR_OTHER_ACCOUNT],
            {},
            [ECR, ECR_US, ECR_OTHER_ACCOUNT],
        ),
        (["--registry", ECR], {}, [ECR]),
        (["--region", REGION_US], {}, [ECR, ECR_US]),
        (["--region", REGION], {}, [ECR]),
        ([], {"AWS_REGION": REGION_US}, [ECR, ECR_US]),
        ([], {"AWS_DEFAULT_REGION": REGION_US}, [ECR, ECR_US]),
        ([], {"AWS_REGION": REGION_US, "AWS_DEFAULT_REGION": "ap-south-1"}, [ECR, ECR_US]),
        (["--region", REGION_US], {"AWS_REGION": "ap-south-1"}, [ECR, ECR_US]),
        ([], {"AWS_REGION": "", "AWS_DEFAULT_REGION": REGION_US}, [ECR, ECR_US]),
        ([], {"AWS_REGION": "", "AWS_DEFAULT_REGION": ""}, [ECR]),
    ],
)
def test_registries(
    run: Run,
    fakes: Fakes,
    swarm: PretendSwarm,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    environment: dict[str, str],
    hosts: list[str],
) -> None:
    swarm.add("web")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    outcome = run("--login-only", *arguments)

    assert outcome.status == 0
    assert sorted(hosts_logged_in(fakes)) == sorted(hosts)
    assert sorted(call.argv[-1] for call in proofs(fakes)) == sorted(hosts)
    assert not fakes.calls_of(*CONFIGURE)


@pytest.mark.parametrize(
    "region, suffix",
    [
        (REGION_US, "amazonaws.com"),
        ("us-gov-west-1", "amazonaws.com"),
        ("cn-north-1", "amazonaws.com.cn"),
        ("eusc-de-east-1", "amazonaws.eu"),
        ("us-iso-east-1", "c2s.ic.gov"),
        ("us-isob-east-1", "sc2s.sgov.gov"),
        ("eu-isoe-west-1", "cloud.adc-e.uk"),
        ("us-isof-south-1", "csp.hci.ic.gov"),
    ],
)
def test_the_account_s_own_registry(
    run: Run, fakes: Fakes, swarm: PretendSwarm, region: str, suffix: str
) -> None:
    outcome = run("--login-only", "--region", region)

    assert outcome.status == 0
    assert hosts_logged_in(fakes) == [f"{ACCOUNT}.dkr.ecr.{region}.{suffix}"]
    asked = [*STS, "--query", "Account", "--output", "text", "--region", region]
    assert [call.argv for call in fakes.calls_of(*STS)] == [asked]


def test_the_profile_s_region_is_the_last_resort(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("other", "nginx:1")
    swarm.state["region"] = REGION_US

    outcome = run()

    assert outcome.status == 0
    assert hosts_logged_in(fakes) == [ECR_US]


@pytest.mark.parametrize("image", [None, "nginx:1"])
def test_a_swarm_without_ecr_is_no_failure(
    run: Run, fakes: Fakes, swarm: PretendSwarm, image: str | None
) -> None:
    if image:
        swarm.add("other", image)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (0, "")
    assert "No service uses ECR\n" in outcome.stderr
    assert not fakes.calls_of("docker", "login")


def test_a_login_without_any_registry_says_what_to_pass(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("other", "nginx:1")

    outcome = run("--login-only")

    assert outcome.status == 1
    assert "No service uses ECR, and no region is set: pass --region or --registry" in (
        last_line(outcome)
    )


def test_an_empty_swarm_is_fine(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    outcome = run("--region", REGION)

    assert (outcome.status, outcome.stdout) == (0, "")
    assert hosts_logged_in(fakes) == [ECR]


# Tokens and logins


def test_one_token_for_each_region(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web")
    swarm.add("web-of-another-account", f"{ECR_OTHER_ACCOUNT}/web:1")
    swarm.add("us", f"{ECR_US}/us:1")

    outcome = run("--region", REGION)

    assert outcome.status == 0
    assert sorted(call.argv[-1] for call in fakes.calls_of(*TOKEN)) == [REGION, REGION_US]
    assert sorted(hosts_logged_in(fakes)) == sorted([ECR, ECR_OTHER_ACCOUNT, ECR_US])
    assert len({call.stdin for call in fakes.calls_of(*LOGIN)}) == 2
    assert last_line(outcome).startswith("3 logins, 3 refreshed in ")


def test_regions_side_by_side(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    # Each token comes only when all three have been asked for.
    together = threading.Barrier(3)
    for region in (REGION, REGION_US, "ap-south-1"):
        fakes.when(*TOKEN, region, do=lambda: together.wait(timeout=10))

    outcome = run("--login-only", "--region", "ap-south-1", "--registry", ECR, "--registry", ECR_US)

    assert outcome.status == 0
    assert not together.broken


def test_logins_one_after_the_other(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    # The first login waits for a second one, which must not come meanwhile.
    second, came = threading.Event(), []
    fakes.when(*LOGIN, do=lambda: came.append(second.wait(timeout=0.2)))
    fakes.when(*LOGIN, do=second.set)

    assert run("--login-only", "--registry", ECR, "--registry", ECR_US).status == 0

    assert came == [False]
    assert second.is_set()


@pytest.mark.parametrize(
    "failing, says",
    [
        ((*LOGIN, ECR), "Docker login failed: docker login --username failed with exit status 1"),
        (
            (*TOKEN, REGION),
            "Failed to acquire docker login credentials: aws ecr get-login-password failed",
        ),
    ],
)
def test_a_registry_that_fails_leaves_the_others_going(
    run: Run, fakes: Fakes, swarm: PretendSwarm, failing: tuple[str, ...], says: str
) -> None:
    swarm.add("web")
    swarm.add("us", f"{ECR_US}/us:1")
    fakes.answer(*failing, stderr="denied by the test\n", exit_status=1)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (1, "us\n")
    assert f"not logged in to {ECR}: {says}" in outcome.stderr
    assert f"Docker login succeeded for {ECR}\n" not in outcome.stderr
    assert f"web failed: not logged in to {ECR}: {says}" in outcome.stderr
    assert f"web: not logged in to {ECR}: {says}" in last_line(outcome)
    assert "denied by the test" in last_line(outcome)
    assert is_untouched(swarm, "web")


@pytest.mark.parametrize("printed", ["", "\n"])
def test_aws_that_succeeds_and_prints_nothing(
    run: Run, fakes: Fakes, swarm: PretendSwarm, printed: str
) -> None:
    swarm.add("web")
    fakes.answer(*TOKEN, REGION, stdout=printed)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (1, "")
    assert "Failed to acquire docker login credentials" in last_line(outcome)
    assert not fakes.calls_of("docker", "login")


# The account's own registry: asked for, or merely set


NO_STS = {"stderr": "Could not connect to the endpoint URL\n", "exit_status": 255}


def test_without_its_account_the_others_go_on(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web")
    fakes.answer(*STS, fakes.fp.any(), **NO_STS)

    outcome = run("--region", REGION_US)

    assert (outcome.status, outcome.stdout) == (1, "web\n")
    assert f"your own registry in {REGION_US}: aws sts get-caller-identity" in last_line(outcome)
    assert "Could not connect to the endpoint URL" in outcome.stderr


def test_a_region_that_is_merely_set_fails_nobody(
    run: Run, fakes: Fakes, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm.add("web")
    monkeypatch.setenv("AWS_REGION", REGION_US)
    fakes.answer(*STS, fakes.fp.any(), **NO_STS)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (0, "web\n")
    assert f"your own registry in {REGION_US} is left out: aws sts" in outcome.stderr
    assert "Could not connect to the endpoint URL" in outcome.stderr


@pytest.mark.parametrize("arguments, is_asked", [([], False), (["--region", REGION_US], True)])
def test_a_region_that_is_merely_set_is_not_waited_for(
    run: Run,
    fakes: Fakes,
    swarm: PretendSwarm,
    script: Any,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    is_asked: bool,
) -> None:
    """A manager without a way out to STS has endpoints for ECR alone."""
    swarm.add("web")
    monkeypatch.setenv("AWS_REGION", REGION_US)
    monkeypatch.setattr(script, "UNASKED_SECONDS", 0.3)
    monkeypatch.setattr(script, "PROGRAM_SECONDS", 4.0)
    fakes.answer(*STS, fakes.fp.any(), orders=["hang"])

    outcome = run(*arguments)

    assert (outcome.status, outcome.stdout) == (1 if is_asked else 0, "web\n")
    seconds = "4 seconds" if is_asked else "0 seconds"
    assert f"aws sts get-caller-identity hung, and was killed after {seconds}" in outcome.stderr


@pytest.mark.parametrize(
    "failing", [(*TOKEN, REGION_US), (*LOGIN, ECR_US), ("docker", "login", ECR_US)]
)
def test_an_own_registry_that_is_merely_set_fails_nobody(
    run: Run,
    fakes: Fakes,
    swarm: PretendSwarm,
    monkeypatch: pytest.MonkeyPatch,
    failing: tuple[str, ...],
) -> None:
    swarm.add("web")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION_US)
    fakes.answer(*failing, stderr="denied by the test", exit_status=1, times=9)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (0, "web\n")
    assert f"{ECR_US} is left out: " in outcome.stderr and "denied by the test" in outcome.stderr
    assert last_line(outcome).startswith("1 login, 1 refreshed in ")


def test_a_region_that_is_set_counts_where_nothing_else_is_known(
    run: Run, fakes: Fakes, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", REGION_US)
    fakes.answer(*STS, fakes.fp.any(), **NO_STS)

    assert run("--login-only").status == 1


def test_the_own_registry_s_host_has_to_be_one(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    """aws prints what it likes; a token goes to a registry of ECR alone."""
    swarm.add("web")
    swarm.state["account"] = "evil.example/"

    outcome = run("--region", REGION_US)

    assert (outcome.status, outcome.stdout) == (1, "web\n")
    assert "is no registry: check the region" in outcome.stderr
    assert hosts_logged_in(fakes) == [ECR]


def test_two_registries_of_a_region_share_its_fate(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("web")
    swarm.add("other", f"{ECR_OTHER_ACCOUNT}/app:2")
    swarm.add("us", f"{ECR_US}/app:2")
    fakes.answer(*TOKEN, REGION, stderr="denied", exit_status=254)

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (1, ["us"])
    assert len(fakes.calls_of(*TOKEN, REGION)) == 1
