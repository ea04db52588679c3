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
    LOGIN,
    LS,
    PAUSED,
    REGION,
    REGION_US,
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
    assert [call.argv[-1] for call in fakes.calls_of(*LOGIN)] == [ECR]
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


def test_login_only_with_nothing_to_log_in_to(run: Run, swarm: PretendSwarm) -> None:
    outcome = run("--login-only")

    assert outcome.status == 1
    assert "failed: the run: No service uses ECR, and no region is set" in last_line(outcome)


@pytest.mark.parametrize("named", [["--registry", ECR], ["no-such-service"], []])
def test_login_only_without_a_daemon(run: Run, swarm: PretendSwarm, named: list[str]) -> None:
    """What docker said is the failure; names are not judged where nothing was listed."""
    swarm.state["node"] = "down"

    outcome = run("--login-only", *named)

    assert outcome.status == 1
    says = "docker service ls failed with exit status 1: failed to connect to the docker"
    assert says in last_line(outcome)
    for says in ("swarm yet", "No service uses ECR", "no such service"):
        assert says not in outcome.stderr


def test_login_only_without_programs(run: Run, fakes: Fakes) -> None:
    fakes.remove("docker")
    fakes.remove("aws")

    outcome = run("--login-only", "--tries", "3")

    assert outcome.status == 1
    # Once, and once more in the last line: to try again is no use.
    cause, last = story(outcome)
    assert cause.startswith("the run failed: docker context inspect failed with exit status 127: ")
    assert last == f"1 failed in N seconds; failed: {cause.replace(' failed: ', ': ', 1)}"
    assert not fakes.calls


def test_a_refresh_before_the_node_is_in_a_swarm(run: Run, swarm: PretendSwarm) -> None:
    swarm.state["node"] = "none"

    outcome = run()

    assert outcome.status == 1
    assert "failed: the run: docker service ls failed with exit status 1: " in last_line(outcome)
    assert last_line(outcome).endswith(": run it on a manager; at boot, with --login-only")


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


@pytest.mark.parametrize("option", ["-n", "--dry-run"])
def test_dry_run(
    run: Run, fakes: Fakes, swarm: PretendSwarm, home: Path, memory: Path, option: str
) -> None:
    swarm.add("web")

    outcome = run(option, "--region", REGION_US)

    assert (outcome.status, outcome.stdout) == (0, "")
    assert not fakes.calls_of("aws") and not hosts_logged_in(fakes) and not fakes.calls_of(*UPDATE)
    assert f"Would log in to {ECR}, your own registry in {REGION_US}" in outcome.stderr
    assert "web to be refreshed: it pulls from ECR\n" in outcome.stderr
    assert last_line(outcome).startswith("1 to be refreshed in ")
    assert list(home.iterdir()) == list(memory.iterdir()) == []


def test_dry_run_without_aws(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web")
    fakes.remove("aws")

    outcome = run("--dry-run")

    assert outcome.status == 0
    assert f"Would log in to {ECR}" in outcome.stderr


def test_dry_run_without_logins(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    """aws is not needed, and nobody would log in."""
    swarm.add("web")
    fakes.remove("aws")

    outcome = run("--dry-run", "--refresh-only")

    assert outcome.status == 0
    assert "Would log in to no registry" in outcome.stderr


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


def test_tries_after_a_failure(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.state["node"] = "down"

    outcome = run("--tries", "3")

    assert outcome.status == 1
    assert len(fakes.calls_of(*LS)) == 3 * 4
    assert outcome.stderr.count("the run to be tried again in ") == 3 * 4 - 1
    # It is given up once.
    assert outcome.stderr.count("failed: the run: docker service ls") == 1


@pytest.mark.parametrize("node", ["worker", "none", "locked"])
def test_what_is_hopeless_is_not_tried_again(
    run: Run, fakes: Fakes, swarm: PretendSwarm, node: str
) -> None:
    swarm.state["node"] = node

    outcome = run("--tries", "8")

    assert outcome.status == 1
    assert len(fakes.calls_of(*LS)) == 1
    # The cause stands once, and once more in the last line.
    assert len(story(outcome)) == 3 and outcome.stderr.count("docker service ls failed") == 2


def test_permission_is_not_asked_for_again(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    denied = "permission denied while trying to connect to the docker API at unix:///x.sock"
    fakes.answer(*LS, fakes.fp.any(), stderr=denied, exit_status=1)

    outcome = run("--tries", "8")

    assert outcome.status == 1
    assert last_line(outcome).endswith(": run it as root, or as one of the group docker")
    assert len(fakes.calls_of(*LS)) == 1


def test_tries_end_with_the_first_that_goes_well(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("web")
    swarm.state["node"] = "down"
    for do in (*[lambda: None for _ in range(5)], lambda: swarm.state.update(node="manager")):
        fakes.when(*LS, do=do)

    outcome = run("--tries", "8")

    assert (outcome.status, outcome.stdout) == (0, "web\n")
    assert len(fakes.calls_of(*LS)) == 6


@pytest.mark.parametrize("hours_ago, status", [(1, 0), (7, 3)])
def test_nothing_is_tried_again_that_did_not_fail(
    run: Run, fakes: Fakes, swarm: PretendSwarm, hours_ago: float, status: int
) -> None:
    swarm.add("stuck", **PAUSED, hours_ago=hours_ago)

    assert run("--tries", "5").status == status

    assert len(fakes.calls_of(*LS)) == 1


def test_each_try_has_the_time_of_a_run(
    script: Any, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause is not taken from it."""
    monkeypatch.setattr(script, "TRY_SECONDS", 60)
    programs, left = script.Programs(), []
    programs.deadline = script.time.monotonic() + 200
    monkeypatch.setattr(programs, "run", lambda *_, **__: None)

    def attempt(*_: Any) -> Any:
        """It fails, and takes all the time there is."""
        left.append(round(programs.seconds_left(), -1))
        programs.deadline = script.time.monotonic()
        return {"the run": script.Problem("no")}

    monkeypatch.setattr(script, "attempt", attempt)

    script.try_again_and_again(script.Run(script.parse(["--tries", "3"]), programs, None, None))

    assert left == [200, script.RUN_SECONDS, script.RUN_SECONDS]


# What makes no sense


ONLY = "--refresh-only logs in nowhere: leave out --login-only, --region and --registry"
HOURS = "--keep-rollback takes a number from 0 to 10"
TRIES = "--tries takes a number from 1 to 60"
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
    *[([f"--keep-rollback={hours}"], HOURS) for hours in ("-1", "11", "99")],
    *[([f"--tries={tries}"], TRIES) for tries in ("0", "-1", "61", "100")],
    *[
        ([f"{option}={text}"], f"argument {option}: invalid int value: '{text}'")
        for option in ("--keep-rollback", "--tries")
        for text in ("", "two", "1e9", "0.5", "nan", "-inf")
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
    ([""], "SERVICE takes the name of a service"),
    (["web", ""], "SERVICE takes the name of a service"),
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
def test_usage(
    script: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        script.parse([*arguments])

    stdout, stderr = capsys.readouterr()
    assert ended.value.code == 2
    assert stderr.splitlines()[-1].partition(" error: ")[2] == says
    assert stdout == "" and "usage: " in stderr


def test_a_look_alike_gets_no_token(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for registries in (*[[alike] for alike in LOOK_ALIKES], [ECR, f"{ECR_US}.evil.example"]):
        with pytest.raises(SystemExit) as ended:
            script.parse([word for host in registries for word in ("--registry", host)])

        assert ended.value.code == 2, registries
        assert capsys.readouterr().err.endswith(f" error: {A_HOST}\n"), registries


def test_usage_starts_nothing(run: Run, fakes: Fakes) -> None:
    assert run("--tries", "5", "--keep-rollback", "11").status == 2

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
