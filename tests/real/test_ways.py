"""The ways of use on a freshly made system: make install, user-data, cron, by hand, drop-ins."""

import re
from pathlib import Path

import pytest
from lab import wait_until
from lab.engines import PROJECT
from lab.machine import ECR, REGION, Machine
from units import (
    CERTIFICATE,
    CERTIFICATE_LINE,
    LOGINS,
    OPTIONS,
    SCRIPT,
    SERVICE,
    SETTINGS,
    SOURCE,
    TIMER,
    drop_in,
    readme_block,
    refuse_tokens,
    shorten,
    stop_docker,
    wait_for_result,
)

# By copy, as the README says -----------------------------------------------------------------


def test_the_readmes_commands_lead_to_a_refreshed_service(machine: Machine) -> None:
    # given: docker, aws, a clone; no sh yet
    machine.run("dpkg --purge python3-sh")
    machine.start_swarm("web")
    machine.write(SETTINGS, f"{CERTIFICATE_LINE}\n")
    updates = machine.updates_of("web")
    # when
    install = f"cd {SOURCE}\n{readme_block('apt-get install python3-sh')}"
    installed = machine.run("sh -euc", install, AWS_CA_BUNDLE=CERTIFICATE)
    page = " ".join((PROJECT / "README.md").read_text().split())
    [see] = re.findall(r"To test it right away: `(.*?)`, then `(.*?)`", page)
    seen = machine.run("sh -euc", "\n".join(see))
    # then
    assert "web will be refreshed: it pulls from ECR" in installed
    assert f"Docker login succeeded for {ECR}" in installed
    assert "web refreshed" in seen and "1 login, 1 refreshed in " in seen
    assert machine.updates_of("web") > updates
    assert machine.show(TIMER, "ActiveState", "UnitFileState") == ["active", "enabled"]


# make install ----------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["/usr", "/usr/local"])
def test_make_uninstall_takes_all_back_but_the_settings(machine: Machine, prefix: str) -> None:
    # given
    machine.write(SETTINGS, OPTIONS)
    machine.start_swarm("web")
    # when
    machine.run(f"make -C {SOURCE} install PREFIX={prefix}")
    machine.run(f"systemctl enable --now {TIMER}")
    machine.run(f"systemctl start {SERVICE}")
    # then
    assert "Docker login succeeded" in machine.journal(SERVICE)
    # and when
    first, second = (machine.run(f"make -sC {SOURCE} uninstall") for _ in range(2))
    # then
    assert first.startswith("These stay: docker's logins") and second == "It is not installed"
    left = machine.run("find /etc /usr /lib/systemd /var/lib/systemd -name '*ecr*swarm*login*'")
    assert left == SETTINGS
    assert machine.show(TIMER, "ActiveState", "LoadState") == ["inactive", "not-found"]


@pytest.mark.parametrize("prefix", ["/usr", "/usr/local"])
def test_make_install_stages_in_destdir(machine: Machine, prefix: str) -> None:
    # when
    stage = f"make -sC {SOURCE} DESTDIR=/opt/stage PREFIX={prefix}"
    said = machine.run(f"{stage} install")
    # then: nothing of this system
    assert "systemctl" not in said
    assert set(machine.run("find /opt/stage -type f").split()) == {
        f"/opt/stage{prefix}/bin/ecr_swarm_login.py",
        f"/opt/stage/etc/systemd/system/{SERVICE}",
        f"/opt/stage/etc/systemd/system/{TIMER}",
    }
    assert f"ExecStart={prefix}/bin/ecr_swarm_login.py " in machine.read(
        f"/opt/stage/etc/systemd/system/{SERVICE}"
    )
    assert not machine.exists(SCRIPT)
    # and when, then
    assert [machine.run(f"{stage} uninstall") for _ in range(2)] == ["", "It is not installed"]
    assert machine.run("find /opt/stage -type f") == ""


def test_make_install_says_how_to_get_sh(machine: Machine) -> None:
    # given
    machine.run("dpkg --purge python3-sh")
    # when
    said = machine.run("sh -c", f"make -C {SOURCE} install || echo refused")
    # then
    assert "refused" in said and "python3-sh" in said
    assert "Traceback" not in said
    assert not machine.exists(SCRIPT)


# user-data, cron, by hand ----------------------------------------------------------------------


def user_data(machine: Machine) -> None:
    """Run the README's script as cloud-init does, with the project's files from a folder."""
    text, count = re.subn(
        r"(?m)^SOURCE=.*$", f"SOURCE=file://{SOURCE}", readme_block("#!/bin/bash\n# user-data")
    )
    assert count == 1
    machine.write("/opt/user-data", text.replace("sleep 10", "sleep 1"), 0o755)
    machine.run(f"env -i {CERTIFICATE_LINE} PATH=/usr/sbin:/usr/bin:/sbin:/bin /opt/user-data")
    machine.write(SETTINGS, f"{machine.read(SETTINGS)}{CERTIFICATE_LINE}\n")


# Root's pip installs where the Python of Amazon Linux and Fedora looks, but not if it is isolated.
AMAZONS_PIP = """
[global]
no-index = true
find-links = /opt/sh
[install]
target = /usr/local/lib/python%d.%d/site-packages
"""
AMAZONS_PYTHON = """
import sys
if not sys.flags.isolated:
    sys.path.append("/usr/local/lib/python%d.%d/site-packages" % sys.version_info[:2])
"""


@pytest.fixture(params=["Debian", "Amazon Linux"])
def new_machine(request: pytest.FixtureRequest, machine: Machine) -> Machine:
    """A machine that has docker and aws, but not sh; as Amazon's, one with dnf instead of apt-get."""
    machine.run("dpkg --purge python3-sh")
    machine.write("/etc/apt/apt.conf.d/no-network", 'Acquire::Retries "0";\n')
    if request.param == "Amazon Linux":
        machine.run("sh -c", "rm /usr/bin/apt-get /usr/lib/python3*/EXTERNALLY-MANAGED")
        machine.write("/usr/bin/dnf", "#!/bin/sh\n", 0o755)
        start_up = machine.run("sh -c", "realpath /usr/lib/python3*/sitecustomize.py")
        machine.write(start_up, AMAZONS_PYTHON)
        version = machine.run("python3 -c", "import sys; print(sys.version_info[:2])")
        major, minor = map(int, re.findall(r"\d+", version))
        machine.write("/etc/pip.conf", AMAZONS_PIP % (major, minor))
    return machine


def test_user_data_before_docker_has_started_and_the_node_has_joined(new_machine: Machine) -> None:
    # given
    stop_docker(new_machine)
    drop_in(new_machine, "docker.service", "[Service]\nExecStartPre=/bin/sleep 3\n")
    new_machine.run("systemctl start --no-block docker.service")
    # when
    user_data(new_machine)
    # then
    assert ECR in new_machine.read(LOGINS)
    assert new_machine.show(TIMER, "ActiveState", "UnitFileState") == ["active", "enabled"]
    # and when: it joins its swarm later
    new_machine.start_swarm("web")
    before = new_machine.updates_of("web")
    # then: not an hour later
    wait_until(lambda: new_machine.updates_of("web") > before, "the new manager refreshes web")
    wait_for_result(new_machine, "success", "inactive")


def test_user_data_waits_for_others_who_install_packages(machine: Machine) -> None:
    # given: what a first boot does by itself
    machine.run("dpkg --purge python3-sh")
    locks = "/var/lib/apt/lists/lock /var/lib/dpkg/lock-frontend"
    code = f"files = []; import fcntl, time\nfor name in '{locks}'.split():\n"
    code += "    files.append(open(name, 'a'))\n    fcntl.lockf(files[-1], fcntl.LOCK_EX)\n"
    code += "open('/opt/locked', 'w')\ntime.sleep(5)\n"
    machine.write("/opt/hold.py", code)
    machine.run("systemd-run --unit=unattended python3 /opt/hold.py")
    wait_until(lambda: machine.exists("/opt/locked"), "somebody else installs packages")
    # when
    user_data(machine)
    # then
    assert machine.show(TIMER, "ActiveState") == ["active"]


def test_user_data_can_run_twice(new_machine: Machine) -> None:
    # given
    user_data(new_machine)
    # when
    user_data(new_machine)
    # then
    assert new_machine.show(TIMER, "ActiveState") == ["active"]


def test_cron_refreshes_the_services(machine: Machine) -> None:
    # given: the README's line, only more often, and aws where cron's PATH does not find it
    machine.run(f"cp {SOURCE}/ecr_swarm_login.py /usr/bin/")
    machine.run("mv /usr/bin/aws /usr/local/bin/")
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


def test_cron_mails_what_goes_wrong_and_nothing_else(manager: Machine) -> None:
    # given: what cron runs; it mails what that prints
    [command] = re.findall(r"\* root (.*)", readme_block("# /etc/cron.d/ecr-swarm-login"))
    shorten(manager, TRY_PAUSE=1)
    # when, then
    assert manager.run("sh -c", command, AWS_CA_BUNDLE=CERTIFICATE) == ""
    refuse_tokens(manager)
    said = manager.run("sh -c", f"{command} || echo $?", AWS_CA_BUNDLE=CERTIFICATE)
    assert "Docker login failed for" in said and said.splitlines()[0] == "1"


@pytest.mark.parametrize(
    "user, before",
    [
        ("root", f"env -i PATH=/usr/bin:/bin {CERTIFICATE_LINE}"),
        ("root", "env PATH=/opt/venv/bin:/usr/bin:/bin"),
        ("alice", "runuser -u alice --"),
    ],
    ids=["no HOME", "virtual environment", "docker group"],
)
def test_by_hand(manager: Machine, user: str, before: str) -> None:
    # given
    manager.run("python3 -m venv --without-pip /opt/venv")
    manager.run("useradd --create-home --groups docker alice")
    updates = manager.updates_of("web")
    # when
    home = manager.run("sh -c", f"echo ~{user}")
    command = f"{before} ecr_swarm_login.py --region {REGION}"
    manager.run(command, HOME=home, AWS_CA_BUNDLE=CERTIFICATE)
    # then
    assert manager.updates_of("web") > updates
    assert ECR in manager.read(f"{home}/.docker/config.json")


# Whose Python and whose modules ----------------------------------------------------------------


def test_nothing_is_loaded_from_beside_it(manager: Machine) -> None:
    # given: modules of other people, where Python looks first; aws, a Python, too, is kept from them
    folders = ("/opt/tool", "/opt/path", manager.run("python3 -m site --user-site"))
    for folder in folders:
        manager.write(f"{folder}/json.py", "open('/opt/taken-in', 'w')\n")
        manager.write(f"{folder}/sh.py", "open('/opt/taken-in', 'w')\n")
    spared = '#!/bin/sh\nPYTHONPATH= PYTHONNOUSERSITE=1 exec /usr/bin/aws "$@"\n'
    manager.write("/usr/local/bin/aws", spared, 0o755)
    manager.run(f"mv {SCRIPT} /opt/tool/")
    script = f"/opt/tool/{Path(SCRIPT).name}"
    drop_in(manager, SERVICE, f"[Service]\nExecStart=\nExecStart={script} $OPTIONS\n")
    manager.write(SETTINGS, f"{OPTIONS}PYTHONPATH=/opt/path\n")
    updates = manager.updates_of("web")
    # when
    manager.run(f"systemctl start {SERVICE}")
    manager.run(f"{script} --dry-run", PYTHONPATH="/opt/path")
    manager.run(f"python3 {script} --dry-run", PYTHONPATH="/opt/path")
    stdin = f"cd /opt/tool; python3 %s - --dry-run <{script}"
    manager.run("sh -c", stdin % "-I", PYTHONPATH="/opt/path")
    refused = manager.run("sh -c", stdin % "", check=False, PYTHONPATH="/opt/path")
    # then
    assert manager.updates_of("web") > updates
    assert "from stdin, run python3 -I -" in refused
    assert not manager.exists("/opt/taken-in")
    manager.run("python3 -c", "import sh")  # they do lie in wait
    assert manager.exists("/opt/taken-in")


def test_a_virtual_environments_python(manager: Machine) -> None:
    # given: sh is there alone
    manager.run("dpkg --purge python3-sh")
    manager.run("python3 -m venv /opt/venv")
    manager.run("/opt/venv/bin/pip install --no-index --find-links=/opt/sh sh")
    # when, then
    manager.run(f"/opt/venv/bin/python {SCRIPT} --dry-run")
    assert "cannot load" in manager.run(f"{SCRIPT} --dry-run", check=False)


def test_roots_pip(manager: Machine) -> None:
    # given
    manager.run("dpkg --purge python3-sh")
    install = "pip3 install --break-system-packages --no-index --find-links=/opt/sh"
    # when
    manager.run(f"{install} 'sh<3'")
    # then
    manager.run(f"systemctl start {SERVICE}")


# Alerts ----------------------------------------------------------------------------------------


def add_drop_in(machine: Machine, name: str, before: str = "", after: str = "") -> None:
    """The README's drop-in of that name, with one text replaced."""
    path = f"/etc/systemd/system/{SERVICE}.d/{name}.conf"
    text = readme_block(f"# {path}")
    assert before in text
    drop_in(machine, SERVICE, text.replace(before, after) if before else text, name)


def fail_once(machine: Machine) -> None:
    machine.write(SETTINGS, f'OPTIONS="--tries 1"\n{CERTIFICATE_LINE}\n')
    refuse_tokens(machine)
    machine.run(f"systemctl start {SERVICE}", check=False)


def test_an_alert_is_called(manager: Machine) -> None:
    # given
    alert = "[Service]\nType=oneshot\nExecStart=/bin/touch /opt/told\n"
    manager.write("/etc/systemd/system/your-alert.service", alert)
    add_drop_in(manager, "alert")
    # when, then
    manager.run(f"systemctl start {SERVICE}")
    assert not manager.exists("/opt/told")
    fail_once(manager)
    wait_until(lambda: manager.exists("/opt/told"), "the alert is called")


def test_a_success_is_pinged(manager: Machine) -> None:
    # given
    manager.write("/opt/ping/ID", "")
    server = "python3 -m http.server --directory /opt/ping 8000"
    manager.run(f"systemd-run --unit=watchdog --setenv=PYTHONUNBUFFERED=1 {server}")
    add_drop_in(manager, "ping", "https://ping.example.com", "http://127.0.0.1:8000")

    def pings() -> int:
        return manager.journal("watchdog").count("GET /ID")

    # when, then
    manager.run(f"systemctl start {SERVICE}")
    wait_until(lambda: pings() == 1, "the success is pinged")
    fail_once(manager)
    assert pings() == 1
    assert manager.show(SERVICE, "Result") == ["exit-code"]


def test_a_metric_is_written(manager: Machine) -> None:
    # given: a folder of another user
    folder = "/var/lib/prometheus/node-exporter"
    manager.run(f"install -d -o nobody {folder}")
    add_drop_in(manager, "metric")

    def metric() -> str:
        return manager.run("runuser -u nobody -- sh -c", f"cat {folder}/*")

    # when, then
    manager.run(f"systemctl start {SERVICE}")
    assert metric() == "ecr_swarm_login_failed 0"
    fail_once(manager)
    assert metric() == "ecr_swarm_login_failed 1"


# A docker that is a snap -----------------------------------------------------------------------

# Stands in for snap-confine: it wants capabilities, to be able to gain more, and mounts of its own;
# and what it starts keeps its logins in a folder of the snap, whatever it is told.
SNAP = """#!/bin/sh
refuse() { echo "$1" >&2; exit 1; }
needs="required permitted capability cap_sys_admin not found in current capabilities"
grep -q "NoNewPrivs:.0" /proc/self/status || refuse "$needs"
unshare --mount mount -t tmpfs snap /mnt || refuse "$needs"
mkdir -p /run/snapd || refuse "cannot create lock directory /run/snapd/lock"
export DOCKER_CONFIG="$HOME/snap/docker/current/.docker"
mkdir -p "$DOCKER_CONFIG" || refuse "cannot create user data directory"
exec unshare --mount /usr/bin/docker "$@"
"""
KEPT_BY_SNAP = "/root/snap/docker/current/.docker/config.json"


@pytest.fixture
def snap(manager: Machine) -> Machine:
    """A manager whose docker is a snap."""
    manager.write("/usr/local/bin/docker", SNAP, 0o755)
    return manager


def test_a_snaps_docker_does_not_start_in_the_unit(snap: Machine) -> None:
    # when
    snap.run(f"systemctl start {SERVICE}", check=False)
    # then: at once, and it says where to look
    assert snap.show(SERVICE, "Result", "ExecMainStatus") == ["exit-code", "1"]
    journal = snap.journal(SERVICE, "--priority=err")
    assert "required permitted capability" in journal
    assert "-> see snaps in systemd/README.md" in journal
    assert "next attempt" not in snap.journal(SERVICE)


def test_a_snaps_docker_with_the_readmes_drop_in(snap: Machine) -> None:
    # given
    add_drop_in(snap, "snap")
    before = snap.updates_of("web")
    # when
    snap.run(f"systemctl start {SERVICE}")
    # then
    assert snap.updates_of("web") > before
    assert ECR in snap.read(KEPT_BY_SNAP)
    assert snap.journal(SERVICE, "--priority=warning") == ""


def test_a_snaps_docker_by_hand(snap: Machine) -> None:
    # given
    before = snap.updates_of("web")
    # when: without the two options, then with one after the other
    script = f"ecr_swarm_login.py --region {REGION}"
    said = snap.run("sh -c", f"{script} || true", AWS_CA_BUNDLE=CERTIFICATE)
    # then
    assert "-> for a snap: run --login-only, then --refresh-only" in said
    assert snap.updates_of("web") == before
    # and when
    both = f"{script} --login-only && ecr_swarm_login.py --refresh-only"
    snap.run("sh -c", both, AWS_CA_BUNDLE=CERTIFICATE)
    # then
    assert snap.updates_of("web") > before
