"""What the tests of the promise share: the stacks on trial, their labs, and what can happen to them.

The promise: after a run every service that pulls from ECR holds a fresh token, and nothing else in
the swarm has changed. Each case is run with the seed's bash loop too, which has to show the harm: a
case in which nobody can come to harm proves nothing. Those of incidents are run without any run
besides. Needs root on Debian or Ubuntu; see lab/.
"""

import contextlib
import json
import os

import pytest
from case import NOTHING, SCRIPT, SEED, Case
from lab import REGION, Lab
from lab.engines import Unavailable
from lab.registries import REGISTRIES

# Engine, client and AWS CLI, for all cases.
STACKS = [("20.10", "20.10", "v1"), ("26.1", "26.1", "v2")]
# For those that the engine or the client might see in another way.
MORE_STACKS = [*STACKS, ("20.10", "26.1", "v1"), ("testing", "testing", "v1")]
# For those in which the client alone is on trial.
ENDS = [MORE_STACKS[0], MORE_STACKS[-1]]
if os.environ.get("STACKS"):  # only these, as in STACKS="29-29-v2 26.1-29-v1": see engines.py
    STACKS = MORE_STACKS = ENDS = [tuple(each.split("-")) for each in os.environ["STACKS"].split()]

ADDRESS = REGISTRIES[REGION][0]
stacks = pytest.mark.parametrize("stack", STACKS, ids="-".join, indirect=True)
more_stacks = pytest.mark.parametrize("stack", MORE_STACKS, ids="-".join, indirect=True)
# With no run at all as control.
beside_no_run = pytest.mark.parametrize(
    "way", [SEED, SCRIPT, NOTHING], ids=["seed", "script", "nothing"]
)


@contextlib.contextmanager
def or_skip():
    """Skip the test if an engine is not to be had."""
    try:
        yield
    except Unavailable as reason:
        pytest.skip(str(reason))


class Labs:
    """The labs of the stack on trial, each started when a test first asks for it."""

    def __init__(self, engine, client, aws):
        self.programs = {"engine": engine, "client": client, "aws": aws}
        self._open = contextlib.ExitStack()
        self._labs = {}

    def get(self, managers, workers):
        if (managers, workers) not in self._labs:
            lab = Lab(managers=managers, workers=workers, **self.programs)
            self._labs[managers, workers] = self._open.enter_context(lab)
        return self._labs[managers, workers]

    def title(self):
        """The versions that are really there, as the table names them."""
        manager = next(iter(self._labs.values())).manager
        versions = "{{.Server.Version}} {{.Client.Version}}"
        engine, client = manager.docker("version --format", versions).split()
        engine, client = engine.split("+")[0], client.split("+")[0]
        return engine if engine == client else f"{engine} (client {client})"

    def close(self):
        self._open.close()


@contextlib.contextmanager
def own_lab(stack, managers, workers):
    """A lab of that stack for one test, which does not leave it as it was."""
    with or_skip():
        lab = Lab(managers=managers, workers=workers, **stack.programs)
    with lab:
        yield lab


@contextlib.contextmanager
def case_on(stack, way, managers, workers):
    with or_skip():
        case = Case(stack.get(managers, workers), way)
    try:
        yield case.begin()
    finally:
        case.end()


# What can happen


@contextlib.contextmanager
def no_answer_from_registries(node):
    rule = ["OUTPUT", "-d", ADDRESS, "-j", "DROP"]
    node.run(["iptables", "-A", *rule], check=True)
    try:
        yield
    finally:
        node.run(["iptables", "-D", *rule], check=True)


@contextlib.contextmanager
def blackhole(node):
    """No registry for a node, for a while."""
    node.ip(f"route add blackhole {ADDRESS}/32")
    try:
        yield
    finally:
        node.ip(f"route del blackhole {ADDRESS}/32")


# The command of an image whose tasks go on when they are told to.
UNTIL_TOLD = "until [ -e /told ]; do sleep 0.1; done"


def tell(node, task):
    """Have a task go on that waits for it on that node; one that is over need not hear it."""
    container = task["Status"]["ContainerStatus"]["ContainerID"]
    node.docker("exec", container, "sh", "-c", ": > /told", check=False)


def another_login(case):
    """A login as good as the manager's own, and not the same, as AWS hands out another token each time."""
    folder = case.manager.home / "another"
    case.lab.login(case.manager, config=folder)
    config = json.loads((folder / "config.json").read_text())
    config["auths"] = {f"https://{host}": login for host, login in config["auths"].items()}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


STACK_FILE = """
version: "3.8"
services:
  web:
    image: {image}
    deploy: {{mode: global, placement: {{constraints: ["node.labels.{label} == yes"]}}}}
    networks: [outside]
networks:
  outside: {{external: true, name: host}}
"""


def deploy_stack(case, label, image, config):
    """docker stack deploy --with-registry-auth, as from a build machine with its own login."""
    path = case.lab.folder / "stack.yml"
    path.write_text(STACK_FILE.format(image=image, label=label))
    case.lab.login(case.manager, config=config)
    deploy = f"stack deploy --with-registry-auth -c {path} shop"
    return case.manager.docker(deploy, config=config)
