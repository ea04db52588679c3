"""The ways of use on a freshly made system with a real systemd, docker and aws: make e2e-systemd."""

import base64
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import machine as machines
import pytest
from lab import Lab, wait_until
from machine import ECR, PROJECT, REGION, TOKEN, Machine

SERVICE, TIMER = "ecr-swarm-login.service", "ecr-swarm-login.timer"
SCRIPT = "/usr/bin/ecr_swarm_login.py"
SETTINGS = "/etc/default/ecr-swarm-login"
SOURCE = "/opt/source"  # where the project's files lie in a machine
LOGINS = "/root/.docker/config.json"
CERTIFICATE = "/opt/cloud/tls.crt"  # with it, aws trusts the machine's own AWS
CERTIFICATE_LINE = f"AWS_CA_BUNDLE={CERTIFICATE}"
OPTIONS = f'OPTIONS="--region {REGION}"\n{CERTIFICATE_LINE}\n'
EVERY_SECOND = "[Timer]\nOnCalendar=\nOnCalendar=*:*:*\nRandomizedDelaySec=0\nAccuracySec=100ms\n"
RETRY_SOON = "[Service]\nRestartSec=1\n"


@pytest.fixture(scope="session")
def base() -> Path:
    missing = machines.missing_requirements()
    if missing:
        pytest.fail("needs " + ", ".join(missing), pytrace=False)
    return machines.base_system()


@pytest.fixture
def machine(base: Path) -> Iterator[Machine]:
    """A machine that has the project's files, and nothing of them installed."""
    with machines.booted(base) as booted:
        bring_source(booted)
        yield booted


@pytest.fixture
def manager(machine: Machine) -> Machine:
    """A manager with one service, where the project is installed by copy and the timer not yet enabled."""
    install_by_copy(machine)
    machine.write(SETTINGS, OPTIONS)
    machine.start_swarm("web")
    return machine


def bring_source(machine: Machine) -> None:
    for path in [PROJECT / "ecr_swarm_login.py", PROJECT / "Makefile", *PROJECT.glob("systemd/*")]:
        target = machine.root / SOURCE.lstrip("/") / path.relative_to(PROJECT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def install_by_copy(machine: Machine) -> None:
    machine.run("cp", f"{SOURCE}/ecr_swarm_login.py", "/usr/bin/")
    machine.run(
        "cp", f"{SOURCE}/systemd/{SERVICE}", f"{SOURCE}/systemd/{TIMER}", "/etc/systemd/system/"
    )
    machine.run("systemctl", "daemon-reload")


def drop_in(machine: Machine, unit: str, text: str) -> None:
    machine.write(f"/etc/systemd/system/{unit}.d/test.conf", text)
    machine.run("systemctl", "daemon-reload")


def stop_docker(machine: Machine) -> None:
    machine.run("systemctl", "stop", "docker.socket", "docker.service")


def wait_for_result(machine: Machine, result: str, state: str) -> None:
    wait_until(
        lambda: machine.show(SERVICE, "Result", "ActiveState") == [result, state],
        f"{SERVICE} is {state} with result {result}",
    )


def readme_block(first_line: str) -> str:
    """The code block of the README that begins with this line."""
    blocks = re.findall(r"```\w*\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    found = [block for block in blocks if block.startswith(first_line)]
    assert len(found) == 1, f"{len(found)} code blocks of README.md begin with {first_line}"
    return found[0]


def assert_token_is_not_in(text: str) -> None:
    assert TOKEN not in text
    assert base64.b64encode(f"AWS:{TOKEN}".encode()).decode() not in text


# The units -------------------------------------------------------------------------------------


def test_systemd_finds_nothing_to_complain_about(machine: Machine) -> None:
    # given
    install_by_copy(machine)
    # when, then: silent, and at most 3.0 (the threshold is in tenths; beyond it, the status is 1)
    service, timer = (f"/etc/systemd/system/{unit}" for unit in (SERVICE, TIMER))
    assert machine.run("systemd-analyze", "verify", service, timer) == ""
    machine.run("systemd-analyze", "security", "--offline=true", "--threshold=30", service)


def test_no_round_of_the_timer_is_refused_or_hangs_forever(machine: Machine) -> None:
    # given
    install_by_copy(machine)
    # when
    interval, tries, limit, pause = (
        int(value)
        for value in machine.properties(
            SERVICE,
            "Unit.StartLimitIntervalUSec",
            "Unit.StartLimitBurst",
            "Service.TimeoutStartUSec",
            "Service.RestartUSec",
        )
    )
    # then: all tries fit in the interval, or it would never give up; and it is over before the timer's next round
    assert tries * (limit + pause) <= interval < (60 - 5) * 60 * 1e6


def test_the_timer_refreshes_the_services(manager: Machine) -> None:
    # given: a root who never logged in
    manager.run("rm", "-rf", "/root/.docker", "/root/.aws")
    drop_in(manager, TIMER, EVERY_SECOND)
    before = manager.updates_of("web")
    # when
    manager.run("systemctl", "enable", "--now", TIMER)
    wait_until(lambda: manager.updates_of("web") > before, "the timer's run refreshes web")
    manager.run("systemctl", "disable", "--now", TIMER)
    wait_for_result(manager, "success", "inactive")
    # then
    assert ECR in manager.read(LOGINS)
    assert stat.S_IMODE((manager.root / LOGINS.lstrip("/")).stat().st_mode) == 0o600
    assert "Docker login succeeded" in manager.journal(SERVICE)
    assert "web" in manager.journal(SERVICE)
    assert manager.journal(SERVICE, "--priority=warning") == ""
    assert_token_is_not_in(manager.run("journalctl", "--output=export"))


def test_a_boot_makes_up_for_a_missed_round(manager: Machine) -> None:
    # given: enabled, and last run before the machine was off
    drop_in(manager, TIMER, "[Timer]\nRandomizedDelaySec=0\n")
    manager.run("systemctl", "enable", "--now", TIMER)
    manager.run("touch", "--date=2 hours ago", f"/var/lib/systemd/timers/stamp-{TIMER}")
    before = manager.updates_of("web")
    # when
    manager.reboot()
    # then: at the first try, although docker was still starting
    wait_until(lambda: manager.updates_of("web") > before, "the run at boot refreshes web")
    wait_for_result(manager, "success", "inactive")
    assert manager.show(SERVICE, "NRestarts") == ["0"]


def test_a_failed_login_is_in_the_journal_with_its_priority(manager: Machine) -> None:
    # given: a registry that refuses the token
    manager.write("/opt/cloud/htpasswd", "")
    # when
    manager.run("systemctl", "start", SERVICE, check=False)
    # then
    assert "Docker login failed" in manager.journal(SERVICE, "--priority=err")
    assert_token_is_not_in(manager.run("journalctl", "--output=export"))


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
    manager.run("systemctl", "start", SERVICE)
    # then
    assert manager.run("aws", "--version").startswith(f"aws-cli/{aws[1]}.")
    assert manager.updates_of("web") > before
    assert manager.run("ls", "/root/.aws/cli/cache").endswith(".json")
    assert manager.journal(SERVICE, "--priority=warning") == ""


@pytest.fixture(params=["v1", "v2"])
def aws(request: pytest.FixtureRequest, machine: Machine) -> str:
    use_aws(machine, request.param)
    return str(request.param)


def use_aws(machine: Machine, version: str) -> None:
    """Give the machine this aws; its distribution's is v2."""
    if version == "v1":
        machine.write(
            "/usr/local/bin/aws",
            '#!/bin/sh\nPYTHONPATH=/opt/aws-v1 exec /usr/bin/python3 -m awscli "$@"\n',
            0o755,
        )
        machine.run("rm", "/usr/bin/aws")


@pytest.mark.parametrize("aws_version", ["v1", "v2"])
def test_a_new_node_of_the_lab_can_pull_after_a_run_of_the_hardened_unit(
    base: Path, aws_version: str
) -> None:
    # given: a swarm whose token has died, and whose manager has this machine for its system
    with Lab(managers=1, workers=0) as lab:
        lab.login(lab.manager)
        lab.manager.docker(
            "service",
            "create",
            "-d",
            "--with-registry-auth",
            "--mode=global",
            "--name=web",
            lab.image(),
        )
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
            system.run("systemctl", "start", SERVICE)
            # then
            wait_until(lambda: lab.states("web").count("running") == 2, "the new node runs web", 60)
            assert before[0] in [
                task["ID"] for task in lab.tasks("web") if task["Status"]["State"] == "running"
            ]


# When it fails ---------------------------------------------------------------------------------


def test_it_recovers_when_docker_is_back(manager: Machine) -> None:
    # given
    stop_docker(manager)
    drop_in(manager, SERVICE, RETRY_SOON)
    # when: it waits for its next try, and has not started what somebody stopped
    manager.run("systemctl", "start", SERVICE, check=False)
    wait_until(lambda: manager.show(SERVICE, "SubState") == ["auto-restart"], "it will try again")
    assert manager.show("docker.service", "ActiveState") == ["inactive"]
    assert manager.journal(SERVICE, "--priority=err") != ""
    manager.run("systemctl", "start", "docker.service")
    before = manager.updates_of("web")
    # then
    wait_for_result(manager, "success", "inactive")
    assert manager.updates_of("web") > before


def test_when_it_gives_up_somebody_is_told_and_the_timer_goes_on(manager: Machine) -> None:
    # given
    stop_docker(manager)
    manager.write(
        "/etc/systemd/system/tell.service",
        "[Service]\nType=oneshot\nExecStart=/bin/touch /opt/told\n",
    )
    limits = "StartLimitBurst=2\nStartLimitIntervalSec=8\n"
    drop_in(manager, SERVICE, f"[Unit]\nOnFailure=tell.service\n{limits}{RETRY_SOON}")
    drop_in(manager, TIMER, EVERY_SECOND)
    # when
    manager.run("systemctl", "start", TIMER)
    # then
    wait_until(lambda: manager.show(SERVICE, "ActiveState") == ["failed"], "it gives up")
    assert SERVICE in manager.run("systemctl", "--failed")
    wait_until(lambda: manager.exists("/opt/told"), "somebody is told")
    # and when
    manager.run("systemctl", "start", "docker.service")
    before = manager.updates_of("web")
    # then
    wait_until(
        lambda: manager.updates_of("web") > before, "a later round of the timer refreshes web"
    )


@pytest.mark.parametrize(
    "status, settings, command",
    [
        (2, 'OPTIONS="--no-such-option"\n', ""),
        (3, "", "[Service]\nExecStart=\nExecStart=/bin/sh -c 'exit 3'\n"),
    ],
)
def test_what_a_retry_cannot_mend_fails_at_once(
    manager: Machine, status: int, settings: str, command: str
) -> None:
    # given
    manager.write(SETTINGS, settings)
    drop_in(manager, SERVICE, command)
    # when
    manager.run("systemctl", "start", SERVICE, check=False)
    # then
    assert manager.show(SERVICE, "ActiveState", "ExecMainStatus", "NRestarts") == [
        "failed",
        str(status),
        "0",
    ]


@pytest.fixture
def hanging(manager: Machine) -> Machine:
    """A manager whose docker answers nothing any more."""
    manager.write("/usr/local/bin/docker", "#!/bin/sh\nsleep 1000\n", 0o755)
    return manager


def test_a_run_that_hangs_is_ended_with_its_children(hanging: Machine) -> None:
    # given
    drop_in(hanging, SERVICE, "[Service]\nTimeoutStartSec=2\nRestart=no\n")
    # when
    hanging.run("systemctl", "start", SERVICE, check=False)
    # then
    assert hanging.show(SERVICE, "Result", "ActiveState", "TasksCurrent") == [
        "timeout",
        "failed",
        "[not set]",
    ]


def test_to_stop_a_run_is_no_failure(hanging: Machine) -> None:
    # given
    hanging.run("systemctl", "start", "--no-block", SERVICE)
    sleeping = ("sh", "-c", "cat /proc/[0-9]*/comm 2>&- | grep -x sleep")
    wait_until(lambda: hanging.run(*sleeping, check=False), "a run waits for docker")
    # when
    hanging.run("systemctl", "stop", SERVICE)
    # then
    assert hanging.show(SERVICE, "Result", "ActiveState", "TasksCurrent") == [
        "success",
        "inactive",
        "[not set]",
    ]


# make install ----------------------------------------------------------------------------------


def test_make_uninstall_takes_all_back_but_the_settings(machine: Machine) -> None:
    # given
    machine.write(SETTINGS, OPTIONS)
    machine.start_swarm("web")
    # when
    machine.run("make", "-C", SOURCE, "install")
    machine.run("systemctl", "enable", "--now", TIMER)
    machine.run("systemctl", "start", SERVICE)
    # then
    assert "Docker login succeeded" in machine.journal(SERVICE)
    # and when
    machine.run("make", "-C", SOURCE, "uninstall")
    # then
    left = machine.run(
        "find", "/etc", "/usr", "/lib/systemd", "/var/lib/systemd", "-name", "*ecr*swarm*login*"
    )
    assert left == SETTINGS
    assert machine.show(TIMER, "ActiveState", "LoadState") == ["inactive", "not-found"]


@pytest.mark.parametrize("prefix", ["/usr", "/usr/local"])
def test_make_install_stages_in_destdir(machine: Machine, prefix: str) -> None:
    # when
    machine.run("make", "-C", SOURCE, "install", "DESTDIR=/opt/stage", f"PREFIX={prefix}")
    # then
    assert set(machine.run("find", "/opt/stage", "-type", "f").split()) == {
        f"/opt/stage{prefix}/bin/ecr_swarm_login.py",
        f"/opt/stage/etc/systemd/system/{SERVICE}",
        f"/opt/stage/etc/systemd/system/{TIMER}",
    }
    assert f"ExecStart={prefix}/bin/ecr_swarm_login.py " in machine.read(
        f"/opt/stage/etc/systemd/system/{SERVICE}"
    )
    assert not machine.exists(SCRIPT)


def test_make_install_says_how_to_get_sh(machine: Machine) -> None:
    # given
    machine.run("dpkg", "--purge", "python3-sh")
    # when
    said = machine.run("sh", "-c", f"make -C {SOURCE} install || echo refused")
    # then
    assert "refused" in said and "python3-sh" in said
    assert not machine.exists(SCRIPT)


# user-data, cron, by hand ----------------------------------------------------------------------


def user_data(machine: Machine) -> None:
    """Run the README's script as cloud-init does, with the project's files from a folder instead of the web."""
    text, count = re.subn(
        r"(?m)^SOURCE=.*$", f"SOURCE=file://{SOURCE}", readme_block("#!/bin/bash\n# user-data")
    )
    assert count == 1
    machine.write("/opt/user-data", text, 0o755)
    machine.run(
        "env", "-i", CERTIFICATE_LINE, "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "/opt/user-data"
    )
    machine.write(SETTINGS, f"{machine.read(SETTINGS)}{CERTIFICATE_LINE}\n")


@pytest.fixture(params=["Debian", "Amazon Linux"])
def new_machine(request: pytest.FixtureRequest, machine: Machine) -> Machine:
    """A machine that has docker and aws, but not sh; as Amazon's, one with dnf instead of apt-get."""
    machine.run("dpkg", "--purge", "python3-sh")
    machine.write("/etc/apt/apt.conf.d/no-network", 'Acquire::Retries "0";\n')
    if request.param == "Amazon Linux":
        machine.run("sh", "-c", "rm /usr/bin/apt-get /usr/lib/python3*/EXTERNALLY-MANAGED")
        machine.write("/usr/bin/dnf", "#!/bin/sh\n", 0o755)
        machine.write("/etc/pip.conf", "[global]\nno-index = true\nfind-links = /opt/sh\n")
    return machine


def test_user_data_before_docker_has_started_and_the_node_has_joined(new_machine: Machine) -> None:
    # given
    stop_docker(new_machine)
    drop_in(new_machine, "docker.service", "[Service]\nExecStartPre=/bin/sleep 3\n")
    new_machine.run("systemctl", "start", "--no-block", "docker.service")
    # when
    user_data(new_machine)
    # then
    assert ECR in new_machine.read(LOGINS)
    assert new_machine.show(TIMER, "ActiveState", "UnitFileState") == ["active", "enabled"]
    # and when: a round of the timer comes before the node joins the swarm
    drop_in(new_machine, SERVICE, RETRY_SOON)
    new_machine.run("systemctl", "start", SERVICE, check=False)
    wait_until(
        lambda: new_machine.show(SERVICE, "SubState") == ["auto-restart"], "it will try again"
    )
    new_machine.start_swarm("web")
    before = new_machine.updates_of("web")
    # then
    wait_until(lambda: new_machine.updates_of("web") > before, "the new manager refreshes web")
    wait_for_result(new_machine, "success", "inactive")


def test_user_data_can_run_twice(new_machine: Machine) -> None:
    # given
    user_data(new_machine)
    # when
    user_data(new_machine)
    # then
    assert new_machine.show(TIMER, "ActiveState") == ["active"]


def test_cron_refreshes_the_services(machine: Machine) -> None:
    # given: the README's line, only more often, and aws where cron's PATH does not find it
    machine.run("cp", f"{SOURCE}/ecr_swarm_login.py", "/usr/bin/")
    machine.run("mv", "/usr/bin/aws", "/usr/local/bin/")
    machine.start_swarm("web")
    before = machine.updates_of("web")
    line, count = re.subn(
        r"(?m)^\d+ \* \* \* \* root",
        "* * * * * root",
        readme_block("# /etc/cron.d/ecr-swarm-login"),
    )
    assert count == 1
    # when
    machine.write("/etc/cron.d/ecr-swarm-login", f"{CERTIFICATE_LINE}\n{line}")
    # then
    wait_until(lambda: machine.updates_of("web") > before, "cron refreshes web", 75)
    assert ECR in machine.read(LOGINS)


@pytest.mark.parametrize(
    "user, before",
    [
        ("root", ["env", "-i", "PATH=/usr/bin:/bin", CERTIFICATE_LINE]),
        ("root", ["env", "PATH=/opt/venv/bin:/usr/bin:/bin"]),
        ("alice", ["runuser", "-u", "alice", "--"]),
    ],
    ids=["no HOME", "virtual environment", "docker group"],
)
def test_by_hand(manager: Machine, user: str, before: list) -> None:
    # given
    manager.run("python3", "-m", "venv", "--without-pip", "/opt/venv")
    manager.run("useradd", "--create-home", "--groups", "docker", "alice")
    updates = manager.updates_of("web")
    # when
    home = manager.run("sh", "-c", f"echo ~{user}")
    manager.run(
        *before, "ecr_swarm_login.py", "--region", REGION, HOME=home, AWS_CA_BUNDLE=CERTIFICATE
    )
    # then
    assert manager.updates_of("web") > updates
    assert ECR in manager.read(f"{home}/.docker/config.json")
