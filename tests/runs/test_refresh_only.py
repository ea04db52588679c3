"""--refresh-only: with the logins that docker holds, of which it proves each before it is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pretend.calls import Run, is_of_run, is_untouched, login_of, proofs, registry, write_config
from pretend.logins import DEAD_HELPER, EXPIRED, NOT_STORED, OLD_ECR_HELPER
from pretend.runner import Answers
from pretend.services import ECR
from pretend.swarm import ECR_US, PretendSwarm
from pretend.texts import TEXTS

import ecr_swarm_login as script

KEYS_OF_A_LOGIN = ("{}", "https://{}", "http://{}", "https://{}/v1/")
GOOD = login_of("secret-eu-central-1-of-a-person")
NO_LOGINS: list[Any] = [
    {},
    {"auth": ""},
    {"auth": None},
    None,
    {"identitytoken": ""},
    {"username": "AWS"},
    login_of(""),
    login_of(EXPIRED),
]


def test_refresh_only(run: Run, programs: Answers, swarm: PretendSwarm, home: Path) -> None:
    logins = {key.format(registry(n)): GOOD for n, key in enumerate(KEYS_OF_A_LOGIN)}
    write_config(home, auths=logins)
    for number in range(len(KEYS_OF_A_LOGIN)):
        swarm.add(f"web-{number}", f"{registry(number)}/web:1")

    outcome = run("--refresh-only")

    assert (outcome.status, outcome.refreshed) == (0, ["web-0", "web-1", "web-2", "web-3"])
    assert not programs.calls_of("aws") and not programs.calls_of(*script.LOGIN)
    assert not any(map(is_of_run, programs.calls))


def test_no_empty_login_is_sent(run: Run, swarm: PretendSwarm, home: Path) -> None:
    logins = {registry(number): login for number, login in enumerate(NO_LOGINS)}
    others = {ECR_US: login_of("secret-us-east-1-good"), f"{ECR}.evil.example": GOOD}
    write_config(home, auths={**logins, **others})
    for host in (*logins, ECR):
        swarm.add(f"web-{host[:12]}", f"{host}/web:1")
    swarm.add("us", f"{ECR_US}/us:1")

    outcome = run("--refresh-only")

    assert (outcome.status, outcome.refreshed) == (1, ["us"])
    said = [f"web-{host[:12]} failed; next attempt in 1 s: docker holds no valid login to {host}: "
            for host in (*logins, ECR)]  # fmt: skip
    assert [line for line in said if line not in outcome.stderr] == []
    assert [it["name"] for it in swarm.services if it["version"] > 1] == ["us"]


def test_with_the_logins_of_docker_config(
    run: Run, swarm: PretendSwarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path, auths={ECR: GOOD})
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / ".docker"))
    swarm.add("web")

    assert run("--refresh-only").refreshed == ["web"]


def test_each_registry_is_proven_once_before_its_first_update(
    run: Run, programs: Answers, swarm: PretendSwarm, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each proof is a request to the registry."""
    monkeypatch.setattr(script, "BATCHES", (1,))
    for name in ("web-1", "web-2"):
        swarm.add(name)
    swarm.add("us", f"{ECR_US}/us:1")
    write_config(home, auths={ECR: GOOD, ECR_US: login_of("secret-us-east-1-good")})

    assert run("--refresh-only").status == 0

    assert sorted(call.argv[-1] for call in proofs(programs)) == [ECR, ECR_US]
    ids = {swarm.service(name)["id"]: ECR for name in ("web-1", "web-2")}
    ids[swarm.service("us")["id"]] = ECR_US
    for host in (ECR, ECR_US):
        [proof] = [call for call in proofs(programs) if call.argv[-1] == host]
        first = next(
            call for call in programs.calls_of(*script.UPDATE) if ids[call.argv[-1]] == host
        )
        assert programs.calls.index(proof) < programs.calls.index(first)
        assert proof.stdin == b""


def test_a_registry_without_services_is_not_proven(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    swarm.add("other", "nginx:1")

    assert run("--refresh-only").status == 0
    assert not programs.calls_of(*script.PROOF)


@pytest.mark.parametrize("password", ["", EXPIRED])
def test_a_login_that_is_lost_before_the_proof_is_not_sent(
    run: Run, programs: Answers, swarm: PretendSwarm, home: Path, password: str
) -> None:
    write_config(home, auths={ECR: GOOD})
    swarm.add("web")
    auths = {ECR: login_of(password)} if password else {}
    programs.when(*script.PROOF, ECR, do=lambda: write_config(home, auths=auths))

    outcome = run("--refresh-only")

    assert (outcome.status, outcome.refreshed) == (1, [])
    assert f"web: docker holds no valid login to {ECR}" in outcome.last_line
    assert is_untouched(swarm, "web")


def test_a_dry_run_proves_nothing(run: Run, programs: Answers, swarm: PretendSwarm) -> None:
    swarm.add("web")

    outcome = run("--dry-run", "--refresh-only")

    assert outcome.status == 0
    assert "Would log in to no registry\n" in outcome.stderr
    assert not programs.calls_of("docker", "login")


# Credential helpers, and what a proof says: docker/cli, cli/command/registry/login.go

CLIENTS = pytest.mark.parametrize("client", TEXTS)


@CLIENTS
@pytest.mark.parametrize("helper, status", [(OLD_ECR_HELPER, 0), (DEAD_HELPER, 1)])
def test_a_helper_that_stores_nothing(
    run: Run, swarm: PretendSwarm, home: Path, client: str, helper: str, status: int
) -> None:
    """Its login is good, or has expired."""
    swarm.state["client"] = client
    write_config(home, credHelpers={ECR: helper})
    swarm.add("web")

    outcome = run("--refresh-only")

    assert (outcome.status, outcome.refreshed) == (status, ["web"] * (not status))
    assert is_untouched(swarm, "web") is bool(status)


REFUSALS = (
    "Stored credentials invalid or expired\n",
    "Login did not succeed, error: Error response from daemon: 401 Unauthorized\n",
)


@CLIENTS
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_what_proves_a_login(
    run: Run, programs: Answers, swarm: PretendSwarm, client: str, stream: str
) -> None:
    """Older clients print what they do to stdout, newer ones to stderr; those of 26 and newer go on
    to ask for a password.
    """
    texts = TEXTS[client]
    swarm.add("web")
    for ending in (texts["not stored"].format(NOT_STORED), texts["no terminal"]):
        said = {stream: texts["authenticating"] + ending}
        programs.answer(*script.PROOF, ECR, exit_status=1, **said)

        assert run("--refresh-only").refreshed == ["web"], said


@CLIENTS
def test_what_proves_nothing(run: Run, programs: Answers, swarm: PretendSwarm, client: str) -> None:
    """A refusal; what is not understood; and a proof that was killed, for the client says that it
    authenticates before it asks the registry.
    """
    texts = TEXTS[client]
    refusals = [
        texts["authenticating"] + refusal + texts["not stored"].format(NOT_STORED)
        for refusal in REFUSALS
    ]
    others = [texts[name] for name in ("no terminal", "authenticating")]
    swarm.add("web")
    for said in ("", texts["not stored"].format(NOT_STORED), *others, *refusals):
        programs.answer(*script.PROOF, ECR, exit_status=1, stderr=said, times=4)

        outcome = run("--refresh-only")

        assert (outcome.status, outcome.refreshed) == (1, []), said
        assert "docker holds no valid login" in outcome.last_line
    assert is_untouched(swarm, "web")
