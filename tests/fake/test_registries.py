"""Which registries: whose tokens are asked for, where the run logs in, and what one costs others."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import Call, Fakes
from pretend_swarm import ACCOUNT, ECR, ECR_US, UPDATE, PretendSwarm
from shared import (
    CONFIGURE,
    ECR_OTHER_ACCOUNT,
    LOGIN,
    REGION,
    REGION_US,
    STS,
    TOKEN,
    Bounds,
    Run,
    hosts_logged_in,
    is_untouched,
    last_line,
    proofs,
    refreshed,
)

AP = "ap-south-1"

# Options, the environment and the profile; whether registries are known otherwise; the region in
# which the run logs in to the account's own.
OWN_REGIONS: list[tuple[list[str], dict[str, str], bool, str]] = [
    ([], {}, True, ""),
    ([], {}, False, ""),
    (["--region", REGION_US], {}, True, REGION_US),
    (["--region", REGION_US], {}, False, REGION_US),
    (["--region", REGION_US], {"AWS_REGION": AP}, False, REGION_US),
    ([], {"AWS_REGION": REGION_US}, True, ""),
    ([], {"AWS_DEFAULT_REGION": REGION_US}, True, ""),
    ([], {"profile": REGION_US}, True, ""),
    ([], {"AWS_REGION": REGION_US, "AWS_DEFAULT_REGION": AP, "profile": AP}, False, REGION_US),
    ([], {"AWS_REGION": "", "AWS_DEFAULT_REGION": REGION_US, "profile": AP}, False, REGION_US),
    ([], {"AWS_REGION": "", "AWS_DEFAULT_REGION": "", "profile": REGION_US}, False, REGION_US),
    (["web"], {"AWS_REGION": REGION_US}, False, ""),
    (["--region", REGION_US, "web"], {}, False, REGION_US),
]


@pytest.mark.parametrize("arguments, given, are_hosts_known, region", OWN_REGIONS)
def test_where_the_own_registry_is(
    script: Any,
    fakes: Fakes,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    given: dict[str, str],
    are_hosts_known: bool,
    region: str,
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    def ask(*command: str) -> Any:
        assert command == CONFIGURE
        return SimpleNamespace(stdout=given.get("profile", ""))

    run = SimpleNamespace(
        options=script.parse(arguments),
        programs=SimpleNamespace(run=ask),
        hosts={ECR} if are_hosts_known else set(),
    )

    assert script.own_region(run, are_listed=True) == region


@pytest.mark.parametrize(
    "arguments, hosts",
    [
        ([], [ECR]),
        (["--registry", ECR_US, "--registry", ECR_OTHER_ACCOUNT], [ECR, ECR_OTHER_ACCOUNT, ECR_US]),
        (["--registry", ECR, "--region", REGION], [ECR]),
        (["--region", REGION_US], [ECR, ECR_US]),
    ],
)
def test_registries(
    run: Run, fakes: Fakes, swarm: PretendSwarm, arguments: list[str], hosts: list[str]
) -> None:
    swarm.add("web")

    outcome = run("--login-only", *arguments)

    assert outcome.status == 0
    assert sorted(hosts_logged_in(fakes)) == sorted(hosts)
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
def test_the_host_of_the_account_s_own_registry(script: Any, region: str, suffix: str) -> None:
    asked = []

    def ask(*command: str, **_: Any) -> Any:
        asked.append(command)
        return script.Result(None, ACCOUNT)

    host = f"{ACCOUNT}.dkr.ecr.{region}.{suffix}"
    options = SimpleNamespace(dry_run=False)
    run = SimpleNamespace(programs=SimpleNamespace(run=ask), options=options, own=set())

    script.find_own(run, region)

    assert run.own == {host}
    assert asked[0] == (*STS, "--query", "Account", "--output", "text", "--region", region)


def test_the_profile_s_region_is_the_last_resort(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("other", "nginx:1")
    swarm.state["region"] = REGION_US

    outcome = run("--login-only")

    assert (outcome.status, hosts_logged_in(fakes)) == (0, [ECR_US])


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


def test_the_own_registry_is_no_matter_of_a_refresh_alone(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    """In an empty swarm there is still a login, for deploys from here."""
    outcome = run("--region", REGION)

    assert (outcome.status, outcome.stdout) == (0, "")
    assert set(hosts_logged_in(fakes)) == {ECR}
    assert last_line(outcome).startswith("1 login in ")


# Tokens and logins


def test_one_token_for_each_region(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web")
    swarm.add("web-of-another-account", f"{ECR_OTHER_ACCOUNT}/web:1")
    swarm.add("us", f"{ECR_US}/us:1")

    outcome = run("--region", REGION)

    assert outcome.status == 0
    assert sorted(call.argv[-1] for call in fakes.calls_of(*TOKEN)) == [REGION, REGION_US]
    assert set(hosts_logged_in(fakes)) == {ECR, ECR_OTHER_ACCOUNT, ECR_US}
    assert len({call.stdin for call in fakes.calls_of(*LOGIN)}) == 2
    assert last_line(outcome).startswith("3 logins, 3 refreshed in ")


def test_regions_side_by_side(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    # Each token comes only when all three have been asked for.
    together = threading.Barrier(3)
    for region in (REGION, REGION_US, AP):
        fakes.when(*TOKEN, region, do=lambda: together.wait(timeout=30))

    outcome = run("--login-only", "--region", AP, "--registry", ECR, "--registry", ECR_US)

    assert outcome.status == 0
    assert not together.broken


@pytest.mark.parametrize(
    "failing, says",
    [
        ((*LOGIN, ECR), "docker login failed with exit status 1"),
        (
            (*TOKEN, REGION),
            "aws ecr get-login-password failed",
        ),
    ],
)
def test_a_registry_that_fails_leaves_the_others_going(
    run: Run, fakes: Fakes, swarm: PretendSwarm, failing: tuple[str, ...], says: str
) -> None:
    swarm.add("web")
    swarm.add("us", f"{ECR_US}/us:1")
    fakes.answer(*failing, stderr="denied by the test\n", exit_status=1, times=99)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (1, "us\n")
    assert f"Docker login succeeded for {ECR}\n" not in outcome.stderr
    assert "web to be tried again in " in outcome.stderr
    assert f" seconds: Docker login failed for {ECR}: {says}" in outcome.stderr
    assert f"web failed: Docker login failed for {ECR}: {says}" in outcome.stderr
    assert f"web: Docker login failed for {ECR}: {says}" in last_line(outcome)
    assert "denied by the test" in last_line(outcome)
    assert is_untouched(swarm, "web")


def test_only_what_failed_is_asked_for_again(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    """A token is good for all registries of its region, and for 12 hours."""
    swarm.add("web")
    swarm.add("other", f"{ECR_OTHER_ACCOUNT}/app:2")
    swarm.add("us", f"{ECR_US}/app:2")
    fakes.answer(*TOKEN, REGION, stderr="denied", exit_status=254)

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (0, ["other", "us", "web"])
    asked = sorted(call.argv[-1] for call in fakes.calls_of(*TOKEN))
    assert asked == [REGION, REGION, REGION_US]
    assert last_line(outcome).startswith("3 logins, 3 refreshed in ")


# The account's own registry


NO_STS = {"stderr": "Could not connect to the endpoint URL\n", "exit_status": 255}


def test_without_its_account_the_others_go_on(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web")
    fakes.answer(*STS, fakes.fp.any(), **NO_STS, times=99)

    outcome = run("--region", REGION_US)

    assert (outcome.status, outcome.stdout) == (1, "web\n")
    assert f"your own registry in {REGION_US}: aws sts get-caller-identity" in last_line(outcome)
    assert "Could not connect to the endpoint URL" in last_line(outcome)


def test_the_own_registry_s_host_has_to_be_one(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    """aws prints what it likes; a token goes to a registry of ECR alone."""
    swarm.add("web")
    swarm.state["account"] = "evil.example/"

    outcome = run("--region", REGION_US)

    assert (outcome.status, outcome.stdout) == (1, "web\n")
    assert "is no registry: check the region" in last_line(outcome)
    assert set(hosts_logged_in(fakes)) == {ECR}


# Many registries


def registry(number: int) -> str:
    """Every account has a registry of its own."""
    return f"{number:012}.dkr.ecr.{REGION}.amazonaws.com"


def test_many_accounts(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    """One token; all logins side by side; nobody is kept waiting by the proofs of others."""
    number = 12
    for each in range(number):
        swarm.add(f"web-{each}", f"{registry(each)}/web:1")
    together = threading.Barrier(number)
    for each in range(number):
        fakes.when(*LOGIN, registry(each), do=lambda: together.wait(timeout=60))

    outcome = run()

    assert (outcome.status, len(refreshed(outcome))) == (0, number)
    assert not together.broken
    assert len(fakes.calls_of(*TOKEN)) == 1
    assert not proofs(fakes), "each would be a request to a registry"
    assert last_line(outcome).startswith(f"{number} logins, {number} refreshed in ")


def hang_until_an_update(fakes: Fakes, what: tuple[str, ...]) -> None:
    """All registries but that of us-east-1 hang; when a service is updated, they fail."""
    released = threading.Event()

    def is_meant(call: Call) -> bool:
        return call.argv[: len(what)] == list(what) and REGION_US not in call.argv[-1]

    def hang(call: Call) -> dict[str, Any] | None:
        if is_meant(call) and released.is_set():
            return {"stderr": "unreachable", "exit_status": 1}
        return {"orders": ["hang"]} if is_meant(call) else None

    def release() -> None:
        released.set()
        for call in filter(is_meant, fakes.calls_of(*what)):
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.kill(call.pid, signal.SIGKILL)

    fakes.answerers.insert(0, hang)
    fakes.when(*UPDATE, do=release)


@pytest.mark.parametrize("what", [LOGIN, TOKEN])
def test_registries_that_hang_cost_their_own_services(
    run: Run, fakes: Fakes, swarm: PretendSwarm, bounds: Bounds, what: tuple[str, ...]
) -> None:
    """Those that come first in the order of names, too."""
    bounds.set(pauses=(), program_seconds=60)
    hosts = [registry(each).replace(REGION, f"ap-east-{each}") for each in range(1, 5)]
    for host in hosts:
        swarm.add(f"web-{host[:12]}", f"{host}/web:1")
    swarm.add("us", f"{ECR_US}/us:1")
    hang_until_an_update(fakes, what)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (1, "us\n")
    assert outcome.stderr.count("failed: Docker login failed for ") == len(hosts)
    assert [it["name"] for it in swarm.services if it["version"] > 1] == ["us"]
