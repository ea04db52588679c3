"""The run: what is done, in which order, and what is said, for every option and every kind of service."""

from __future__ import annotations

import base64
import importlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import Fakes, Outcome
from pretend_swarm import (
    ACCOUNT,
    ECR,
    ECR_US,
    EXPIRED,
    OWN_LOGIN,
    UPDATE,
    PretendSwarm,
    login_opens,
)

Run = Callable[..., Outcome]

REGION, REGION_US = "eu-central-1", "us-east-1"
ECR_OTHER_ACCOUNT = ECR.replace(ACCOUNT, "999999999999")
LS = ("docker", "service", "ls")
LOGIN = ("docker", "login")
STS = ("aws", "sts", "get-caller-identity")
TOKEN = ("aws", "ecr", "get-login-password")
CONFIGURE = ("aws", "configure", "get", "region")
HELPER = "docker-credential-ecr-login"
LOGIN_OF_A_PERSON = {"auth": base64.b64encode(b"AWS:a person's").decode()}


def hosts_logged_in(fakes: Fakes) -> list[str]:
    """The registries, in the order of the logins."""
    return [call.argv[-1] for call in fakes.calls_of(*LOGIN)]


def last_line(outcome: Outcome) -> str:
    return outcome.stderr.splitlines()[-1]


def untouched(swarm: PretendSwarm, name: str) -> bool:
    return swarm.service(name)["version"] == 1


def write_config(home: Path, **config: Any) -> None:
    """The file in which docker keeps its logins."""
    (home / ".docker").mkdir(exist_ok=True)
    (home / ".docker" / "config.json").write_text(json.dumps(config))


@pytest.fixture
def home(fakes: Fakes) -> Path:
    return Path(os.environ["HOME"])


# The steps


def test_a_run_asks_logs_in_and_refreshes(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web", f"{ECR}/web:1", replicas="3/3")

    outcome = run()

    assert outcome.status == 0
    assert outcome.stdout == "web\n"
    calls = [call.argv for call in fakes.calls]
    token = calls.index([*TOKEN, "--region", REGION])
    login = calls.index([*LOGIN, "--username", "AWS", "--password-stdin", ECR])
    assert calls[0][:3] == list(LS)
    assert token < login < calls.index(list(swarm.update_of("web")))
    assert fakes.calls_of(*LOGIN)[0].stdin.decode().strip() == swarm.tokens[0]
    assert login_opens(swarm.service("web"))


def test_the_story_is_on_stderr(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("web")
    swarm.add("other", "nginx:1")

    outcome = run()

    assert f"Docker login succeeded for {ECR}" in outcome.stderr
    assert "Running docker update swarm services registry auth" in outcome.stderr
    assert "2 of 2 services" in outcome.stderr
    assert "process started" not in outcome.stderr  # that is the story of the library sh
    assert (
        "1 refreshed, 1 left alone, 0 held back, 0 held back too long, 0 failed in "
        in last_line(outcome)
    )


def story(outcome: Outcome) -> list[str]:
    """What was said, line by line, whatever time it took."""
    return re.sub(r"[0-9]+\.[0-9] seconds", "N seconds", outcome.stderr).splitlines()


def a_swarm_of_all_kinds(swarm: PretendSwarm) -> None:
    swarm.add("web")
    swarm.add("other", "nginx:1")
    swarm.add("job", mode="global job", **ONE_SHOT)
    swarm.add("once", restart="none", **ONE_SHOT)
    swarm.add("stuck", **PAUSED, hours_ago=7)
    swarm.add("rolling", **{**PAUSED, "rollout": "updating"})
    swarm.add("files", **UNSORTED)


WAYS_ON = "; to go on: docker service update --with-registry-auth stuck; to go back: docker service rollback stuck"
LEFT_OR_HELD = [
    "once left alone: its finished tasks would run again",
    "other left alone: its image is in no ECR registry",
    "job left alone: it is a job, and would run again",
    f"stuck held back too long: its rollout is paused{WAYS_ON}",
    "rolling held back: its rollout is updating",
]
WELL = "N seconds; missing: nothing"
RESTARTS = (
    "its tasks may restart once: the docker client sorts its mounts and ulimits (docker/cli#7226)"
)


def test_the_story_of_a_run(run: Run, swarm: PretendSwarm) -> None:
    a_swarm_of_all_kinds(swarm)

    outcome = run("web", "other", "job", "once", "stuck", "rolling", "files", "nix")

    assert story(outcome) == [
        "nix failed: there is no such service: see docker service ls",
        f"Docker login succeeded for {ECR}",
        "Running docker update swarm services registry auth",
        *LEFT_OR_HELD,
        f"files to be refreshed: {RESTARTS}",
        "7 of 7 services processed",
        "2 refreshed, 3 left alone, 1 held back, 1 held back too long, 1 failed in N seconds; missing: nix",
    ]


def test_the_story_of_a_dry_run(run: Run, swarm: PretendSwarm) -> None:
    a_swarm_of_all_kinds(swarm)

    outcome = run("--dry-run", "--keep-rollback", "2", "--region", REGION_US)

    assert story(outcome) == [
        f"Would log in to {ECR}, your own registry in {REGION_US}",
        "Not running docker update swarm services registry auth",
        LEFT_OR_HELD[0],
        "web to be refreshed: it pulls from ECR",
        *LEFT_OR_HELD[1:],
        f"files to be refreshed: {RESTARTS}",
        "7 of 7 services processed",
        f"2 to be refreshed, 0 refreshed, 3 left alone, 1 held back, 1 held back too long, 0 failed in {WELL}",
    ]


def test_the_story_of_all_services(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("files", **UNSORTED)

    assert story(run("--all-services"))[2:3] == ["files to be refreshed: as every service is"]


def test_the_story_of_a_manager_that_does_not_lead(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("web")
    swarm.state["leader"] = False

    assert story(run("--leader-only")) == [
        f"Docker login succeeded for {ECR}",
        "Another manager leads the swarm, and refreshes its services",
        "0 refreshed, 0 left alone, 0 held back, 0 held back too long, 0 failed in N seconds; missing: nothing",
    ]


def test_the_story_of_a_refresh_without_logins(
    run: Run, fakes: Fakes, swarm: PretendSwarm, home: Path
) -> None:
    write_config(home, credHelpers={ECR_US: "ecr-login"})
    swarm.add("web")
    swarm.add("us", f"{ECR_US}/us:1")
    fakes.answer(HELPER, "get", stdout="{}")

    outcome = run("--refresh-only")

    assert sorted(story(outcome)[:2]) == [
        f"{ECR} failed: docker holds no login for it: leave out --refresh-only",
        f"{ECR_US} failed: no login: echo {ECR_US} | {HELPER} get",
    ]
    assert story(outcome)[2:] == [
        "Running docker update swarm services registry auth",
        f"web failed: docker is not logged in to {ECR}",
        f"us failed: docker is not logged in to {ECR_US}",
        "2 of 2 services processed",
        "0 refreshed, 0 left alone, 0 held back, 0 held back too long, 4 failed in N seconds; missing: "
        + ", ".join([*(line.split()[0] for line in story(outcome)[:2]), "web", "us"]),
    ]


def test_the_story_of_what_is_tried_again(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web")
    fakes.answer(*swarm.update_of("web"), stderr="out of sequence", exit_status=1, times=2)

    outcome = run()

    assert story(outcome)[2:4] == [
        "web to be tried again: docker service update failed: out of sequence",
        "web to be tried again: docker service update failed: out of sequence",
    ]


def test_what_docker_does_not_show_is_tried_again(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("web")
    fakes.answer("docker", "service", "inspect", fakes.fp.any(), stdout="")

    assert "web to be tried again: docker does not show it" in story(run())


def test_it_waits_longer_before_each_further_try(
    run: Run, fakes: Fakes, swarm: PretendSwarm, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert importlib.reload(script).PAUSES == (1, 3, 9)
    monkeypatch.setattr(script, "PAUSES", (7, 8, 9))
    (fakes.bin / "sleep").unlink()
    for seconds in ("7", "8"):
        fakes.answer("sleep", seconds)
    swarm.add("web")
    fakes.answer(*swarm.update_of("web"), stderr="out of sequence", exit_status=1, times=2)

    assert run().status == 0

    assert [call.argv for call in fakes.calls_of("sleep")] == [["sleep", "7"], ["sleep", "8"]]


def test_one_inspect_for_all_services(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    names = [swarm.service(swarm.add(f"web-{number}"))["name"] for number in range(12)]

    outcome = run()

    assert sorted(outcome.stdout.split()) == sorted(names)
    assert len(fakes.calls_of("docker", "service", "inspect")) == 1
    assert len(fakes.calls_of(*UPDATE)) == 12
    assert not fakes.calls_of("docker", "service", "ps")


def test_programs_side_by_side_do_not_print_over_each_other(script: Any) -> None:
    # They share one place in one file; what runs under xargs -P does, too.
    side_by_side = "for letter in a b c d; do (printf %0200000d 0 | tr 0 $letter) & done; wait"

    for _ in range(5):
        problem, printed = script.program("sh", "-c", side_by_side)

        assert problem == ""
        assert sorted(set(printed.text())) == list("abcd") and len(printed.text()) == 4 * 200_000


def test_an_empty_swarm_is_fine(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    outcome = run("--region", REGION)

    assert (outcome.status, outcome.stdout) == (0, "")
    assert hosts_logged_in(fakes) == [ECR]


def test_the_folder_of_the_logins_is_the_user_s_alone(
    run: Run, swarm: PretendSwarm, home: Path
) -> None:
    swarm.add("web")

    assert run().status == 0

    assert (home / ".docker").stat().st_mode & 0o777 == 0o700


def test_a_second_run_refreshes_again(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("web")

    assert run()[:2] == (0, "web\n")
    first = swarm.service("web")["credentials"]

    assert run()[:2] == (0, "web\n")
    assert swarm.service("web")["credentials"] != first


# The registries


@pytest.mark.parametrize(
    "arguments, environment, hosts",
    [
        ([], {}, [ECR]),
        (["--registry", ECR_US], {}, [ECR, ECR_US]),
        (
            ["--registry", ECR_US, "--registry", ECR_OTHER_ACCOUNT],
            {},
            [ECR, ECR_US, ECR_OTHER_ACCOUNT],
        ),
        (["--registry", ECR], {}, [ECR]),
        (["--region", REGION_US], {}, [ECR, ECR_US]),
        (["--region", REGION], {}, [ECR]),
        ([], {"AWS_REGION": REGION_US}, [ECR, ECR_US]),
        ([], {"AWS_DEFAULT_REGION": REGION_US}, [ECR, ECR_US]),
        ([], {"AWS_REGION": REGION_US, "AWS_DEFAULT_REGION": "ap-south-1"}, [ECR, ECR_US]),
        (["--region", REGION_US], {"AWS_REGION": "ap-south-1"}, [ECR, ECR_US]),
        ([], {"AWS_REGION": "", "AWS_DEFAULT_REGION": REGION_US}, [ECR, ECR_US]),
        ([], {"AWS_REGION": "", "AWS_DEFAULT_REGION": ""}, [ECR]),
    ],
)
def test_registries(
    run: Run, fakes: Fakes, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], environment: dict[str, str], hosts: list[str],
) -> None:  # fmt: skip
    swarm.add("web")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

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
def test_the_account_s_own_registry(
    run: Run, fakes: Fakes, swarm: PretendSwarm, region: str, suffix: str
) -> None:
    outcome = run("--login-only", "--region", region)

    assert outcome.status == 0
    assert hosts_logged_in(fakes) == [f"{ACCOUNT}.dkr.ecr.{region}.{suffix}"]
    asked = [*STS, "--query", "Account", "--output", "text", "--region", region]
    assert [call.argv for call in fakes.calls_of(*STS)] == [asked]


def test_the_profile_s_region_is_the_last_resort(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("other", "nginx:1")
    swarm.state["region"] = REGION_US

    outcome = run()

    assert outcome.status == 0
    assert hosts_logged_in(fakes) == [ECR_US]


def test_without_any_registry_the_error_says_what_to_pass(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("other", "nginx:1")

    outcome = run()

    assert outcome.status == 1
    assert "--region" in outcome.stderr and "--registry" in outcome.stderr


def test_one_token_for_each_region(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web")
    swarm.add("web-of-another-account", f"{ECR_OTHER_ACCOUNT}/web:1")
    swarm.add("us", f"{ECR_US}/us:1")

    outcome = run("--region", REGION)

    assert outcome.status == 0
    assert sorted(call.argv[-1] for call in fakes.calls_of(*TOKEN)) == [REGION, REGION_US]
    assert sorted(hosts_logged_in(fakes)) == sorted([ECR, ECR_OTHER_ACCOUNT, ECR_US])
    assert len({call.stdin for call in fakes.calls_of(*LOGIN)}) == 2


def test_regions_side_by_side(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    # Each token comes only when all three have been asked for.
    together = threading.Barrier(3)
    for region in (REGION, REGION_US, "ap-south-1"):
        fakes.when(*TOKEN, "--region", region, do=lambda: together.wait(timeout=10))

    outcome = run("--login-only", "--region", "ap-south-1", "--registry", ECR, "--registry", ECR_US)

    assert outcome.status == 0
    assert not together.broken


def test_logins_one_after_the_other(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    # The first login waits for a second one, which must not come meanwhile.
    second, came = threading.Event(), []
    fakes.when(*LOGIN, do=lambda: came.append(second.wait(timeout=0.2)))
    fakes.when(*LOGIN, do=second.set)

    assert run("--login-only", "--registry", ECR, "--registry", ECR_US).status == 0

    assert came == [False]
    assert second.is_set()


@pytest.mark.parametrize(
    "failing, says",
    [
        ((*LOGIN, "--username", "AWS", "--password-stdin", ECR), "Docker login failed"),
        ((*TOKEN, "--region", REGION), "Failed to acquire docker login credentials"),
    ],
)
def test_a_registry_that_fails_leaves_the_others_going(
    run: Run, fakes: Fakes, swarm: PretendSwarm, failing: tuple[str, ...], says: str
) -> None:
    swarm.add("web")
    swarm.add("us", f"{ECR_US}/us:1")
    fakes.answer(*failing, stderr="denied by the test\n", exit_status=1)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (1, "us\n")
    assert f"{ECR} failed: {says}" in outcome.stderr and "denied by the test" in outcome.stderr
    assert f"Docker login succeeded for {ECR}\n" not in outcome.stderr
    assert f"web failed: docker is not logged in to {ECR}" in outcome.stderr
    assert ECR in last_line(outcome) and "web" in last_line(outcome)
    assert untouched(swarm, "web")


def test_without_its_account_the_others_go_on(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web")
    fakes.answer(*STS, fakes.fp.any(), stderr="Unable to locate credentials\n", exit_status=253)

    outcome = run("--region", REGION_US)

    assert (outcome.status, outcome.stdout) == (1, "web\n")
    assert f"your own registry in {REGION_US} failed: " in outcome.stderr
    assert "Unable to locate credentials" in outcome.stderr


# What becomes of a service

ONE_SHOT = {"replicas": "0/1", "others": "complete"}
PAUSED = {
    "rollout": "paused",
    "previous": f"{ECR}/app:1",
    "replicas": "4/4",
    "on_previous": 3,
    "works": False,
}
UNSORTED = {"mounts": [("b", "/a"), ("a", "/b")]}
MAX_ATTEMPTS = {"Spec.TaskTemplate.RestartPolicy": {"Condition": "any", "MaxAttempts": 3}}
GLOBAL_FINISHED = {
    **ONE_SHOT,
    "mode": "global",
    "restart": "on-failure",
    "listing": {"Replicas": "0/0"},
}
NOT_ECR = "left alone: its image is in no ECR registry"


PORTS = {"Spec.EndpointSpec": {"Ports": [{"TargetPort": 80}]}}
UNKNOWN_MODE = {"mode": "replicated thing", "inspect": {"Spec.Mode": {"ReplicatedThing": {}}}}

# what is said, status, facts
UNTOUCHED: list[tuple[str, int, dict[str, Any]]] = [
    (NOT_ECR, 0, {"image": "nginx:1"}),
    (NOT_ECR, 0, {"image": "ghcr.io/a/b:1", "credentials": OWN_LOGIN}),
    (NOT_ECR, 0, {"image": f"{ECR}.evil.example/web:1"}),
    ("left alone: it is a job", 0, {"mode": "replicated job", **ONE_SHOT}),
    ("left alone: it is a job", 0, {"mode": "global job", **ONE_SHOT}),
    ("left alone: its finished tasks would run again", 0, {"restart": "none", **ONE_SHOT}),
    ("left alone: its finished tasks would run again", 0, {"restart": "on-failure", **ONE_SHOT}),
    (
        "left alone: its finished tasks would run again",
        0,
        {"restart": "none", "replicas": "0/1", "others": "failed"},
    ),
    (
        "left alone: its finished tasks would run again",
        0,
        {"restart": "on-failure", "replicas": "1/2"},
    ),
    ("left alone: its finished tasks would run again", 0, {**ONE_SHOT, "inspect": MAX_ATTEMPTS}),
    ("left alone: its finished tasks would run again", 0, GLOBAL_FINISHED),
    ("left alone: its finished tasks would run again", 0, {**GLOBAL_FINISHED, "others": "failed"}),
    (
        "left alone: its finished tasks would run again",
        0,
        {**GLOBAL_FINISHED, "replicas": "1/2", "listing": {}},
    ),
    (
        "left alone: its finished tasks would run again",
        0,
        {"restart": "none", "replicas": "1/2", "others": "lost"},
    ),
    (
        "left alone: its finished tasks would run again",
        0,
        {"restart": "none", **ONE_SHOT, "past": ["rejected"]},
    ),
    ("held back: its rollout is updating", 0, {**PAUSED, "rollout": "updating"}),
    ("held back: its rollout is rollback_started", 0, {**PAUSED, "rollout": "rollback_started"}),
    ("held back: its rollout is rollback_paused", 0, {**PAUSED, "rollout": "rollback_paused"}),
    ("held back: its rollout is paused", 0, PAUSED),
    ("held back: its rollout is unheard_of", 0, {**PAUSED, "rollout": "unheard_of"}),
    ("held back: its rollout is paused", 0, {**PAUSED, "hours_ago": 5.9}),
    ("held back: its mode is ", 0, UNKNOWN_MODE),
    ("held back: its tasks are starting", 0, {"replicas": "1/2", "others": "preparing"}),
    (
        "held back: its tasks are starting",
        0,
        {"replicas": "0/1", "others": "assigned", "restart": "none"},
    ),
    (
        "held back: its tasks are starting",
        0,
        {"mode": "global", "replicas": "1/2", "others": "accepted"},
    ),
    # a loop ran meanwhile: the previous spec is the spec, and only the tasks still show what is rolled out
    (
        "held back: its rollout is paused",
        0,
        {**PAUSED, "previous": f"{ECR}/app:2", "oldest": f"{ECR}/app:1"},
    ),
    (
        "held back: its rollout is paused",
        0,
        {**PAUSED, "previous": f"{ECR}/app:2", "inspect": PORTS},
    ),
    ("held back too long: its rollout is paused", 3, {**PAUSED, "hours_ago": 6.1}),
    (
        "held back too long: its rollout is updating",
        3,
        {**PAUSED, "rollout": "updating", "hours_ago": 6.1},
    ),
    # a clock that jumped
    ("held back: its rollout is paused", 0, {**PAUSED, "hours_ago": -5.9}),
    ("held back too long: its rollout is paused", 3, {**PAUSED, "hours_ago": -6.1}),
    ("held back too long: its mode is ", 3, {**UNKNOWN_MODE, "hours_ago": 6.1}),
]

# what is said, facts
REFRESHED: list[tuple[str, dict[str, Any]]] = [
    ("", {"mode": "global"}),
    ("", {"replicas": "0/0"}),
    ("", {"restart": "none", "replicas": "2/2"}),
    ("", {"restart": "on-failure", "replicas": "2/2"}),
    ("", {"rollout": "completed", "previous": f"{ECR}/app:1"}),
    ("", {"rollout": "rollback_completed", "previous": f"{ECR}/app:1"}),
    ("", {"replicas": "0/1", "others": "rejected"}),
    ("", {"restart": "none", "replicas": "0/1", "others": "rejected"}),
    ("", {"restart": "on-failure", "replicas": "1/3", "others": "rejected"}),
    ("", {"mode": "global", "restart": "on-failure", "replicas": "1/3", "others": "rejected"}),
    # a refresh that met an outage of the registry: nothing is left to roll out
    ("", {"rollout": "paused", "previous": f"{ECR}/app:2"}),
    (
        "",
        {"rollout": "paused", "previous": f"{ECR}/app:2", "replicas": "1/2", "others": "rejected"},
    ),
    ("", {"rollout": "rollback_paused", "replicas": "1/2", "others": "rejected"}),
    # tasks that swarm places nowhere, or that pull in vain, or for too long
    ("", {"replicas": "1/2", "others": "pending"}),
    ("", {"replicas": "1/2", "others": "preparing", "past": ["rejected"]}),
    ("", {"replicas": "1/2", "others": "preparing", "hours_ago": 7}),
    # what has ended was of another spec, and does not count
    ("", {"rollout": "paused", "previous": f"{ECR}/app:2", "past": ["shutdown", "failed"]}),
    # nor does a former end in a slot in which something runs again, or was not let in
    ("", {"restart": "on-failure", "past": ["failed", "complete"]}),
    ("", {"restart": "on-failure", "mode": "global", "replicas": "2/2", "past": ["failed"]}),
    ("", {"restart": "none", "replicas": "0/2", "others": "rejected", "past": ["complete"]}),
    ("", {"mounts": [("a", "/b"), ("b", "/a")]}),
    (
        "to be refreshed: its tasks may restart once: the docker client sorts its mounts and ulimits (docker/cli#7226)\n",
        UNSORTED,
    ),
]


@pytest.mark.parametrize("status", [0, 3])
def test_services_that_are_not_touched(run: Run, swarm: PretendSwarm, status: int) -> None:
    swarm.add("web")
    expected = [
        f"it-{number} {says}"
        for number, (says, worst, _) in enumerate(UNTOUCHED)
        if worst == status
    ]
    for number, (_, worst, facts) in enumerate(UNTOUCHED):
        if worst == status:
            swarm.add(f"it-{number}", **facts)
    before = json.dumps(swarm.services[1:])

    outcome = run()

    assert (outcome.status, outcome.stdout) == (status, "web\n")
    assert [says for says in expected if says not in outcome.stderr] == []
    assert json.dumps(swarm.services[1:]) == before


def test_services_that_are_refreshed(run: Run, swarm: PretendSwarm) -> None:
    for number, (_, facts) in enumerate(REFRESHED):
        swarm.add(f"it-{number}", **facts)

    outcome = run()

    assert outcome.status == 0
    assert sorted(outcome.stdout.split()) == sorted(service["name"] for service in swarm.services)
    said = [f"it-{number} {says}" for number, (says, _) in enumerate(REFRESHED) if says]
    assert [says for says in said if says not in outcome.stderr] == []
    assert f"{len(REFRESHED)} refreshed" in last_line(outcome)
    for it in swarm.services:
        assert login_opens(it) and it["version"] == 2 and it["runs"] == 1, it
        assert all(task["state"] == "running" for task in it["tasks"]), it


def test_what_is_paused_comes_with_the_commands_to_go_on(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("it", **PAUSED)

    outcome = run()

    assert "docker service update --with-registry-auth it" in outcome.stderr
    assert "docker service rollback" in outcome.stderr


def test_a_rollout_under_way_still_goes_back(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("web", **{**PAUSED, "rollout": "updating"}, on_failure="rollback")

    run("--region", REGION)
    swarm.let_time_pass()

    assert swarm.service("web")["went_back"]


def test_what_may_finish_is_refreshed_first(
    run: Run, fakes: Fakes, swarm: PretendSwarm, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "XARGS", ("xargs", "-r", "-P1"))
    swarm.add("a-web")
    swarm.add("b-nightly", restart="none")

    assert run().stdout == "b-nightly\na-web\n"


# The options


def test_login_only(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web")

    outcome = run("--login-only")

    assert (outcome.status, outcome.stdout) == (0, "")
    assert hosts_logged_in(fakes) == [ECR]
    assert untouched(swarm, "web")


def test_login_only_before_the_node_is_in_a_swarm(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    text = "Error response from daemon: This node is not a swarm manager."
    fakes.answer(*LS, fakes.fp.any(), stderr=text, exit_status=1)

    outcome = run("--login-only", "--region", REGION)

    assert outcome.status == 0
    assert hosts_logged_in(fakes) == [ECR]
    assert "This node is not a swarm manager" in outcome.stderr


HELPER_SAYS = '{{"ServerURL":"{host}","Username":"AWS","Secret":"{secret}"}}'
NO_LOGINS: list[Any] = [
    {},
    {"auth": ""},
    {"auth": None},
    None,
    {"identitytoken": ""},
    {"username": "AWS"},
]
KEYS_OF_A_LOGIN = ("{}", "https://{}", "http://{}", "https://{}/v1/")
WITH_HELPER = [{"credHelpers": {ECR: "ecr-login"}}, {"credsStore": "ecr-login"}, {
    "credHelpers": {ECR: "ecr-login"}, "credsStore": "other", "auths": {ECR: LOGIN_OF_A_PERSON}}]  # fmt: skip


def registry(number: int) -> str:
    """Every account has a registry of its own."""
    return f"{number:012}.dkr.ecr.{REGION}.amazonaws.com"


def test_refresh_only(run: Run, fakes: Fakes, swarm: PretendSwarm, home: Path) -> None:
    logins = {key.format(registry(n)): LOGIN_OF_A_PERSON for n, key in enumerate(KEYS_OF_A_LOGIN)}
    write_config(home, auths={**logins, registry(0): {"identitytoken": "a person's"}})
    for number in range(len(KEYS_OF_A_LOGIN)):
        swarm.add(f"web-{number}", f"{registry(number)}/web:1")

    outcome = run("--refresh-only")

    assert (outcome.status, sorted(outcome.stdout.split())) == (
        0,
        ["web-0", "web-1", "web-2", "web-3"],
    )
    assert not fakes.calls_of("aws") and not fakes.calls_of(*LOGIN)


def test_refresh_only_sends_no_empty_login(run: Run, swarm: PretendSwarm, home: Path) -> None:
    logins = {registry(number): login for number, login in enumerate(NO_LOGINS)}
    write_config(
        home, auths={**logins, ECR_US: LOGIN_OF_A_PERSON, f"{ECR}.evil.example": LOGIN_OF_A_PERSON}
    )
    for host in (*logins, ECR):
        swarm.add(f"web-{host[:12]}", f"{host}/web:1")
    swarm.add("us", f"{ECR_US}/us:1")

    outcome = run("--refresh-only")

    assert (outcome.status, outcome.stdout) == (1, "us\n")
    said = [f"{host} failed: docker holds no login for it" for host in (*logins, ECR)]
    assert [line for line in said if line not in outcome.stderr] == []


@pytest.mark.parametrize("config", [None, {}, {"auths": {}}, {"auths": None}])
def test_refresh_only_without_any_login(
    run: Run, swarm: PretendSwarm, home: Path, config: dict[str, Any] | None
) -> None:
    if config is not None:
        write_config(home, **config)
    swarm.add("web")

    outcome = run("--refresh-only")

    assert (outcome.status, outcome.stdout) == (1, "")
    assert untouched(swarm, "web")


@pytest.mark.parametrize("config", WITH_HELPER)
def test_refresh_only_with_a_helper(
    run: Run, fakes: Fakes, swarm: PretendSwarm, home: Path, config: Any
) -> None:
    write_config(home, **config)
    swarm.add("web")
    fakes.answer(HELPER, "get", stdout=HELPER_SAYS.format(host=ECR, secret="secret-helper"))

    outcome = run("--refresh-only")

    assert (outcome.status, outcome.stdout) == (0, "web\n")
    assert [call.stdin for call in fakes.calls_of(HELPER)] == [ECR.encode()]
    assert "secret-helper" not in outcome.stderr


@pytest.mark.parametrize(
    "answer, says",
    [
        (
            {"stdout": "credentials not found in native keychain\n", "exit_status": 1},
            "failed with exit status 1",
        ),
        ({"stderr": "no such profile", "exit_status": 1}, "no such profile"),
        ({"stdout": HELPER_SAYS.format(host=ECR, secret="")}, f"{ECR} failed: no login"),
        ({"stdout": ""}, f"{ECR} failed: no login"),
    ],
)
def test_refresh_only_with_a_helper_that_holds_nothing(
    run: Run, fakes: Fakes, swarm: PretendSwarm, home: Path, answer: Any, says: str
) -> None:
    write_config(home, credsStore="ecr-login")
    swarm.add("web")
    fakes.answer(HELPER, "get", **answer)

    outcome = run("--refresh-only")

    assert (outcome.status, outcome.stdout) == (1, "")
    assert says in outcome.stderr
    assert f"echo {ECR} | {HELPER} get" in outcome.stderr  # what to do next
    assert untouched(swarm, "web")


def test_refresh_only_reads_the_config_of_docker_config(
    run: Run, swarm: PretendSwarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path, auths={ECR: LOGIN_OF_A_PERSON})
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / ".docker"))
    swarm.add("web")

    assert run("--refresh-only")[:2] == (0, "web\n")


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


def test_all_services(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("job", mode="global job", **ONE_SHOT)
    swarm.add("other", "nginx:1")
    swarm.add("stuck", **PAUSED)
    swarm.add("once", restart="none", **ONE_SHOT)

    outcome = run("--all-services")

    assert outcome.status == 0
    assert sorted(outcome.stdout.split()) == ["job", "once", "other", "stuck"]


def test_all_services_does_not_wipe_a_login_that_failed(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("web")
    swarm.add("other", "nginx:1")
    fakes.answer(*TOKEN, fakes.fp.any(), exit_status=254, stderr="denied")

    outcome = run("--all-services")

    assert (outcome.status, outcome.stdout) == (1, "other\n")
    assert swarm.service("web")["credentials"] == EXPIRED


@pytest.mark.parametrize(
    "hours_ago, status, outcome_of_it", [(1, 0, "held back"), (7, 3, "held back too long")]
)
def test_no_restart(
    run: Run, swarm: PretendSwarm, hours_ago: float, status: int, outcome_of_it: str
) -> None:
    swarm.add("web")
    swarm.add("it", **UNSORTED, hours_ago=hours_ago)

    outcome = run("--no-restart")

    assert (outcome.status, outcome.stdout) == (status, "web\n")
    assert f"it {outcome_of_it}: its tasks may restart once" in outcome.stderr
    assert swarm.service("it")["restarted"] == 0


@pytest.mark.parametrize("hours, kept", [("0", False), ("1", False), ("2", True), ("10", True)])
def test_keep_rollback(run: Run, swarm: PretendSwarm, hours: str, kept: bool) -> None:
    swarm.add("it", rollout="completed", previous=f"{ECR}/app:1", hours_ago=1)

    outcome = run("--keep-rollback", hours)

    assert (outcome.status, outcome.stdout) == (0, "" if kept else "it\n")
    assert ("it left alone: docker service rollback is kept" in outcome.stderr) is kept
    assert swarm.service("it")["previous"] == (f"{ECR}/app:1" if kept else f"{ECR}/app:2")


@pytest.mark.parametrize("option", ["-n", "--dry-run"])
def test_dry_run(run: Run, fakes: Fakes, swarm: PretendSwarm, home: Path, option: str) -> None:
    swarm.add("web")
    swarm.add("job", mode="global job", **ONE_SHOT)
    swarm.add("it", **UNSORTED)

    outcome = run(option, "--region", REGION_US)

    assert (outcome.status, outcome.stdout) == (0, "")
    assert not fakes.calls_of("aws") and not hosts_logged_in(fakes) and not fakes.calls_of(*UPDATE)
    assert f"Would log in to {ECR}, your own registry in {REGION_US}" in outcome.stderr
    for says in (
        "web to be refreshed: it pulls from ECR\n",
        "job left alone: it is a job",
        "it to be refreshed: its tasks may restart",
    ):
        assert says in outcome.stderr
    assert "Running docker update" not in outcome.stderr
    assert "2 to be refreshed, 0 refreshed, 1 left alone" in last_line(outcome)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("option", ["-q", "--quiet"])
def test_quiet(run: Run, swarm: PretendSwarm, option: str) -> None:
    swarm.add("web")
    swarm.add("it", **PAUSED)

    assert run(option) == (0, "", "")
    assert login_opens(swarm.service("web"))


def test_quiet_still_warns(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("stuck", **PAUSED, hours_ago=7)

    outcome = run("--quiet", "no-such-service", "stuck")

    assert outcome.status == 1
    assert (
        "no-such-service failed" in outcome.stderr and "stuck held back too long" in outcome.stderr
    )


def test_only_the_services_named(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web")
    swarm.add("api")
    swarm.add("us", f"{ECR_US}/us:1")

    outcome = run("web")

    assert (outcome.status, outcome.stdout) == (0, "web\n")
    assert hosts_logged_in(fakes) == [ECR]
    assert untouched(swarm, "api") and untouched(swarm, "us")


def test_an_unknown_name_leaves_the_others_going(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("web")

    outcome = run("nix", "web")

    assert (outcome.status, outcome.stdout) == (1, "web\n")
    assert "nix failed: there is no such service" in outcome.stderr
    assert "nix" in last_line(outcome)


# Trying again


@pytest.mark.parametrize("times, status, refreshed", [(3, 0, "web\n"), (99, 1, "")])
def test_update_out_of_sequence(
    run: Run, fakes: Fakes, swarm: PretendSwarm, times: int, status: int, refreshed: str
) -> None:
    swarm.add("web")
    swarm.add("api")
    fakes.answer(
        *swarm.update_of("web"), stderr="update out of sequence", exit_status=1, times=times
    )

    outcome = run()

    assert (outcome.status, outcome.stdout) == (status, "api\n" + refreshed)
    assert ("web failed: docker service update failed: update out of sequence" in outcome.stderr
            ) is bool(status)  # fmt: skip
    assert swarm.service("api")["version"] == 2
    assert len(fakes.calls_of(*swarm.update_of("web"))) == min(times + 1, 4)


def test_a_rollout_that_began_meanwhile_is_held_back(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("web")

    def somebody_deploys() -> None:
        swarm.remove("web")
        swarm.add("web", **PAUSED)

    fakes.answer(*swarm.update_of("web"), stderr="update out of sequence", exit_status=1)
    fakes.when(*swarm.update_of("web"), do=somebody_deploys)

    outcome = run()

    assert (outcome.status, outcome.stdout) == (0, "")
    assert "web held back: its rollout is paused" in outcome.stderr
    assert "1 held back" in last_line(outcome) and "to be refreshed" not in last_line(outcome)
    assert untouched(swarm, "web")


@pytest.mark.parametrize("moment", [LOGIN, ("docker", "service", "inspect"), UPDATE])
def test_a_service_that_goes_meanwhile_is_no_error(
    run: Run, fakes: Fakes, swarm: PretendSwarm, moment: tuple[str, ...]
) -> None:
    swarm.add("web")
    swarm.add("gone")
    fakes.when(*moment, do=lambda: swarm.remove("gone"))

    outcome = run()

    assert (outcome.status, outcome.stdout) == (0, "web\n")
    # It is neither to be refreshed any more nor did anything fail.
    assert "to be refreshed" not in last_line(outcome) and "0 failed" in last_line(outcome)


def test_an_update_that_is_not_confirmed_is_tried_again(
    run: Run, fakes: Fakes, swarm: PretendSwarm
) -> None:
    swarm.add("web")
    fakes.answer(*swarm.update_of("web"), stdout="")

    outcome = run()

    assert (outcome.status, outcome.stdout) == (0, "web\n")
    assert swarm.service("web")["version"] == 2


# Where it runs


def priorities(outcome: Outcome) -> dict[str, str]:
    """The journal's priority of each line, by the line's text."""
    return {line[3:]: line[:3] for line in outcome.stderr.splitlines()}


def test_journal_priorities(
    run: Run, fakes: Fakes, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm.add("web")
    swarm.add("stuck", **PAUSED, hours_ago=7)
    swarm.add("fresh", **PAUSED)
    stderr = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{stderr.st_dev}:{stderr.st_ino}")

    found = priorities(run("nix", "web", "stuck", "fresh"))

    by_beginning = {text.partition(":")[0]: priority for text, priority in found.items()}
    assert by_beginning["nix failed"] == "<3>"
    assert by_beginning["stuck held back too long"] == "<4>"
    assert by_beginning["fresh held back"] == "<5>"
    assert by_beginning[f"Docker login succeeded for {ECR}"] == "<6>"


@pytest.mark.parametrize("stream", ["", "1:2", "not a stream"])
def test_no_priorities_elsewhere(
    run: Run, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", stream)

    assert "<" not in run("-n", "nix").stderr


def test_environment(
    run: Run, fakes: Fakes, swarm: PretendSwarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm.add("web")
    given = {"DOCKER_HOST": "unix:///elsewhere", "DOCKER_CONFIG": str(tmp_path / "logins"), "AWS_PROFILE": "höchst",
             "AWS_CONFIG_FILE": "", "DOCKER_CONTEXT": "a b\nc"}  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    assert run().status == 0

    assert len(fakes.calls) >= 5
    before = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PATH", "GOGC", "GOMAXPROCS")
    }
    for call in fakes.calls:
        assert {name: call.environ.get(name) for name in before} == before
    assert (tmp_path / "logins" / "config.json").exists()


def test_no_other_login_goes_before_the_new_one(
    run: Run, fakes: Fakes, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The docker client 28.5 prefers these logins to those in config.json.
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps({"auths": {ECR: LOGIN_OF_A_PERSON}}))
    swarm.add("web")

    assert run().status == 0

    assert {call.environ["DOCKER_AUTH_CONFIG"] for call in fakes.calls} == {""}


def test_aws_is_found_from_cron(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web")

    assert run().status == 0

    before = os.environ["PATH"].split(":")
    for call in fakes.calls:
        folders = call.environ["PATH"].split(":")
        assert folders[: len(before)] == before
        assert {"/usr/local/bin", "/snap/bin"} <= set(folders)


def test_no_program_sees_a_terminal(run: Run, fakes: Fakes, swarm: PretendSwarm) -> None:
    swarm.add("web")

    assert run().status == 0

    assert not any(call.stdout_is_terminal or call.stdin_is_terminal for call in fakes.calls)


# The command line


ONLY = "--refresh-only logs in nowhere: leave out --login-only, --region and --registry"
SPARES = "--all-services spares none: leave out --no-restart and --keep-rollback"
CHOICES = "choose from 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10"
USAGE = [
    (["--no-such-option"], "unrecognized arguments: --no-such-option"),
    (["--dry"], "unrecognized arguments: --dry"),  # a later version may have two options that begin so
    (["--refresh-only", "--login-only"], ONLY),
    (["--refresh-only", "--region", REGION], ONLY),
    (["--refresh-only", "--registry", ECR], ONLY),
    (["--all-services", "--no-restart"], SPARES),
    (["--all-services", "--keep-rollback", "2"], SPARES),
    *(([f"--keep-rollback={hours}"], f"argument --keep-rollback: invalid choice: {hours} ({CHOICES})") for hours in (-1, 11)),
    *(([f"--keep-rollback={hours}"], f"argument --keep-rollback: invalid int value: '{hours}'")
      for hours in ("", "two", "1e9", "0.5", "nan", "-inf")),
    *((["--region", region], "--region takes a region such as eu-central-1")
      for region in ("eu", "EU-CENTRAL-1", "eu-central-1.evil.example", "-", "eu central 1", "eu-central-1\n",
                     "https://eu-central-1")),
    (["--region", "--login-only"], "argument --region: expected one argument"),
]  # fmt: skip
A_HOST = "--registry takes a host such as 123456789012.dkr.ecr.eu-central-1.amazonaws.com"
LOOK_ALIKES = [
    "", "nginx", "public.ecr.aws", "ghcr.io", f"{ECR}.evil.example", f"evil.{ECR}", f"https://{ECR}", f"{ECR}/app",
    f"{ECR}:443", ECR.upper(), f"{ECR}\n", f" {ECR}", f"{ECR}.", ECR[1:], f"1{ECR}", ECR.replace(".dkr", "-dkr"),
]  # fmt: skip


def test_usage(run: Run, fakes: Fakes) -> None:
    outcomes = [run(*arguments) for arguments, _ in USAGE]

    assert [outcome.status for outcome in outcomes] == [2] * len(USAGE)
    assert [last_line(outcome).partition(" error: ")[2] for outcome in outcomes] == [
        says for _, says in USAGE
    ]
    assert all(outcome.stdout == "" and "usage: " in outcome.stderr for outcome in outcomes)
    assert not fakes.calls


def test_a_look_alike_gets_no_token(run: Run, fakes: Fakes) -> None:
    outcomes = {host: run("--registry", host) for host in LOOK_ALIKES}

    assert {host: outcome.status for host, outcome in outcomes.items() if outcome.status != 2} == {}
    assert all(outcome.stderr.endswith(f" error: {A_HOST}\n") for outcome in outcomes.values())
    assert not fakes.calls


@pytest.mark.parametrize("empty, given", [("HOME", "DOCKER_CONFIG"), ("DOCKER_CONFIG", "HOME")])
def test_empty_environment_variables(
    run: Run,
    swarm: PretendSwarm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    empty: str,
    given: str,
) -> None:
    monkeypatch.setenv(given, str(tmp_path))
    for name in (
        empty,
        "AWS_PROFILE",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "JOURNAL_STREAM",
        "DOCKER_HOST",
    ):
        monkeypatch.setenv(name, "")
    swarm.add("web")

    assert run()[:2] == (0, "web\n")


def test_a_user_without_a_name_or_a_home(
    run: Run, swarm: PretendSwarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a container that runs with a user ID of its own.
    def nobody(_: int) -> None:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("pwd.getpwuid", nobody)
    monkeypatch.delenv("HOME")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    swarm.add("web")

    assert run()[:2] == (0, "web\n")


def test_two_runs_wait_for_each_other(
    fakes: Fakes, swarm: PretendSwarm, script: Any, tmp_path: Path
) -> None:
    swarm.add("web")
    first_logs_in, go_on = threading.Event(), threading.Event()
    fakes.when(*LOGIN, do=lambda: (first_logs_in.set(), go_on.wait(10)))
    first = fakes.start_program(sys.executable, script.__file__)
    assert first_logs_in.wait(10)
    calls_of_the_first = len(fakes.calls)

    second = fakes.start_program(sys.executable, script.__file__)
    assert second.stderr.readline() == b"Waiting for another run to end\n"
    assert len(fakes.calls) == calls_of_the_first
    go_on.set()

    assert first.communicate()[0] == second.communicate()[0] == b"web\n"
    assert first.returncode == second.returncode == 0
    logins = [number for number, call in enumerate(fakes.calls) if call in fakes.calls_of(*LOGIN)]
    updates = [number for number, call in enumerate(fakes.calls) if call in fakes.calls_of(*UPDATE)]
    assert logins[0] < updates[0] < logins[1] < updates[1]
