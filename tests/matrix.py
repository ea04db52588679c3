"""Run the tests with each Python and each release of sh that the script promises to work with: make matrix."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".matrix"

# The oldest Python with the oldest sh, and with the newest that PyPI has for it (Amazon Linux 2023);
# Debian 12's python3-sh; the newest of both.
PAIRS = (("3.9", "1.14.1"), ("3.9", "2.3.0"), ("3.11", "1.14.2"), ("3.13", "2.4.0"))


def environment_of_pyenv() -> dict[str, str]:
    """With pyenv, what is on PATH only finds a Python if it is told of all that are installed."""
    if not shutil.which("pyenv"):
        return dict(os.environ)
    found = subprocess.run(
        ["pyenv", "versions", "--bare"], capture_output=True, check=False, text=True
    )
    return {**os.environ, "PYENV_VERSION": ":".join(found.stdout.split())}


def find_python(version: str) -> str | None:
    """A Python of this version on PATH that really starts."""
    code = "import sys, venv; print('%d.%d' % sys.version_info[:2], sys.executable)"
    for name in (f"python{version}", "python3", sys.executable):
        if not shutil.which(name):
            continue
        found = subprocess.run(
            [name, "-c", code],
            capture_output=True,
            check=False,
            text=True,
            env=environment_of_pyenv(),
        )
        if found.returncode == 0 and found.stdout.split()[0] == version:
            return found.stdout.split()[1]
    return None


def make_environment(python: str, version: str, sh: str) -> Path:
    """The Python of a virtual environment with this release of sh and what the tests need."""
    folder = FOLDER / f"python{version}-sh{sh}"
    if not (folder / "ready").exists():
        subprocess.run([python, "-m", "venv", "--clear", str(folder)], check=True)
        install = [
            folder / "bin" / "python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        subprocess.run(
            [*install, "-r", ROOT / "tests" / "requirements.txt", f"sh=={sh}"], check=True
        )
        (folder / "ready").touch()
    return folder / "bin" / "python"


def main() -> int:
    """Run all pairs that this machine has; 1 if one of them fails, or none is to be had."""
    results = {}
    for version, sh in PAIRS:
        python = find_python(version)
        if python is None:
            results[version, sh] = "missing here"
            continue
        print(f"== Python {version}, sh {sh}", flush=True)
        environment = make_environment(python, version, sh)
        command = [
            environment,
            "-m",
            "pytest",
            "-q",
            "-n",
            "auto",
            "-p",
            "no:cacheprovider",
            "tests/fake",
        ]
        ended = subprocess.run(command, check=False, cwd=ROOT)
        results[version, sh] = "failed" if ended.returncode else "passed"
    for (version, sh), result in results.items():
        print(f"Python {version:5} sh {sh:7} {result}")
    return 1 if "failed" in results.values() or "passed" not in results.values() else 0


if __name__ == "__main__":
    sys.exit(main())
