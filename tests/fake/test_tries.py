"""What failed is tried again, what is hopeless is not, and each cause is said once."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import Fakes
from pretend_swarm import ECR, UPDATE, PretendSwarm
from shared import (
    ECR_OTHER_ACCOUNT,
    INSPECT,
    LEADER,
    LOGIN,
    LS,
    PS,
    REGION_US,
    STS,
    TOKEN,
    Bounds,
    Run,
    add_all,
    is_untouched,
    last_line,
    refreshed,
    updates_of,
)

# Trying again


def test_what_failed_is_looked_at_and_tried_again_after_all_batches(
    run: Run, fakes: Fakes, swarm: PretendSwarm, bounds: Bounds, script: Any
) -> None:
    bounds.set(batch=1, at_once=1)
    names = add_all(swarm, 3)
    for name in names:
        fakes.answer(*swarm.update_of(name), stderr="out of sequence", exit_status=1)

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (0, names)
    assert f"{', '.join(names)} to be tried again in " in outcome.stderr
    assert (
        " seconds: docker service update failed with exit status 123: out of sequence"
        in outcome.stderr
    )
    ids = [call.argv[-1] for call in fakes.calls_of(*UPDATE)]
    assert len(set(ids[:3])) == 3 and sorted(ids[:3]) == sorted(ids[3:])
    assert len(fakes.calls_of(*INSPECT)) == len(fakes.calls_of(*PS)) == 6
    assert (len(fakes.calls_of(*LS)), len(fakes.calls_of(*TOKEN))) == (2, 1)


def test_how_often_an_update_is_tried(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web")
    swarm.add("api")
    fakes.answer(*swarm.update_of("web"), stderr="out of sequence", exit_status=1, times=99)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (1, "api\n")
    text = "web failed: docker service update failed with exit status 123: out of sequence"
    assert outcome.stderr.count(text) == 1 and "out of sequence" in last_line(outcome)
    assert [updates_of(fakes, swarm, name) for name in ("web", "api")] == [4, 1]


def test_tries_leave_alone_what_is_refreshed(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web")
    swarm.add("api")
    swarm.add("other", f"{ECR_OTHER_ACCOUNT}/app:2")
    fakes.answer(*swarm.update_of("web"), stderr="out of sequence", exit_status=1, times=5)

    outcome = run("--tries", "3")

    assert (outcome.status, refreshed(outcome)) == (0, ["api", "other", "web"])
    assert [updates_of(fakes, swarm, name) for name in ("web", "api", "other")] == [6, 1, 1]
    # Nor is anything else done again: a token is good for 12 hours.
    assert [len(fakes.calls_of(*call)) for call in (LS, TOKEN)] == [6, 1]


def test_the_pauses_before_it_is_tried_again(
    run: Run, fakes: Fakes, swarm: PretendSwarm, bounds: Bounds
) -> None:
    bounds.set(pauses=(1, 3), try_seconds=60)
    swarm.add("web")
    fakes.answer(*swarm.update_of("web"), stderr="out of sequence", exit_status=1, times=99)
    (fakes.bin / "sleep").unlink()
    fakes.answer("sleep", fakes.fp.any(), times=99)

    assert run("--tries", "2").status == 1

    pauses = [call.argv[-1] for call in fakes.calls_of("sleep")]
    assert pauses == ["1", "3", "60", "1", "3"]


def test_an_update_that_is_not_confirmed_is_tried_again(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("web")
    fakes.answer(*swarm.update_of("web"), stdout="")

    outcome = run()

    assert (outcome.status, outcome.stdout) == (0, "web\n")
    assert "web to be tried again in " in outcome.stderr
    assert " seconds: docker did not confirm the update" in outcome.stderr
    assert swarm.service("web")["version"] == 2


@pytest.mark.parametrize(
    "call, arguments", [(LS, []), (LS, ["--login-only"]), (LEADER, ["--leader-only"])]
)
def test_first_calls_are_tried_again(
    run: Run,
    fakes: Fakes,
    swarm: PretendSwarm,
    call: tuple[str, ...],
    arguments: list[str],
) -> None:
    """cron gets what systemd's Restart= gives."""
    swarm.add("web")
    text = "rpc error: code = Unknown desc = The swarm does not have a leader."
    fakes.answer(*call, fakes.fp.any(), stderr=text, exit_status=1, times=3)

    outcome = run(*arguments)

    assert outcome.status == 0
    assert outcome.stderr.count("the run to be tried again in ") == 3
    assert text in outcome.stderr
    assert len(fakes.calls_of(*call)) == 4


def test_first_calls_are_not_tried_for_ever(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    fakes.answer(*LS, fakes.fp.any(), stderr="context deadline exceeded", exit_status=1, times=99)

    outcome = run()

    assert outcome.status == 1
    assert "; failed: the run: docker service ls failed with exit status 1: context" in last_line(
        outcome
    )
    assert len(fakes.calls_of(*LS)) == 4


def test_each_attempt_goes_by_a_new_list(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    """A registry that no service uses any more is not asked again, nor is a service that went."""
    swarm.add("moves", f"{ECR_OTHER_ACCOUNT}/app:2")
    swarm.add("goes", f"{ECR_OTHER_ACCOUNT}/app:2")
    fakes.answer(*LOGIN, ECR_OTHER_ACCOUNT, stderr="denied", exit_status=1, times=99)

    def change() -> None:
        swarm.service("moves")["image"] = f"{ECR}/app:2"
        swarm.remove("goes")
        swarm.add("comes")

    fakes.when(*LS, do=lambda: fakes.when(*LS, do=change))

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (0, ["comes", "moves"])
    assert last_line(outcome).startswith("1 login, 2 refreshed in ")


def test_the_own_registry_is_found_once(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web")
    fakes.answer(*swarm.update_of("web"), stderr="out of sequence", exit_status=1)

    assert run("--region", REGION_US).status == 0

    assert len(fakes.calls_of(*STS)) == 1


# What is hopeless

NO_PERMISSION = (
    "permission denied while trying to connect to the docker API at unix:///var/run/docker.sock"
)


@pytest.mark.parametrize("node", ["worker", "none", "locked"])
def test_a_node_that_manages_nothing_is_asked_once(
    run: Run, fakes: Fakes, swarm: PretendSwarm, node: str
) -> None:
    swarm.state["node"] = node

    outcome = run("--tries", "3")

    assert outcome.status == 1
    assert len(fakes.calls_of(*LS)) == 1
    assert "tried again" not in outcome.stderr
    [_, cause, last] = outcome.stderr.splitlines()
    assert cause.replace(" failed: ", ": ", 1) in last


@pytest.mark.parametrize("name", ["docker", "aws", "timeout", "xargs"])
def test_a_missing_program_is_said_at_once(
    run: Run, fakes: Fakes, swarm: PretendSwarm, name: str
) -> None:
    swarm.add("web")
    fakes.remove(name)

    outcome = run("--tries", "3")

    says = f"failed to run command ‘{name}’: No such file or directory: is it installed, and on the"
    assert outcome.status == 1 and is_untouched(swarm, "web")
    assert "tried again" not in outcome.stderr
    # Once when it is given up, and in the last line.
    assert outcome.stderr.count(says) == 2 and says in last_line(outcome)


def test_a_program_that_may_not_be_run_is_said_at_once(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("web")
    fakes.forbid("aws")

    outcome = run("--tries", "3")

    assert outcome.status == 1 and is_untouched(swarm, "web")
    assert "tried again" not in outcome.stderr
    assert last_line(outcome).endswith(" ‘aws’: Permission denied: may it be run?")


def test_no_permission_comes_with_its_remedy(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    fakes.answer(*LS, fakes.fp.any(), stderr=NO_PERMISSION, exit_status=1)

    outcome = run("--tries", "3")

    assert outcome.status == 1
    assert "tried again" not in outcome.stderr
    remedy = f"{NO_PERMISSION}: run it as root, or as one of the group docker"
    assert outcome.stderr.count(remedy) == 2 and last_line(outcome).endswith(remedy)


def test_a_wrong_name_is_looked_for_once(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web")

    outcome = run("--tries", "3", "wbe", "web")

    assert (outcome.status, outcome.stdout) == (1, "web\n")
    text = "there is no such service: see docker service ls"
    assert f"wbe failed: {text}" in outcome.stderr and f"wbe: {text}" in last_line(outcome)
    assert "tried again" not in outcome.stderr
    assert len(fakes.calls_of(*LS)) == updates_of(fakes, swarm, "web") == 1


def test_a_cause_stands_once(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    """However many services it costs; then again in the last line."""
    add_all(swarm, 5)
    fakes.answer(*TOKEN, fakes.fp.any(), stderr="ExpiredToken", exit_status=254, times=99)

    outcome = run()

    said = outcome.stderr.splitlines()
    assert (
        len([line for line in said if line.startswith("5 services failed: Docker login failed")])
        == 1
    )
    assert (
        "; failed: 5 services: Docker login failed for" in said[-1] and "ExpiredToken" in said[-1]
    )


@pytest.mark.parametrize("down", [("docker",), ("aws",), ("docker", "aws")])
def test_login_only_names_what_is_missing(
    run: Run, fakes: Fakes, swarm: PretendSwarm, down: tuple[str, ...]
) -> None:
    swarm.add("web")
    for name in down:
        fakes.remove(name)

    outcome = run("--login-only", "--registry", ECR)

    assert outcome.status == 1 and "tried again" not in outcome.stderr
    assert f"failed to run command ‘{down[0]}’: No such file or dir" in last_line(outcome)


def test_login_only_with_docker_down(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    """What docker says is the failure; nobody judges names, or says that no service uses ECR."""
    swarm.state["node"] = "down"

    outcome = run("--login-only", "web")

    assert outcome.status == 1
    assert "failed to connect to the docker API" in last_line(outcome)
    assert "there is no such service" not in outcome.stderr
    assert "No service uses ECR" not in outcome.stderr


def test_login_only_before_there_is_a_swarm(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.state["node"] = "none"

    outcome = run("--login-only", "--registry", ECR)

    assert outcome.status == 0
    assert "Not in a swarm yet\n" in outcome.stderr
    assert last_line(outcome).startswith("1 login in ")


@pytest.mark.parametrize("status", [124, 127, 126, 137])
def test_an_exit_status_of_a_program_s_own(
    run: Run, fakes: Fakes, swarm: PretendSwarm, status: int
) -> None:
    """Those with which timeout says that a program hung, or is not there."""
    swarm.add("web")
    fakes.answer(*TOKEN, fakes.fp.any(), stderr="mine", exit_status=status, times=99)

    outcome = run()

    text = f"aws ecr get-login-password failed with exit status {status}: mine"
    assert outcome.status == 1 and text in last_line(outcome)
