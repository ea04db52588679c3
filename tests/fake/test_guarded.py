"""A docker that has only logins that others may change: it proves that it holds them.

Before each batch, so that no empty login is sent, and after it, so that none goes unsaid. That is
what `--refresh-only` and a docker that does not use the run's own folder have in common.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import Call, Fakes
from pretend_logins import (
    EXPIRED,
    FORGETFUL_STORE,
)
from pretend_services import login_opens
from pretend_swarm import ECR, ECR_US, UPDATE, PretendSwarm, harmed
from shared import (
    LOGIN,
    PROOF,
    STATUS,
    Bounds,
    Run,
    holders_of_dead_logins,
    is_own,
    is_untouched,
    last_line,
    log_out,
    login_of,
    proofs,
    refreshed,
    write_config,
)

NOT_HELD = "docker holds no login that the registry takes: docker login"
MAY_BE_EMPTY = "seconds: may have been sent an empty login: " + NOT_HELD
NOT_SENT = NOT_HELD


@pytest.fixture
def web(swarm: PretendSwarm) -> PretendSwarm:
    """A swarm of two services of one registry, and one of another."""
    for name in ("web-1", "web-2"):
        swarm.add(name)
    swarm.add("us", f"{ECR_US}/us:1")
    return swarm


# A docker that does not use the folder


def be_wrapped(fakes: Fakes, swarm: PretendSwarm, home: Path) -> None:
    """A wrapper of docker sets DOCKER_CONFIG by itself."""

    def answer(call: Call) -> dict[str, Any] | None:
        environ = {**call.environ, "DOCKER_CONFIG": str(home / ".docker")}
        answer = swarm.answer(call.argv, call.stdin, environ)
        return answer and answer._asdict()

    fakes.answerers.insert(0, answer)


def be_a_snap(fakes: Fakes, swarm: PretendSwarm, home: Path) -> None:
    """This docker may not read the folder."""

    def answer(call: Call) -> dict[str, Any] | None:
        is_login = call.argv[: len(LOGIN)] == list(LOGIN) and is_own(call)
        return {"stderr": "permission denied", "exit_status": 1} if is_login else None

    fakes.answerers.insert(0, answer)


UNWILLING = pytest.mark.parametrize("become", [be_wrapped, be_a_snap])


@UNWILLING
def test_a_docker_that_does_not_use_the_folder(
    run: Run, fakes: Fakes, web: PretendSwarm, home: Path, become: Callable[..., None]
) -> None:
    web.remove("us")
    become(fakes, web, home)

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (0, ["web-1", "web-2"])
    assert last_line(outcome).startswith("1 login, 2 refreshed in ")
    kinds = ["update" if call in fakes.calls_of(*UPDATE) else "proof" for call in fakes.calls
             if call in proofs(fakes) or call in fakes.calls_of(*UPDATE)]  # fmt: skip
    assert kinds == ["proof", "update", "update", "proof"]
    assert not any(map(is_own, fakes.calls_of(*UPDATE)))
    assert holders_of_dead_logins(web) == [] and harmed(web) == []


@UNWILLING
def test_it_fails_where_docker_s_own_place_keeps_nothing_either(
    run: Run, fakes: Fakes, web: PretendSwarm, home: Path, become: Callable[..., None]
) -> None:
    become(fakes, web, home)
    write_config(home, credHelpers={ECR: FORGETFUL_STORE})

    outcome = run()

    assert (outcome.status, outcome.stdout) == (1, "us\n")
    assert f"2 services: Docker login failed for {ECR}: " in last_line(
        outcome
    ) or f"web-1, web-2: Docker login failed for {ECR}: " in last_line(outcome)
    assert is_untouched(web, "web-1") and is_untouched(web, "web-2")


def test_it_says_when_its_login_was_lost(
    run: Run, fakes: Fakes, web: PretendSwarm, home: Path
) -> None:
    be_wrapped(fakes, web, home)
    web.remove("us")
    fakes.when(*UPDATE, do=lambda: log_out(home))

    said = run().stderr

    assert "web-1, web-2 to be tried again in " in said and MAY_BE_EMPTY in said


# --refresh-only


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


def registry(number: int) -> str:
    """Every account has a registry of its own."""
    return f"{number:012}.dkr.ecr.eu-central-1.amazonaws.com"


def test_refresh_only(run: Run, fakes: Fakes, swarm: PretendSwarm, home: Path) -> None:
    logins = {key.format(registry(n)): GOOD for n, key in enumerate(KEYS_OF_A_LOGIN)}
    write_config(home, auths=logins)
    for number in range(len(KEYS_OF_A_LOGIN)):
        swarm.add(f"web-{number}", f"{registry(number)}/web:1")

    outcome = run("--refresh-only")

    assert (outcome.status, refreshed(outcome)) == (0, ["web-0", "web-1", "web-2", "web-3"])
    assert not fakes.calls_of("aws") and not fakes.calls_of(*LOGIN)
    assert not any(map(is_own, fakes.calls))


def test_refresh_only_sends_no_empty_login(run: Run, swarm: PretendSwarm, home: Path) -> None:
    logins = {registry(number): login for number, login in enumerate(NO_LOGINS)}
    others = {ECR_US: login_of("secret-us-east-1-good"), f"{ECR}.evil.example": GOOD}
    write_config(home, auths={**logins, **others})
    for host in (*logins, ECR):
        swarm.add(f"web-{host[:12]}", f"{host}/web:1")
    swarm.add("us", f"{ECR_US}/us:1")

    outcome = run("--refresh-only")

    assert (outcome.status, outcome.stdout) == (1, "us\n")
    said = [f"web-{host[:12]} failed: {NOT_SENT} {host} failed" for host in (*logins, ECR)]
    assert [line for line in said if line not in outcome.stderr] == []
    assert [it["name"] for it in swarm.services if it["version"] > 1] == ["us"]


def test_refresh_only_with_the_logins_of_docker_config(
    run: Run, swarm: PretendSwarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path, auths={ECR: GOOD})
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / ".docker"))
    swarm.add("web")

    assert run("--refresh-only")[:2] == (0, "web\n")


def test_each_batch_is_between_two_proofs(
    run: Run, fakes: Fakes, web: PretendSwarm, home: Path, bounds: Bounds
) -> None:
    """Each proof is a request to the registry: only to that of the batch."""
    bounds.set(batch=1, patience_seconds=60)
    write_config(home, auths={ECR: GOOD, ECR_US: login_of("secret-us-east-1-good")})

    assert run("--refresh-only").status == 0

    hosts = {web.service(name)["id"]: ECR for name in ("web-1", "web-2")}
    calls = [call for call in fakes.calls if call in proofs(fakes) + fakes.calls_of(*UPDATE)]
    places = [hosts.get(call.argv[-1], call.argv[-1]) for call in calls]
    us = web.service("us")["id"]
    assert len(places) == 9
    for before, of_the_update, after in zip(places[::3], places[1::3], places[2::3]):
        assert before == after
        assert of_the_update == (ECR if before == ECR else us)
    assert all(call.stdin == b"" and not call.stdin_is_terminal for call in calls)


@pytest.mark.parametrize("password", ["", EXPIRED])
def test_a_login_that_is_lost_before_a_batch_is_not_sent(
    run: Run, fakes: Fakes, swarm: PretendSwarm, home: Path, password: str
) -> None:
    write_config(home, auths={ECR: GOOD})
    swarm.add("web")
    auths = {ECR: login_of(password)} if password else {}
    fakes.when(*PROOF, ECR, do=lambda: write_config(home, auths=auths))

    outcome = run("--refresh-only")

    assert (outcome.status, outcome.stdout) == (1, "")
    assert f"web: {NOT_SENT} {ECR} failed" in last_line(outcome)
    assert is_untouched(swarm, "web")


@pytest.mark.parametrize("is_back, status, done", [(False, 1, ""), (True, 0, "web\n")])
def test_a_login_that_is_lost_in_a_batch(
    run: Run,
    fakes: Fakes,
    swarm: PretendSwarm,
    home: Path,
    is_back: bool,
    status: int,
    done: str,
) -> None:
    """The updates may have sent an empty login; if somebody logs in again, they are done again."""
    write_config(home, auths={ECR: GOOD})
    swarm.add("web")
    fakes.when(*UPDATE, do=lambda: log_out(home))
    fakes.when(*STATUS, do=lambda: is_back and write_config(home, auths={ECR: GOOD}))

    outcome = run("--refresh-only")

    assert (outcome.status, outcome.stdout) == (status, done)
    assert "web to be tried again in " in outcome.stderr and MAY_BE_EMPTY in outcome.stderr
    assert not fakes.calls_of(*LOGIN)
    assert login_opens(swarm.service("web")) is is_back


def test_a_dry_run_proves_nothing(run: Run, fakes: Fakes, web: PretendSwarm) -> None:
    assert run("--dry-run").status == 0

    assert not fakes.calls_of("docker", "login")
