"""A freshly made Debian with a real systemd as init, a real docker, and a small AWS of its own.

A machine has no network but its loopback: cloud.py plays AWS there under AWS's own names, and
docker-registry plays ECR. It runs on a host of host.py, and goes with it.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab import wait_until
from lab.certificates import make_certificate
from lab.engines import CACHE, debian_mirror
from lab.host import Host, Janitor
from lab.registries import ACCOUNT, REGION, ecr_host

HERE = Path(__file__).resolve().parent

SUITE = "bookworm"
FIRST_PACKAGES = "systemd systemd-sysv dbus python3 ca-certificates"
PACKAGES = (
    "python3-sh docker.io cron curl make iproute2 openssl awscli docker-registry apache2-utils"
    " python3-pip python3-venv binutils libpython3.11"
)
# Folder in /opt, what is in it. PyInstaller needs the last two of the packages above.
PIP_PACKAGES = {"aws-v1": "awscli<2", "pyinstaller": "pyinstaller>=6,<7", "sh": "sh<2.4"}
# AWS's own installer brings a PyInstaller bundle in one folder: exe/pyinstaller of aws-cli.
# The hidden import is one that it hides from PyInstaller.
FREEZE = (
    "python3 -m PyInstaller --log-level=ERROR --collect-all=awscli --hidden-import=html.parser"
    " --distpath=/opt/aws-bundle --workpath=/tmp/freeze --specpath=/tmp/freeze /usr/bin/aws"
)

ECR = ecr_host()
TOKEN = "a-token-that-must-stay-secret"
AWS_HOSTS = (f"api.ecr.{REGION}.amazonaws.com", f"sts.{REGION}.amazonaws.com", "sts.amazonaws.com")
PLAIN_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}

# What the machine writes is in memory, and gone with the mounts of this shell.
# systemd-nspawn ends with 133 when the machine reboots.
LAUNCH = """
set -e
cd "$1"
for group in $CGROUPS; do echo $$ > "$group/cgroup.procs"; done
mount -t tmpfs -o mode=755 tmpfs written
mkdir written/upper written/work
mount -t overlay -o "lowerdir=furniture:$2,upperdir=written/upper,workdir=written/work" overlay root
shift 2
status=133
while [ $status = 133 ]; do
    status=0
    systemd-nspawn --directory=root "$@" || status=$?
done
exit $status
"""
NSPAWN = (
    "--quiet --register=no --keep-unit --console=pipe --capability=all"
    " --system-call-filter='@keyring bpf' --boot"
)

FILES = {
    "/etc/hosts": f"127.0.0.1 localhost\n127.0.0.2 {ECR}\n127.0.0.3 {' '.join(AWS_HOSTS)}\n",
    # What a namespace cannot do: no bridge, no packet filter.
    "/etc/docker/daemon.json": '{"bridge": "none", "iptables": false, "ip-forward": false}',
    "/etc/systemd/system/cloud.service": """
[Service]
ExecStartPre=/sbin/ip address replace 169.254.169.254/32 dev lo
ExecStart=/usr/bin/python3 -u /opt/cloud/cloud.py
[Install]
WantedBy=multi-user.target
""",
    "/etc/systemd/system/ecr.service": """
[Service]
ExecStart=/usr/bin/docker-registry serve /opt/cloud/registry.yml
[Install]
WantedBy=multi-user.target
""",
    "/opt/cloud/registry.yml": """
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: /var/lib/ecr}}
http: {addr: "127.0.0.2:443", tls: {certificate: /opt/cloud/tls.crt, key: /opt/cloud/tls.key}}
auth: {htpasswd: {realm: ECR, path: /opt/cloud/htpasswd}}
""",
    f"/opt/cloud/token-{REGION}": TOKEN,
    "/opt/cloud/account": ACCOUNT,
}


def missing_requirements() -> list[str]:
    """What this computer lacks to boot a machine, in words for its user."""
    missing = [] if os.geteuid() == 0 else ["root"]
    programs = {
        "debootstrap": "debootstrap",
        "systemd-nspawn": "systemd-container",
        "nsenter": "util-linux",
        "apt-get": "apt",
        "openssl": "openssl",
    }
    missing += [
        f"{program} (apt-get install {package})"
        for program, package in programs.items()
        if not shutil.which(program)
    ]
    return missing


# The system that all machines start from ------------------------------------------------------


def base_system() -> Path:
    """The folder with the installed system; made once, which takes three minutes, and then kept."""
    recipe = repr((SUITE, FIRST_PACKAGES, PACKAGES, sorted(PIP_PACKAGES.items()), FREEZE))
    base = CACHE / f"machine-{SUITE}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    CACHE.mkdir(exist_ok=True)
    with open(CACHE / "machine.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not base.exists():
            unfinished = base.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            install_system(unfinished)
            unfinished.rename(base)
    return base


def install_system(root: Path) -> None:
    include = FIRST_PACKAGES.replace(" ", ",")
    mirror, _ = debian_mirror()
    call("debootstrap --variant=minbase", f"--include={include}", SUITE, root, mirror)
    # apt installs the rest, since debootstrap does not understand virtual packages.
    # What it downloads stays in the root: a machine without a network can install it again.
    apt = "env DEBIAN_FRONTEND=noninteractive apt-get -y --no-install-recommends"
    call("chroot", root, *f"{apt} update".split())
    call("chroot", root, *f"{apt} install {PACKAGES}".split())
    for folder in ("aws-v1", "pyinstaller"):
        install_from_pypi(root, folder)
    download = f"{sys.executable} -m pip download --quiet --no-deps --dest"
    call(download, root / "opt/sh", PIP_PACKAGES["sh"])
    call("chroot", root, "env", "PYTHONPATH=/opt/pyinstaller", *FREEZE.split())


def install_from_pypi(root: Path, folder: str) -> None:
    """Into a folder of its own, for the Python of the root."""
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = call("chroot", root, "python3", "-c", ask).strip()
    install = f"{sys.executable} -m pip install --quiet --only-binary=:all:"
    target = ("--target", root / "opt" / folder, "--python-version", version)
    call(install, *target, PIP_PACKAGES[folder])


def call(program: str, *arguments: object) -> str:
    """Run a program, whose first arguments may stand beside its name; returns what it printed."""
    command = [*program.split(), *map(str, arguments)]
    done = subprocess.run(
        command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


# One machine -----------------------------------------------------------------------------------


class Machine:
    """A booted system. Its files are reached below .root, its programs with run()."""

    def __init__(self, launched: "subprocess.Popen[bytes]") -> None:
        self.launched = launched
        self.first_process = wait_until(
            lambda: init_of(launched), "systemd-nspawn starts the machine"
        )
        self.wait_until_booted()

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self.first_process}/root")

    def wait_until_booted(self) -> None:
        states = ("running", "degraded")
        ask = "systemctl is-system-running"
        # A run that begins at boot, and tries again a minute later, is a part of it.
        wait_until(lambda: self.run(ask, check=False) in states, "the machine boots", 180)
        assert self.run(ask, check=False) == "running", self.run("systemctl --failed")
        self.write("/opt/cloud/htpasswd", self.run("htpasswd -nbB AWS", TOKEN))
        status = "curl -ks -o/dev/null -w%{http_code}"
        for url in (f"https://{ECR}/", f"https://{AWS_HOSTS[0]}/", "http://169.254.169.254/"):
            wait_until(lambda url=url: self.run(status, url, check=False) != "000", url)

    def reboot(self) -> None:
        before = self.first_process
        self.run("systemctl reboot", check=False)
        wait_until(
            lambda: init_of(self.launched) not in (before, 0), "the machine starts again", 60
        )
        self.first_process = init_of(self.launched)
        self.wait_until_booted()

    def run(self, command: str, *argv: str, check: bool = True, **environment: str) -> str:
        """Run a program in the machine and return its output: stdout, and stderr after it.

        The first argument is a line of words; what may have spaces in it comes after it.
        """
        words = [*shlex.split(command), *argv]
        enter = f"nsenter --target {self.first_process} --all -- env -i -C /".split()
        environment = {**PLAIN_ENVIRONMENT, **environment}
        variables = [f"{name}={value}" for name, value in environment.items()]
        done = subprocess.run(
            [*enter, *variables, *words],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert not check or done.returncode == 0, (
            f"{words}: {done.returncode}: {done.stdout}{done.stderr}"
        )
        return (done.stdout + done.stderr).strip()

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        write_file(self.root, path, text, mode)

    def read(self, path: str) -> str:
        return (self.root / path.lstrip("/")).read_text()

    def exists(self, path: str) -> bool:
        return os.path.lexists(self.root / path.lstrip("/"))

    def show(self, unit: str, *names: str) -> list[str]:
        """The values of a unit's properties."""
        return [self.run(f"systemctl show --value --property {name} {unit}") for name in names]

    def properties(self, unit: str, *names: str) -> list[str]:
        """The same as plain numbers, named Unit.X or Service.X, where show() would say 5min."""
        manager = "org.freedesktop.systemd1"
        path = "/org/freedesktop/systemd1/unit/" + unit.replace("-", "_2d").replace(".", "_2e")
        return [
            self.run(f"busctl get-property {manager} {path} {manager}.{kind} {name}").split()[1]
            for kind, name in (name.split(".") for name in names)
        ]

    def journal(self, unit: str, *options: str) -> str:
        self.run("journalctl --sync")
        return self.run(f"journalctl --quiet --output=cat --unit {unit}", *options)

    def start_swarm(self, *services: str) -> None:
        """Make the machine a manager, with services that want no task: it has nowhere to run one."""
        self.run("docker swarm init --advertise-addr 127.0.0.1")
        for service in services:
            self.create_service(service)

    def create_service(self, name: str) -> None:
        """A service that wants no task."""
        create = "docker service create --detach --no-resolve-image --replicas=0"
        self.run(f"{create} --name {name} {ECR}/{name}:1")

    def updates_of(self, service: str) -> int:
        """Swarm's count of the changes to a service."""
        return int(self.run("docker service inspect --format {{.Version.Index}}", service))


def write_file(root: Path, path: str, text: str, mode: int = 0o644) -> None:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(mode)


@contextlib.contextmanager
def booted(base: Path, host: Host | None = None, options: Sequence[str] = ()) -> Iterator[Machine]:
    """Boot a machine, on a host of its own or on one of the lab's, and leave nothing of it behind."""
    folder = Path(tempfile.mkdtemp(prefix="ecr-machine-"))
    janitor = Janitor(folder)
    own_host = Host("host", folder)
    try:
        furnish(folder / "furniture")
        if not host:
            (folder / "hosts").write_text(FILES["/etc/hosts"])
            own_host.power_on()
        launched = launch(base, folder, host or own_host, options)
        try:
            yield Machine(launched)
        finally:
            end(launched)
    finally:
        own_host.power_off()
        janitor.sweep()


def furnish(root: Path) -> None:
    """Put the files of the machine's AWS in place."""
    for path, text in FILES.items():
        write_file(root, path, text)
    wanted = root / "etc/systemd/system/multi-user.target.wants"
    wanted.mkdir()
    for unit in ("cloud.service", "ecr.service"):
        (wanted / unit).symlink_to(f"/etc/systemd/system/{unit}")
    cloud = root / "opt/cloud"
    for program in ("cloud.py", "aws_stub.py"):
        shutil.copy(HERE / program, cloud)
    names = [f"DNS:{name}" for name in (ECR, *AWS_HOSTS)]
    make_certificate(cloud / "tls.crt", cloud / "tls.key", *names)
    trusted = root / "etc/docker/certs.d" / ECR
    trusted.mkdir(parents=True)
    shutil.copy(cloud / "tls.crt", trusted / "ca.crt")


def launch(
    base: Path, folder: Path, host: Host, options: Sequence[str]
) -> "subprocess.Popen[bytes]":
    for name in ("written", "root"):
        (folder / name).mkdir()
    with open(folder / "console", "wb") as console:
        arguments = ["launch", folder, base, *shlex.split(NSPAWN), *options]
        return host.popen(
            ["unshare", "--mount", "sh", "-c", LAUNCH, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            env={
                **os.environ,
                "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "1",
                "CGROUPS": " ".join(make_cgroups(folder.name)),
            },
        )


def make_cgroups(name: str) -> list[str]:
    """A group in each hierarchy that systemd uses; without, all machines would be in the same one."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    groups = [
        f"{mountpoint}/{name}"
        for _, mountpoint, kind, options, *_ in mounts
        if kind == "cgroup2" or kind == "cgroup" and "name=systemd" in options.split(",")
    ]
    for group in groups:
        os.mkdir(group)
    return groups


def init_of(launched: "subprocess.Popen[bytes]") -> int:
    """The machine's first process, or 0: of all that was launched, the one that is number 1 in its namespace."""
    assert launched.poll() is None, f"systemd-nspawn ended with {launched.returncode}"
    descendants = [launched.pid]
    for process in descendants:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            descendants += map(
                int, Path(f"/proc/{process}/task/{process}/children").read_text().split()
            )
            if re.search(
                r"^NSpid:.*\t1$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE
            ):
                return process
    return 0


def end(launched: "subprocess.Popen[bytes]") -> None:
    """As if the machine's power failed: with its first process goes all that runs in it."""
    if launched.poll() is None:
        os.kill(init_of(launched) or launched.pid, signal.SIGKILL)
    launched.wait(timeout=30)
