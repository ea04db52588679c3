"""Programs that stand before the real ones of a lab: dockers, credential helpers, and what they ask."""

import contextlib
import sys

from lab import ecr_host, wait_until
from lab.certificates import make_certificate
from lab.registries import AWS_ADDRESS, REGION

HOST = ecr_host()
ECR_API = f"api.ecr.{REGION}.amazonaws.com"

# Answers `get` with what a test says; takes and forgets what it is to store or to erase.
HELPER = """#!/bin/sh
server=$(head -n1)
case "$1" in
get) {get} ;;
*) {keep} ;;
esac
"""

# A machine finds AWS by its name, and knows the authority that has signed its certificate.
ECR_HELPER = """#!/bin/sh
unset AWS_ENDPOINT_URL
export SSL_CERT_FILE="{certificate}"
exec "{program}" "$@"
"""

# One docker after the other, with what a test has others do before and after the Nth of a kind, or
# the Nth of all.
WRAPPER = """#!/bin/sh
exec 9>>"{folder}/order"
flock 9
kind="{folder}/$1-$2"
all="{folder}/docker"
counted() {{ count=$(($(cat "$1" 2>/dev/null || echo 0) + 1)); echo "$count" | tee "$1"; }}
happens() {{
    if [ -e "$1" ]; then env -u DOCKER_CONFIG sh "$1" </dev/null >/dev/null 2>&1 9>&-; fi
}}
kind="$kind-$(counted "$kind")"
all="$all-$(counted "$all")"
happens "$all-before"
happens "$kind-before"
"{docker}" "$@" 9>&-
status=$?
happens "$kind-after"
exit $status
"""

# As of a snap: it keeps its logins where nobody looks for them.
ELSEWHERE = """#!/bin/sh
export DOCKER_CONFIG="{folder}"
exec "{docker}" "$@"
"""

# Where nobody has a server: what docker asks of ssh is to run `docker system dial-stdio` there.
SSH = """#!/bin/sh
DOCKER_HOST="unix://{socket}" DOCKER_CONTEXT= exec "{docker}" system dial-stdio
"""

# Waits before it does what it is asked.
HELD_UP = """#!/bin/sh
case "$*" in
{arguments})
    : >"{begun}"
    until [ -e "{goes_on}" ]; do sleep 0.1; done
    ;;
esac
exec "{program}" "$@"
"""


# For whoever asks docker everything was 7 hours earlier, and what waits has done so since.
CLOCK = """#!{python}
import datetime, re, subprocess, sys

def earlier(found):
    then = datetime.datetime.fromisoformat(found[0]) - datetime.timedelta(hours=7)
    return then.isoformat()

result = subprocess.run(["{program}", *sys.argv[1:]], stdout=subprocess.PIPE, text=True)
said = re.sub('(?<=At":")[0-9]{{4}}-..-..T..:..:..', earlier, result.stdout)
said = re.sub('(?<="CurrentState":")([A-Za-z]+)[^"]*', r"\\1 7 hours ago", said)
sys.stdout.write(said)
sys.exit(result.returncode)
"""


def write_program(path, text):
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@contextlib.contextmanager
def wrapped(lab, name, wrapper, **values):
    """In the block, that program of the lab is a wrapper; {program} in its text is the real one."""
    path = lab.programs / name
    real = path.readlink()
    write_program(path, wrapper.format(program=real, **values))
    try:
        yield
    finally:
        path.unlink()
        path.symlink_to(real)


@contextlib.contextmanager
def held_up(lab, name, arguments="*"):
    """A program whose arguments match the shell's pattern waits for the end of the block.

    Yields a function that waits until it does.
    """
    begun, goes_on = lab.folder / f"{name}-has-begun", lab.folder / f"{name}-goes-on"
    for file in (begun, goes_on):
        file.unlink(missing_ok=True)
    with wrapped(lab, name, HELD_UP, arguments=arguments, begun=begun, goes_on=goes_on):
        try:
            yield lambda: wait_until(begun.exists, f"{name} is asked")
        finally:
            goes_on.touch()


def clock_set_back(lab):
    """In the block, all that waits or stands still does so for 7 hours to docker's client."""
    return wrapped(lab, "docker", CLOCK, python=sys.executable)


def play_ecr(lab):
    """Start the ECR of the lab's region under its own name, once; returns its certificate."""
    folder = lab.registries.folder
    certificate, key = folder / "ecr.pem", folder / "ecr-key.pem"
    if certificate.exists():
        return certificate
    make_certificate(certificate, key, f"DNS:{ECR_API}")
    with open(lab.folder / "hosts", "a") as hosts:
        hosts.write(f"{AWS_ADDRESS} {ECR_API}\n")
    lab.registries.play_aws(443, certificate, key, HOST)
    ask = ["bash", "-c", f"exec 3<>/dev/tcp/{AWS_ADDRESS}/443"]
    wait_until(lambda: not lab.manager.run(ask).returncode, "the ECR answers")
    return certificate
