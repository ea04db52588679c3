"""A login counts when docker can use it: docker proves it before and after each batch."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from fakes import Call, Fakes
from pretend_logins import EXPIRED, FORGETFUL_STORE, STORE
from pretend_services import login_opens
from pretend_swarm import ECR, ECR_US, UPDATE, PretendSwarm, harmed
from shared import (
    LOGIN,
    PROOF,
    Run,
    hosts_logged_in,
    is_untouched,
    last_line,
    log_out,
    proofs,
    refreshed,
    write_config,
)

NOT_HELD = "docker holds no login that the registry takes: docker login"
AGAIN = f"Logging in to {ECR} once more: {NOT_HELD}"


def login_of(password: str) -> dict[str, str]:
    """An entry of config.json."""
    return {"auth": base64.b64encode(f"AWS:{password}".encode()).decode()}


@pytest.fixture
def web(swarm: PretendSwarm) -> PretendSwarm:
    """A swarm of three services of one registry, and one of another."""
    for name in ("web-1", "web-2", "web-3"):
        swarm.add(name)
    swarm.add("us", f"{ECR_US}/us:1")
    return swarm


ALL = ["us", "web-1", "web-2", "web-3"]


def updates_of(fakes: Fakes, swarm: PretendSwarm, name: str) -> int:
    """How often docker was asked to update the service."""
    return len(fakes.calls_of(*swarm.update_of(name)))


# When


def test_each_batch_is_between_two_proofs(
    run: Run,
    fakes: Fakes,
    web: PretendSwarm,
    script: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    web.remove("us")
    monkeypatch.setattr(script, "BATCH", 1)

    assert run().status == 0

    kinds = [
        {"docker service": "update", "docker login": "proof"}[" ".join(call.argv[:2])]
        for call in fakes.calls
        if call in proofs(fakes) or call in fakes.calls_of(*UPDATE)
    ]
    assert kinds == ["proof", "update", "proof"] * 3


def test_a_proof_is_docker_s_login_without_a_name(
    run: Run, fakes: Fakes, web: PretendSwarm
) -> None:
    run()

    for call in proofs(fakes):
        assert call.argv in ([*PROOF, ECR], [*PROOF, ECR_US])
        assert call.stdin == b"" and not call.stdin_is_terminal


def test_only_what_a_batch_uses_is_proven_with_it(
    run: Run, fakes: Fakes, web: PretendSwarm, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each proof is a request to the registry."""
    monkeypatch.setattr(script, "BATCH", 1)

    run()

    hosts = [call.argv[-1] for call in proofs(fakes)]
    assert (hosts.count(ECR), hosts.count(ECR_US)) == (6, 2)


@pytest.mark.parametrize("arguments", [["--login-only"], ["--leader-only"]])
def test_a_login_is_proven_even_if_nothing_is_refreshed(
    run: Run, fakes: Fakes, web: PretendSwarm, home: Path, arguments: list[str]
) -> None:
    web.state["leader"] = False
    web.remove("us")
    fakes.when(*PROOF, ECR, do=lambda: log_out(home))

    outcome = run(*arguments)

    assert outcome.status == 0
    assert AGAIN in outcome.stderr
    assert last_line(outcome).startswith("1 login in ")
    assert hosts_logged_in(fakes) == [ECR, ECR]


def test_a_dry_run_proves_nothing(run: Run, fakes: Fakes, web: PretendSwarm) -> None:
    assert run("--dry-run").status == 0

    assert not fakes.calls_of("docker", "login")


# A login that is lost


def lose_at(fakes: Fakes, home: Path, call: tuple[str, ...], password: str) -> None:
    """Somebody logs out, or logs in with a dead login, when this call comes in."""
    auths = {ECR: login_of(password)} if password else {}
    fakes.when(*call, do=lambda: write_config(home, auths=auths))


@pytest.mark.parametrize("password", ["", EXPIRED, "secret-us-east-1-of-another-region"])
def test_lost_between_the_login_and_the_batch(
    run: Run, fakes: Fakes, swarm: PretendSwarm, home: Path, password: str
) -> None:
    swarm.add("web")
    lose_at(fakes, home, (*PROOF, ECR), password)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (0, "web\n")
    assert AGAIN in outcome.stderr
    assert hosts_logged_in(fakes) == [ECR, ECR]
    assert harmed(swarm) == [] and login_opens(swarm.service("web"))


@pytest.mark.parametrize("password", ["", EXPIRED])
def test_lost_in_a_batch(
    run: Run, fakes: Fakes, web: PretendSwarm, home: Path, password: str
) -> None:
    """The updates may have sent an empty login: they are done once more."""
    lose_at(fakes, home, UPDATE, password)

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (0, ALL)
    assert AGAIN in outcome.stderr
    assert [name for name in ALL if not login_opens(web.service(name))] == []
    assert [updates_of(fakes, web, name) for name in ALL[1:]] == [2, 2, 2]


def test_lost_at_the_last_update_of_a_batch(
    run: Run,
    fakes: Fakes,
    swarm: PretendSwarm,
    home: Path,
    script: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(script, "XARGS", ("xargs", "-r", "-P1"))
    for name in ("web-1", "web-2", "web-3"):
        swarm.add(name)
    for do in (lambda: None, lambda: None, lambda: log_out(home)):
        fakes.when(*UPDATE, do=do)

    outcome = run()

    assert (outcome.status, len(refreshed(outcome))) == (0, 3)
    assert [it["name"] for it in swarm.services if not login_opens(it)] == []


def test_services_of_other_registries_are_not_updated_once_more(
    run: Run, fakes: Fakes, web: PretendSwarm, home: Path
) -> None:
    # In a store, so that config.json stays what it is.
    write_config(home, credsStore=STORE)

    def forget_one() -> None:
        web.state["kept"].pop(ECR)

    fakes.when(*UPDATE, do=forget_one)

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (0, ALL)
    assert [updates_of(fakes, web, name) for name in ALL] == [1, 2, 2, 2]


def test_all_are_updated_once_more_after_a_change_of_config_json(
    run: Run, fakes: Fakes, web: PretendSwarm, home: Path
) -> None:
    """A logout and a login between two proofs: nobody can tell which registry that was."""
    good = home / ".docker/config.json"

    def log_out_and_in() -> None:
        content = good.read_text()
        log_out(home)
        good.write_text(content)

    fakes.when(*UPDATE, do=log_out_and_in)

    outcome = run()

    assert (outcome.status, refreshed(outcome)) == (0, ALL)
    assert [updates_of(fakes, web, name) for name in ALL] == [2, 2, 2, 2]
    assert "Somebody logged in or out meanwhile" in outcome.stderr


def test_lost_again_and_again(run: Run, fakes: Fakes, swarm: PretendSwarm, home: Path) -> None:
    swarm.add("web")

    def log_out_at_each_update(call: Call) -> None:
        if call.argv[: len(UPDATE)] == list(UPDATE):
            log_out(home)

    fakes.answerers.insert(0, log_out_at_each_update)  # type: ignore[arg-type]

    outcome = run()

    assert (outcome.status, outcome.stdout) == (1, "")
    assert "may have been sent an empty login: docker loses its login again and again" in (
        last_line(outcome)
    )
    assert "web" in last_line(outcome)


def test_the_login_after_a_loss_fails(
    run: Run, fakes: Fakes, swarm: PretendSwarm, home: Path
) -> None:
    swarm.add("web")
    fakes.answer(*LOGIN, ECR, stdout="Login Succeeded\n", callback=lambda _: log_in(home))
    fakes.answer(*LOGIN, ECR, stderr="disk full", exit_status=1, times=9)
    fakes.when(*UPDATE, do=lambda: log_out(home))

    outcome = run()

    assert (outcome.status, outcome.stdout) == (1, "")
    assert "may have been sent an empty login: " in outcome.stderr
    assert "disk full" in last_line(outcome)


def log_in(home: Path) -> None:
    """As a login that went well."""
    write_config(home, auths={ECR: login_of("secret-eu-central-1-of-the-test")})


# A login that docker does not hold


def test_a_store_that_gives_nothing_back(
    run: Run, fakes: Fakes, web: PretendSwarm, home: Path
) -> None:
    """docker login succeeds, and each update would send an empty login."""
    write_config(home, credHelpers={ECR: FORGETFUL_STORE})

    outcome = run()

    assert (outcome.status, outcome.stdout) == (1, "us\n")
    assert f"not logged in to {ECR}: {NOT_HELD}" in outcome.stderr
    assert "see its credsStore" in last_line(outcome)
    assert [name for name in ALL[1:] if not is_untouched(web, name)] == []
    # once more, not again and again
    assert hosts_logged_in(fakes).count(ECR) == 2


def test_a_store_that_works(run: Run, swarm: PretendSwarm, home: Path) -> None:
    write_config(home, credsStore=STORE)
    swarm.add("web")

    assert run()[:2] == (0, "web\n")
    assert login_opens(swarm.service("web"))


def test_a_login_that_goes_elsewhere(
    run: Run, fakes: Fakes, swarm: PretendSwarm, tmp_path: Path
) -> None:
    """As a snap's docker does: what it says of its success is no proof."""
    swarm.add("web")
    fakes.answer(*LOGIN, ECR, stdout="Login Succeeded\n", times=9)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (1, "")
    assert NOT_HELD in last_line(outcome)
    assert is_untouched(swarm, "web")


# --refresh-only


def registry(number: int) -> str:
    """Every account has a registry of its own."""
    return f"{number:012}.dkr.ecr.eu-central-1.amazonaws.com"


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


def test_refresh_only(run: Run, fakes: Fakes, swarm: PretendSwarm, home: Path) -> None:
    logins = {key.format(registry(n)): GOOD for n, key in enumerate(KEYS_OF_A_LOGIN)}
    write_config(home, auths=logins)
    for number in range(len(KEYS_OF_A_LOGIN)):
        swarm.add(f"web-{number}", f"{registry(number)}/web:1")

    outcome = run("--refresh-only")

    assert (outcome.status, refreshed(outcome)) == (0, ["web-0", "web-1", "web-2", "web-3"])
    assert not fakes.calls_of("aws") and not fakes.calls_of(*LOGIN)


def test_refresh_only_sends_no_empty_login(run: Run, swarm: PretendSwarm, home: Path) -> None:
    logins = {registry(number): login for number, login in enumerate(NO_LOGINS)}
    others = {ECR_US: login_of("secret-us-east-1-good"), f"{ECR}.evil.example": GOOD}
    write_config(home, auths={**logins, **others})
    for host in (*logins, ECR):
        swarm.add(f"web-{host[:12]}", f"{host}/web:1")
    swarm.add("us", f"{ECR_US}/us:1")

    outcome = run("--refresh-only")

    assert (outcome.status, outcome.stdout) == (1, "us\n")
    said = [f"not logged in to {host}: {NOT_HELD}" for host in (*logins, ECR)]
    assert [line for line in said if line not in outcome.stderr] == []
    assert [it["name"] for it in swarm.services if it["version"] > 1] == ["us"]


@pytest.mark.parametrize("config", [None, {}, {"auths": {}}, {"auths": None}])
def test_refresh_only_without_any_login(
    run: Run, fakes: Fakes, swarm: PretendSwarm, home: Path, config: dict[str, Any] | None
) -> None:
    if config is not None:
        write_config(home, **config)
    swarm.add("web")

    outcome = run("--refresh-only")

    assert (outcome.status, outcome.stdout) == (1, "")
    assert "leave out --refresh-only, or log in" in last_line(outcome)
    assert is_untouched(swarm, "web")
    assert not fakes.calls_of("aws") and not fakes.calls_of(*LOGIN)


def test_refresh_only_with_the_logins_of_docker_config(
    run: Run, swarm: PretendSwarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path, auths={ECR: GOOD})
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / ".docker"))
    swarm.add("web")

    assert run("--refresh-only")[:2] == (0, "web\n")


def test_refresh_only_that_loses_its_login_says_so(
    run: Run, fakes: Fakes, swarm: PretendSwarm, home: Path
) -> None:
    """Nobody can log in again here, so nobody may say that all is well."""
    write_config(home, auths={ECR: GOOD})
    swarm.add("web")
    fakes.when(*UPDATE, do=lambda: log_out(home))

    outcome = run("--refresh-only")

    assert (outcome.status, outcome.stdout) == (1, "")
    assert "web to be tried again: may have been sent an empty login: " in outcome.stderr
    assert not fakes.calls_of(*LOGIN)
