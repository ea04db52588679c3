"""The command line: what each option does, and what makes no sense."""

from __future__ import annotations

from pathlib import Path

import pytest
from pretend.calls import REGION, REGION_US, Run, hosts_logged_in, is_untouched
from pretend.logins import EXPIRED
from pretend.runner import Answers
from pretend.services import ECR, PAUSED, login_opens
from pretend.swarm import ECR_US, PretendSwarm

import ecr_swarm_login as script

# Services by name


def test_only_the_services_named(run: Run, programs: Answers, swarm: PretendSwarm) -> None:
    swarm.add("web")
    swarm.add("api")
    swarm.add("us", f"{ECR_US}/us:1")

    outcome = run("web")

    assert (outcome.status, outcome.refreshed) == (0, ["web"])
    assert hosts_logged_in(programs) == [ECR]
    assert is_untouched(swarm, "api") and is_untouched(swarm, "us")


def test_a_wrong_name_is_looked_for_once(run: Run, programs: Answers, swarm: PretendSwarm) -> None:
    """And leaves the others going."""
    swarm.add("web")

    outcome = run("--tries", "3", "wbe", "web")

    assert (outcome.status, outcome.refreshed) == (1, ["web"])
    text = "; failed: wbe: there is no such service -> see docker service ls"
    assert outcome.last_line.endswith(text)
    assert outcome.stderr.count("no such service") == 1
    assert len(programs.calls_of(*script.LIST)) == 1


def test_where_no_name_fits_aws_is_not_asked(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    swarm.add("web")

    assert run("wbe").status == 1
    assert not programs.calls_of("aws")


# --login-only


def test_login_only(run: Run, programs: Answers, swarm: PretendSwarm) -> None:
    """Where docker keeps its logins by itself, and nowhere else."""
    swarm.add("web")

    outcome = run("--login-only")

    assert outcome.status == 0
    assert outcome.lines == [f"Docker login succeeded for {ECR}", "1 login in N seconds"]
    assert len(programs.calls_of("docker", "login")) == 1
    assert not programs.calls_of(*script.TASKS) and not programs.calls_of(*script.UPDATE)


@pytest.mark.parametrize("node", ["none", "worker"])
@pytest.mark.parametrize("named", [["--region", REGION], ["--registry", ECR]])
def test_login_only_before_the_node_is_a_manager(
    run: Run, programs: Answers, swarm: PretendSwarm, node: str, named: list[str]
) -> None:
    swarm.state["node"] = node

    outcome = run("--login-only", *named)

    assert outcome.status == 0
    assert hosts_logged_in(programs) == [ECR]
    assert outcome.lines == [
        "Not in a swarm yet, or not a manager",
        f"Docker login succeeded for {ECR}",
        "1 login in N seconds",
    ]


def test_login_only_with_nothing_to_log_in_to(run: Run, swarm: PretendSwarm) -> None:
    outcome = run("--login-only")

    assert outcome.status == 1
    text = "; failed: No service uses ECR -> pass --region or --registry"
    assert outcome.last_line.endswith(text)


@pytest.mark.parametrize("named", [["--registry", ECR], ["no-such-service"], []])
def test_login_only_without_a_daemon(run: Run, swarm: PretendSwarm, named: list[str]) -> None:
    """What docker said is the failure; names are not judged where nothing was listed."""
    swarm.state["node"] = "down"

    outcome = run("--login-only", *named)

    assert outcome.status == 1
    says = "docker service ls failed with exit status 1: failed to connect to the docker"
    assert says in outcome.last_line
    for says in ("Not in a swarm", "No service uses ECR", "no such service"):
        assert says not in outcome.stderr


def test_a_refresh_before_the_node_is_in_a_swarm(run: Run, swarm: PretendSwarm) -> None:
    swarm.state["node"] = "none"

    outcome = run()

    assert outcome.status == 1
    assert "; failed: docker service ls failed with exit status 1: " in outcome.last_line
    remedy = " -> run it on a manager; while one boots, with --login-only"
    assert outcome.last_line.endswith(remedy)


# --leader-only


@pytest.mark.parametrize("leads, refreshed", [(True, ["web"]), (False, [])])
def test_leader_only(
    run: Run, programs: Answers, swarm: PretendSwarm, leads: bool, refreshed: list[str]
) -> None:
    swarm.add("web")
    swarm.state["leader"] = leads

    outcome = run("--leader-only")

    assert (outcome.status, outcome.refreshed) == (0, refreshed)
    assert hosts_logged_in(programs) == [ECR]
    assert ("Another manager leads the swarm" in outcome.stderr) is not leads


# --dry-run


@pytest.mark.parametrize("option", ["-n", "--dry-run"])
def test_dry_run(
    run: Run, programs: Answers, swarm: PretendSwarm, home: Path, memory: Path, option: str
) -> None:
    swarm.add("web")
    programs.remove("aws")

    outcome = run(option, "--region", REGION_US)

    assert (outcome.status, outcome.refreshed) == (0, [])
    assert not hosts_logged_in(programs) and not programs.calls_of(*script.UPDATE)
    assert f"Would log in to {ECR}, the registry of your account in {REGION_US}" in outcome.stderr
    assert "web will be refreshed: it pulls from ECR\n" in outcome.stderr
    assert outcome.last_line.startswith("1 will be refreshed in ")
    assert list(home.iterdir()) == list(memory.iterdir()) == []


# --quiet


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
    assert "failed: no-such-service: there is no such service" in outcome.last_line


# --keep-rollback, --all-services


@pytest.mark.parametrize("hours_ago, refreshed", [(1.9, []), (2.1, ["web"])])
def test_keep_rollback(
    run: Run, swarm: PretendSwarm, hours_ago: float, refreshed: list[str]
) -> None:
    swarm.add("web", rollout="completed", previous=f"{ECR}/app:1", hours_ago=hours_ago)

    outcome = run("--keep-rollback", "2")

    assert (outcome.status, outcome.refreshed) == (0, refreshed)
    kept = "web left alone: --keep-rollback keeps docker service rollback possible\n"
    assert (kept in outcome.stderr) is not refreshed


def test_all_services_wipes_no_login_that_failed(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    swarm.add("web")
    swarm.add("other", "nginx:1")
    programs.answer(*script.AWS_TOKEN, programs.fp.any(), exit_status=254, stderr="denied", times=4)

    outcome = run("--all-services")

    assert (outcome.status, outcome.refreshed) == (1, ["other"])
    assert swarm.service("web")["credentials"] == EXPIRED


# What makes no sense

ONLY = "--refresh-only does not log in: leave out --login-only, --region and --registry"
HOURS = "--keep-rollback takes a number from 0 to 10"
TRIES = "--tries takes a number from 1 to 60"
SPARES = "--all-services spares none: leave out --no-restart and --keep-rollback"
A_REGION = "--region takes a region such as eu-central-1"
A_HOST = "--registry takes a host such as 123456789012.dkr.ecr.eu-central-1.amazonaws.com"
NO_ADDRESS = "--registry takes a host alone: leave out https://"
USAGE = [
    (["--no-such-option"], "unrecognized arguments: --no-such-option"),
    # a later version may have two options that begin so
    (["--dry"], "unrecognized arguments: --dry"),
    (["--refresh-only", "--login-only"], ONLY),
    (["--refresh-only", "--region", REGION], ONLY),
    (["--refresh-only", "--registry", ECR], ONLY),
    (["--all-services", "--no-restart"], SPARES),
    (["--all-services", "--keep-rollback", "2"], SPARES),
    *[([f"--keep-rollback={hours}"], HOURS) for hours in ("-1", "11")],
    *[([f"--tries={tries}"], TRIES) for tries in ("0", "61")],
    (["--tries=two"], "argument --tries: invalid int value: 'two'"),
    *[
        (["--region", region], A_REGION)
        for region in ("eu", "EU-CENTRAL-1", "eu-central-1.evil.example", "eu-central-1\n")
    ],
    ([""], "SERVICE takes the name of a service"),
    (["web", ""], "SERVICE takes the name of a service"),
    (["--region", "--login-only"], "argument --region: expected one argument"),
    (["--registry", f"https://{ECR}"], NO_ADDRESS),
    (["--registry", f"http://{ECR}/"], NO_ADDRESS),
    # Look-alikes get no token; unit/test_images.py has more of them.
    (["--registry", "public.ecr.aws"], A_HOST),
    (["--registry", f"{ECR}:443"], A_HOST),
    (["--registry", ECR, "--registry", f"{ECR_US}.evil.example"], A_HOST),
]


@pytest.mark.parametrize("arguments, says", USAGE)
def test_usage(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    with pytest.raises(SystemExit) as ended:
        script.parse([*arguments])

    stdout, stderr = capsys.readouterr()
    assert ended.value.code == 2
    assert stderr.splitlines()[-1].partition(" error: ")[2] == says
    assert stdout == "" and "usage: " in stderr


def test_usage_starts_nothing(run: Run, programs: Answers) -> None:
    assert run("--tries", "5", "--keep-rollback", "11").status == 2

    assert not programs.calls
