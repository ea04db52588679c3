"""What the tests say in one word: services of one case, and the run that is on trial."""

import itertools
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from lab import ecr_host, wait_until

SEED, SCRIPT, NOTHING = "the loop", "this script", "no run"

# Seconds to wait for what has to happen, and to look out for what must not. Both come, if
# they come, within a second or two; the first is long so that a busy machine fails no test.
EXPECTED, UNEXPECTED = 30, 4

ALIVE = {"new", "pending", "assigned", "accepted", "preparing", "ready", "starting", "running"}

_labels = itertools.count(1)


def words(options):
    """Options that stand in lines, as one would type them."""
    return [word for line in options for word in shlex.split(line)]


def refreshed(*said):
    """The services that a run says it has refreshed; the loop has docker print their names alone."""
    return set(re.findall(r"(?m)^(\S+)(?: refreshed)?$", "\n".join(said)))


class Case:
    """The services of one test on a lab, run `way`; all removed by `end`.

    `way` is SEED, SCRIPT or, as control, NOTHING.
    """

    def __init__(self, lab, way):
        self.lab = lab
        self.way = way
        self.manager = lab.manager
        self.newcomers = []

    def begin(self):
        """A manager as it is after its last hourly run: logged in, with a live token."""
        for manager in self.lab.managers:
            # What a run leaves in memory that was killed in a test before.
            for folder in (manager.home / ".docker", *manager.memory.iterdir()):
                shutil.rmtree(folder, ignore_errors=True)
        self.lab.rotate()
        self.lab.login(self.manager)
        return self

    def end(self):
        for service in self.manager.api("/services"):
            self.manager.api(f"/services/{service['ID']}", "DELETE")
        # Nodes last: the tasks of one that was lost stay in the swarm for a day. Finished
        # tasks of a removed job stay as well, and do nobody harm.
        wait_until(
            lambda: (
                not any(task["Status"]["State"] in ALIVE for task in self.manager.api("/tasks"))
            ),
            "all tasks are gone",
        )
        for node in self.newcomers:
            self.lab.remove_node(node)

    # ------------------------------------------------------------------ given

    def create(self, name, *options, image=None, config=None, delay="--restart-delay 1s"):
        """docker service create --with-registry-auth; every service has an image of its own."""
        self.manager.docker(
            f"service create -d -q --name {name} {delay} --with-registry-auth",
            *words(options),
            image or self.lab.image(),
            config=config,
        )

    def label(self):
        """A node label that no test before had, as (constraint option, label)."""
        label = f"label{next(_labels)}"
        return f"--constraint=node.labels.{label}==yes", label

    def give(self, node, label):
        self.manager.docker(f"node update --label-add {label}=yes {node.name}")

    def take(self, node, label):
        self.manager.docker(f"node update --label-rm {label} {node.name}")

    def drain(self, node):
        self.manager.docker(f"node update --availability drain {node.name}")

    def undrain(self, node):
        self.manager.docker(f"node update --availability active {node.name}")

    def join(self):
        """A new worker, which has no image yet."""
        self.newcomers.append(self.lab.add_node(f"newcomer{next(_labels)}"))
        return self.newcomers[-1]

    def update(self, name, *options, config=None):
        self.manager.docker("service update -d -q", *words(options), name, config=config)

    def scale(self, name, replicas):
        """As an autoscaler does, through the API: nobody's client, nobody's login."""
        service = self.lab.service(name)
        service["Spec"]["Mode"]["Replicated"]["Replicas"] = replicas
        version = service["Version"]["Index"]
        path = f"/services/{service['ID']}/update?version={version}&registryAuthFrom=spec"
        self.manager.api(path, "POST", service["Spec"])

    # ------------------------------------------------------------------- when

    def refresh(self, *options, hosts=()):
        """The run on trial; only the script knows options, only the loop has to be told hosts."""
        if self.way == SEED:
            return self.manager.seed(*hosts)
        if self.way == NOTHING:
            return subprocess.CompletedProcess([], 0, "", "")
        return self.manager.script(*options)

    def argv(self, node, *options, hosts=()):
        """The command line of that run, for runs that have to be started rather than awaited."""
        if self.way == SEED:
            return node.seed_argv(hosts or [ecr_host()])
        if self.way == NOTHING:
            return ["true"]
        return node.script_argv(*options)

    def start(self, node, *options, hosts=()):
        argv = self.argv(node, *options, hosts=hosts)
        return node.start_program(argv, env=node.environment)

    def send(self, run, number):
        """Send a signal to a run that was started, if it goes on; it is nsenter's child."""
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
        for child in children.read_text().split() if children.exists() else ():
            os.kill(int(child), number)

    # ------------------------------------------------------------------- then

    def seen(self, condition, by=(SEED, SCRIPT)):
        """Whether it comes true; `by` are the ways that have to make it so."""
        try:
            return bool(wait_until(condition, "", EXPECTED if self.way in by else UNEXPECTED))
        except AssertionError:
            return False

    def running(self, name, image=None):
        """IDs of the tasks that run, of that image if one is named."""
        return {
            task["ID"]
            for task in self.lab.tasks(name)
            if task["Status"]["State"] == "running"
            and task["DesiredState"] == "running"
            and (image is None or image in task["Spec"]["ContainerSpec"]["Image"])
        }

    def runs(self, name, count=1, image=None):
        """Wait until so many tasks run; returns their IDs."""
        wait_until(lambda: len(self.running(name, image)) == count, f"{count} of {name} run", 60)
        return self.running(name, image)

    def runs_on(self, name, node):
        info = self.lab.node_info(node)
        return any(
            task["NodeID"] == info["ID"] and task["ID"] in self.running(name)
            for task in self.lab.tasks(name)
        )

    def is_rejected(self, name):
        return "rejected" in self.lab.states(name)

    def rejected(self, *names):
        wait_until(lambda: all(map(self.is_rejected, names)), f"{names} are rejected")

    def completed(self, name, count):
        """Wait until so many tasks have completed, and there are no others."""
        wait_until(lambda: self.lab.states(name) == ["complete"] * count, f"{name} has completed")

    def task_ids(self, name):
        return {task["ID"] for task in self.lab.tasks(name)}

    def image(self, name):
        """The image that the service is to have, without its digest."""
        spec = self.lab.service(name)["Spec"]
        return spec["TaskTemplate"]["ContainerSpec"]["Image"].split("@")[0]

    def rollout(self, name):
        return self.lab.service(name).get("UpdateStatus", {}).get("State", "")

    def rollout_is(self, name, *states):
        wait_until(lambda: self.rollout(name) in states, f"rollout of {name} is {states}", 60)

    def updates(self, name):
        """How often the engines were asked to update that service."""
        identity = self.lab.service(name)["ID"]
        return sum(node.update_calls().count(identity) for node in self.lab.managers)
