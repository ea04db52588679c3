"""Which registries: whose tokens are asked for, where the run logs in, and what one costs others."""

from __future__ import annotations

import threading

import pytest
from pretend.calls import (
    ECR_OTHER_ACCOUNT,
    REGION,
    REGION_US,
    Run,
    add_all,
    hosts_logged_in,
    is_untouched,
    proofs,
    registry,
)
from pretend.runner import Answers
from pretend.services import ECR
from pretend.swarm import ACCOUNT, ECR_US, PretendSwarm

import ecr_swarm_login as script


@pytest.mark.parametrize(
    "arguments, hosts",
    [
        ([], [ECR]),
        (["--registry", ECR_US, "--registry", ECR_OTHER_ACCOUNT], [ECR, ECR_US, ECR_OTHER_ACCOUNT]),
        (["--registry", ECR, "--region", REGION], [ECR]),
        (["--region", REGION_US], [ECR, ECR_US]),
    ],
)
def test_registries(
    run: Run, programs: Answers, swarm: PretendSwarm, arguments: list[str], hosts: list[str]
) -> None:
    swarm.add("web")

    outcome = run("--login-only", *arguments)

    assert outcome.status == 0
    assert sorted(hosts_logged_in(programs)) == sorted(hosts)
    # Where no option asks for the account's registry, its number is not asked for.
    assert len(programs.calls_of(*script.AWS_ACCOUNT)) == arguments.count("--region")


@pytest.mark.parametrize("image", [None, "nginx:1"])
def test_a_swarm_without_ecr_is_no_failure(
    run: Run, programs: Answers, swarm: PretendSwarm, image: str | None
) -> None:
    if image:
        swarm.add("other", image)

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (0, [])
    assert not programs.calls_of("docker", "login")


@pytest.mark.parametrize("option", ["--login-only", "--dry-run"])
def test_a_region_of_the_environment_is_none_of_the_script_s(
    run: Run, programs: Answers, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """Where a login is all that is asked for, an error says what to pass."""
    monkeypatch.setenv("AWS_REGION", REGION)
    swarm.add("other", "nginx:1")

    outcome = run(option)

    assert not programs.calls_of("aws") and not programs.calls_of("docker", "login")
    if option == "--login-only":
        assert outcome.status == 1
        text = "; failed: No service uses ECR -> pass --region or --registry"
        assert outcome.last_line.endswith(text)


def test_an_empty_swarm_still_gets_a_login(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    """For deploys from here."""
    outcome = run("--region", REGION)

    assert (outcome.status, outcome.refreshed) == (0, [])
    assert set(hosts_logged_in(programs)) == {ECR}
    assert outcome.last_line.startswith("1 login in ")


# Tokens and logins


def test_one_token_for_each_region(run: Run, programs: Answers, swarm: PretendSwarm) -> None:
    swarm.add("web")
    swarm.add("web-of-another-account", f"{ECR_OTHER_ACCOUNT}/web:1")
    swarm.add("us", f"{ECR_US}/us:1")

    outcome = run("--region", REGION)

    assert outcome.status == 0
    assert sorted(call.argv[-1] for call in programs.calls_of(*script.AWS_TOKEN)) == [
        REGION,
        REGION_US,
    ]
    assert set(hosts_logged_in(programs)) == {ECR, ECR_OTHER_ACCOUNT, ECR_US}
    assert len({call.stdin for call in programs.calls_of(*script.LOGIN)}) == 2
    assert outcome.last_line.startswith("3 logins, 3 refreshed in ")


def test_regions_side_by_side(run: Run, programs: Answers, swarm: PretendSwarm) -> None:
    # Each token comes only when all three have been asked for.
    together = threading.Barrier(3)
    regions = (REGION, REGION_US, "ap-south-1")
    for region in regions:
        programs.when(*script.AWS_TOKEN, region, do=lambda: together.wait(timeout=30))

    options = [word for region in regions for word in ("--registry", registry(1, region))]
    outcome = run("--login-only", *options)

    assert outcome.status == 0
    assert not together.broken


@pytest.mark.parametrize(
    "failing, says",
    [
        (
            (*script.LOGIN, ECR),
            f"Docker login failed for {ECR}: docker login failed with exit status 1: denied",
        ),
        (
            (*script.AWS_TOKEN, REGION),
            "Failed to acquire docker login credentials:"
            + " aws ecr get-login-password failed with exit status 1: denied",
        ),
    ],
)
def test_a_registry_that_fails_leaves_the_others_going(
    run: Run, programs: Answers, swarm: PretendSwarm, failing: tuple[str, ...], says: str
) -> None:
    swarm.add("web")
    swarm.add("us", f"{ECR_US}/us:1")
    programs.answer(*failing, stderr="denied\n", exit_status=1, times=99)

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (1, ["us"])
    assert f"Docker login succeeded for {ECR}\n" not in outcome.stderr
    assert f"web failed; next attempt in 1 s: {says}\n" in outcome.stderr
    assert outcome.last_line.endswith(f"; failed: web: {says}")
    assert is_untouched(swarm, "web")


def test_only_what_failed_is_asked_for_again(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    """A token is good for all registries of its region, and for 12 hours."""
    for name, host in (("web", ECR), ("other", ECR_OTHER_ACCOUNT), ("us", ECR_US)):
        swarm.add(name, f"{host}/app:2")
    programs.answer(*script.AWS_TOKEN, REGION, stderr="denied", exit_status=254)

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (0, ["other", "us", "web"])
    asked = sorted(call.argv[-1] for call in programs.calls_of(*script.AWS_TOKEN))
    assert asked == [REGION, REGION, REGION_US]
    assert outcome.last_line.startswith("3 logins, 3 refreshed in ")


# The registry of the account

HOSTS = {
    REGION_US: "amazonaws.com",
    "us-gov-west-1": "amazonaws.com",
    "cn-north-1": "amazonaws.com.cn",
    "eusc-de-east-1": "amazonaws.eu",
    "us-iso-east-1": "c2s.ic.gov",
    "us-isob-east-1": "sc2s.sgov.gov",
    "eu-isoe-west-1": "cloud.adc-e.uk",
    "us-isof-south-1": "csp.hci.ic.gov",
}


@pytest.mark.parametrize("region", HOSTS)
def test_the_host_of_the_account_s_registry(
    run: Run, programs: Answers, swarm: PretendSwarm, region: str
) -> None:
    assert run("--login-only", "--region", region).status == 0

    assert hosts_logged_in(programs) == [f"{ACCOUNT}.dkr.ecr.{region}.{HOSTS[region]}"]
    [asked] = programs.calls_of(*script.AWS_ACCOUNT)
    assert asked.argv[len(script.AWS_ACCOUNT) :] == ["--region", region]


def test_without_its_account_the_others_go_on(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    swarm.add("web")
    text = 'Could not connect to the endpoint URL: "https://sts.us-east-1.amazonaws.com/"'
    programs.answer(*script.AWS_ACCOUNT, programs.fp.any(), stderr=text, exit_status=255, times=99)

    outcome = run("--region", REGION_US)

    assert (outcome.status, outcome.refreshed) == (1, ["web"])
    failed = f"; failed: registry in {REGION_US}: aws sts get-caller-identity failed with exit"
    assert failed in outcome.last_line
    assert f"{text} -> check --region, and VPC" in outcome.last_line


@pytest.mark.parametrize("account", ["evil.example/", "", "1234 56789012"])
def test_the_host_of_the_account_s_registry_has_to_be_one(
    run: Run, programs: Answers, swarm: PretendSwarm, account: str
) -> None:
    """aws prints what it likes; a token goes to a registry of ECR alone."""
    swarm.add("web")
    swarm.state["account"] = account

    outcome = run("--region", REGION_US)

    assert (outcome.status, outcome.refreshed) == (1, ["web"])
    assert "aws printed no account ID -> see what it prints: aws sts get-c" in outcome.last_line
    assert set(hosts_logged_in(programs)) == {ECR}


# Many registries


def test_many_accounts(run: Run, programs: Answers, swarm: PretendSwarm) -> None:
    """One token; all logins side by side, and none proven: that would be a request to each."""
    number = 12
    together = threading.Barrier(number)
    for each in range(number):
        swarm.add(f"web-{each}", f"{registry(each)}/web:1")
        programs.when(*script.LOGIN, registry(each), do=lambda: together.wait(timeout=60))

    outcome = run()

    assert (outcome.status, len(outcome.refreshed)) == (0, number)
    assert not together.broken
    assert len(programs.calls_of(*script.AWS_TOKEN)) == 1
    assert not proofs(programs)
    assert outcome.last_line.startswith(f"{number} logins, {number} refreshed in ")


@pytest.mark.parametrize("what", [script.LOGIN, script.AWS_TOKEN])
def test_registries_that_hang_cost_their_own_services(
    run: Run, programs: Answers, swarm: PretendSwarm, what: tuple[str, ...]
) -> None:
    """Those that come first in the order of names, too."""
    is_updated = threading.Event()
    for each in range(1, 5):
        region = f"ap-east-{each}"
        swarm.add(f"web-{each}", f"{registry(each, region)}/web:1")
        last_word = region if what == script.AWS_TOKEN else registry(each, region)
        programs.when(*what, last_word, do=lambda: is_updated.wait(60))
        programs.answer(*what, last_word, orders=["hang"], times=99)
    swarm.add("us", f"{ECR_US}/us:1")
    programs.when(*script.UPDATE, do=is_updated.set)

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (1, ["us"])
    assert is_updated.is_set()
    assert " hung, and was killed" in outcome.last_line


def test_a_failure_gets_one_line_for_all_its_services(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    add_all(swarm, 5)
    programs.answer(*script.AWS_TOKEN, REGION, stderr="ExpiredToken", exit_status=254, times=99)

    outcome = run()

    who = "web-00, web-01, web-02 and 2 more"
    said = f"{who} failed; next attempt in 1 s: Failed to acquire docker login credentials"
    assert outcome.stderr.count(said) == 1
    assert outcome.stderr.count("ExpiredToken") == 2, "once, and in the last line"
    assert f"; failed: {who}: Failed to acquire docker" in outcome.last_line
