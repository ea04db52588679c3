"""A real swarm with real registries and the real aws program, in a folder of its own.

    with Lab(engine="20.10", managers=1, workers=1) as lab:
        image = lab.image()                       # pushed; no node has had it
        lab.login(lab.manager)                    # docker login with the region's token
        lab.manager.docker("service create -d --with-registry-auth", image)
        lab.rotate()                              # the token has died
        result = lab.manager.script("--dry-run")  # .returncode .stdout .stderr

Needs root on Debian or Ubuntu. Comes up in seconds, touches nothing of the machine's own
network, Docker or home folders, and leaves nothing behind however it ends (see host.py).
"""

import concurrent.futures
import contextlib
import http.client
import itertools
import json
import os
import re
import shlex
import socket
import subprocess
import tempfile
import time
import urllib.parse
from pathlib import Path

from lab import engines
from lab.host import Host, Janitor
from lab.registries import (
    AWS_ADDRESS,
    AWS_PORT,
    OTHER_ACCOUNT,
    OTHER_REGION,
    PRIVATE,
    PRIVATE_PASSWORD,
    PRIVATE_USER,
    REGION,
    Registries,
    ecr_host,
)

__all__ = [
    "OTHER_ACCOUNT",
    "OTHER_REGION",
    "PRIVATE",
    "REGION",
    "Lab",
    "Node",
    "ecr_host",
    "wait_until",
]

SCRIPT = engines.PROJECT / "ecr_swarm_login.py"
DAEMON = "daemon.json"  # of all nodes

# The complete solution of the article that this project began with, word for word but
# for `get-login`, which AWS CLI 2 no longer has, and for several registries at a time.
SEED = r"""#!/bin/bash
set -eu
while [ $# -gt 0 ]; do
    aws ecr get-login-password --region "$1" | docker login --username AWS --password-stdin "$2"
    shift 2
done
SERVICES=$(docker service ls --format '{{.Name}}' 2>/dev/null)
for SERVICE in $SERVICES; do
    docker service update -d -q --with-registry-auth $SERVICE
done
"""


def wait_until(condition, what, seconds=30):
    """Poll until condition() is true and return its value; AssertionError after the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"after {seconds} s still not: {what}"
        time.sleep(0.1)


class DockerSocket(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("docker", timeout=30)
        self._path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Node(Host):
    """A host with a dockerd, and a user on it with a home folder of their own."""

    def __init__(self, name, lab, number, is_manager):
        super().__init__(name, lab.folder)
        self.lab = lab
        self.address = f"10.99.0.{10 + number}"
        self.is_manager = is_manager
        self.home = self.folder / "home"
        self.socket = self.folder / "run" / "docker.sock"

    @property
    def environment(self):
        """What programs of this node's user find in their environment."""
        return {
            "PATH": f"{self.lab.programs}:/usr/bin:/bin",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "AWS_ENDPOINT_URL": f"http://{AWS_ADDRESS}:{AWS_PORT}",
            "AWS_ACCESS_KEY_ID": "LAB",
            "AWS_SECRET_ACCESS_KEY": "lab",
        }

    def start(self):
        """Power on and start dockerd; a node that was in the swarm is in it again."""
        self.power_on()
        self.home.mkdir(exist_ok=True)
        self.lab.registries.connect(self, self.address)
        self._start_docker()

    def crash_docker(self):
        """dockerd ends at once, and clears nothing away."""
        self.run(["pkill", "-KILL", "dockerd|containerd"], check=True)
        wait_until(lambda: not self.answers(), f"dockerd has ended on {self.name}")

    def restart_docker(self):
        self.crash_docker()
        self.revive_docker()

    def revive_docker(self):
        """Start dockerd after a crash."""
        for left in (self.folder / "run").rglob("*.pid"):
            left.unlink()
        self._start_docker()

    def _start_docker(self):
        engine = self.lab.engine_folder
        path = f"{engine}/usr/sbin:{engine}/usr/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        # --debug: the log then tells each API call, which is how updates are counted.
        options = "--debug --bridge=none --iptables=false --userland-proxy=false"
        folders = ("--data-root", self.folder / "data", "--config-file", self.lab.folder / DAEMON)
        cgroups = f"--exec-opt native.cgroupdriver=cgroupfs --cgroup-parent /{self.lab.folder.name}"
        self.daemon(
            [engine / "usr/sbin/dockerd", *options.split(), *folders, *cgroups.split()],
            env={"PATH": path, "SSL_CERT_FILE": str(self.lab.registries.certificate)},
        )
        wait_until(self.answers, f"dockerd answers on {self.name}; see {self.folder}/dockerd.log")

    def answers(self):
        try:
            return self.api("/_ping") is not None
        except OSError:
            return False

    def api(self, path, method="GET", body=None):
        """One call of the Docker API, which is much cheaper to poll with than the client."""
        connection = DockerSocket(self.socket)
        try:
            headers = {"Content-Type": "application/json"} if body else {}
            connection.request(method, path, body and json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        if response.status >= 400:
            raise RuntimeError(f"{method} {path} on {self.name}: {response.status} {text}")
        return json.loads(text) if response.headers.get_content_type().endswith("json") else text

    def docker(self, command, *argv, check=True, text=None, config=None):
        """Run the lab's docker client here as the user would; returns its stdout.

        The first argument is a line of words; what may have spaces in it comes after it.
        """
        argv = [*shlex.split(command), *map(str, argv)]
        environment = {**self.environment, "DOCKER_HOST": f"unix://{self.socket}"}
        if config:
            environment["DOCKER_CONFIG"] = str(config)
        result = subprocess.run(
            [self.lab.programs / "docker", *argv],
            text=True,
            input=text,
            env=environment,
            timeout=120,
            check=False,
            capture_output=True,
        )
        if check and result.returncode:
            raise RuntimeError(f"docker {argv} on {self.name}: {result.stderr}")
        return result.stdout.strip()

    def script_argv(self, *options):
        return [engines.python_with_sh(), SCRIPT, *options]

    def script(self, *options, timeout=120, **environment):
        """Run ecr_swarm_login.py here as the user would; returns the CompletedProcess."""
        return self.run(
            self.script_argv(*options), timeout=timeout, env={**self.environment, **environment}
        )

    def seed_argv(self, hosts):
        pairs = [word for host in hosts for word in (host.split(".")[3], host)]
        return ["bash", self.lab.folder / "seed.sh", *pairs]

    def seed(self, *hosts, timeout=120):
        """Run the seed's bash loop here, after logging in to these ECR hosts (one by default)."""
        return self.run(
            self.seed_argv(hosts or [ecr_host()]), timeout=timeout, env=self.environment
        )

    def simple_seed(self):
        """Run the seed's simple solution: the loop without any login."""
        return self.run(self.seed_argv([]), env=self.environment)

    def update_calls(self):
        """IDs of the services that this node's engine was asked to update, in order."""
        log = (self.folder / "dockerd.log").read_text(errors="replace")
        return re.findall(r" POST .*/services/([a-z0-9]+)/update\?.*version=", log)


class Lab:
    """The whole of it; see the module's docstring. Unavailable says what cannot be had."""

    def __init__(self, engine="20.10", client=None, managers=1, workers=1, aws="v1"):
        missing = engines.missing_programs()
        if os.getuid() or missing:
            raise engines.Unavailable(f"needs root and apt-get install {' '.join(missing)}")
        self.engine_folder = engines.engine(engine)
        self._clients = engines.engine(client or engine)
        self._aws = engines.aws(aws)
        self._counts = managers, workers
        self._tags = itertools.count(1)
        self.nodes = []
        self.registries = None

    def __enter__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="ecr-lab-"))
        self._janitor = Janitor(self.folder)
        try:
            self._start(*self._counts)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for host in [*self.nodes, *([self.registries.host] if self.registries else [])]:
            host.power_off()
        self._janitor.sweep()

    def _start(self, managers, workers):
        self.programs = self.folder / "bin"
        self.programs.mkdir()
        (self.programs / "docker").symlink_to(self._clients / "usr/bin/docker")
        (self.programs / "aws").symlink_to(self._aws)
        (self.folder / DAEMON).write_text("{}")
        (self.folder / "seed.sh").write_text(SEED)
        self.registries = Registries(self.folder)
        names = ["127.0.0.1 localhost", *Registries.names(), ""]
        (self.folder / "hosts").write_text("\n".join(names))
        self.registries.start()
        nodes = [self._new_node(f"m{number}", True) for number in range(1, managers + 1)]
        nodes += [self._new_node(f"w{number}", False) for number in range(1, workers + 1)]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(Node.start, nodes))
        self.manager.docker(f"swarm init --advertise-addr {self.manager.address}")
        for node in nodes[1:]:
            self._join(node)

    def _new_node(self, name, is_manager):
        node = Node(name, self, len(self.nodes) + 1, is_manager)
        self.nodes.append(node)
        return node

    def _join(self, node):
        manager = self.leader()
        role = "manager" if node.is_manager else "worker"
        token = manager.docker(f"swarm join-token -q {role}")
        join = f"swarm join --advertise-addr {node.address} --token {token}"
        node.docker(f"{join} {manager.address}:2377")
        wait_until(lambda: self.node_info(node)["Status"]["State"] == "ready", "the node is ready")

    @property
    def manager(self):
        """The first manager that runs: where a test does what needs any manager."""
        return next(node for node in self.nodes if node.is_manager and node.running)

    @property
    def managers(self):
        return [node for node in self.nodes if node.is_manager]

    @property
    def workers(self):
        return [node for node in self.nodes if not node.is_manager]

    def elected(self):
        """The manager that leads, or None while none does."""
        for manager in self.managers:
            with contextlib.suppress(OSError, RuntimeError):
                for info in manager.api("/nodes"):
                    name = info["Description"].get("Hostname")
                    if info.get("ManagerStatus", {}).get("Leader"):
                        found = [each for each in self.managers if each.name == name]
                        return next((each for each in found if each.running), None)
        return None

    def leader(self):
        """The manager that leads; waits for an election."""
        return wait_until(self.elected, "a manager leads", 60)

    def node_info(self, node):
        name = node.name
        infos = self.manager.api("/nodes")
        return next(info for info in infos if info["Description"].get("Hostname") == name)

    def add_node(self, name, is_manager=False):
        """A new machine joins the swarm."""
        node = self._new_node(name, is_manager)
        node.start()
        self._join(node)
        return node

    def remove_node(self, node):
        node.power_off()
        self.manager.docker(f"node rm --force {node.name}")
        self.nodes.remove(node)

    def rotate(self, region=None):
        """New tokens in that region (or all); the old ones are refused from now on."""
        self.registries.rotate(region)

    def image(self, *command, host=None):
        """Push a new image that runs `command` (default: sleeps), and return its name."""
        tag = str(next(self._tags))
        self.registries.push(list(command) or ["sleep", "1000000"], tag)
        return f"{host or ecr_host()}/app:{tag}"

    def login(self, node, *hosts, config=None):
        """docker login on that node with the password that is right at this moment."""
        for host in hosts or [ecr_host()]:
            user, password = PRIVATE_USER, PRIVATE_PASSWORD
            if host != PRIVATE:
                user, password = "AWS", self.registries.tokens[host.split(".")[3]]
            login = f"login --username {user} --password-stdin {host}"
            node.docker(login, config=config, text=password)

    def service(self, name):
        """The service as the API shows it."""
        return self.manager.api(f"/services/{name}")

    def tasks(self, name):
        """All tasks of a service, with .Status.State, .DesiredState, .NodeID, .ID and so on."""
        filters = json.dumps({"service": [name]})
        return self.manager.api(f"/tasks?filters={urllib.parse.quote(filters)}")

    def states(self, name):
        """The states of all tasks of a service, those of the past included."""
        return sorted(task["Status"]["State"] for task in self.tasks(name))
