"""The real programs of the lab: Docker engines and clients, the AWS CLI, a Python with sh.

What the machine lacks is fetched once into the repository's .cache folder and never
installed: engines from the Debian mirror that the machine's own apt uses, the rest with
pip. What cannot be had raises Unavailable with the reason, and its tests are skipped.
"""

import contextlib
import fcntl
import functools
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]
CACHE = Path(os.path.realpath(PROJECT / ".cache"))  # programs unpacked there know where they lie

# Engine: the Debian release whose docker.io it is. `testing` is the newest to be had. One that
# Debian has not yet runs, too, if somebody has put its programs into .cache/engine-NAME/usr.
SUITES = {"20.10": "bookworm", "26.1": "trixie", "testing": "testing"}


class Unavailable(Exception):
    """This machine cannot have the program; the text says why."""


def output(*argv, **options):
    return subprocess.run(argv, check=True, text=True, capture_output=True, **options).stdout


@contextlib.contextmanager
def cached(name):
    """A folder in the cache: yields (folder, None) once it is there, else (folder, empty one).

    It becomes the folder only when it is complete; runs that need it at once wait in line.
    """
    CACHE.mkdir(exist_ok=True)
    folder = CACHE / name
    with open(CACHE / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            yield folder, None
            return
        draft = CACHE / f"{name}.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        try:
            yield folder, draft
        except subprocess.CalledProcessError as error:
            raise Unavailable(f"{name}: {error.stderr.strip()[-400:]}") from error
        draft.rename(folder)


def debian_mirror():
    """(URI, keyring option) of the Debian mirror that this machine's apt uses."""
    columns = "$(SITE)|$(ORIGIN)|$(LABEL)|$(SIGNED_BY)"
    targets = output("apt-get", "indextargets", "--format", columns, "Created-By: Packages")
    for line in targets.splitlines():
        site, origin, label, keyring = line.split("|")
        if origin == label == "Debian":
            return site, f"[signed-by={keyring}] " if keyring.startswith("/") else ""
    raise Unavailable("apt knows no Debian mirror on this machine: run apt-get update first")


def apt_options(folder, suite):
    """Options that make apt-get see that release alone, beside the machine's own lists."""
    mirror, keyring = debian_mirror()
    for path in ("lists/partial", "archives/partial"):
        (folder / "apt" / path).mkdir(parents=True)
    (folder / "apt/sources.list").write_text(f"deb {keyring}{mirror} {suite} main\n")
    settings = {
        "Dir::Etc::sourcelist": f"{folder}/apt/sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::Lists": f"{folder}/apt/lists",
        "Dir::Cache": f"{folder}/apt",
        "APT::Sandbox::User": "root",
    }
    return [option for key, value in settings.items() for option in ("-o", f"{key}={value}")]


def unpack(folder, packages, options=()):
    output("apt-get", *options, "-qq", "download", *packages, cwd=folder)
    for package in sorted(folder.glob("*.deb")):
        output("dpkg", "-x", str(package), str(folder))
        package.unlink()


def unpacked_engine(name):
    with cached(f"engine-{name}") as (folder, draft):
        if draft:
            options = apt_options(draft, SUITES[name])
            output("apt-get", *options, "-qq", "update")
            packages = ["docker.io", "containerd"]
            if name != "20.10":  # since Debian 13 the client is a package of its own
                packages.append("docker-cli")
            unpack(draft, packages, options)
            shutil.rmtree(draft / "apt")
    return folder


def version(program):
    match = re.search(r"\d+\.\d+\.\d+", output(program, "--version"))
    return match.group() if match else "unknown"


@functools.lru_cache(None)
def engine(name):
    """The folder whose usr/sbin/dockerd and usr/bin/docker are that engine and its client."""
    if name not in SUITES and not (CACHE / f"engine-{name}").exists():
        raise Unavailable(f"no such engine: {name}; known: {', '.join(SUITES)}")
    host = Path("/usr/sbin/dockerd")
    on_host = host.exists() and version(host).startswith(name)
    folder = Path("/") if on_host else unpacked_engine(name)
    try:
        version(folder / "usr/sbin/dockerd")
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"engine {name} does not run here: {error}") from error
    return folder


def pip_venv(name, *requirements):
    """The bin folder of a virtual environment with these packages."""
    with cached(name) as (folder, draft):
        if draft:
            # Scripts in a virtual environment name their interpreter by its path, which is
            # the one before the rename: `python -m venv` once more puts the programs right.
            output(sys.executable, "-m", "venv", str(draft))
            output(f"{draft}/bin/python", "-m", "pip", "install", "-q", *requirements)
            for script in (draft / "bin").iterdir():
                if script.is_file() and not script.is_symlink():
                    script.write_bytes(script.read_bytes().replace(bytes(draft), bytes(folder)))
    return folder / "bin"


def aws_v2():
    """AWS CLI 2 of the machine's own Debian release, unpacked beside the machine's Python."""
    with cached("awscli-v2") as (folder, draft):
        if draft:
            simulate = "apt-get install --simulate --no-install-recommends awscli"
            planned = output(*simulate.split())
            unpack(draft, re.findall(r"^Inst (\S+)", planned, re.MULTILINE))
            # AWS_ENDPOINT_URL came with 2.13; Debian 12 has 2.9.
            (draft / "aws").write_text(
                f'#!/bin/sh\nexport PYTHONPATH="{folder}/usr/lib/python3/dist-packages"\n'
                f'exec /usr/bin/python3 "{folder}/usr/bin/aws"'
                ' --endpoint-url "$AWS_ENDPOINT_URL" "$@"\n'
            )
            (draft / "aws").chmod(0o755)
    if not version(folder / "aws").startswith("2."):
        raise Unavailable("the awscli of this Debian release is not version 2")
    return folder / "aws"


def ecr_helper(release):
    """The credential helper for ECR of that Debian release, unpacked."""
    with cached(f"ecr-helper-{release}") as (folder, draft):
        if draft:
            options = apt_options(draft, release)
            output("apt-get", *options, "-qq", "update")
            unpack(draft, ["amazon-ecr-credential-helper"], options)
            shutil.rmtree(draft / "apt")
    return folder / "usr/bin/docker-credential-ecr-login"


@functools.lru_cache(None)
def aws(name):
    """The path of the real aws program, "v1" or "v2"."""
    return pip_venv("awscli-v1", "awscli<2") / "aws" if name == "v1" else aws_v2()


@functools.lru_cache(None)
def python_with_sh():
    """A Python that has the sh library: this one, or one of the cache."""
    try:
        import sh  # noqa: F401

        return Path(sys.executable)
    except ImportError:
        return pip_venv(f"sh-{platform.python_version()}", "sh>=1.14.1,<3") / "python"


def missing_programs():
    """What `apt-get install` has to bring before a lab can be, as a list of package names."""
    needed = {
        "docker-registry": "docker-registry",
        "htpasswd": "apache2-utils",
        "runc": "runc",
        "busybox": "busybox-static",
        "ip": "iproute2",
        "iptables": "iptables",
        "openssl": "openssl",
        "nsenter": "util-linux",
    }
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return [package for program, package in needed.items() if not shutil.which(program, path=path)]
