"""The docker of one manager, its logins, and others who log in or out meanwhile."""

import json
import subprocess

from lab import DAEMON, engines
from lab.certificates import make_certificate
from lab.registries import REGION, REGISTRIES
from lab.wrappers import (
    ECR_HELPER,
    ELSEWHERE,
    HELPER,
    HOST,
    SSH,
    WRAPPER,
    play_ecr,
    write_program,
)

ADDRESS = REGISTRIES[REGION][0]


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
        (lab.folder / DAEMON).write_text(json.dumps(settings))
        node.restart_docker()
        (lab.folder / DAEMON).write_text("{}")
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
