"""What the tests on a booted system share: how the project gets there, and what is said of its unit."""

import base64
import re
import shutil

from lab import wait_until
from lab.engines import PROJECT
from lab.machine import REGION, TOKEN, Machine

SERVICE, TIMER = "ecr-swarm-login.service", "ecr-swarm-login.timer"
SCRIPT = "/usr/bin/ecr_swarm_login.py"
SETTINGS = "/etc/default/ecr-swarm-login"
SOURCE = "/opt/source"  # where the project's files lie in a machine
LOGINS = "/root/.docker/config.json"
CERTIFICATE = "/opt/cloud/tls.crt"  # with it, aws trusts the machine's own AWS
CERTIFICATE_LINE = f"AWS_CA_BUNDLE={CERTIFICATE}"
OPTIONS = f'OPTIONS="--region {REGION}"\n{CERTIFICATE_LINE}\n'
EVERY_SECOND = "[Timer]\nOnCalendar=\nOnCalendar=*:*:*\nRandomizedDelaySec=0\nAccuracySec=100ms\n"


def bring_source(machine: Machine) -> None:
    for path in [PROJECT / "ecr_swarm_login.py", PROJECT / "Makefile", *PROJECT.glob("systemd/*")]:
        target = machine.root / SOURCE.lstrip("/") / path.relative_to(PROJECT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def install_by_copy(machine: Machine) -> None:
    machine.run(f"cp {SOURCE}/ecr_swarm_login.py /usr/bin/")
    machine.run(f"cp {SOURCE}/systemd/{SERVICE} {SOURCE}/systemd/{TIMER} /etc/systemd/system/")
    machine.run("systemctl daemon-reload")


def shorten(machine: Machine, **seconds: float) -> None:
    """Give constants of the installed script other values: nobody waits minutes for a test.

    Without a PAUSES of its own a test does not wait within a try, either.
    """
    for name, value in {"PAUSES": (), **seconds}.items():
        before = machine.read(SCRIPT)
        text, count = re.subn(rf"(?m)^{name} = [^#\n]*", f"{name} = {value}  ", before)
        assert count == 1, f"{count} constants {name}"
        machine.write(SCRIPT, text, 0o755)


def drop_in(machine: Machine, unit: str, text: str, name: str = "test") -> None:
    machine.write(f"/etc/systemd/system/{unit}.d/{name}.conf", text)
    machine.run("systemctl daemon-reload")


def stop_docker(machine: Machine) -> None:
    machine.run("systemctl stop docker.socket docker.service")


def refuse_tokens(machine: Machine) -> str:
    """Have the registry refuse all tokens; returns what makes it take them again."""
    path = "/opt/cloud/htpasswd"
    before = machine.read(path)
    machine.write(path, "")
    return before


def take_tokens(machine: Machine, before: str) -> None:
    machine.write("/opt/cloud/htpasswd", before)


def wait_for_result(machine: Machine, result: str, state: str, seconds: int = 30) -> None:
    wait_until(
        lambda: machine.show(SERVICE, "Result", "ActiveState") == [result, state],
        f"{SERVICE} is {state} with result {result}",
        seconds,
    )


def wait_for_text(machine: Machine, text: str) -> None:
    wait_until(lambda: text in machine.journal(SERVICE), f"the journal says {text!r}")


def readme_block(first_line: str) -> str:
    """The code block of the README, or of the one beside the units, that begins with this line."""
    pages = [PROJECT / "README.md", PROJECT / "systemd" / "README.md"]
    text = "".join(page.read_text() for page in pages)
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    found = [block for block in blocks if block.startswith(first_line)]
    assert len(found) == 1, f"{len(found)} code blocks of the READMEs begin with {first_line}"
    return found[0]


def assert_token_is_not_in(text: str) -> None:
    assert TOKEN not in text
    assert base64.b64encode(f"AWS:{TOKEN}".encode()).decode() not in text


def use_aws(machine: Machine, kind: str) -> None:
    """Give the machine v1 or the bundle of v2 as aws; its distribution's is v2, too."""
    if kind == "bundle":
        machine.run("ln -sf /opt/aws-bundle/aws/aws /usr/bin/aws")
    if kind == "v1":
        machine.write(
            "/usr/local/bin/aws",
            '#!/bin/sh\nPYTHONPATH=/opt/aws-v1 exec /usr/bin/python3 -m awscli "$@"\n',
            0o755,
        )
        machine.run("rm /usr/bin/aws")
