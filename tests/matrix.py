"""Run the tests with each Python and each release of sh that the script promises to work with.

matrix.py           all pairs: make matrix
matrix.py 3.14      those with this Python
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".matrix"
sys.path.insert(0, str(ROOT / "tests" / "real"))

import fresh
from lab.engines import Unavailable

# The oldest Python with the oldest sh, and with the newest that PyPI has for it (Amazon Linux 2023);
# Debian 12's python3-sh; the newest sh with each of the newest Pythons.
PAIRS = (
    ("3.9", "1.14.1"),
    ("3.9", "2.3.0"),
    ("3.11", "1.14.2"),
    *((version, "2.4.0") for version in fresh.NEWEST_PYTHONS),
)

PASSED, FAILED = "passed", "failed"


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
    environment = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([python, "-m", "venv", "--clear", str(folder)], check=True)
        install = [environment, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        requirements = ["-r", ROOT / "tests" / "requirements.txt", f"sh=={sh}"]
        subprocess.run([*install, *requirements], check=True)
        (folder / "ready").touch()
    return environment


def run(version: str, sh: str) -> str:
    """Run the tests with this pair: what became of it, in words."""
    python = find_python(version)
    if python is None:
        return run_in_fresh_debian(version)
    print(f"== Python {version}, sh {sh}", flush=True)
    environment = make_environment(python, version, sh)
    options = ["-q", "-n", "auto", "-p", "no:cacheprovider", "--ignore=tests/real"]
    command = [environment, "-m", "pytest", *options, "tests"]
    ended = subprocess.run(command, check=False, cwd=ROOT)
    return FAILED if ended.returncode else PASSED


def run_in_fresh_debian(version: str) -> str:
    """The same, by this program in a Debian that has this Python."""
    if version not in fresh.NEWEST_PYTHONS:
        return "missing here"
    try:
        status = fresh.run(fresh.TO_COME, f"python{version}", "tests/matrix.py", version)
    except Unavailable as error:
        return f"missing here: a fresh Debian {error}"
    return FAILED if status else PASSED


def main() -> int:
    """Run all pairs that this machine has; 1 if one of them fails, or none is to be had."""
    wanted = [pair for pair in PAIRS if pair[0] in sys.argv[1:] or not sys.argv[1:]]
    results = {pair: run(*pair) for pair in wanted}
    for (version, sh), result in results.items():
        print(f"Python {version:5} sh {sh:7} {result}")
    return 1 if FAILED in results.values() or PASSED not in results.values() else 0


if __name__ == "__main__":
    sys.exit(main())
