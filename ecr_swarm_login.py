#!/usr/bin/python3 -I
# /// script
# requires-python = ">=3.9"
# dependencies = ["sh>=1.14.1,<3"]
# ///
"""Give each Docker Swarm service that pulls from AWS ECR a fresh token.
Services that an update would harm are skipped; some refreshes restart tasks.
The log says which, and why.

  ecr_swarm_login.py --dry-run    say what would happen to each service, and why
  ecr_swarm_login.py              log in to all registries, and refresh

Exit status: 0 all is well, 1 something failed, 2 wrong options, 3 nothing
failed, but a service has been held back for over six hours, 128+n stopped by
signal n.
"""

import os
import sys

# First of all, since what follows is more than an older Python can load.
if sys.version_info < (3, 9):  # noqa: UP036
    sys.exit("ecr_swarm_login: needs Python 3.9 or newer; this is {}.{}".format(*sys.version_info))
if sys.platform != "linux":
    sys.exit(f"ecr_swarm_login: runs on Linux only; this is {sys.platform}")
# The first line keeps out what lies beside this file, in PYTHONPATH and in a user's folder: root
# runs it. Another Python, such as a virtual environment's, starts itself again that way.
if __name__ == "__main__" and not sys.flags.isolated:
    if sys.argv[0] in ("-", "-c"):
        sys.exit("ecr_swarm_login: from stdin, run python3 -I - [options] <ecr_swarm_login.py")
    os.execv(sys.executable, [sys.executable, "-I", *sys.argv])

import argparse
import contextlib
import fcntl
import io
import ipaddress
import json
import logging
import random
import re
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import chain, repeat
from typing import Any, Optional

# Where root's pip installs on Fedora and Amazon Linux, which an isolated Python leaves out.
sys.path.append("/usr/local/lib/python{}.{}/site-packages".format(*sys.version_info))
SH_ERROR = ""  # --help and --version do without sh
try:
    import sh
except Exception as error:  # noqa: BLE001 (a broken one may raise anything)
    SH_ERROR = f"{error!r} -> apt-get install python3-sh, or pip3 install 'sh<3'"

# To be read from top to bottom, as the data goes: what docker shows, the model of what an update
# would do, policy, acts. Few places do something to a machine: Programs.start() starts programs,
# hand_over() gives docker a token, update() changes the swarm. Nothing is written but the log, one
# folder in memory, and docker's logins.


# What is fixed ------------------------------------------------------------------------------------

TRY_SECONDS = 240  # of one try; eight of them and their pauses fit into the unit's TimeoutStartSec
PROGRAM_SECONDS = 60  # of one program: what takes longer hangs, and is killed
QUESTION_SECONDS = 20  # of one question
UPDATE_SECONDS = 30  # of one update
STALE_SECONDS = 2  # after the first question no update is started that rests on the answers
CLOSING_SECONDS = 60  # of a try that are left for the last updates and the check after them
KILL_SECONDS = 5  # between SIGTERM and SIGKILL
PAUSES = (1, 3, 9)  # between the attempts of a try: a daemon that restarts takes some seconds
TRY_PAUSE = 60  # between tries
SAID_LENGTH = 500  # characters of what a program said that are shown: the last ones tell most
BATCHES = (32, 8, 2, 1)  # services that are read, then updated, together: see in_batches()
LONG_HOURS = 6  # half a token's lifetime
THE_RUN = "the run"  # where else a service's name stands: those have no space

# More at once gain nothing: the start of the docker client takes all processors.
BATCHES_AT_ONCE = min(4, max(2, os.cpu_count() or 1))
UPDATES_AT_ONCE = min(16, 2 * (os.cpu_count() or 1))

# Whole hosts only: a look-alike would get a token; amazon-ecr-credential-helper, api/client.go.
ECR_HOST = re.compile(
    r"[0-9]{12}\.dkr[.-]ecr(?:-fips)?\.([a-z0-9][a-z0-9-]*)\."
    r"(?:amazonaws\.com(?:\.cn)?|amazonaws\.eu|on\.aws|on\.amazonwebservices\.com\.cn"
    r"|sc2s\.sgov\.gov|c2s\.ic\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)"
)
AWS_TOKEN = ("aws", "ecr", "get-login-password", "--region")
AWS_ACCOUNT = ("aws", "sts", "get-caller-identity", "--query", "Account", "--output", "text")
VERSIONS = "{{.Client.Context}} {{.Client.DefaultAPIVersion}} {{.Server.APIVersion}}"
VERSION = ("docker", "version", "--format", VERSIONS)
LOGIN = ("docker", "login", "--username", "AWS", "--password-stdin")
# Without a name, a password and a terminal docker authenticates with the login that it holds.
PROOF = ("docker", "login")
LEADER = ("docker", "node", "inspect", "self", "--format", "{{.ManagerStatus.Leader}}")
LIST = ("docker", "service", "ls", "--format", "{{.ID}} {{.Image}} {{.Name}}")
INSPECT = ("docker", "service", "inspect", "--format", "{{json .}}")
TASKS = ("docker", "service", "ps", "--no-trunc", "--no-resolve", "--format", "{{json .}}")
SPECS = ("docker", "inspect", "--type", "task", "--format", "{{json .}}")
NODES = ("docker", "node", "inspect", "--format", "{{json .}}")
# Without a format the client prints what the daemon sent; with one, what it understands of that.
SENT = ("docker", "inspect", "--type", "service")
UPDATE = ("docker", "service", "update", "-d", "-q", "--with-registry-auth")
XARGS = ("xargs", "-r", f"-P{UPDATES_AT_ONCE}", "-n1")  # starts programs faster than sh

# In the foreground it ends a program, but not what that has started in turn.
TIMEOUT = ("--foreground", f"--kill-after={KILL_SECONDS}")
# How the library sh starts a program: in a session, and so in a group, of its own.
SH_OPTIONS: dict[str, Any] = {
    "_tty_out": False,  # or the program believes in a terminal
    "_close_fds": False,  # needs no /proc
    "_new_session": True,
    "_bg": True,
    "_bg_exc": False,  # or a thread prints a traceback, with the program's stdout in it
}
# What all programs find in their environment, besides a longer PATH.
ENVIRONMENT = {
    "GOGC": "off",  # the docker client starts faster
    "GOMAXPROCS": "1",
    "DOCKER_AUTH_CONFIG": "",  # the client of 28 would prefer it to the new login
    "AWS_ECR_IGNORE_CREDS_STORAGE": "true",  # or a credential helper refuses docker login
    "AWS_CLI_AUTO_PROMPT": "off",  # or aws fails without a terminal
}

# fmt: off
# What an error says, how many of --tries it is worth (two: a role may come late), what helps.
NEVER, TWICE, ALWAYS = 0, 2, 60
REMEDIES = (
    ("multi-call binary", NEVER, "this is BusyBox's: install coreutils and findutils"),
    ("exit status 126", NEVER, "make it executable"),
    ("exit status 127", NEVER, "install it, or set PATH= in /etc/default/ecr-swarm-login"),
    ("permission denied while trying to connect", NEVER, "run it as root or in the group docker"),
    ('use "docker swarm init"', NEVER, "run it on a manager; while one boots, with --login-only"),
    ("worker nodes can't be used", NEVER, "run it on a manager"),
    ("swarm is encrypted", NEVER, "unlock it: docker swarm unlock"),
    ("is too old", NEVER, "update the docker client"),
    ("required permitted capability", NEVER, "see snaps in systemd/README.md"),
    ("unable to locate credentials", TWICE, "give the instance a role, or set AWS_PROFILE"),
    ("accessdenied", TWICE, "see What AWS has to allow in README.md"),
    ("connect to the endpoint url", ALWAYS, "check --region, and VPC endpoints if there are any"),
    ("interactive login", ALWAYS, "log in, or leave out --refresh-only"),
    ("docker daemon", ALWAYS, "see systemctl status docker"),
    ("docker api", ALWAYS, "see systemctl status docker"),
    ("401 unauthorized", ALWAYS, "check the account and the region of this registry"),
)

SETTLED = ("", "completed", "rollback_completed")  # UpdateStatus.State

# Whether swarm wants a task to run, by its desired state.
DESIRED = {"Ready": True, "Running": True,
           "Shutdown": False, "Remove": False, "Complete": False, "Orphaned": False}
# What a task is to an update; task_from() has exceptions. Once its image is there swarm ignores
# another token.
SERVES, PREPARES, LACKS_TOKEN, ENDED, STOPPED = (
    "serves", "prepares", "lacks a token", "ended by itself", "stopped by swarm, or with its node")
KINDS = {
    **dict.fromkeys(("New", "Allocated", "Pending", "Assigned", "Accepted", "Preparing"), PREPARES),
    **dict.fromkeys(("Ready", "Starting", "Running"), SERVES),
    **dict.fromkeys(("Complete", "Failed"), ENDED),
    **dict.fromkeys(("Shutdown", "Remove", "Orphaned"), STOPPED),
    "Rejected": LACKS_TOKEN,  # it never ran, as for an expired token
}
OVER = {ENDED, STOPPED}
AGE = re.compile(r"([A-Z][a-z]+) (?:less than a second|about an? [a-z]+|([0-9]{1,6}) ([a-z]+)) ago")

# Regions whose names begin so have their registries elsewhere than in amazonaws.com.
PARTITIONS = {
    "cn": "amazonaws.com.cn", "eusc-de": "amazonaws.eu", "us-iso": "c2s.ic.gov",
    "us-isob": "sc2s.sgov.gov", "us-isof": "csp.hci.ic.gov", "eu-isoe": "cloud.adc-e.uk",
}
# Where docker node inspect shows what constraints ask for.
NODE_LABELS = {"node": ("Spec", "Labels"), "engine": ("Description", "Engine", "Labels")}
NODE_FACTS = {
    "node.id": ("ID",), "node.hostname": ("Description", "Hostname"), "node.role": ("Spec", "Role"),
    "node.platform.os": ("Description", "Platform", "OS"),
    "node.platform.arch": ("Description", "Platform", "Architecture"),
}
# What docker inspect adds to Spec, but not to PreviousSpec and tasks: swarmkit, api/defaults.
TEMPLATE_DEFAULTS: dict[str, Any] = {
    "Runtime": "container", "Resources": {}, "Placement": {},
    "RestartPolicy": {"Condition": "any", "Delay": 5 * 10**9, "MaxAttempts": 0},
    "ContainerSpec": {"StopGracePeriod": 10 * 10**9, "DNSConfig": {}},
}
# How the spec of a task differs from what an update would write.
OLDER, UNSORTED, PLACED = "older", "unsorted", "placed"
NOTHING, SOMETHING, UNKNOWN = "nothing", "something", "unknown"  # which a rollout brings

NOTICE = logging.INFO + 5
PRIORITIES = {logging.INFO: 6, NOTICE: 5, logging.WARNING: 4, logging.ERROR: 3}  # sd-daemon(3)
log = logging.getLogger("ecr_swarm_login")
# fmt: on


# Programs -----------------------------------------------------------------------------------------


class Problem(Exception):
    """What went wrong, in one line: what failed, what the program said -> what to do."""

    def __init__(self, text: str, tries: int = ALWAYS, stdout: str = "", stderr: str = "") -> None:
        super().__init__(text)
        self.tries = tries  # how many of --tries it is worth
        self.stdout, self.stderr = stdout, stderr  # of a program that failed

    def after(self, beginning: str) -> "Problem":
        """The same with more to say before it, and without stdout, which may hold a token."""
        return Problem(f"{beginning}: {self}", self.tries, stderr=self.stderr)


@contextlib.contextmanager
def noting(problems: dict[str, Problem], names: Iterable[str]) -> Iterator[None]:
    """Note what is raised as the problem of all names; a generator of names is read only then."""
    try:
        yield
    except Problem as problem:
        # Or all that it met on its way stays in memory.
        problems.update(dict.fromkeys(names, problem.with_traceback(None)))
    except Exception as error:  # noqa: BLE001 (one line is all that a person should read)
        text = "docker's output is unexpected, or this host lacks something"
        unforeseen = Problem(in_one_line(f"{text}: {type(error).__name__}: {error}"))
        problems.update(dict.fromkeys(names, unforeseen))


@dataclass
class Programs:
    """Starts programs. timeout(1) ends each in time, end_group() its rest, stop() at a signal."""

    environment: Mapping[str, str]  # of all programs
    deadline: float = 0  # of the try, on the monotonic clock
    stopped_by: int = 0  # the signal
    stoppable: set[int] = field(default_factory=set)  # process groups that a signal ends
    secrets: list[str] = field(default_factory=list)  # which nothing is to show

    def begin_try(self, pause: float) -> None:
        """From now on there are TRY_SECONDS, besides a pause."""
        self.deadline = time.monotonic() + pause + TRY_SECONDS

    def seconds_left(self) -> float:
        """Until the try has to end; none after a signal."""
        return 0 if self.stopped_by else self.deadline - time.monotonic()

    def stop(self, number: int, _frame: Any) -> None:
        """Handle a signal: start nothing more, end what runs, say nothing more."""
        log.warning("Stopped by %s; the next run does the rest", signal.Signals(number).name)
        log.disabled = True
        self.stopped_by = number
        self.pass_on()

    def pass_on(self) -> None:
        """End what runs, if a signal came."""
        for group in list(self.stoppable) if self.stopped_by else ():
            signal_group(group, signal.SIGTERM)

    def run(
        self, *command: str, seconds: float = PROGRAM_SECONDS, is_stoppable: bool = True, **how: Any
    ) -> str:
        """Run a program to its end; see start(). Returns what it printed. Raises Problem."""
        name = " ".join(command).removeprefix(f"{' '.join(XARGS)} ").partition(" -")[0]
        limit = min(seconds, self.seconds_left())
        # What must not be cut short has all its time, or is not started.
        if limit < (0.1 if is_stoppable else seconds):
            raise Problem(f"{name} was not started: time limit reached")
        begun_at = time.monotonic()
        status, stdout, stderr = self.start(command, limit, is_stoppable=is_stoppable, **how)
        if command[: len(AWS_TOKEN)] == AWS_TOKEN:
            self.secrets += [word for word in stdout.split() if len(word) > 15]
        for secret in self.secrets:
            stderr = stderr.replace(secret, "[secret]")
        if status:
            has_hung = status in (124, 137) and time.monotonic() - begun_at >= limit - 0.1
            raise explained(name, status, has_hung, stdout, stderr)
        return stdout

    def start(
        self,
        command: Sequence[str],
        seconds: float,
        stdin: str = "",
        environment: Optional[Mapping[str, str]] = None,  # besides that of all programs
        drain_seconds: float = 0,  # for what it has started in turn
        is_stoppable: bool = True,  # by a signal
    ) -> tuple[int, str, str]:
        """The one place that starts programs. Returns the exit status, stdout, and stderr."""
        variables = {**self.environment, **(environment or {})}
        timeout = shutil.which("timeout", path=variables["PATH"])
        if not timeout:
            raise Problem("timeout is not on the PATH -> install coreutils", NEVER)
        with memory(stdin) as given, memory() as out, memory() as err:
            # By number, or sh would keep the files open.
            options = dict(SH_OPTIONS, _in=given.fileno(), _out=out.fileno(), _err=err.fileno())
            words = (*TIMEOUT, f"{seconds:.1f}", *command)
            running = sh.Command(timeout)(*words, _env=variables, **options)
            if is_stoppable:
                self.stoppable.add(running.pid)
            self.pass_on()  # a signal that has come before that
            try:
                with contextlib.suppress(sh.ErrorReturnCode):
                    running.wait()
            finally:
                self.end_group(running.pid, drain_seconds)
            return running.exit_code, content(out), content(err)

    def end_group(self, group: int, drain_seconds: float) -> None:
        """Wait for what a program has left running, but not for long; then kill it."""
        deadline = time.monotonic() + drain_seconds
        while signal_group(group, 0) and time.monotonic() < deadline:
            time.sleep(0.05)
        signal_group(group, signal.SIGKILL)
        self.stoppable.discard(group)


def memory(text: str = "") -> io.FileIO:
    """A file in memory for programs: no pipe of theirs can block us, and sh logs none of it."""
    file = io.FileIO(os.memfd_create("ecr_swarm_login"), "r+")
    file.write(text.encode(errors="backslashreplace"))
    file.seek(0)
    # Or programs side by side print over each other's lines.
    fcntl.fcntl(file, fcntl.F_SETFL, os.O_APPEND)
    return file


def content(file: io.FileIO) -> str:
    """What a file holds, of whatever encoding."""
    file.seek(0)
    return file.read().decode(errors="replace").strip()


def signal_group(group: int, number: int) -> bool:
    """Signal all processes of a group. Returns whether there is one left."""
    with contextlib.suppress(OSError):
        os.killpg(group, number)
        return True
    return False


def in_one_line(text: str) -> str:
    """What a program said in the end, in one line that no terminal takes for a command."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(printable.split())[-SAID_LENGTH:]


def explained(name: str, status: int, has_hung: bool, stdout: str, stderr: str) -> Problem:
    """The problem with a program that has not ended well."""
    how = "hung, and was killed" if has_hung else f"failed with exit status {status}"
    text = f"{name} {how}: {in_one_line(stderr[-9999:]) or 'no output'}"
    fitting = (row for row in REMEDIES if row[0] in text.lower())
    _, tries, remedy = next(fitting, ("", ALWAYS, ""))
    return Problem(f"{text} -> {remedy}" if remedy else text, tries, stdout, stderr)


# What docker shows --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A service as docker service ls shows it."""

    short_id: str  # how its ID begins
    name: str
    host: str  # the ECR registry of its image by then, or ""


@dataclass(frozen=True)
class Task:
    """A task, as docker shows it."""

    id: str
    node: str  # its ID, or "" as long as there is none
    is_wanted: bool  # swarm wants it to run: its desired state is at most Running
    state: str
    kind: str  # what it is to an update: a value of KINDS
    difference: str  # from what an update would write: OLDER, UNSORTED, PLACED, or ""


@dataclass(frozen=True)
class Rollout:
    """How far the last update has come."""

    state: str  # UpdateStatus.State
    began: str  # UpdateStatus.StartedAt, as docker prints it
    hours: float  # since it ended or began, or since the service was created
    rolls_back: bool  # by itself, if it fails
    changes_ports: bool
    brings: str  # to tasks, besides a token: NOTHING, SOMETHING, or UNKNOWN


@dataclass(frozen=True)
class Service:
    """All that decides about a service."""

    id: str
    name: str
    image: str  # with its tag and digest, as far as it has them
    mode: str  # Replicated, Global, ReplicatedJob, GlobalJob, or one that is unknown
    replicas: int
    condition: str  # when tasks are restarted: any, on-failure, none
    max_attempts: int  # of restarts; 0 if there is no limit
    constraints: Sequence[str]  # of placement
    rollout: Rollout
    unchanged_hours: float  # since anything was changed: its token is no younger
    dropped: str  # the settings that the client would drop, and the API versions
    slots: "Slots"
    usable_nodes: Optional[frozenset[str]] = None  # IDs of nodes that it may use, if anybody asked

    @property
    def way_back(self) -> str:
        """How to go back from a rollout, if that leads anywhere."""
        can = self.rollout.brings == SOMETHING and self.rollout.state in ("updating", "paused")
        return f"; to roll back: docker service rollback {self.name}" if can else ""

    @property
    def is_running(self) -> bool:
        """Whether swarm wants a task that serves, or is on its way there."""
        wanted = (task for slot in self.slots.values() for task in slot if task.is_wanted)
        return any(task.kind in (SERVES, PREPARES) for task in wanted)

    @property
    def what_runs_then(self) -> str:
        """What a restart of its tasks comes to if their image is not pinned."""
        return "" if "@" in self.image else "; its tag is not pinned, so a newer image may start"


@dataclass(frozen=True)
class Snapshot:
    """What services are at one moment."""

    services: Sequence[Service]
    asked_at: float  # on the monotonic clock: before the first question


Document = dict[str, Any]  # what docker prints of one thing
Slots = Mapping[str, Sequence[Task]]  # or nodes; the newest task first


def value_at(data: Any, *path: str) -> Any:
    """What lies at a path in nested objects; None where something is missing or no object."""
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def look(programs: Programs, versions: str, rows: Sequence[Row]) -> Snapshot:
    """What services are now, given the versions if the client is older. Raises Problem etc."""
    asked_at = time.monotonic()
    ids = [row.short_id for row in rows]
    with ThreadPoolExecutor(1) as pool:
        listing = pool.submit(programs.run, *TASKS, *ids, seconds=QUESTION_SECONDS)
        documents = {data["ID"]: data for data in ask(programs, INSPECT, ids)}
        listed = slots_from(listing.result())
    names = sorted(data["Spec"]["Name"] for data in documents.values())
    if names != sorted(row.name for row in rows) or listed.keys() - documents.keys():
        # It takes an ID for a name, if there is one: moby, daemon/cluster/helpers.go, getService.
        raise Problem(f"docker shows {', '.join(names)} for ID {', '.join(ids)}")
    telling = (telling_tasks(data, listed.get(key, {})) for key, data in documents.items())
    inspected = {data["ID"]: data for data in ask(programs, SPECS, list(chain(*telling)))}
    dropped = what_is_dropped(programs, versions, list(documents.values()))
    services = [
        service_from(data, listed.get(key, {}), inspected, dropped.get(key, ""))
        for key, data in documents.items()
    ]
    return Snapshot(with_nodes(programs, services), asked_at)


def ask(programs: Programs, command: Sequence[str], ids: Sequence[str]) -> list[Document]:
    """Ask docker for things by ID; what is gone is left out. Raises Problem, or ValueError."""
    if not ids:
        return []
    stderr, problem = "", Problem(f"{' '.join(command).partition(' -')[0]} printed too little")
    try:
        printed = programs.run(*command, *ids, seconds=QUESTION_SECONDS)
    except Problem as error:
        printed, stderr, problem = error.stdout, error.stderr, error
    # Where some are gone it prints the others, says of each that it is gone, and fails.
    gone = set(chain(*re.findall("(?i)no such [a-z]+: ([a-z0-9]+)|([a-z0-9]+) not found", stderr)))
    unknown = [each for each in ids if each not in printed and each not in gone]
    if unknown:
        raise problem
    return [json.loads(line) for line in printed.split("\n") if line]


def telling_tasks(data: Document, slots: Slots) -> list[str]:
    """The IDs of tasks whose spec matters: those that serve, and during a rollout the newest."""
    is_settled = (value_at(data, "UpdateStatus", "State") or "") in SETTLED
    ids = []
    for tasks in slots.values():
        newest = [] if is_settled else tasks[:1]
        ids += [task.id for task in tasks if task.kind == SERVES or task in newest]
    return ids


def what_is_dropped(programs: Programs, versions: str, services: list[Document]) -> dict[str, str]:
    """The settings that the client would drop, by ID of the service, if it is the older one."""
    if not versions:
        return {}
    known = {data["ID"]: settings_in(data["Spec"]) for data in services}
    sent = json.loads(programs.run(*SENT, *known, seconds=QUESTION_SECONDS))
    lost = {data["ID"]: settings_in(data["Spec"]) - known[data["ID"]] for data in sent}
    return {key: ", ".join(sorted(lost[key])) + versions for key in lost if lost[key]}


def settings_in(data: Any, path: str = "") -> set[str]:
    """The paths of all that is set in nested objects and lists."""
    if isinstance(data, list):
        return set().union(*(settings_in(each, path) for each in data))
    if not isinstance(data, dict):
        return set()
    found = {path + key for key, value in data.items() if value}
    return found.union(*(settings_in(value, f"{path}{key}.") for key, value in data.items()))


def service_from(data: Document, slots: Slots, shown: dict[str, Document], dropped: str) -> Service:
    """A service, as docker inspects it, with its tasks, listed and shown. Raises KeyError."""
    spec = data["Spec"]
    (mode,) = spec["Mode"]
    replicas = int(spec["Mode"][mode].get("Replicas", 0))
    if replicas and not slots:
        raise Problem(f"docker lists none of its {replicas} tasks")
    template = with_defaults(spec["TaskTemplate"])
    made = [shown[task.id] for tasks in slots.values() for task in tasks if task.id in shown]
    current = Current(template, stored_template(data, template, made))
    return Service(
        id=data["ID"],
        name=spec["Name"],
        image=template["ContainerSpec"]["Image"],
        mode=mode,
        replicas=replicas,
        condition=template["RestartPolicy"]["Condition"],
        max_attempts=int(template["RestartPolicy"]["MaxAttempts"]),
        constraints=template["Placement"].get("Constraints") or (),
        rollout=rollout_from(data, current),
        unchanged_hours=hours_since(data["UpdatedAt"]),
        dropped=dropped,
        slots={
            slot: [
                replace(task, difference=current.difference(shown.get(task.id))) for task in tasks
            ]
            for slot, tasks in slots.items()
        },
    )


# Swarm stores a TaskTemplate as it was sent. {} and {"RestartPolicy": {"Condition": "any"}} mean
# the same, yet to swarm they differ, and one replaces the tasks of the other. Docker shows
#   tasks and PreviousSpec  as stored;
#   Spec                    with all defaults filled in, so that these two look alike.
# How it is stored a task made of it tells, or PreviousSpec; else what looks alike counts as equal.


def with_defaults(template: Document) -> Document:
    """A TaskTemplate as docker inspects Spec."""
    whole = {**TEMPLATE_DEFAULTS, **template}
    for key in ("RestartPolicy", "ContainerSpec"):
        whole[key] = {**TEMPLATE_DEFAULTS[key], **(template.get(key) or {})}
    return whole


def as_stored(template: Document) -> Document:
    """A TaskTemplate of PreviousSpec, which alone has Runtime, or of a task; without Placement."""
    return {key: value for key, value in template.items() if key not in ("Runtime", "Placement")}


@dataclass(frozen=True)
class Current:
    """A service's TaskTemplate, which an update writes again."""

    template: Document  # with defaults filled in, as docker shows it
    stored: Optional[Document]  # without: as_stored(), if that is known

    def differs_from(self, other: Document) -> bool:
        """Whether another TaskTemplate differs to swarm, as one that spells out a default does."""
        differs_as_stored = self.stored is not None and self.stored != as_stored(other)
        return differs_as_stored or with_defaults(other) != self.template

    def difference(self, task: Optional[Document]) -> str:
        """How a task differs, given docker inspect of it, or None if nobody asked or it is gone."""
        if task is None:
            return ""
        placement = self.template["Placement"]
        if self.differs_from({**task["Spec"], "Placement": placement}):
            return OLDER
        if not are_sorted(self.template["ContainerSpec"]):
            return UNSORTED
        # This alone replaces no task, unless the token differs: task.go, IsTaskDirty.
        return PLACED if with_defaults(task["Spec"])["Placement"] != placement else ""


def stored_template(data: Document, template: Document, made: list[Document]) -> Optional[Document]:
    """A service's TaskTemplate as swarm stores it, if a task or PreviousSpec shows that."""
    status = data.get("UpdateStatus") or {}
    # Without the Z an earlier moment is a smaller text.
    since = (status.get("StartedAt") or data["UpdatedAt"]).rstrip("Z")
    # Those made since the last update began are made of it; older ones may be of a look-alike.
    telling = [
        task
        for task in made
        if task["CreatedAt"].rstrip("Z") >= since and with_defaults(task["Spec"]) == template
    ]
    # The newest, since a rollback by swarm keeps StartedAt: those of the bad spec are older.
    if telling:
        return as_stored(max(telling, key=lambda task: task["CreatedAt"].rstrip("Z"))["Spec"])
    former = value_at(data, "PreviousSpec", "TaskTemplate")
    # Each update resets UpdateStatus, and sets it if it replaces tasks. This one did not.
    if former and not status and with_defaults(former) == template:
        return as_stored(former)
    return None


def rollout_from(data: Document, current: Current) -> Rollout:
    """How far the last update has come, as docker inspects the service."""
    status = data.get("UpdateStatus") or {}
    state, began = status.get("State", ""), status.get("StartedAt", "")
    former = data.get("PreviousSpec")
    # That both look alike means this only if it is known how the current one is stored.
    nothing = UNKNOWN if current.stored is None else NOTHING
    if former:
        changes_ports = former.get("EndpointSpec") != data["Spec"].get("EndpointSpec")
        brings = SOMETHING if current.differs_from(former["TaskTemplate"]) else nothing
    else:
        changes_ports = False
        # Swarm's own rollback leaves no former spec. Once it has paused, there is nothing that it
        # could go on to: which tasks serve decides.
        brings = nothing if state == "rollback_paused" else UNKNOWN
    return Rollout(
        state=state,
        began=began,
        hours=hours_since(status.get("CompletedAt") or began or data["CreatedAt"]),
        rolls_back=value_at(data, "Spec", "UpdateConfig", "FailureAction") == "rollback",
        changes_ports=changes_ports,
        brings=SOMETHING if changes_ports else brings,
    )


def are_sorted(container: Document) -> bool:
    """Whether mounts and ulimits stand as the docker client sorts them: docker/cli#7226."""
    mounts = [
        (value_at(mount, "Source") or "", value_at(mount, "Target") or "")
        for mount in container.get("Mounts") or []
    ]
    limits = [value_at(limit, "Name") or "" for limit in container.get("Ulimits") or []]
    return mounts == sorted(mounts) and limits == sorted(limits)


def hours_since(moment: str) -> float:
    """Hours since 2024-05-01T12:00:00.123456789Z; 0 before it by this clock. Raises ValueError."""
    then = datetime.fromisoformat(f"{moment[:19]}+00:00")
    return max(0.0, time.time() - then.timestamp()) / 3600


def slots_from(printed: str) -> Mapping[str, Slots]:
    """The tasks that docker service ps lists, the newest first, by ID of their service."""
    services: dict[str, dict[str, list[Task]]] = {}
    # The oldest first: it tells more of the next one. Not splitlines(), which cuts at U+0085, too.
    for line in filter(None, reversed(printed.split("\n"))):
        row = json.loads(line)
        # SERVICE.SLOT, or SERVICE.NODE if it is global.
        service, _, slot = row["Name"].partition(".")
        tasks = services.setdefault(service, {}).setdefault(slot, [])
        tasks.insert(0, task_from(row, tasks[:1]))
    return services


def task_from(row: Document, former: Sequence[Task]) -> Task:
    """A task, as docker service ps shows it, given the one before it. Raises KeyError etc."""
    is_wanted = DESIRED[row["DesiredState"]]
    # Running 7 hours ago
    kind = KINDS[row["CurrentState"].partition(" ")[0]]
    state, number, unit = AGE.fullmatch(row["CurrentState"]).groups()  # type: ignore[union-attr]
    is_long_unit = unit in ("days", "weeks", "months", "years")
    has_lasted = is_long_unit or (unit == "hours" and int(number) >= LONG_HOURS)
    # Not every rejection is for want of a token: swarmkit, constraint_enforcer.go.
    was_evicted = "assigned node no longer meets constraints" in str(row.get("Error"))
    if was_evicted or (kind in (SERVES, PREPARES) and not is_wanted):
        kind = STOPPED
    # It may wait for a token if the one before it had none, or if its own has expired meanwhile.
    elif kind == PREPARES and (has_lasted or any(task.kind == LACKS_TOKEN for task in former)):
        kind = LACKS_TOKEN
    return Task(row["ID"], row["Node"], is_wanted, state, kind, "")


def with_nodes(programs: Programs, services: Sequence[Service]) -> list[Service]:
    """The services with the nodes that they may use, where that matters: to global ones."""
    # Before anybody has asked, touched() takes all nodes for usable.
    spread = [each for each in services if each.mode == "Global" and touched(each)]
    nodes = ask(programs, NODES, list({node for each in spread for node in each.slots}))
    usable = {
        each.id: frozenset(node["ID"] for node in nodes if may_use(node, each.constraints))
        for each in spread
    }
    return [replace(each, usable_nodes=usable.get(each.id)) for each in services]


# The model: what swarm does with an update --------------------------------------------------------
# The files that are named here are moby/swarmkit's, in manager/orchestrator.


def touched(service: Service) -> list[Task]:
    """The tasks that an update with another token stops, or starts again. Pure."""
    counting = {slot: tasks_that_count(service, tasks) for slot, tasks in service.slots.items()}
    stay, surplus = reconcile(service, {slot: some for slot, some in counting.items() if some})
    updated = [task for slot in stay for task in replaced(service, counting[slot])]
    return updated + [task for slot in surplus for task in counting[slot] if task.kind == SERVES]


def tasks_that_count(service: Service, tasks: Sequence[Task]) -> Sequence[Task]:
    """The tasks of a slot that an update looks at: restart.go, UpdatableTasksInSlot."""
    wanted = [task for task in tasks if task.is_wanted]
    if wanted:
        return wanted
    # If swarm does not start another one for the newest by itself, an update does.
    return [] if restarts_itself(service, tasks[0]) else tasks[:1]


def restarts_itself(service: Service, task: Task) -> bool:
    """Whether swarm starts a task that is over again by itself: restart.go, shouldRestart."""
    restarts = {"any": True, "on-failure": task.state != "Complete"}
    if not restarts.get(service.condition):
        return False
    # On a node that was drained or lost it starts when that is back.
    if service.mode == "Global" and task.kind == STOPPED:
        return True
    # With a limit its attempts may be used up, unseen by us: then only an update starts it again.
    return service.max_attempts == 0


def reconcile(service: Service, slots: Slots) -> tuple[list[str], list[str]]:
    """Which slots stay and are updated, and which are removed: services.go, global.go."""
    if service.mode == "Replicated":
        ordered = in_order_of_removal(slots)
        return ordered[: service.replicas], ordered[service.replicas :]
    # Tasks on other nodes are shut down, if they are not yet, and start nothing.
    usable = slots if service.usable_nodes is None else service.usable_nodes
    return [node for node in slots if node in usable], []


def in_order_of_removal(slots: Slots) -> list[str]:
    """The slots of a replicated service as slot.go sorts them before it removes those at the end:
    first copies on a node before second ones, and running ones before others. If 1 and 2 run on a
    node, and 3 has ended on another, the order is 1, 3, 2.
    """
    runs = {slot: any(task.state == "Running" for task in slots[slot]) for slot in slots}
    copies: Counter[str] = Counter()
    rank = {}
    for slot in sorted(slots, key=lambda slot: (not runs[slot], int(slot))):
        node = slots[slot][0].node if len(slots[slot]) == 1 else ""
        copies[node] += 1
        # Those of which the node is not known come last.
        rank[slot] = (not node, copies[node] if node else 0)
    # Go's sort keeps the order of equals in lists of up to 6, and from Go 1.19 on of up to 12. In
    # longer ones expect the worst: that of equals those which run are removed.
    is_long = len(slots) > 6
    return sorted(rank, key=lambda slot: (rank[slot], is_long and runs[slot]))


def replaced(service: Service, tasks: Sequence[Task]) -> list[Task]:
    """The tasks of a slot that stays which an update stops, or starts again: updater.go."""
    up_to_date = [task for task in tasks if task.kind == SERVES and not task.difference]
    return [
        task
        for task in tasks
        # One that is up to date stays: task.go, IsTaskDirty.
        if (task.kind == SERVES and task not in up_to_date[:1])
        or task.kind in (PREPARES, LACKS_TOKEN)
        or (task.kind in OVER and not restarts_itself(service, task))
    ]


def may_use(node: dict[str, Any], constraints: Sequence[str]) -> bool:
    """Whether a global service keeps its task on a node up to date, as global.go has it."""
    is_down = value_at(node, "Status", "State") == "down"
    is_active = value_at(node, "Spec", "Availability") == "active"
    return is_active and not is_down and all(meets(node, each) for each in constraints)


def meets(node: dict[str, Any], constraint: str) -> bool:
    """Whether a node meets a constraint: manager/constraint/constraint.go. Raises KeyError etc."""
    key, operator, wanted = map(str.strip, re.split("(==|!=)", constraint, maxsplit=1))
    label = re.fullmatch(r"(?i)(node|engine)\.labels\.(.+)", key)
    if key.lower() == "node.ip":
        address = ipaddress.ip_address(str(value_at(node, "Status", "Addr")))
        return (address in ipaddress.ip_network(wanted, strict=False)) == (operator == "==")
    path = (*NODE_LABELS[label[1].lower()], label[2]) if label else NODE_FACTS[key.lower()]
    value = str(value_at(node, *path) or "")
    return (value.lower() == wanted.lower()) == (operator == "==")


def is_amid_rollout(rollout: Rollout, differences: set[str]) -> bool:
    """Whether a rollout is not settled, and an update would harm it."""
    if rollout.state in SETTLED:
        return False
    # It would replace tasks that serve.
    if rollout.changes_ports or differences - {""}:
        return True
    if rollout.brings == NOTHING:
        return False
    is_rolling_back = rollout.state not in ("updating", "paused")
    # An update would forget the spec to roll back to.
    may_roll_back = rollout.state == "updating" and rollout.rolls_back
    # One that has waited for long, as for a node, has replaced all tasks that serve.
    return is_rolling_back or may_roll_back or rollout.hours < LONG_HOURS


# Policy -------------------------------------------------------------------------------------------

# fmt: off
DUE, RESTARTING, FORCED, REFRESHED, SPARED, HELD, OVERDUE, FAILED = OUTCOMES = (
    "will be refreshed", "will be refreshed, which restarts its tasks", "will be refreshed anyway",
    "refreshed", "left alone", "held back", "held back too long", "failed")
LEVELS = {RESTARTING: logging.WARNING, FORCED: logging.WARNING, HELD: NOTICE,
          OVERDUE: logging.WARNING, FAILED: logging.ERROR}
NOT_IN_ECR = "its image is not in ECR, and an update may wipe its login"
GO_ON = " -> to continue: docker service update --with-registry-auth {0.name}"
TAG_IT = "-> tag it: docker service update --with-registry-auth --image {0.image}:TAG {0.name}"
ANYWAY = " -> to refresh it anyway: ecr_swarm_login.py --all-services {0.name}"
# The first row that applies decides. Columns: a key of facts(); the outcome; from when six hours
# make HELD OVERDUE, the "rollout" (which scaling does not reset) or the last "change"; whether
# --all-services overrules it; and the reason, in which {0} is the Service.
POLICY = (
    ("moved", HELD, "", False, "its image has just moved to another registry; see the next run"),
    ("elsewhere", SPARED, "", True, NOT_IN_ECR),
    ("a job", SPARED, "", True, "it is a job, and would run again"),
    ("of an unknown mode", HELD, "rollout", True, "this version does not know its mode, {0.mode}"),
    ("not understood", HELD, "rollout", True,
     "the docker client predates the engine and would drop {0.dropped} -> update the client"),
    ("without a tag", HELD, "rollout", True,
     f"its image has neither tag nor digest; an update would deploy {{0.image}}:latest {TAG_IT}"),
    ("amid a rollout", HELD, "rollout", True,
     f"its rollout is {{0.rollout.state}}, and a refresh would advance it{GO_ON}{{0.way_back}}"),
    ("behind", HELD, "change", True,
     f"tasks still run an older spec, and a refresh would continue the rollout{GO_ON}"),
    ("to roll back", SPARED, "", True, "--keep-rollback keeps docker service rollback possible"),
    ("half finished, and lacks a token", FAILED, "", True,
     f"finished tasks would start again, and others lack a valid token{ANYWAY}"),
    ("half finished", HELD, "change", True,
     f"some tasks have finished, and an update would start them again{ANYWAY}"),
    ("finished", SPARED, "", True, "its tasks have finished, and would run again"),
    ("starting", HELD, "change", True, "its tasks are starting, and would be restarted"),
    ("unsorted", RESTARTING, "change", False,
     "the docker client reorders its mounts or ulimits{0.what_runs_then}"),
    ("misplaced", RESTARTING, "change", False,
     "its placement is out of date; any update with a token applies the new one{0.what_runs_then}"),
    ("too many", RESTARTING, "change", False, "more of its tasks are running than it should have"),
    ("in ECR", DUE, "", False, "it pulls from ECR"),
)
# fmt: on
Verdict = tuple[str, str]  # what happens to a service, and why


def decide(service: Service, host: str, options: argparse.Namespace) -> Verdict:
    """What happens to a service that docker is logged in to `host` for. Pure."""
    applies = facts(service, host, options)
    fitting = (row for row in POLICY[:-1] if applies[row[0]])
    _, outcome, clock, may_be_forced, text = next(fitting, POLICY[-1])
    reason = text.format(service)
    if options.all_services and may_be_forced:
        return FORCED, f"although {reason.partition(' ->')[0]}"
    if outcome == RESTARTING and options.no_restart:
        outcome = HELD
    hours = {"rollout": service.rollout.hours, "change": service.unchanged_hours, "": 0}[clock]
    return OVERDUE if outcome == HELD and hours >= LONG_HOURS else outcome, reason


def facts(service: Service, host: str, options: argparse.Namespace) -> Mapping[str, bool]:
    """Which rows of POLICY apply. Those that come later may take for granted that these do not."""
    kinds: dict[str, list[Task]] = {}
    for task in touched(service):
        kinds.setdefault(task.kind, []).append(task)
    differences = {task.difference for task in kinds.get(SERVES, [])}
    finished = kinds.get(ENDED, []) + kinds.get(STOPPED, [])
    is_deployed = (service.rollout.state, service.rollout.brings) == ("completed", SOMETHING)
    is_doubtful = STOPPED in kinds and service.condition != "none"  # attempts may be left
    return {
        "moved": ecr_host(service.image) != host,
        "elsewhere": not host,
        "a job": service.mode in ("ReplicatedJob", "GlobalJob"),
        "of an unknown mode": service.mode not in ("Replicated", "Global"),
        "not understood": bool(service.dropped),
        "without a tag": ":" not in service.image,
        "amid a rollout": is_amid_rollout(service.rollout, differences),
        "behind": OLDER in differences,
        "to roll back": is_deployed and service.rollout.hours < options.keep_rollback,
        "half finished, and lacks a token": bool(finished) and LACKS_TOKEN in kinds,
        "half finished": bool(finished) and (is_doubtful or service.is_running),
        "finished": bool(finished),
        "starting": PREPARES in kinds,
        "unsorted": UNSORTED in differences,
        "misplaced": PLACED in differences,
        "too many": SERVES in kinds,
    }


# Logins and updates -------------------------------------------------------------------------------


@dataclass
class Run:
    """What is to be done, with what, and how far it has come."""

    options: argparse.Namespace
    programs: Programs
    folder: str  # for the logins of the run
    # Whoever has a verdict is done, in all attempts; a problem is of the latest attempt, and of
    # what has no verdict. What is left of them in the end has failed.
    verdicts: dict[str, Verdict] = field(default_factory=dict)  # by name
    problems: dict[str, Problem] = field(default_factory=dict)
    context: str = ""  # docker's current one
    versions: str = ""  # of the APIs, if the client's is older than the engine's
    rows: dict[str, Row] = field(default_factory=dict)  # the services, by name
    # Good logins, by host: the variables by which docker finds each, if it needs any.
    logins: dict[str, dict[str, str]] = field(default_factory=dict)
    # Docker replaces config.json without a lock, and two logins would lose one another's.
    one_by_one: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    workers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(BATCHES_AT_ONCE))
    updated: list[Service] = field(default_factory=list)  # and not yet looked at again
    restarts: set[str] = field(default_factory=set)  # services
    said: set[str] = field(default_factory=set)  # which is not said again
    begun_at: float = field(default_factory=time.monotonic)


def ecr_host(image: str) -> str:
    """The ECR registry of an image, or "" if it is in another."""
    host, slash, _ = image.partition("/")
    return host if slash and ECR_HOST.fullmatch(host) else ""


def get_token(run: Run, region: str) -> str:
    """Have aws print a token, which goes nowhere but to docker login. Raises Problem."""
    try:
        token = run.programs.run(*AWS_TOKEN, region)
        # It is one word: what a wrapper around aws prints besides is none.
        if not re.fullmatch("[!-~]+", token):
            raise Problem(
                "aws printed no valid token (output hidden)"
                " -> look for an aws wrapper or alias that prints more"
            )
    except Problem as problem:
        raise problem.after("Failed to acquire docker login credentials") from None
    return token


def hand_over(run: Run, host: str, token: str, **how: Any) -> None:
    """The one place that gives docker a token, on stdin. Raises Problem."""
    try:
        run.programs.run(*LOGIN, host, stdin=token, **how)
    except Problem as problem:
        raise problem.after(f"Docker login failed for {host}") from None


def log_in(run: Run, host: str, token: str) -> None:
    """Log docker in for updates and deploys, or with --login-only for deploys. Raises Problem."""
    login = {} if run.options.login_only else log_in_for_updates(run, host, token)
    for_deploys = run.one_by_one.submit(log_in_for_deploys, run, host, token)
    if run.options.login_only:
        for_deploys.result()
    run.logins[host] = login
    log.info("Docker login succeeded for %s", host)


def log_in_for_updates(run: Run, host: str, token: str) -> dict[str, str]:
    """Log docker in, in a folder of the run. Returns what variables it takes. Raises Problem."""
    folder = make_login_folder(run.folder, host)
    login = {"DOCKER_CONFIG": folder, "DOCKER_CONTEXT": run.context}
    config = os.path.join(folder, "config.json")
    size = os.path.getsize(config)
    hand_over(run, host, token, environment=login)
    if os.path.getsize(config) == size:
        text = f"Docker login failed for {host}: docker ignored DOCKER_CONFIG"
        raise Problem(f"{text} -> for a snap: run --login-only, then --refresh-only", NEVER)
    return login


def log_in_for_deploys(run: Run, host: str, token: str) -> None:
    """Log docker in where deploys from here find it. Raises Problem with --login-only."""
    try:
        # Not cut short, since others share that file.
        hand_over(run, host, token, is_stoppable=False)
    except Problem as problem:
        if "not implemented" in problem.stderr:
            # The registry has accepted it, and what the helper supplies by itself is as good.
            log.log(NOTICE, "The credential helper of %s supplies logins, and stores none", host)
        elif run.options.login_only:
            raise
        else:
            log.warning("Deploys from this host may lack a valid login: %s", problem)


def make_login_folder(folder: str, host: str) -> str:
    """A folder for one login, with links to all in docker's own but config.json and its drafts."""
    place = os.path.abspath(os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"))
    # mkdtemp, for there may be one of an earlier attempt.
    path = tempfile.mkdtemp(prefix=f"{host}-", dir=folder)
    with contextlib.suppress(OSError):
        for name in os.listdir(place):
            if not name.startswith("config.json"):
                os.symlink(os.path.join(place, name), os.path.join(path, name))
    # With this, and not without, the client keeps the login in this very file, whatever store
    # is on the PATH: docker/cli, cli/config/credentials/default_store.go.
    with open(os.path.join(path, "config.json"), "w") as config:
        json.dump({"auths": {host: {}}}, config)
    return path


# With a helper that stores nothing (amazon-ecr-credential-helper #102) docker login fails even if
# the registry accepts it. Then docker says AUTHENTICATES, one of NOT_STORED, and none of REFUSED.
AUTHENTICATES = "authenticating with existing credentials"
NOT_STORED = ("saving credentials", "perform an interactive login")
REFUSED = ("login did not succeed", "invalid or expired")


def prove(run: Run, host: str) -> None:
    """Have docker authenticate with the login that it holds, and would send. Raises Problem."""
    try:
        run.one_by_one.submit(run.programs.run, *PROOF, host, is_stoppable=False).result()
    except Problem as problem:
        said = f"{problem.stdout} {problem.stderr}".lower()
        was_refused = any(text in said for text in REFUSED)
        was_accepted = AUTHENTICATES in said and any(text in said for text in NOT_STORED)
        if was_refused or not was_accepted:
            raise problem.after(f"docker holds no valid login to {host}") from None
    run.logins[host] = {}  # found without any variable


def in_batches(run: Run, host: str, rows: Sequence[Row]) -> None:
    """Refresh in batches, side by side; what they leave undone, in smaller ones. Notes problems."""
    for size in BATCHES:
        batches = [rows[at : at + size] for at in range(0, len(rows), size)]
        list(run.workers.map(refresh, repeat(run), repeat(host), batches))
        together = [row for batch in batches if len(batch) > 1 for row in batch]
        rows = [row for row in together if row.name not in run.verdicts]


def refresh(run: Run, host: str, rows: Sequence[Row]) -> None:
    """Look at services of one registry, decide, update. Notes problems."""
    with noting(run.problems, (row.name for row in rows if row.name not in run.verdicts)):
        if run.programs.seconds_left() < CLOSING_SECONDS:
            for row in rows:
                run.problems.setdefault(row.name, Problem("not started: time limit reached"))
            return
        snapshot = look(run.programs, run.versions, rows)
        due = []
        for service in sorted(snapshot.services, key=lambda service: service.name):
            verdict = decide(service, host, run.options)
            if verdict[0] not in (DUE, RESTARTING, FORCED) or run.options.dry_run:
                conclude(run, service.name, verdict)
                continue
            due.append(service)
            # One that is merely refreshed is named when that is done.
            if verdict[0] != DUE:
                say(run, service.name, verdict)
        if due:
            update(run, host, due, snapshot.asked_at)


def update(run: Run, host: str, due: Sequence[Service], asked_at: float) -> None:
    """Have swarm store docker's login: the one step that changes the swarm. Notes problems."""
    # No update is started later than STALE_SECONDS after the first question.
    seconds = asked_at + STALE_SECONDS - time.monotonic()
    if seconds < 0.1:
        raise Problem(f"docker took over {STALE_SECONDS} s to answer -> check this host's load")
    problem = Problem("docker did not confirm the update")
    try:
        # The end of its time ends xargs, and not the updates: these have UPDATE_SECONDS more.
        printed = run.programs.run(
            *XARGS,
            *UPDATE,
            seconds=seconds,
            stdin="\n".join(service.id for service in due),
            environment=run.logins.get(host),
            drain_seconds=UPDATE_SECONDS,
        )
    except Problem as error:
        printed, problem = error.stdout, error
    for service in due:
        if service.id not in printed.split():
            run.problems[service.name] = problem
        else:
            conclude(run, service.name, (REFRESHED, ""))
            run.updated.append(service)
            if any(task.kind == SERVES for task in touched(service)):
                run.restarts.add(service.name)


def say_restarts(run: Run) -> None:
    """Name the services whose tasks are being replaced although nothing had shown it before."""
    # One whose tasks all stay has no new UpdateStatus.
    services = {each.id: each for each in run.updated if not touched(each)}
    for data in ask(run.programs, INSPECT, list(services)):
        service = services[data["ID"]]
        began = service.rollout.began
        if (value_at(data, "UpdateStatus", "StartedAt") or began) != began:
            run.restarts.add(service.name)
            log.warning(
                "%s restarts: its tasks are being replaced, which could not be foreseen; likely"
                " cause: after an engine upgrade docker writes the same spec differently%s",
                service.name,
                service.what_runs_then,
            )
    run.updated.clear()


# What is said -------------------------------------------------------------------------------------


def conclude(run: Run, name: str, verdict: Verdict) -> None:
    """What happened to a service in the end, and why. An alarm is for the last line."""
    run.verdicts[name] = verdict
    run.problems.pop(name, None)
    if verdict[0] not in (OVERDUE, FAILED):
        say(run, name, verdict)


def say(run: Run, name: str, verdict: Verdict) -> None:
    """What happens to a service, and why, once."""
    text = f"{name} {': '.join(filter(None, verdict))}"
    if text not in run.said:
        log.log(LEVELS.get(verdict[0], logging.INFO), "%s", text)
    run.said.add(text)


def report(run: Run) -> int:
    """Say what the run did, and what is missing. Returns the exit status."""
    run.verdicts.update({name: (FAILED, str(each)) for name, each in run.problems.items()})
    text = f"{summary(run)} in {time.monotonic() - run.begun_at:.1f} seconds"
    level, status = logging.INFO, 0
    for outcome, its_status in ((FAILED, 1), (OVERDUE, 3)):
        reasons = {name: why for name, (how, why) in run.verdicts.items() if how == outcome}
        lines = [": ".join(filter(None, pair)) for pair in by_reason(reasons)]
        for line in lines[3:]:
            log.log(LEVELS[outcome], "%s: %s", outcome, line)
        if lines:
            shown = lines if len(lines) < 4 else [*lines[:3], "see above for more"]
            text += f"; {outcome}: {'; '.join(shown)}"
            level, status = max(level, LEVELS[outcome]), status or its_status
    log.log(level, "%s", text)
    return status


def summary(run: Run) -> str:
    """How often which outcome was."""
    services = Counter(how for name, (how, _) in run.verdicts.items() if " " not in name)
    logins = 0 if run.options.refresh_only else len(run.logins)
    counts = {"login" if logins == 1 else "logins": logins}
    counts.update({outcome: services[outcome] for outcome in OUTCOMES})
    counts["restarted"] = len(run.restarts)
    counted = (f"{count} {what}" for what, count in counts.items() if count)
    return ", ".join(counted) or ("nothing done" if run.problems else "nothing to do")


def by_reason(reasons: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Who has the same reason, and the reason: a few services by name, and the whole run by ""."""
    names: dict[str, list[str]] = {}
    for name, reason in sorted(reasons.items()):
        names.setdefault(str(reason), []).append("" if name == THE_RUN else in_one_line(name))
    return [
        (", ".join(some[:3]) + (f" and {len(some) - 3} more" if len(some) > 3 else ""), reason)
        for reason, some in names.items()
    ]


# The run ------------------------------------------------------------------------------------------


def run_all(programs: Programs, options: argparse.Namespace) -> int:
    """Do all there is to do, and say how it ended. Returns the exit status."""
    run = Run(options, programs, make_run_folder())
    if not options.login_only:
        headline = "Running docker update swarm services registry auth"
        log.info("Dry run: nothing is changed" if options.dry_run else headline)
    with noting(run.problems, [THE_RUN]):
        try_often(run)
    shutil.rmtree(run.folder, ignore_errors=True)
    return report(run)


def make_run_folder() -> str:
    """A folder for the logins of the run, in memory if it can be."""
    # systemd's is gone even after SIGKILL: systemd.exec(5), RuntimeDirectory=.
    places = (os.environ.get("RUNTIME_DIRECTORY"), "/dev/shm", os.environ.get("TMPDIR"), "/tmp")
    for place in filter(None, places):
        with contextlib.suppress(OSError):
            return tempfile.mkdtemp(prefix="ecr_swarm_login-", dir=place)
    return "/dev/null/none"  # where there is room for nothing


def try_often(run: Run) -> None:
    """Try as often as --tries says, a minute apart; a try has attempts, some seconds apart."""
    run.programs.begin_try(0)
    attempt(run)
    for number in range(1, run.options.tries + 1):
        if number > 1:
            run.programs.begin_try(TRY_PAUSE)
            attempt_again(run, number, TRY_PAUSE)
        for seconds in PAUSES:
            attempt_again(run, number, seconds)


def attempt_again(run: Run, number: int, seconds: int) -> None:
    """Another attempt after a pause, if a problem is worth it in that try. Why is said once."""
    problems = {name: each for name, each in run.problems.items() if each.tries >= number}
    if not problems or run.programs.seconds_left() < CLOSING_SECONDS + seconds:
        return
    for who, text in by_reason(problems):
        if text in run.said:
            log.log(NOTICE, "%s failed again; next attempt in %d s", who or "The run", seconds)
        else:
            log.warning("%s failed; next attempt in %d s: %s", who or "The run", seconds, text)
        run.said.add(text)
    run.programs.run("sleep", str(seconds), seconds=2 * TRY_PAUSE)
    attempt(run)


def attempt(run: Run) -> None:
    """Find the services, log in to their registries, refresh what is left. Notes problems."""
    run.problems.clear()
    with noting(run.problems, [THE_RUN]):
        find_services(run)
        hosts = find_registries(run)
        groups = {} if run.options.login_only or not leads(run) else rows_by_host(run)
        serve_registries(run, hosts, groups)
        # It is a queue: after this all logins for deploys are done.
        run.one_by_one.submit(int).result()
        say_restarts(run)


def find_services(run: Run) -> None:
    """Find all services, or those named. Raises Problem if docker does not list them."""
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(run.programs.run, *VERSION, seconds=QUESTION_SECONDS)
        listed = list_services(run)
    run.context, client, engine = answer.result().split(" ")
    is_older = list(map(int, client.split("."))) < list(map(int, engine.split(".")))
    run.versions = f" (client API {client}, engine API {engine})" if is_older else ""
    # A plugin has no image.
    rows = {name: Row(short_id, name, ecr_host(image)) for short_id, image, name in listed}
    named = run.options.services or list(rows)
    run.rows = {name: rows[name] for name in named if name in rows}
    missing = Problem("there is no such service -> see docker service ls", NEVER)
    run.problems.update({name: missing for name in named if name not in rows})


def list_services(run: Run) -> list[list[str]]:
    """The ID, image and name of all services; at boot there may be no swarm yet. Raises Problem."""
    try:
        printed = run.programs.run(*LIST, seconds=QUESTION_SECONDS)
    except Problem as problem:
        if not run.options.login_only or "swarm manager" not in problem.stderr:
            raise
        log.log(NOTICE, "Not in a swarm yet, or not a manager")
        return []
    return [line.split(" ") for line in printed.split("\n") if line]


def find_registries(run: Run) -> set[str]:
    """The hosts to log in to: those of the services, and what the options name. Raises Problem."""
    hosts = {row.host for row in run.rows.values()}.union(run.options.registry) - {""}
    if run.options.region:
        with noting(run.problems, [f"registry in {run.options.region}"]):
            hosts.add(find_account_host(run, run.options.region))
    elif run.options.login_only and not hosts:
        raise Problem("No service uses ECR -> pass --region or --registry", NEVER)
    return hosts


def find_account_host(run: Run, region: str) -> str:
    """The account's registry in a region. Raises Problem."""
    if run.options.dry_run:
        return f"the registry of your account in {region}"  # which only AWS knows
    command = (*AWS_ACCOUNT, "--region", region)
    account = run.programs.run(*command, seconds=QUESTION_SECONDS)
    suffix = PARTITIONS.get(region.rsplit("-", 2)[0], "amazonaws.com")
    host = f"{account}.dkr.ecr.{region}.{suffix}"
    if not ECR_HOST.fullmatch(host):
        raise Problem(f"aws printed no account ID -> see what it prints: {' '.join(command)}")
    return host


def leads(run: Run) -> bool:
    """Whether this manager refreshes. Raises Problem, or KeyError if docker does not say."""
    answer = run.programs.run(*LEADER) if run.options.leader_only else "true"
    if answer == "false":
        log.info("Another manager leads the swarm, and refreshes its services")
    return {"true": True, "false": False}[answer]


def rows_by_host(run: Run) -> dict[str, list[Row]]:
    """The services that are left, by registry; in random order, if there is time for some only."""
    groups: dict[str, list[Row]] = {}
    rows = [row for name, row in run.rows.items() if name not in run.verdicts]
    for row in random.sample(rows, len(rows)):
        groups.setdefault(row.host, []).append(row)
    if not run.options.all_services:
        for row in sorted(groups.pop("", []), key=lambda row: row.name):
            conclude(run, row.name, (SPARED, NOT_IN_ECR))
    return groups


def serve_registries(run: Run, hosts: set[str], groups: dict[str, list[Row]]) -> None:
    """Log in to all registries side by side, and refresh their services. Notes problems."""
    missing = set() if run.options.refresh_only else hosts - run.logins.keys()
    if run.options.dry_run:
        log.info("Would log in to %s", ", ".join(sorted(missing)) or "no registry")
        missing = set()
    # In another order each time, since logins for deploys are made one by one.
    order = random.sample(sorted(hosts | groups.keys()), len(hosts | groups.keys()))
    regions = {host: ECR_HOST.sub(r"\1", host) for host in missing}
    with ThreadPoolExecutor(2 * len(order) + 1) as pool:
        tokens = {each: pool.submit(get_token, run, each) for each in set(regions.values())}
        for host in order:
            token = tokens[regions[host]] if host in missing else None
            pool.submit(serve_registry, run, host, groups.get(host, []), token)


def serve_registry(run: Run, host: str, rows: list[Row], token: Optional[Future[str]]) -> None:
    """Log in with a token, or have docker prove its login; then refresh. Notes problems."""
    with noting(run.problems, [row.name for row in rows] or [f"registry {host}"]):
        if token:
            log_in(run, host, token.result())
        elif host and rows and not (run.options.dry_run or host in run.logins):
            prove(run, host)
        in_batches(run, host, rows)


# The command line, and this process ---------------------------------------------------------------


def main(arguments: Optional[list[str]] = None) -> int:
    """Run, and end as one who is told to stop. Returns the exit status."""
    options = parse(arguments)
    if SH_ERROR:
        sys.exit(f"ecr_swarm_login: {sys.executable} cannot load sh: {SH_ERROR}")
    programs = Programs(program_environment())
    prepare(programs, options.quiet)
    with ThreadPoolExecutor(1) as pool:
        status = pool.submit(run_all, programs, options)
        # In this thread Python handles signals, and not while it waits without end.
        while not status.done():
            wait([status], 0.1)
    if programs.stopped_by:
        return 128 + programs.stopped_by
    return status.result()


def parse(arguments: Optional[list[str]]) -> argparse.Namespace:
    """The command line. Exits with status 2 if it makes no sense."""
    parser = argparse.ArgumentParser(
        usage="%(prog)s [options] [SERVICE ...]",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser.add_argument)
    options = parser.parse_args(arguments)
    check(options, parser)
    return options


def add_options(add: Any) -> None:
    """All options, in the order of --help."""
    # fmt: off
    add("services", nargs="*", metavar="SERVICE", help="only these services, by name")
    add("--region", help="also log in to the registry of your account there")
    add("--registry", metavar="HOST", action="append", default=[],
        help="also log in to this registry; repeatable")
    add("--login-only", action="store_true", help="log in and stop, as when a manager boots")
    add("--refresh-only", action="store_true",
        help="do not log in: use docker's stored logins (e.g. a credential helper)")
    add("--leader-only", action="store_true",
        help="log in everywhere, refresh only on the leader")
    add("--all-services", action="store_true",
        help="refresh every service even if harmful: reruns jobs, overwrites other registries'"
        " logins")
    add("--no-restart", action="store_true",
        help="hold back services whose tasks a refresh would restart")
    add("--keep-rollback", metavar="HOURS", type=int, default=0,
        help="after a deploy, leave a service alone for HOURS, so that docker service rollback"
        " still works (default 0, at most 10; a token lives 12)")
    add("--tries", metavar="N", type=int, default=1,
        help="rounds of attempts, a minute apart (default 1)")
    add("-n", "--dry-run", action="store_true",
        help="say what would happen, and why; change nothing")
    add("-q", "--quiet", action="store_true", help="warnings and errors only")
    add("--version", action="version", version="%(prog)s 2.0.0")
    # fmt: on


def check(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Exit with status 2 if options make no sense."""
    is_region = re.fullmatch("[a-z]+(-[a-z]+)+-[0-9]+", options.region or "eu-central-1")
    logs_in = options.login_only or options.region or options.registry
    # fmt: off
    errors = (
        ("" in options.services, "SERVICE takes the name of a service"),
        ("://" in "".join(options.registry), "--registry takes a host alone: leave out https://"),
        (not all(map(ECR_HOST.fullmatch, options.registry)),
         "--registry takes a host such as 123456789012.dkr.ecr.eu-central-1.amazonaws.com"),
        (not is_region, "--region takes a region such as eu-central-1"),
        (not 0 <= options.keep_rollback <= 10, "--keep-rollback takes a number from 0 to 10"),
        (not 1 <= options.tries <= ALWAYS, f"--tries takes a number from 1 to {ALWAYS}"),
        (options.refresh_only and logs_in,
         "--refresh-only does not log in: leave out --login-only, --region and --registry"),
        (options.all_services and (options.no_restart or options.keep_rollback),
         "--all-services spares none: leave out --no-restart and --keep-rollback"),
    )
    # fmt: on
    for applies, text in errors:
        if applies:
            parser.error(text)


def prepare(programs: Programs, is_quiet: bool) -> None:
    """Set up this process: streams, log, signals."""
    # Fill 0 to 2 if they are closed, or the next file that is opened becomes stdout.
    for _ in range(3):
        os.open(os.devnull, os.O_RDWR)
    # Whether systemd's journal reads the log: systemd.exec(5), JOURNAL_STREAM.
    stderr = os.fstat(2)
    is_journal = os.environ.get("JOURNAL_STREAM") == f"{stderr.st_dev}:{stderr.st_ino}"
    for level, priority in PRIORITIES.items():
        logging.addLevelName(level, f"<{priority}>" if is_journal else "")
    # Whatever the locale is; and not sys.stderr, which is None where 2 was closed.
    stream = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
    level = logging.WARNING if is_quiet else logging.INFO
    logging.basicConfig(format="%(levelname)s%(message)s", level=level, stream=stream)
    logging.getLogger("sh").propagate = False
    # Whoever read the log may have gone.
    logging.raiseExceptions = False
    # Whoever ignores SIGCHLD passes that on, and then nobody can wait for a program.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, programs.stop)


def program_environment() -> dict[str, str]:
    """What all programs find in their environment."""
    # Not the current folder, which an empty element stands for.
    path = [each for each in os.environ.get("PATH", os.defpath).split(":") if each.startswith("/")]
    # An old API version would strip settings that it does not know from each service.
    given = {name: value for name, value in os.environ.items() if name != "DOCKER_API_VERSION"}
    # Cron's lacks where aws may be.
    return {**given, **ENVIRONMENT, "PATH": ":".join([*path, "/usr/local/bin", "/snap/bin"])}


if __name__ == "__main__":
    sys.exit(main())
