#!/usr/bin/env python3
"""What a newcomer's machine says: run a command in a fresh Debian 12 and a fresh Debian 13.

  fresh.py make test demo

The command runs in a copy of this checkout, as a plain user. A fresh Debian has what debootstrap
calls minbase, what the README asks for, and nothing else. It is made once and kept in .cache;
what runs in it writes to memory. Needs root, and a Debian mirror.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab.engines import Unavailable, cached, debian_mirror

ROOT = Path(__file__).resolve().parents[2]

SUITES = ("bookworm", "trixie")
PACKAGES = ("make", "python3", "python3-venv")  # as in the README
# The Pythons that the matrix gets from a Debian to come.
TO_COME = "testing"
NEWEST_PYTHONS = ("3.14", "3.15")

# The settings of pip that say how PyPI is reached from here.
PIP_SETTINGS = shlex.split("cert client-cert default-timeout index-url proxy timeout trusted-host")

NSPAWN = "systemd-nspawn --quiet --register=no --keep-unit --console=pipe --as-pid2"
IN_A_CLONE = 'cp -R /clone ~/ecr_swarm_login && cd ~/ecr_swarm_login && exec "$@"'


def run(suite: str, *command: str) -> int:
    """Run a command as a newcomer. Returns its exit status; raises Unavailable."""
    root = fresh_root(suite)
    settings = pip_settings()
    files = ["/etc/hosts", *(value for value in settings.values() if os.path.isfile(value))]
    with tempfile.TemporaryDirectory(prefix="ecr-fresh-") as folder:
        clone = copy_of_checkout(Path(folder))
        argv = [
            *shlex.split(NSPAWN),
            *(f"--directory={root}", "--volatile=overlay", "--user=newcomer"),
            f"--bind-ro={clone}:/clone",
            *(f"--bind-ro={file}" for file in files),
            *(f"--setenv={name}={value}" for name, value in settings.items()),
            *("sh", "-c", IN_A_CLONE, "sh", *command),
        ]
        return subprocess.run(argv, check=False, stdin=subprocess.DEVNULL).returncode


def fresh_root(suite: str) -> Path:
    """The folder with a fresh Debian of that release, made at first use. Raises Unavailable."""
    missing = missing_requirements()
    if missing:
        raise Unavailable(f"needs {', '.join(missing)}")
    packages = list(PACKAGES)
    if suite == TO_COME:
        packages += [f"python{version}-venv" for version in NEWEST_PYTHONS]
    with cached(f"fresh-{suite}") as (folder, draft):
        if draft:
            print(f"== Making a fresh Debian, {suite}: takes a minute, once", flush=True)
            options = ("--variant=minbase", f"--include={','.join(packages)}")
            make("debootstrap", *options, suite, str(draft), debian_mirror()[0])
            make("chroot", str(draft), "useradd", "--create-home", "newcomer")
    return folder


def make(*command: str) -> None:
    """Run a program that makes a root. Raises Unavailable with the last of what it said."""
    said = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if said.returncode:
        raise Unavailable(f"{command[0]} failed: {said.stdout.strip()[-200:]}")


def missing_requirements() -> list[str]:
    """What this machine lacks to make and start a fresh Debian."""
    missing = [] if os.geteuid() == 0 else ["root"]
    packages = {"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container"}
    return missing + [name for program, name in packages.items() if not shutil.which(program)]


def pip_settings() -> dict[str, str]:
    """How this machine's pip reaches PyPI, as environment variables: the root has no such file."""
    command = (sys.executable, "-m", "pip", "config", "list")
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    settings = {}
    for source in ("global", ":env:"):  # the environment goes before the files
        for name, value in re.findall(rf"(?m)^{source}\.([a-z-]+)='(.*)'$", listed):
            if name in PIP_SETTINGS:
                settings["PIP_" + name.upper().replace("-", "_")] = value
    return settings


def copy_of_checkout(folder: Path) -> Path:
    """A copy of this checkout as git would clone it, with what is not committed yet."""
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()]
    clone = folder / "clone"
    shutil.copytree(ROOT, clone, symlinks=True, ignore=shutil.ignore_patterns(".git", *ignored))
    return clone


def main() -> int:
    """Run the command in each release; 1 if it fails in one."""
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(fresh_root, SUITES))
        failed = []
        for suite in SUITES:
            print(f"== {' '.join(sys.argv[1:])} in a fresh Debian, {suite}", flush=True)
            if run(suite, *sys.argv[1:]):
                failed.append(suite)
    except Unavailable as error:
        print(f"No fresh Debian: {error}", file=sys.stderr)
        return 1
    if failed:
        print(f"Failed in {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
