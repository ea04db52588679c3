"""Docker logins as machines have them: credential helpers, and others who log in or out meanwhile.

Run as a program it plays the ECR of one region under its own name, for credential helpers that
know no other address: helpers.py FOLDER ADDRESS CERTIFICATE KEY
"""

import contextlib
import json
import ssl
import subprocess
import sys
from http.server import ThreadingHTTPServer
from pathlib import Path

import engines
from aws_stub import Handler
from lab import ecr_host, wait_until
from registries import AWS_ADDRESS, REGION, REGISTRIES

HOST = ecr_host()
ADDRESS = REGISTRIES[REGION][0]
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


def write_program(path, text):
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@contextlib.contextmanager
def held_up(lab, name, arguments="*"):
    """A program whose arguments match the shell's pattern waits for the end of the block.

    Yields a function that waits until it does.
    """
    program = lab.programs / name
    real = program.readlink()
    begun, goes_on = lab.folder / f"{name}-has-begun", lab.folder / f"{name}-goes-on"
    for file in (begun, goes_on):
        file.unlink(missing_ok=True)
    text = HELD_UP.format(arguments=arguments, begun=begun, goes_on=goes_on, program=real)
    write_program(program, text)
    try:
        yield lambda: wait_until(begun.exists, f"{name} is asked")
    finally:
        goes_on.touch()
        program.unlink()
        program.symlink_to(real)


class Logins:
    """The docker of one manager, its logins, and what befalls them."""

    def __init__(self, case):
        self.case = case
        self.programs = case.lab.programs
        self.docker = (self.programs / "docker").resolve()
        self.real_docker = self.docker
        self.folder = case.manager.home / ".docker"
        self.config = self.folder / "config.json"
        self.token = case.lab.registries.aws_folder / f"token-{REGION}"
        self.meanwhile = case.lab.folder / "meanwhile"

    def begin(self):
        """A manager that is logged in, and nothing else."""
        for path in (self.case.manager.home / ".ecr", self.meanwhile):
            subprocess.run(["rm", "-rf", path], check=True)
        self.meanwhile.mkdir()
        self.case.begin()
        self.dead = self.config.read_text()
        self.case.lab.rotate()
        self.case.lab.login(self.case.manager)
        self.without_pauses()
        return self

    def end(self):
        """Let docker, its helpers and its folder be what they were."""
        for path in (self.config, self.folder):
            self.case.manager.run(["umount", path])
        for node in self.case.lab.nodes:
            node.run(["iptables", "-F", "OUTPUT"])
        added = ["sleep", "ssh", "pass", *self.programs.glob("docker-credential-*")]
        for program in added:
            (self.programs / program).unlink(missing_ok=True)
        (self.programs / "docker").unlink()
        (self.programs / "docker").symlink_to(self.real_docker)

    def configure(self, **settings):
        self.config.write_text(json.dumps(settings))

    def read_only(self):
        """The folder of config.json cannot be written."""
        folder = self.folder
        self.case.manager.run(["mount", "--bind", folder, folder], check=True)
        self.case.manager.run(["mount", "-o", "remount,ro,bind", folder], check=True)

    def fill(self):
        """No space is left where docker keeps its logins."""
        options = ["-t", "tmpfs", "-o", "size=4k", "tmpfs"]
        self.case.manager.run(["mount", *options, self.folder], check=True)
        self.case.manager.run(["sh", "-c", f"yes >{self.folder}/full"])

    def read_only_file(self):
        """config.json is a mount of its own, and cannot be replaced."""
        self.case.manager.run(["mount", "--bind", self.config, self.config], check=True)

    # ------------------------------------------------------------------- credential helpers

    def gives(self, secret=""):
        """Shell commands that print the newest token, or what these commands print instead."""
        secret = secret or f"cat {self.token}"
        login = f'{{"ServerURL":"{HOST}","Username":"AWS","Secret":"%s"}}'
        return f"printf '{login}' \"$({secret})\""

    def helper(self, name, get, keep=":"):
        """Install docker-credential-NAME, which does these shell commands."""
        text = HELPER.format(get=get, keep=keep)
        write_program(self.programs / f"docker-credential-{name}", text)

    def ecr_helper(self, release):
        """Install the real helper of that Debian release, as the helper of the registry."""
        program = engines.ecr_helper(release)
        certificate = play_ecr(self.case.lab)
        text = ECR_HELPER.format(program=program, certificate=certificate)
        write_program(self.programs / "docker-credential-ecr-login", text)
        self.configure(credHelpers={HOST: "ecr-login"})

    def keep_dead_token(self):
        """Have the helper keep a token, which then dies; returns where a live one is held."""
        docker, environment = self.programs / "docker", self.case.manager.environment
        self.case.manager.run([docker, "login", HOST], env=environment)
        config = self.case.lab.folder / "another"
        self.case.lab.rotate()
        self.case.lab.login(self.case.manager, config=config)
        return config

    # ------------------------------------------------------------------- others

    def keep_elsewhere(self, folder):
        """From now on docker keeps its logins in that folder, whatever it is told."""
        program = self.case.lab.folder / "docker-elsewhere"
        write_program(program, ELSEWHERE.format(docker=self.docker, folder=folder))
        self.docker = program
        (self.programs / "docker").unlink()
        (self.programs / "docker").symlink_to(program)

    def play_ssh(self, node):
        """From now on ssh leads to that node, wherever it is to go."""
        text = SSH.format(docker=self.docker, socket=node.socket)
        write_program(self.programs / "ssh", text)

    def answer_with_tls(self):
        """From now on the manager's docker answers in the network, too, to who has its key."""
        lab, node = self.case.lab, self.case.manager
        certificate, key = lab.folder / "docker.pem", lab.folder / "docker-key.pem"
        make_certificate(certificate, key, f"IP:{node.address}")
        files = {"tlscacert": certificate, "tlscert": certificate, "tlskey": key}
        settings = {
            "hosts": ["unix:///var/run/docker.sock", f"tcp://{node.address}:2376"],
            "tlsverify": True,
            **{name: str(path) for name, path in files.items()},
        }
        (lab.folder / "daemon.json").write_text(json.dumps(settings))
        node.restart_docker()
        (lab.folder / "daemon.json").write_text("{}")
        lab.leader()
        return {"ca.pem": certificate, "cert.pem": certificate, "key.pem": key}

    def without_pauses(self):
        """Cut short the pauses between the script's tries."""
        write_program(self.programs / "sleep", "#!/bin/sh\nexec /usr/bin/sleep 0.1\n")

    def forget(self):
        """Nothing more happens, and all dockers are counted anew."""
        for path in self.meanwhile.iterdir():
            path.unlink()

    def happens(self, when, command, number, *lines):
        """Have others do something before or after the Nth docker of a kind, or of all."""
        text = WRAPPER.format(docker=self.docker, folder=self.meanwhile)
        write_program(self.programs / "docker", text)
        path = self.meanwhile / f"{command}-{number}-{when}"
        path.write_text("\n".join(lines))

    def logout(self):
        return f"{self.docker} logout {HOST}"

    def login(self):
        return f"{self.docker} login --username AWS --password-stdin {HOST} <{self.token}"

    def registry_down(self):
        return f"/usr/sbin/iptables -A OUTPUT -d {ADDRESS} -j REJECT"

    def registry_up(self):
        return "/usr/sbin/iptables -F OUTPUT"

    def replace(self, text, name="whole"):
        """What puts another config.json in its place, as a configuration management does."""
        draft = self.case.lab.folder / f"{name}-config.json"
        draft.write_text(text)
        return f"cp {draft} {self.config}.draft; mv {self.config}.draft {self.config}"


def play_ecr(lab):
    """Start the ECR of the lab's region under its own name, once; returns its certificate."""
    folder = lab.registries.folder
    certificate, key = folder / "ecr.pem", folder / "ecr-key.pem"
    if certificate.exists():
        return certificate
    make_certificate(certificate, key)
    with open(lab.folder / "hosts", "a") as hosts:
        hosts.write(f"{AWS_ADDRESS} {ECR_API}\n")
    arguments = [__file__, lab.registries.aws_folder, AWS_ADDRESS, certificate, key]
    lab.registries.host.daemon([sys.executable, *arguments])
    ask = ["bash", "-c", f"exec 3<>/dev/tcp/{AWS_ADDRESS}/443"]
    wait_until(lambda: not lab.manager.run(ask).returncode, "the ECR answers")
    return certificate


def make_certificate(certificate, key, name=f"DNS:{ECR_API}"):
    """A certificate for the name of the ECR, or another, signed by itself."""
    argv = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=lab", "-addext", f"subjectAltName={name}"]
    files = ["-keyout", key, "-out", certificate]
    subprocess.run([*argv.split(), *names, *files], check=True, stderr=subprocess.DEVNULL)


class Ecr(Handler):
    """The stub of the lab, with an address that a credential helper believes."""

    def answer(self, status, kind, text):
        super().answer(status, kind, text.replace("https://lab", f"https://{HOST}"))


def main(folder, address, certificate, key):
    Handler.folder = Path(folder)
    server = ThreadingHTTPServer((address, 443), Ecr)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
