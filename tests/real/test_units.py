"""The units on a freshly made system with a real systemd, docker and aws: make e2e-systemd."""

import base64
import re
import stat
from pathlib import Path

import pytest
from lab import Lab, wait_until
from lab import machine as machines
from lab.engines import PROJECT
from lab.machine import ECR, REGION, TOKEN, Machine
from units import (
    CERTIFICATE_LINE,
    EVERY_SECOND,
    LOGINS,
    OPTIONS,
    SERVICE,
    SETTINGS,
    TIMER,
    assert_token_is_not_in,
    bring_source,
    drop_in,
    install_by_copy,
    refuse_tokens,
    shorten,
    stop_docker,
    take_tokens,
    use_aws,
    wait_for_result,
    wait_for_text,
)

RUNS_OWN = "/run/ecr-swarm-login"

# The units -------------------------------------------------------------------------------------


def test_systemd_finds_nothing_to_complain_about(machine: Machine) -> None:
    # given
    install_by_copy(machine)
    # when, then: silent, and at most 3.0 (the threshold is in tenths; beyond it, the status is 1)
    service, timer = (f"/etc/systemd/system/{unit}" for unit in (SERVICE, TIMER))
    assert machine.run(f"systemd-analyze verify {service} {timer}") == ""
    machine.run(f"systemd-analyze security --offline=true --threshold=30 {service}")


def test_no_round_of_the_timer_is_refused_or_hangs_forever(machine: Machine) -> None:
    # given
    install_by_copy(machine)
    script = (PROJECT / "ecr_swarm_login.py").read_text()
    attempts, program, pause = (
        int(re.findall(rf"(?m)^{name} = (\d+)", script)[0])
        for name in ("TRY_SECONDS", "PROGRAM_SECONDS", "TRY_PAUSE")
    )
    [tries] = re.findall(r"--tries (\d+)", machine.run(f"systemctl cat {SERVICE}"))
    # when
    limit, starts = machine.properties(
        SERVICE, "Service.TimeoutStartUSec", "Unit.StartLimitIntervalUSec"
    )
    # then: all tries fit, the last login of each included, and end before the timer's next round
    assert (
        int(tries) * (attempts + program) + (int(tries) - 1) * pause <= int(limit) / 1e6 < 55 * 60
    )
    assert starts == "0"


def test_the_timer_refreshes_the_services(manager: Machine) -> None:
    # given: a root who never logged in
    manager.run("rm -rf /root/.docker /root/.aws")
    drop_in(manager, TIMER, EVERY_SECOND)
    before = manager.updates_of("web")
    # when
    manager.run(f"systemctl enable --now {TIMER}")
    wait_until(lambda: manager.updates_of("web") > before, "the timer's run refreshes web")
    manager.run(f"systemctl disable --now {TIMER}")
    wait_for_result(manager, "success", "inactive")
    # then
    assert ECR in manager.read(LOGINS)
    assert not manager.exists(RUNS_OWN)
    assert stat.S_IMODE((manager.root / LOGINS.lstrip("/")).stat().st_mode) == 0o600
    assert "Docker login succeeded" in manager.journal(SERVICE)
    assert "web refreshed" in manager.journal(SERVICE).splitlines()
    assert manager.journal(SERVICE, "--priority=warning") == ""
    assert_token_is_not_in(manager.run("journalctl --output=export"))


def test_a_boot_makes_up_for_a_missed_round(manager: Machine) -> None:
    # given: enabled, and last run before the machine was off
    drop_in(manager, TIMER, "[Timer]\nRandomizedDelaySec=0\n")
    manager.run(f"systemctl enable --now {TIMER}")
    manager.run("touch", "--date=2 hours ago", f"/var/lib/systemd/timers/stamp-{TIMER}")
    before = manager.updates_of("web")
    # when
    manager.reboot()
    # then: at the first try, although docker was still starting
    wait_until(lambda: manager.updates_of("web") > before, "the run at boot refreshes web")
    wait_for_result(manager, "success", "inactive")
    assert "next attempt" not in manager.journal(SERVICE)


# With AWS the instance metadata is down, so that aws needs keys from elsewhere to get as far.
KEYS = "AWS_ACCESS_KEY_ID=any\nAWS_SECRET_ACCESS_KEY=any\n"


@pytest.mark.parametrize(
    "is_down, settings, failed, reason",
    [
        (
            "cloud.service",
            KEYS,
            "Failed to acquire docker login credentials",
            "Could not connect to the endpoint URL",
        ),
        ("ecr.service", "", f"Docker login failed for {ECR}", "connection refused"),
    ],
    ids=["AWS", "registry"],
)
def test_a_failure_shows_its_cause_where_one_looks(
    manager: Machine, is_down: str, settings: str, failed: str, reason: str
) -> None:
    # given: many services
    for number in range(30):
        manager.create_service(f"more{number}")
    shorten(manager)
    manager.write(SETTINGS, f'OPTIONS="--tries 1"\n{CERTIFICATE_LINE}\n{settings}')
    manager.run(f"systemctl stop {is_down}")
    # when
    manager.run(f"systemctl start {SERVICE}", check=False)
    # then
    for look in (["-n", "20"], ["--priority=warning"], ["--priority=err"], ["-n", "10"]):
        assert f"more0, more1, more10 and 28 more: {failed}: " in manager.journal(SERVICE, *look)
        assert reason in manager.journal(SERVICE, *look)
    assert_token_is_not_in(manager.run("journalctl --output=export"))


def test_logins_of_the_run_go_with_it_even_if_it_is_killed(manager: Machine) -> None:
    # given
    hang_at(manager, "service-update")
    manager.run(f"systemctl start --no-block {SERVICE}")
    wait_until(lambda: hangs(manager), "an update is under way")
    # when
    found = manager.run(f"find {RUNS_OWN} -printf", r"%y %m %U %f\n").splitlines()
    kept = manager.run(f"find {RUNS_OWN} -name config.json")
    # then: folders and a file that root alone can read
    assert [line.rpartition(" ")[0] for line in found] == ["d 700 0"] * 3 + ["f 600 0"]
    login = base64.b64encode(f"AWS:{TOKEN}".encode()).decode()
    assert login in manager.read(kept), manager.journal(SERVICE)
    # and when
    manager.run(f"systemctl kill --kill-who=main --signal=KILL {SERVICE}")
    # then
    wait_for_result(manager, "signal", "failed")
    assert not manager.exists(RUNS_OWN)
    assert manager.show(SERVICE, "TasksCurrent") == ["[not set]"]
    assert_token_is_not_in(manager.run("journalctl --output=export"))


@pytest.mark.parametrize("aws", ["v1", "v2", "bundle"], indirect=True)
def test_the_hardened_unit_assumes_a_role(manager: Machine, aws: str) -> None:
    # given: keys from the instance metadata, traded for a role's, which aws keeps in its cache
    manager.write(
        "/root/.aws/config",
        "[profile refresher]\nrole_arn = arn:aws:iam::123456789012:role/refresher\n"
        f"credential_source = Ec2InstanceMetadata\nregion = {REGION}\n",
    )
    manager.write(SETTINGS, OPTIONS + "AWS_PROFILE=refresher\n")
    before = manager.updates_of("web")
    # when
    manager.run(f"systemctl start {SERVICE}")
    # then
    version = 1 if aws == "v1" else 2
    assert manager.run("aws --version").startswith(f"aws-cli/{version}.")
    assert manager.updates_of("web") > before
    assert manager.run("ls /root/.aws/cli/cache").endswith(".json")
    assert manager.journal(SERVICE, "--priority=warning") == ""


@pytest.mark.parametrize("aws_version", ["v1", "v2"])
def test_a_new_node_of_the_lab_can_pull_after_a_run_of_the_hardened_unit(
    base: Path, aws_version: str
) -> None:
    # given: a swarm whose token has died, and whose manager has this machine for its system
    with Lab(managers=1, workers=0) as lab:
        lab.login(lab.manager)
        create = "service create -d --with-registry-auth --mode=global --name=web"
        lab.manager.docker(create, lab.image())
        wait_until(lambda: lab.states("web") == ["running"], "web runs")
        before = [task["ID"] for task in lab.tasks("web")]
        lab.rotate()
        lab.add_node("new")
        wait_until(lambda: "rejected" in lab.states("web"), "the new node cannot pull")
        options = [
            f"--bind={lab.manager.socket}:/run/docker.sock",
            "systemd.mask=docker.service",
            "systemd.mask=docker.socket",
        ]
        with machines.booted(base, lab.manager, options) as system:
            bring_source(system)
            install_by_copy(system)
            use_aws(system, aws_version)
            system.write(SETTINGS, OPTIONS)
            system.write(f"/opt/cloud/token-{REGION}", lab.registries.tokens[REGION])
            # when
            system.run(f"systemctl start {SERVICE}")
            # then
            wait_until(lambda: lab.states("web").count("running") == 2, "the new node runs web", 60)
            assert before[0] in [
                task["ID"] for task in lab.tasks("web") if task["Status"]["State"] == "running"
            ]


# When it fails ---------------------------------------------------------------------------------


def test_it_recovers_when_docker_is_back(manager: Machine) -> None:
    # given
    stop_docker(manager)
    shorten(manager, TRY_PAUSE=5)
    # when: it waits for its next try, and has not started what somebody stopped
    manager.run(f"systemctl start --no-block {SERVICE}")
    wait_for_text(manager, "failed; next attempt in 5 s: docker ")
    assert manager.show("docker.service", "ActiveState") == ["inactive"]
    manager.run("systemctl start docker.service")
    before = manager.updates_of("web")
    # then: that it failed was said once, and nobody is alarmed
    wait_for_result(manager, "success", "inactive")
    assert manager.updates_of("web") > before
    assert manager.journal(SERVICE, "--priority=warning").count("failed; next attempt") == 1
    assert manager.journal(SERVICE, "--priority=err") == ""


@pytest.fixture
def given_up(manager: Machine) -> Machine:
    """A manager whose unit has failed three times; then the registry takes tokens again."""
    manager.write(
        "/etc/systemd/system/tell.service",
        "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo told >>/opt/told'\n",
    )
    drop_in(manager, SERVICE, "[Unit]\nOnFailure=tell.service\n")
    shorten(manager, TRY_PAUSE=1)
    manager.write(SETTINGS, f'OPTIONS="--region {REGION} --tries 3"\n{CERTIFICATE_LINE}\n')
    before = refuse_tokens(manager)
    manager.run(f"systemctl start {SERVICE}", check=False)
    wait_for_result(manager, "exit-code", "failed")
    take_tokens(manager, before)
    return manager


def test_when_it_gives_up_somebody_is_told_once(given_up: Machine) -> None:
    wait_until(lambda: given_up.exists("/opt/told"), "somebody is told")

    assert SERVICE in given_up.run("systemctl --failed")
    journal = given_up.journal(SERVICE)
    assert journal.count("web failed; next attempt in 1 s: Docker login failed for") == 1, journal
    assert journal.count("web failed again; next attempt in 1 s") == 1
    assert journal.count("; failed: web: Docker login failed for") == 1
    assert "; failed: web: Docker login failed for" in given_up.journal(SERVICE, "--priority=err")
    assert given_up.read("/opt/told") == "told\n"


def test_after_it_gave_up_the_full_hour_comes_and_succeeds(given_up: Machine) -> None:
    # given
    before = given_up.updates_of("web")
    drop_in(given_up, TIMER, EVERY_SECOND)
    # when
    given_up.run(f"systemctl start {TIMER}")
    # then
    wait_until(lambda: given_up.updates_of("web") > before, "the timer's round refreshes web")
    given_up.run(f"systemctl stop {TIMER}")
    wait_for_result(given_up, "success", "inactive")


def test_after_it_gave_up_no_start_by_hand_is_refused(given_up: Machine) -> None:
    # given: ten starts within the ten seconds in which systemd allows five by default
    settings = given_up.read(SETTINGS)
    given_up.write(SETTINGS, "OPTIONS=--version\n")
    for _ in range(10):
        given_up.run(f"systemctl start {SERVICE}")
    given_up.write(SETTINGS, settings)
    before = given_up.updates_of("web")
    # when
    given_up.run(f"systemctl start {SERVICE}")
    # then
    assert given_up.updates_of("web") > before


@pytest.mark.parametrize(
    "status, settings, lines",
    [
        (2, 'OPTIONS="--no-such-option"\n', ""),
        (3, "", "ExecStart=\nExecStart=/bin/sh -c 'exit 3'\n"),
        (1, "", "InaccessiblePaths=/usr/bin/aws\n"),
    ],
    ids=["wrong option", "held back", "no aws"],
)
def test_what_no_second_try_can_cure_fails_at_once(
    manager: Machine, status: int, settings: str, lines: str
) -> None:
    # given
    manager.write(SETTINGS, settings)
    drop_in(manager, SERVICE, f"[Service]\n{lines}")
    # when
    manager.run(f"systemctl start {SERVICE}", check=False)
    # then
    assert manager.show(SERVICE, "ActiveState", "ExecMainStatus") == ["failed", str(status)]
    assert "next attempt" not in manager.journal(SERVICE)


def hang_at(machine: Machine, words: str) -> None:
    """Have docker hang when its first two words are these: service-update."""
    text = f'#!/bin/sh\ncase $1-$2 in {words}) sleep 1000 ;; *) exec /usr/bin/docker "$@" ;; esac\n'
    machine.write("/usr/local/bin/docker", text, 0o755)


def hangs(machine: Machine) -> str:
    """Whether docker hangs: not the script's own sleep before it tries again."""
    return machine.run("sh -c", "grep -slxz '[1]000' /proc/[0-9]*/cmdline", check=False)


@pytest.fixture
def hanging(manager: Machine) -> Machine:
    """A manager whose docker answers nothing any more."""
    hang_at(manager, "*")
    return manager


def test_a_run_that_hangs_is_ended_with_its_children(hanging: Machine) -> None:
    # given
    drop_in(hanging, SERVICE, "[Service]\nTimeoutStartSec=2\n")
    # when
    hanging.run(f"systemctl start {SERVICE}", check=False)
    # then
    assert hanging.show(SERVICE, "Result", "ActiveState", "TasksCurrent") == [
        "timeout",
        "failed",
        "[not set]",
    ]


def test_to_stop_a_run_is_no_failure(hanging: Machine) -> None:
    # given
    hanging.run(f"systemctl start --no-block {SERVICE}")
    wait_until(lambda: hangs(hanging), "a run waits for docker")
    # when
    hanging.run(f"systemctl stop {SERVICE}")
    # then
    assert hanging.show(SERVICE, "Result", "ActiveState", "TasksCurrent") == [
        "success",
        "inactive",
        "[not set]",
    ]


def test_a_docker_login_that_hangs_is_bounded(manager: Machine) -> None:
    # given
    hang_at(manager, "login-*")
    manager.write(SETTINGS, f'OPTIONS="--tries 2"\n{CERTIFICATE_LINE}\n')
    shorten(manager, PROGRAM_SECONDS=1, KILL_SECONDS=1, TRY_PAUSE=1)
    # when
    manager.run(f"systemctl start {SERVICE}", check=False)
    # then
    wait_for_result(manager, "exit-code", "failed")
    assert "hung, and was killed" in manager.journal(SERVICE, "--priority=err")
    assert manager.show(SERVICE, "TasksCurrent") == ["[not set]"]


def test_to_stop_between_two_tries_is_no_failure(manager: Machine) -> None:
    # given
    refuse_tokens(manager)
    shorten(manager)
    manager.run(f"systemctl start --no-block {SERVICE}")
    wait_for_text(manager, "web failed; next attempt in 60 s: Docker login failed for")
    # when
    manager.run(f"systemctl stop {SERVICE}")
    # then
    assert manager.show(SERVICE, "Result", "ActiveState") == ["success", "inactive"]
