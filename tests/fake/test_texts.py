"""What the script understands by a text, with the texts of older and of newer docker clients."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from fakes import Fakes
from pretend_logins import DEAD_HELPER, ECR_HELPER, NOT_STORED, OLD_ECR_HELPER
from pretend_services import login_opens
from pretend_swarm import ECR, UPDATE, PretendSwarm
from pretend_texts import TEXTS
from shared import LOGIN, PROOF, Run, is_untouched, last_line, log_out, write_config

GOOD = {"auth": base64.b64encode(b"AWS:secret-eu-central-1-good").decode()}


@pytest.fixture(params=TEXTS)
def client(request: pytest.FixtureRequest, swarm: PretendSwarm) -> str:
    """The docker client's release."""
    swarm.state["client"] = request.param
    swarm.add("web")
    return str(request.param)


def test_a_run(run: Run, swarm: PretendSwarm, client: str) -> None:
    assert run()[:2] == (0, "web\n")
    assert login_opens(swarm.service("web"))


def test_a_login_that_is_lost(
    run: Run, fakes: Fakes, swarm: PretendSwarm, home: Path, client: str
) -> None:
    fakes.when(*UPDATE, do=lambda: log_out(home))

    assert run()[:2] == (0, "web\n")
    assert login_opens(swarm.service("web"))


# Credential helpers


@pytest.mark.parametrize("helper", [ECR_HELPER, OLD_ECR_HELPER])
def test_a_helper_that_stores_nothing_and_has_a_good_login(
    run: Run, swarm: PretendSwarm, home: Path, client: str, helper: str
) -> None:
    write_config(home, credHelpers={ECR: helper})

    assert run("--refresh-only")[:2] == (0, "web\n")
    assert login_opens(swarm.service("web"))


def test_a_helper_whose_own_login_is_dead(
    run: Run, swarm: PretendSwarm, home: Path, client: str
) -> None:
    write_config(home, credHelpers={ECR: DEAD_HELPER})

    outcome = run("--refresh-only")

    assert (outcome.status, outcome.stdout) == (1, "")
    assert is_untouched(swarm, "web")


def test_the_newest_helper_needs_no_option(
    run: Run, swarm: PretendSwarm, home: Path, client: str
) -> None:
    """It takes a login that it ignores, and gives one of its own."""
    write_config(home, credHelpers={ECR: ECR_HELPER})

    assert run()[:2] == (0, "web\n")
    assert login_opens(swarm.service("web"))


def test_an_old_helper_does(run: Run, swarm: PretendSwarm, home: Path, client: str) -> None:
    write_config(home, credHelpers={ECR: OLD_ECR_HELPER})

    outcome = run()

    assert (outcome.status, outcome.stdout) == (1, "")
    assert "not implemented" in last_line(outcome)
    assert is_untouched(swarm, "web")


# What a proof may say: docker/cli, cli/command/registry/login.go
REFUSALS = (
    "Stored credentials invalid or expired\n",
    "Login did not succeed, error: Error response from daemon: Get https://X/v2/: EOF\n",
    "Login did not succeed, error: Error response from daemon: 401 Unauthorized\n",
)


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_helper_that_stores_nothing_proves_nothing_else(
    run: Run, fakes: Fakes, swarm: PretendSwarm, client: str, refusal: str
) -> None:
    texts = TEXTS[client]
    said = texts["authenticating"] + refusal + texts["not stored"].format(NOT_STORED)
    fakes.answer(*PROOF, ECR, stderr=said, exit_status=1, times=9)

    outcome = run("--refresh-only")

    assert (outcome.status, outcome.stdout) == (1, "")
    assert is_untouched(swarm, "web")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_where_a_proof_says_it_does_not_matter(
    run: Run, fakes: Fakes, swarm: PretendSwarm, client: str, stream: str
) -> None:
    """Older clients print what they do to stdout, newer ones to stderr."""
    texts = TEXTS[client]
    answer = {"stderr": texts["not stored"].format(NOT_STORED), "exit_status": 1, "times": 9}
    answer[stream] = texts["authenticating"] + str(answer.get(stream, ""))
    fakes.answer(*PROOF, ECR, **answer)

    assert run("--refresh-only")[:2] == (0, "web\n")


@pytest.mark.parametrize("missing", ["authenticating", "not stored"])
def test_what_is_not_understood_is_not_proven(
    run: Run, fakes: Fakes, swarm: PretendSwarm, client: str, missing: str
) -> None:
    texts = {**TEXTS[client], missing: ""}
    said = texts["authenticating"] + texts["not stored"].format(NOT_STORED)
    fakes.answer(*PROOF, ECR, stderr=said or "denied", exit_status=1, times=9)

    assert run("--refresh-only")[:2] == (1, "")
    assert is_untouched(swarm, "web")


# A config.json that makes no sense


def test_a_config_that_is_broken_while_docker_updates(
    run: Run, fakes: Fakes, swarm: PretendSwarm, home: Path, client: str
) -> None:
    """The client warns, sends an empty login, and ends with 0."""
    path = home / ".docker" / "config.json"
    fakes.when(*UPDATE, do=lambda: path.write_text("{auths"))
    # mended before anybody proves the login again
    fakes.when(*PROOF, ECR, do=lambda: None)
    fakes.when(*PROOF, ECR, do=lambda: write_config(home, auths={ECR: GOOD}))

    outcome = run()

    assert (outcome.status, outcome.stdout) == (0, "web\n")
    assert "docker service update sent no login" in outcome.stderr
    assert login_opens(swarm.service("web"))


def test_a_config_that_stays_broken(
    run: Run, fakes: Fakes, swarm: PretendSwarm, home: Path, client: str
) -> None:
    write_config(home)
    (home / ".docker" / "config.json").write_text("{auths")

    outcome = run("--refresh-only")

    assert (outcome.status, outcome.stdout) == (1, "")
    assert "config file" in last_line(outcome)
    assert is_untouched(swarm, "web")


@pytest.mark.parametrize("status", [0, 1])
def test_an_update_that_says_so_is_a_failure_whatever_its_status(
    run: Run, fakes: Fakes, swarm: PretendSwarm, client: str, status: int
) -> None:
    text = TEXTS[client]["config is broken"].format(path="/root/.docker/config.json", error="EOF")
    argv = swarm.update_of("web")
    fakes.answer(*argv, stdout=argv[-1], stderr=text, exit_status=status, times=9)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (1, "")
    assert "EOF" in last_line(outcome)


# A daemon or a service that has gone


def test_a_daemon_that_comes_back(run: Run, swarm: PretendSwarm, fakes: Fakes, client: str) -> None:
    swarm.state["node"] = "down"
    fakes.when("docker", "info", do=lambda: swarm.state.update(node="manager"))

    outcome = run()

    assert (outcome.status, outcome.stdout) == (0, "web\n")
    assert (
        f"To be tried again: docker service ls failed with exit status 1: {TEXTS[client]['down']}"[
            :500
        ]
        in outcome.stderr
    )


@pytest.mark.parametrize(
    "moment", [LOGIN, ("docker", "service", "inspect"), ("docker", "service", "ps"), UPDATE]
)
def test_a_service_that_goes(
    run: Run, fakes: Fakes, swarm: PretendSwarm, client: str, moment: tuple[str, ...]
) -> None:
    swarm.add("gone")
    fakes.when(*moment, do=lambda: swarm.remove("gone"))

    assert run()[:2] == (0, "web\n")


@pytest.mark.parametrize("node", ["worker", "none", "locked"])
def test_a_node_that_manages_nothing(
    run: Run, fakes: Fakes, swarm: PretendSwarm, client: str, node: str
) -> None:
    """It goes on to fail: no second try."""
    swarm.state["node"] = node

    outcome = run()

    assert (outcome.status, outcome.stdout) == (1, "")
    assert TEXTS[client][node][:60] in last_line(outcome)
    assert len(fakes.calls_of("docker", "service", "ls")) == 1
