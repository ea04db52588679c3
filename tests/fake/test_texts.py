"""What the script understands by a text, with the texts of older and of newer docker clients."""

from __future__ import annotations

import base64
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import Fakes
from pretend_logins import DEAD_HELPER, NOT_STORED, OLD_ECR_HELPER
from pretend_services import login_opens
from pretend_swarm import ECR, UPDATE, PretendSwarm
from pretend_texts import TEXTS
from shared import INSPECT, LS, PROOF, STATUS, Run, is_untouched, last_line, log_out, write_config

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
    """In the one way in which that can be: in docker's own place."""
    write_config(home, auths={ECR: GOOD})
    fakes.when(*UPDATE, do=lambda: log_out(home))
    fakes.when(*STATUS, do=lambda: write_config(home, auths={ECR: GOOD}))

    outcome = run("--refresh-only")

    assert outcome[:2] == (0, "web\n")
    assert "may have been sent an empty login: docker holds no login" in outcome.stderr
    assert login_opens(swarm.service("web"))


# Credential helpers


def test_a_helper_that_stores_nothing_and_has_a_good_login(
    run: Run, swarm: PretendSwarm, home: Path, client: str
) -> None:
    write_config(home, credHelpers={ECR: OLD_ECR_HELPER})

    assert run("--refresh-only")[:2] == (0, "web\n")
    assert login_opens(swarm.service("web"))


def test_a_helper_whose_own_login_is_dead(
    run: Run, swarm: PretendSwarm, home: Path, client: str
) -> None:
    write_config(home, credHelpers={ECR: DEAD_HELPER})

    outcome = run("--refresh-only")

    assert (outcome.status, outcome.stdout) == (1, "")
    assert is_untouched(swarm, "web")


@pytest.mark.parametrize("helper, status", [(OLD_ECR_HELPER, 0), (DEAD_HELPER, 1)])
def test_a_helper_for_deploys(
    run: Run, swarm: PretendSwarm, home: Path, client: str, helper: str, status: int
) -> None:
    write_config(home, credHelpers={ECR: helper})

    outcome = run("--login-only")

    assert outcome.status == status
    assert ("not implemented" in last_line(outcome)) is bool(status)


# What a proof may say: docker/cli, cli/command/registry/login.go
REFUSALS = (
    "Stored credentials invalid or expired\n",
    "Login did not succeed, error: Error response from daemon: Get https://X/v2/: EOF\n",
    "Login did not succeed, error: Error response from daemon: 401 Unauthorized\n",
)


def is_proven(script: Any, stdout: str, stderr: str, status: int) -> bool:
    """What the script makes of what docker says and of its exit status."""

    def say(*command: str, **_: Any) -> Any:
        assert command == (*PROOF, ECR)
        problem = script.Problem(stderr) if status else None
        return script.Result(problem, (stdout), stderr)

    registries = script.Registries(SimpleNamespace(run=say), "")
    try:
        registries.prove(ECR)
    except script.Problem:
        return False
    return True


CLIENTS = pytest.mark.parametrize("client", TEXTS)


@CLIENTS
def test_an_exit_status_of_0_is_a_proof(script: Any, client: str) -> None:
    assert is_proven(script, "Login Succeeded\n", "", 0)


@CLIENTS
@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_helper_that_stores_nothing_proves_nothing_else(
    script: Any, client: str, refusal: str
) -> None:
    texts = TEXTS[client]
    said = texts["authenticating"] + refusal + texts["not stored"].format(NOT_STORED)

    assert not is_proven(script, "", said, 1)
    assert not is_proven(script, said, "", 1)


@CLIENTS
def test_where_a_proof_says_it_does_not_matter(script: Any, client: str) -> None:
    """Older clients print what they do to stdout, newer ones to stderr."""
    texts = TEXTS[client]
    not_stored = texts["not stored"].format(NOT_STORED)

    assert is_proven(script, texts["authenticating"], not_stored, 1)
    # Those of 26 and newer go on to ask for a password.
    assert is_proven(script, texts["authenticating"], texts["no terminal"], 1)
    assert is_proven(script, "", texts["authenticating"] + not_stored, 1)


@CLIENTS
# The client says that it authenticates before it asks the registry: then it may hang, or be killed.
@pytest.mark.parametrize("said", ["", "no terminal", "not stored", "authenticating"])
def test_what_is_not_understood_is_not_proven(script: Any, client: str, said: str) -> None:
    assert not is_proven(script, "", TEXTS[client].get(said, ""), 1)


# A config.json that makes no sense


def test_a_config_that_stays_broken(
    run: Run, fakes: Fakes, swarm: PretendSwarm, home: Path, client: str
) -> None:
    write_config(home)
    (home / ".docker" / "config.json").write_text("{auths")

    outcome = run("--refresh-only")

    assert (outcome.status, outcome.stdout) == (1, "")
    assert "config file" in last_line(outcome)
    assert is_untouched(swarm, "web")


# A daemon or a service that has gone


def test_a_daemon_that_comes_back(run: Run, swarm: PretendSwarm, fakes: Fakes, client: str) -> None:
    swarm.state["node"] = "down"
    fakes.when(*LS, do=lambda: fakes.when(*LS, do=lambda: swarm.state.update(node="manager")))

    outcome = run()

    assert (outcome.status, outcome.stdout) == (0, "web\n")
    text = f"docker service ls failed with exit status 1: {TEXTS[client]['down']}"[:500]
    assert (
        "the run to be tried again in " in outcome.stderr and f" seconds: {text}" in outcome.stderr
    )


@pytest.mark.parametrize("moment", [INSPECT, UPDATE])
def test_a_service_that_goes(
    run: Run, fakes: Fakes, swarm: PretendSwarm, client: str, moment: tuple[str, ...]
) -> None:
    swarm.add("gone")
    fakes.when(*moment, do=lambda: swarm.remove("gone"))

    outcome = run()

    # Its update may have been over by then.
    assert outcome.status == 0 and "web" in outcome.stdout.split()
    assert "to be tried again" in outcome.stderr or "gone" in outcome.stdout.split()


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
