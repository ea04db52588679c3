#!/usr/bin/python3 -I
# /// script
# requires-python = ">=3.9"
# dependencies = ["sh>=1.14.1,<3"]
# ///
"""Give each Docker Swarm service that pulls from AWS ECR a fresh token. Services that an update
would harm are skipped, and the log says why. Some refreshes restart tasks; the log says which.

  ecr_swarm_login.py --dry-run    say what would happen to each service, and why
  ecr_swarm_login.py              log in to the registries of all services, and refresh

Exit status: 0 all is well, 1 something failed, 2 wrong options, 3 nothing failed, but a service
has been held back for over six hours, 128+n stopped by signal n.
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
import concurrent.futures
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
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Callable, Optional

# Where root's pip installs on Fedora and Amazon Linux, which an isolated Python leaves out.
sys.path.append("/usr/local/lib/python{}.{}/site-packages".format(*sys.version_info))
# --help and --version do without.
SH_ERROR = ""
try:
    import sh
except Exception as error:  # noqa: BLE001 (a broken one may raise anything)
    SH_ERROR = f"{type(error).__name__}: {error}"

# How to read this file: from top to bottom, as the data goes: what docker shows, read into objects
# that nobody changes afterwards; the model of what an update would do; policy, a table; then acts.
# Few places do something to a machine: Programs.start() starts every program, hand_over() gives
# docker a token, update() changes the swarm. Nothing is written but the log, one folder in memory,
# and docker's logins.


# What is fixed ------------------------------------------------------------------------------------

TRY_SECONDS = 240  # of one try; eight of them and their pauses fit into the unit's TimeoutStartSec
PROGRAM_SECONDS = 60  # of one program: what takes longer hangs, and is killed
QUESTION_SECONDS = 20  # of one question to docker
UPDATE_SECONDS = 30  # of one update
STALE_SECONDS = 2  # after the first question no update is started that rests on the answers
CLOSING_SECONDS = 30  # that are left for the check after the last updates
KILL_SECONDS = 5  # between SIGTERM and SIGKILL
# Seconds before the next attempt of a try: a daemon that restarts takes some, and so does a new
# leader. Then, with --tries, comes the next try.
PAUSES = (1, 3, 9)
TRY_PAUSE = 60
SAID_LENGTH = 500  # characters of what a program said that are shown: the last ones tell most
# Services that are read, then updated, together; what was left undone goes on in smaller batches,
# so that what spoils a batch is alone in the end.
BATCHES = (32, 8, 2, 1)
LONG_HOURS = 6  # half a token's lifetime

# More at once gain nothing: the start of the docker client takes all processors.
PROCESSORS = os.cpu_count() or 1
BATCHES_AT_ONCE, UPDATES_AT_ONCE = min(4, 1 + PROCESSORS), min(16, 2 * PROCESSORS)

# Whole hosts only: a look-alike would get a token; amazon-ecr-credential-helper, api/client.go.
ECR_HOST = re.compile(
    r"[0-9]{12}\.dkr[.-]ecr(?:-fips)?\.([a-z0-9][a-z0-9-]*)\."
    r"(?:amazonaws\.com(?:\.cn)?|amazonaws\.eu|on\.aws|on\.amazonwebservices\.com\.cn"
    r"|sc2s\.sgov\.gov|c2s\.ic\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)"
)
# Regions whose names begin so have their registries elsewhere than in amazonaws.com.
PARTITIONS = {
    "cn": "amazonaws.com.cn",
    "eusc-de": "amazonaws.eu",
    "us-iso": "c2s.ic.gov",
    "us-isob": "sc2s.sgov.gov",
    "us-isof": "csp.hci.ic.gov",
    "eu-isoe": "cloud.adc-e.uk",
}
# A token is one word: what a wrapper around aws prints besides is none.
TOKEN = re.compile("[!-~]+")

AWS_TOKEN = ("aws", "ecr", "get-login-password", "--region")
AWS_ACCOUNT = ("aws", "sts", "get-caller-identity", "--query", "Account", "--output", "text")
VERSION = (
    *("docker", "version", "--format"),
    "{{.Client.Context}} {{.Client.DefaultAPIVersion}} {{.Server.APIVersion}}",
)
LOGIN = ("docker", "login", "--username", "AWS", "--password-stdin")
# Without a name, a password and a terminal docker authenticates with the login that it holds.
PROOF = ("docker", "login")
LEADER = ("docker", "node", "inspect", "self", "--format", "{{.ManagerStatus.Leader}}")
LIST = ("docker", "service", "ls", "--format", "{{.ID}} {{.Image}} {{.Name}}")
INSPECT = ("docker", "service", "inspect", "--format", "{{json .}}")
STATUS = ("docker", "service", "inspect", "--format", "{{.ID}} {{json .UpdateStatus}}")
TASKS = ("docker", "service", "ps", "--no-trunc", "--no-resolve", "--format", "{{json .}}")
SPECS = ("docker", "inspect", "--type", "task", "--format", "{{json .}}")
NODES = ("docker", "node", "inspect", "--format", "{{json .}}")
# Without a format the client prints what the daemon sent; with one, what it understands of that.
SENT = ("docker", "inspect", "--type", "service")
UPDATE = ("docker", "service", "update", "-d", "-q", "--with-registry-auth")
# xargs starts programs faster than any library.
XARGS = ("xargs", "-r", f"-P{UPDATES_AT_ONCE}", "-n1")

# What all programs find in their environment, besides a longer PATH.
ENVIRONMENT = {
    "GOGC": "off",  # the docker client starts faster
    "GOMAXPROCS": "1",
    "DOCKER_AUTH_CONFIG": "",  # the client of 28 would prefer it to the new login
    "AWS_ECR_IGNORE_CREDS_STORAGE": "true",  # or a credential helper refuses docker login
    "AWS_CLI_AUTO_PROMPT": "off",  # or aws fails without a terminal
}
UNSET = "DOCKER_API_VERSION"  # an old one strips settings that it does not know from each service
FOLDERS = ("/usr/local/bin", "/snap/bin")  # cron's PATH lacks them, and aws may be there

# What docker says when a credential helper gave it a login that the registry has taken, but cannot
# store one, as ECR's before 0.9.0 (amazon-ecr-credential-helper#102): that it tries, and later, by
# its version, one of two endings; and what it says if the registry has not taken it.
AUTHENTICATES = "authenticating with existing credentials"
NOT_STORED = ("saving credentials", "perform an interactive login")
REFUSED = ("login did not succeed", "invalid or expired")

# What an error says, how many tries it is worth (two: an instance role may come late), what helps.
NEVER, TWICE, ALWAYS = 0, 2, 60
PATH_HELP = "install it (xargs is in findutils), or set PATH= in /etc/default/ecr-swarm-login"
# fmt: off
REMEDIES = (
    ("multi-call binary", NEVER, "this is BusyBox's: install coreutils and findutils"),
    ("exit status 126", NEVER, "make it executable"),
    ("exit status 127", NEVER, PATH_HELP),
    ("permission denied while trying to connect", NEVER, "run it as root or in the group docker"),
    ('use "docker swarm init"', NEVER, "run it on a manager; while one boots, with --login-only"),
    ("worker nodes can't be used", NEVER, "run it on a manager"),
    ("swarm is encrypted", NEVER, "unlock it: docker swarm unlock"),
    ("is too old", NEVER, "update the docker client"),
    ("required permitted capability", NEVER, "see snaps in systemd/README.md"),
    ("unable to locate credentials", TWICE, "give the instance a role, or set AWS_PROFILE"),
    ("accessdenied", TWICE, "see What AWS has to allow in README.md"),
    ("connect to the endpoint url", ALWAYS, "check --region, and VPC endpoints if there are any"),
    ("docker daemon", ALWAYS, "see systemctl status docker"),
    ("docker api", ALWAYS, "see systemctl status docker"),
    ("401 unauthorized", ALWAYS, "check the account and the region of this registry"),
)
# fmt: on

SETTLED = ("", "completed", "rollback_completed")  # UpdateStatus.State

# What a task is to an update. Docker calls the desired states of a task that swarm wants so:
WANTED = ("Ready", "Running")
UNWANTED = ("Shutdown", "Remove", "Complete", "Orphaned")
# What decides is whether its image is there: from then on swarm ignores another token.
SERVES, PREPARES, LACKS_TOKEN, ENDED, STOPPED = (
    "serves",
    "prepares",
    "lacks a token",
    "ended by itself",
    "stopped by swarm, or with its node",
)
KINDS = {
    **dict.fromkeys(("New", "Allocated", "Pending", "Assigned", "Accepted", "Preparing"), PREPARES),
    **dict.fromkeys(("Ready", "Starting", "Running"), SERVES),
    **dict.fromkeys(("Complete", "Failed"), ENDED),
    **dict.fromkeys(("Shutdown", "Remove", "Orphaned"), STOPPED),
    "Rejected": LACKS_TOKEN,  # it never ran, as for an expired token
}
OVER = {ENDED, STOPPED}
AGE = re.compile(r"([A-Z][a-z]+) (?:less than a second|about an? [a-z]+|([0-9]{1,6}) ([a-z]+)) ago")
LONG_UNITS = ("days", "weeks", "months", "years")

# Where docker node inspect shows what constraints ask for.
NODE_LABELS = {"node": ("Spec", "Labels"), "engine": ("Description", "Engine", "Labels")}
NODE_FACTS = {
    "node.id": ("ID",),
    "node.hostname": ("Description", "Hostname"),
    "node.role": ("Spec", "Role"),
    "node.platform.os": ("Description", "Platform", "OS"),
    "node.platform.arch": ("Description", "Platform", "Architecture"),
}

# What docker service inspect adds to Spec, but not to PreviousSpec and to the specs of tasks:
# swarmkit, api/defaults.
ROLLOUT_DEFAULTS = {
    "Parallelism": 1,
    "FailureAction": "pause",
    "Monitor": 5 * 10**9,
    "MaxFailureRatio": 0,
    "Order": "stop-first",
}
TEMPLATE_DEFAULTS = {"Runtime": "container", "Resources": {}, "Placement": {}}
RESTART_DEFAULTS = {"Condition": "any", "Delay": 5 * 10**9, "MaxAttempts": 0}
CONTAINER_DEFAULTS = {"StopGracePeriod": 10 * 10**9, "DNSConfig": {}}

# How the spec of a task differs from what an update would write.
OLDER, UNSORTED, PLACED = "older", "unsorted", "placed"

DUE, RESTARTING, FORCED, REFRESHED, LEFT, HELD, OVERDUE, FAILED = OUTCOMES = (
    "will be refreshed",
    "will be refreshed, which restarts its tasks",
    "will be refreshed anyway",
    "refreshed",
    "left alone",
    "held back",
    "held back too long",
    "failed",
)
NOTICE = logging.INFO + 5
LEVELS = {
    RESTARTING: logging.WARNING,
    FORCED: logging.WARNING,
    HELD: NOTICE,
    OVERDUE: logging.WARNING,
    FAILED: logging.ERROR,
}
PRIORITIES = {logging.INFO: 6, NOTICE: 5, logging.WARNING: 4, logging.ERROR: 3}  # sd-daemon(3)
log = logging.getLogger("ecr_swarm_login")

GO_ON = " -> to go on: docker service update --with-registry-auth {0.name}"
ANYWAY = " -> to refresh it anyway: ecr_swarm_login.py --all-services {0.name}"
# What happens to a service: the first row that applies, of facts(); the outcome, by what it is held
# back for too long, whether --all-services overrules it, and why: {0} is the Service, {1} the options.
# fmt: off
POLICY = (
    ("elsewhere", LEFT, "", True,
     "its image is in no ECR registry, and an update would replace any login that it has"),
    ("moved", HELD, "", False,
     "its image was in another registry when the run began; the next run refreshes it"),
    ("a job", LEFT, "", True,
     "it is a job, and would run again"),
    ("of an unknown mode", HELD, "rollout", True,
     "its mode is {0.mode}, which this version does not know"),
    ("not understood", HELD, "rollout", True,
     "the docker client is older than the engine, and would drop {0.dropped}"
     " -> update the docker client"),
    ("without a tag", HELD, "rollout", True,
     "its image has neither tag nor digest, and the docker client would deploy {0.image}:latest"
     " -> give it a tag: docker service update --with-registry-auth --image {0.image}:TAG {0.name}"),
    ("amid a rollout", HELD, "rollout", True,
     "its rollout is {0.rollout.state}, and a refresh would push it on" + GO_ON + "{0.way_back};"
     " see docker service ps {0.name}"),
    ("behind", HELD, "change", True,
     "tasks of an older spec are at work, and a refresh would go on with the rollout" + GO_ON),
    ("to roll back", LEFT, "", True,
     "docker service rollback is kept possible for {1.keep_rollback} hours"),
    ("half finished, and lacks a token", FAILED, "", True,
     "finished tasks would start again, and others lack a valid token" + ANYWAY),
    ("half finished", HELD, "end", True,
     "some tasks have finished, and an update would start them again" + ANYWAY),
    ("finished", LEFT, "", True,
     "its tasks have finished, and would run again"),
    ("starting", HELD, "change", True,
     "its tasks are starting, and an update would start them again"),
    ("unsorted", RESTARTING, "change", False,
     "the docker client reorders its mounts or ulimits{0.what_runs_then}"),
    ("misplaced", RESTARTING, "change", False,
     "its placement is out of date, and any update with a token applies the new one"
     "{0.what_runs_then}"),
    ("too many", RESTARTING, "change", False,
     "more of its tasks are at work than there should be, and an update removes some"),
    ("in ECR", DUE, "", False, "it pulls from ECR"),
)
# fmt: on
# What an update does although nothing had shown it: a guess, and said as one.
UNFORESEEN = (
    "%s restarts: its tasks are being replaced, which nothing had shown before; the likely reason is"
    " an engine upgrade, after which docker may write an unchanged spec differently%s"
)


# Programs -----------------------------------------------------------------------------------------


class Problem(Exception):
    """What went wrong, in one line: what failed, what the program said -> what to do."""

    def __init__(self, text: str, tries: int = ALWAYS, stdout: str = "", said: str = "") -> None:
        super().__init__(text)
        self.tries = tries  # of --tries are worth it
        self.stdout, self.said = stdout, said  # of a program that failed; it said that on stderr

    def after(self, beginning: str) -> "Problem":
        """The same with more to say before it."""
        return Problem(f"{beginning}: {self}", self.tries)


# By what they befell: a service, by its name; or with a space in it, which no name has.
Problems = dict[str, Problem]
THE_RUN = "the run"


@contextlib.contextmanager
def noting(problems: Problems, names: Iterable[str]) -> Iterator[None]:
    """The one place where what is raised ends up: as the problem of all these names."""
    try:
        yield
    except Problem as problem:
        # Or all that it met on its way stays in memory.
        problems.update(dict.fromkeys(names, problem.with_traceback(None)))
    except Exception as error:  # noqa: BLE001 (one line is all that a person should read)
        text = f"docker shows what cannot be read, or something else went wrong: {error!r}"
        problems.update(dict.fromkeys(names, Problem(in_one_line(text))))


class Programs:
    """Starts all programs, of which none outlives the try's time or a signal."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment  # of all programs
        self.stopped_by = 0  # the signal
        self.stoppable: set[int] = set()  # process groups that a signal ends
        self.secrets: list[str] = []  # which nothing is to show
        self.begin_try()

    def begin_try(self) -> None:
        """From now on there are TRY_SECONDS."""
        self.deadline = time.monotonic() + TRY_SECONDS

    def seconds_left(self) -> float:
        """Until the try has to end; none after a signal."""
        return 0 if self.stopped_by else self.deadline - time.monotonic()

    def stop(self, number: int, _frame: Any) -> None:
        """Handle a signal: start nothing more, end what runs, say nothing more."""
        self.stopped_by = number
        log.warning("Stopped by %s; the next run does the rest", signal.Signals(number).name)
        log.disabled = True
        self.pass_on()

    def pass_on(self) -> None:
        """End what runs, if a signal came."""
        for group in list(self.stoppable) if self.stopped_by else ():
            signal_group(group, signal.SIGTERM)

    def run(
        self, *command: str, seconds: float = PROGRAM_SECONDS, is_secret: bool = False, **how: Any
    ) -> str:
        """Run a program to its end, within its time and the try's. Returns what it printed.

        One that is not stoppable is given all its time, or not started. If what it prints is
        secret, nothing shows it from then on. For the rest see start(). Raises Problem.
        """
        shown = command[len(XARGS) :] if command[: len(XARGS)] == XARGS else command
        name = " ".join(shown[:3]).partition(" -")[0]
        limit = min(seconds, self.seconds_left())
        if limit < (0.1 if how.get("is_stoppable", True) else seconds):
            raise Problem(f"{name} was not started: time limit reached")
        begun_at = time.monotonic()
        status, stdout, said = self.start(command, limit, **how)
        if is_secret and stdout:
            self.secrets.append(stdout)
        for secret in self.secrets:
            said = said.replace(secret, "[secret]")
        if status:
            has_hung = status in (124, 137) and time.monotonic() - begun_at >= limit - 0.1
            raise explained(name, status, has_hung, stdout, said)
        # Docker warns at each login that it stores it.
        if said and command[1] != "login":
            log.info("%s succeeded, and said: %s", name, in_one_line(said))
        return stdout

    def start(
        self,
        command: Sequence[str],
        seconds: float,
        stdin: str = "",
        environment: Optional[Mapping[str, str]] = None,  # besides that of all programs
        drain_seconds: float = 0,  # for what it has started in turn
        is_stoppable: bool = True,
    ) -> tuple[int, str, str]:
        """The one place that starts programs. Returns the exit status, stdout, and stderr."""
        variables = {**self.environment, **(environment or {})}
        timeout = shutil.which("timeout", path=variables["PATH"])
        if not timeout:
            raise Problem("timeout is not on the PATH -> install coreutils", NEVER)
        # In the foreground: it ends a program, but not what that has started in turn.
        limit = ("--foreground", f"--kill-after={KILL_SECONDS}", f"{seconds:.1f}")
        with memory(stdin) as given, memory() as out, memory() as err:
            options = {**sh_options(given, out, err), "_env": variables}
            running = sh.Command(timeout)(*limit, *command, **options)
            if is_stoppable:
                self.stoppable.add(running.pid)
            self.pass_on()  # a signal that has come before that
            with contextlib.suppress(sh.ErrorReturnCode):
                running.wait()
            self.end(running.pid, drain_seconds)
            return running.exit_code, content(out), content(err)

    def end(self, group: int, drain_seconds: float) -> None:
        """Wait for what a program has left running, but not for long; then kill it."""
        deadline = time.monotonic() + drain_seconds
        while signal_group(group, 0) and time.monotonic() < deadline:
            time.sleep(0.05)
        signal_group(group, signal.SIGKILL)
        self.stoppable.discard(group)


def memory(text: str = "") -> io.FileIO:
    """A file in memory, which programs read or print to: no pipe of theirs can block us, and the
    library sh logs none of it.
    """
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


def sh_options(given: io.FileIO, out: io.FileIO, err: io.FileIO) -> dict[str, Any]:
    """How the library sh starts a program: in a session, and so in a group, of its own."""
    return {
        "_tty_out": False,  # or the program believes in a terminal
        "_close_fds": False,  # needs no /proc
        "_new_session": True,
        "_bg": True,
        "_bg_exc": False,  # or a thread prints a traceback, with the program's stdout in it
        # By number: sh keeps what it is given in a cycle, open until that is collected.
        "_in": given.fileno(),
        "_out": out.fileno(),
        "_err": err.fileno(),
    }


def signal_group(group: int, number: int) -> bool:
    """Signal all processes of a group. Returns whether there is one left."""
    try:
        os.killpg(group, number)
    except OSError:
        return False
    return True


def in_one_line(said: str) -> str:
    """What a program said in the end, in one line that no terminal takes for a command."""
    printable = "".join(letter if letter.isprintable() else " " for letter in said)
    return " ".join(printable.split())[-SAID_LENGTH:]


def explained(name: str, status: int, has_hung: bool, stdout: str, said: str) -> Problem:
    """The problem with a program that has not ended well."""
    how = f"failed with exit status {status}"
    if has_hung:
        how = "hung, and was killed"
    elif status < 0:
        how = f"was killed by signal {-status}"
    text = f"{name} {how}: {in_one_line(said) or 'no output'}"
    for needle, tries, remedy in REMEDIES:
        if needle in text.lower():
            return Problem(f"{text} -> {remedy}", tries, stdout, said)
    return Problem(text, ALWAYS, stdout, said)


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
    has_lasted: bool  # it has been in this state for LONG_HOURS
    difference: str  # from what an update would write: OLDER, UNSORTED, PLACED, or ""


@dataclass(frozen=True)
class Rollout:
    """How far the last update has come."""

    state: str  # UpdateStatus.State
    began: str  # UpdateStatus.StartedAt, as docker prints it
    hours: float  # since it ended or began, or since the service was created
    rolls_back: bool  # by itself, if it fails
    changes_ports: bool
    is_deploy: bool  # it may have brought more than a token for the tasks
    leads_back: bool  # docker service rollback leads to another spec

    @property
    def kept_hours(self) -> float:
        """Since it has completed; without end if it has not."""
        return self.hours if self.state == "completed" else float("inf")


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
    slots: Mapping[str, Sequence[Task]]  # or nodes; the newest task first
    usable: Optional[frozenset[str]] = None  # IDs of nodes that it may use, if anybody asked

    @property
    def way_back(self) -> str:
        """How to go back from a rollout, if that leads anywhere."""
        can = self.rollout.leads_back and self.rollout.state in ("updating", "paused")
        return f"; to go back: docker service rollback {self.name}" if can else ""

    @property
    def what_runs_then(self) -> str:
        """What a restart of its tasks comes to if their image is not pinned."""
        is_pinned = "@" in self.image
        return "" if is_pinned else "; its image tag is not pinned: a newer image may start"

    def tasks(self, *kinds: str) -> list[Task]:
        """The tasks of some kinds that are a part of it now, that is, those that swarm wants."""
        tasks = [task for slot in self.slots.values() for task in slot]
        return [task for task in tasks if task.is_wanted and task.kind in kinds]


@dataclass(frozen=True)
class Snapshot:
    """What services are at one moment."""

    services: Sequence[Service]
    taken_at: float  # on the monotonic clock, before the first question


Document = dict[str, Any]  # what docker prints of one thing
Slots = dict[str, list[Task]]  # or nodes; the newest task first


def value_at(data: Any, *path: str) -> Any:
    """What lies at a path in nested objects; None where something is missing or no object."""
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def look(programs: Programs, versions: str, rows: Sequence[Row]) -> Snapshot:
    """What services are now, with their tasks. Raises Problem, LookupError and the like.

    The versions are the client's and the engine's, if the client is the older one.
    """
    taken_at = time.monotonic()
    ids = [row.short_id for row in rows]
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, programs, TASKS, ids)
        found = {data["Spec"]["Name"]: data for data in ask(programs, INSPECT, ids)}
        listed = asked.result()
    if found.keys() != {row.name for row in rows}:
        # It prefers a name: moby, daemon/cluster/helpers.go, getService.
        raise Problem(f"docker shows {', '.join(found) or 'nothing'} for ID {', '.join(ids)}")
    slots = slots_from(listed)
    specs = ask_for_specs(programs, found.values(), slots)
    dropped = ask_what_is_dropped(programs, versions, found.values())
    services = [
        service_from(data, slots.get(data["ID"], {}), specs, dropped[data["ID"]])
        for data in found.values()
    ]
    return Snapshot(with_nodes(programs, services), taken_at)


def ask(programs: Programs, command: Sequence[str], ids: Sequence[str]) -> list[Document]:
    """Ask docker for things by ID, but not for long. Returns those that are there.

    Where some are gone it names them, prints the others, and fails; what it neither prints nor
    names is no reason to go on. Raises Problem or ValueError.
    """
    try:
        printed = programs.run(*command, *ids, seconds=QUESTION_SECONDS) if ids else ""
    except Problem as problem:
        printed = problem.stdout
        if not all(each in problem.said or each in printed for each in ids):
            raise
    # Not splitlines(), which cuts JSON at U+0085, too.
    return [json.loads(line) for line in printed.split("\n") if line]


def ask_for_specs(
    programs: Programs, services: Iterable[Document], slots: Mapping[str, Slots]
) -> dict[str, Document]:
    """The tasks that tell of which spec they are, by ID: those that serve, in each run; and where a
    rollout is not settled, the newest of each slot, which may show what it deploys.
    """
    ids = []
    for data in services:
        is_settled = (value_at(data, "UpdateStatus", "State") or "") in SETTLED
        for tasks in slots.get(data["ID"], {}).values():
            told = [task for task in tasks if task.kind == SERVES]
            ids += [task.id for task in tasks if task in told or task in tasks[: 1 - is_settled]]
    return {data["ID"]: data for data in ask(programs, SPECS, ids)}


def ask_what_is_dropped(
    programs: Programs, versions: str, services: Iterable[Document]
) -> dict[str, str]:
    """The settings of services that a client which is older would drop, by ID."""
    understood = {data["ID"]: settings_in(data["Spec"]) for data in services}
    dropped = dict.fromkeys(understood, "")
    if versions:
        sent = json.loads(programs.run(*SENT, *understood, seconds=QUESTION_SECONDS))
        for data in sent:
            missing = settings_in(data["Spec"]) - understood[data["ID"]]
            dropped[data["ID"]] = ", ".join(sorted(missing)) + versions if missing else ""
    return dropped


def settings_in(data: Any, path: str = "") -> set[str]:
    """The paths of all that is set in nested objects and lists."""
    if isinstance(data, list):
        return set().union(*(settings_in(each, path) for each in data))
    if not isinstance(data, dict):
        return set()
    found = {path + key for key, value in data.items() if value}
    return found.union(*(settings_in(value, f"{path}{key}.") for key, value in data.items()))


def service_from(
    data: Document, slots: Slots, specs: Mapping[str, Document], dropped: str
) -> Service:
    """A service, as docker inspects it, with its tasks, listed and inspected. Raises KeyError etc."""
    spec = data["Spec"]
    (mode,) = spec["Mode"]
    replicas = int(spec["Mode"][mode].get("Replicas", 0))
    if replicas and not slots:
        raise Problem(f"docker lists none of its {replicas} tasks")
    template = with_defaults(spec["TaskTemplate"])
    made = [specs[task.id] for tasks in slots.values() for task in tasks if task.id in specs]
    written = Written(template, stored_template(data, template, made))
    return Service(
        id=data["ID"],
        name=spec["Name"],
        image=template["ContainerSpec"]["Image"],
        mode=mode,
        replicas=replicas,
        condition=template["RestartPolicy"]["Condition"],
        max_attempts=int(template["RestartPolicy"]["MaxAttempts"]),
        constraints=template["Placement"].get("Constraints") or (),
        rollout=rollout_from(data, written),
        unchanged_hours=hours_since(data["UpdatedAt"]),
        dropped=dropped,
        slots={slot: written.compared(tasks, specs) for slot, tasks in slots.items()},
    )


@dataclass(frozen=True)
class Written:
    """What an update would write of a service's tasks."""

    template: Document  # TaskTemplate, with defaults
    stored: Optional[Document]  # the same as swarm stores it, without them, if that is known

    def differs_from(self, template: Document) -> bool:
        """Whether another template is another one to swarm, which compares what is stored: a default
        that is spelled out makes a difference.
        """
        is_known_other = self.stored is not None and self.stored != as_stored(template)
        return is_known_other or with_defaults(template) != self.template

    def difference(self, task: Optional[Document]) -> str:
        """How a task differs from that, given docker inspect of it, or nothing if it is gone."""
        template = task["Spec"] if task else self.template
        here, there = with_defaults(template), self.template
        is_placed = here != there and {**here, "Placement": {}} == {**there, "Placement": {}}
        if task and self.differs_from(template) and not is_placed:
            return OLDER
        if not are_sorted(self.template["ContainerSpec"]):
            return UNSORTED
        return PLACED if is_placed else ""

    def compared(self, tasks: Iterable[Task], specs: Mapping[str, Document]) -> list[Task]:
        """The tasks with their differences."""
        return [replace(task, difference=self.difference(specs.get(task.id))) for task in tasks]


def stored_template(
    data: Document, template: Document, tasks: Sequence[Document]
) -> Optional[Document]:
    """A TaskTemplate as swarm stores it, with no default filled in: docker shows it of no service.

    A task that was made of it tells: one created since the rollout began, or since the service was
    changed. Without a rollout the former spec tells, too, since no update has replaced tasks since.
    None if nobody knows.
    """
    status = data.get("UpdateStatus") or {}
    # Without the Z an earlier moment is a smaller text.
    since = (status.get("StartedAt") or data["UpdatedAt"]).rstrip("Z")
    made = {task["CreatedAt"].rstrip("Z"): task["Spec"] for task in tasks}
    made = {when: spec for when, spec in made.items() if with_defaults(spec) == template}
    newest = max(made, default="")
    if newest >= since:
        return as_stored(made[newest])
    former = value_at(data, "PreviousSpec", "TaskTemplate")
    is_alike = not status and former and with_defaults(former) == template
    return as_stored(former) if is_alike else None


def as_stored(template: Document) -> Document:
    """A TaskTemplate of PreviousSpec or of a task, without what docker shows of the former alone."""
    return {key: value for key, value in template.items() if key != "Runtime"}


def rollout_from(data: Document, written: Written) -> Rollout:
    """How far the last update has come, as docker inspects the service."""
    status = data.get("UpdateStatus") or {}
    state, began = status.get("State", ""), status.get("StartedAt", "")
    former = data.get("PreviousSpec") or {}
    changes_ports = bool(former) and former.get("EndpointSpec") != data["Spec"].get("EndpointSpec")
    is_other = changes_ports or (bool(former) and written.differs_from(former["TaskTemplate"]))
    # A rollback that swarm began has no former spec. Once that has paused, there is nothing that it
    # could go on to: which tasks serve decides.
    is_unknown = written.stored is None or not (former or state == "rollback_paused")
    return Rollout(
        state=state,
        began=began,
        hours=hours_since(status.get("CompletedAt") or began or data["CreatedAt"]),
        rolls_back=value_at(data, "Spec", "UpdateConfig", "FailureAction") == "rollback",
        changes_ports=changes_ports,
        is_deploy=is_other or is_unknown,
        leads_back=is_other,
    )


def with_defaults(template: Document) -> Document:
    """A TaskTemplate as docker service inspect shows Spec, but not PreviousSpec and tasks."""
    return {
        **TEMPLATE_DEFAULTS,
        **template,
        "RestartPolicy": {**RESTART_DEFAULTS, **(template.get("RestartPolicy") or {})},
        "ContainerSpec": {**CONTAINER_DEFAULTS, **(template.get("ContainerSpec") or {})},
    }


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


def slots_from(rows: Sequence[Document]) -> dict[str, Slots]:
    """The tasks that docker service ps lists, the newest first, by ID of their service."""
    services: dict[str, Slots] = {}
    for row in reversed(rows):
        # SERVICE.SLOT, or SERVICE.NODE if it is global.
        service, _, slot = row["Name"].partition(".")
        tasks = services.setdefault(service, {}).setdefault(slot, [])
        tasks.insert(0, task_from(row, tasks[:1]))
    return services


def task_from(row: Document, former: Sequence[Task]) -> Task:
    """A task, as docker service ps shows it, given the one before it. Raises Problem."""
    desired, shown = row.get("DesiredState"), str(row.get("CurrentState"))
    # Running 7 hours ago
    age = AGE.fullmatch(shown)
    if not age or age[1] not in KINDS or desired not in (*WANTED, *UNWANTED):
        raise Problem(f"docker shows a task of it in an unknown state: {desired}, {shown[:99]}")
    has_lasted = age[3] in LONG_UNITS or (age[3] == "hours" and int(age[2]) >= LONG_HOURS)
    # Not every rejection is for want of a token: swarmkit, constraint_enforcer.go.
    is_misplaced = "assigned node no longer meets constraints" in str(row.get("Error"))
    kind = STOPPED if is_misplaced else KINDS[age[1]]
    lacks_token = has_lasted or any(task.kind == LACKS_TOKEN for task in former)
    kind = kind_of(kind, desired in WANTED, lacks_token)
    return Task(row["ID"], row["Node"], desired in WANTED, age[1], kind, has_lasted, "")


def kind_of(kind: str, is_wanted: bool, lacks_token: bool) -> str:
    """What a task is to an update, by its state, whether swarm wants it, and whether it may wait for
    a token: the one before it had none, or its own has expired meanwhile.
    """
    if kind in (SERVES, PREPARES) and not is_wanted:
        return STOPPED
    return LACKS_TOKEN if kind == PREPARES and lacks_token else kind


def with_nodes(programs: Programs, services: Sequence[Service]) -> list[Service]:
    """The services with the nodes that they may use, where that matters: to global ones."""
    # As long as nobody has asked, an update counts as if all could be used.
    spread = [each for each in services if each.mode == "Global" and touched(each)]
    ids = list(dict.fromkeys(node for each in spread for node in each.slots))
    nodes = ask(programs, NODES, ids)
    asked = {
        each.id: frozenset(node["ID"] for node in nodes if may_use(node, each.constraints))
        for each in spread
    }
    return [replace(each, usable=asked.get(each.id)) for each in services]


# The model: what swarm does with an update --------------------------------------------------------


def touched(service: Service) -> list[Task]:
    """The tasks to which an update with another token does something. Pure.

    Those that serve or prepare are stopped, and most are replaced; those that are over are started
    again. Source: moby/swarmkit, manager/orchestrator: replicated/services.go and global/global.go
    (reconcile), restart/restart.go (UpdatableTasksInSlot), update/updater.go (worker).
    """
    counting = {slot: tasks_that_count(service, tasks) for slot, tasks in service.slots.items()}
    counting = {slot: tasks for slot, tasks in counting.items() if tasks}
    stay, go = reconcile(service, counting)
    tasks = [task for slot in stay for task in replaced(service, counting[slot])]
    return tasks + [task for slot in go for task in counting[slot] if task.kind == SERVES]


def stopped(service: Service) -> list[Task]:
    """The tasks that serve, and that an update stops."""
    return [task for task in touched(service) if task.kind == SERVES]


def tasks_that_count(service: Service, tasks: Sequence[Task]) -> Sequence[Task]:
    """The tasks for which a slot counts: those wanted, or the newest if it is over for good."""
    wanted = [task for task in tasks if task.is_wanted]
    if wanted or restarts_itself(service, tasks[0]):
        return wanted
    return tasks[:1]


def restarts_itself(service: Service, task: Task) -> bool:
    """Whether swarm starts a task that is over again by itself: restart.go, shouldRestart.

    How many attempts are used up is not shown: with a limit, all may be.
    """
    if service.condition == "none":
        return False
    if service.condition == "on-failure" and task.state == "Complete":
        return False
    if service.mode == "Global" and task.kind == STOPPED:
        return True
    return service.max_attempts == 0


def reconcile(
    service: Service, counting: Mapping[str, Sequence[Task]]
) -> tuple[list[str], list[str]]:
    """Which of the slots that count stay and are updated, and which are removed."""
    if service.mode == "Replicated":
        slots = in_order_of_removal(counting)
        return slots[: service.replicas], slots[service.replicas :]
    # Tasks on other nodes are shut down, if they are not yet, and start nothing.
    return [node for node in counting if service.usable is None or node in service.usable], []


def in_order_of_removal(slots: Mapping[str, Sequence[Task]]) -> list[str]:
    """The slots of a replicated service, those that are removed first at the end.

    Source: replicated/slot.go. Running ones come first; then each counts as the nth copy on its
    node, and the first copies come before the second ones.
    """
    runs = {slot: any(task.state == "Running" for task in slots[slot]) for slot in slots}
    copies: Counter[str] = Counter()
    rank = {}
    for slot in sorted(slots, key=lambda slot: (not runs[slot], int(slot))):
        node = slots[slot][0].node if len(slots[slot]) == 1 else ""
        copies[node] += 1
        # Those of which the node is not known come last.
        rank[slot] = (not node, copies[node] if node else 0)
    # Go's sort keeps the order of equals in short lists only: in long ones, expect the worst.
    is_long = len(slots) > 12
    return sorted(rank, key=lambda slot: (rank[slot], is_long and runs[slot]))


def replaced(service: Service, tasks: Sequence[Task]) -> list[Task]:
    """The tasks of a slot that stays which are replaced, or shut down for another in the slot.

    Source: task.go, IsTaskDirty. The token is left out of account for tasks that serve, and so is
    the placement, but only if it alone is different: what was ignored when the placement was
    changed counts with a new token.
    """
    clean = [task for task in tasks if task.kind == SERVES and not task.difference]
    return [
        task
        for task in tasks
        if (task.kind == SERVES and task not in clean[:1])
        or task.kind in (PREPARES, LACKS_TOKEN)
        or (task.kind in OVER and not restarts_itself(service, task))
    ]


def may_use(node: dict[str, Any], constraints: Sequence[str]) -> bool:
    """Whether a global service keeps its task on a node up to date, as global.go has it."""
    is_down = value_at(node, "Status", "State") == "down"
    is_active = value_at(node, "Spec", "Availability") == "active"
    return is_active and not is_down and all(meets(node, each) for each in constraints)


def meets(node: dict[str, Any], constraint: str) -> bool:
    """Whether a node meets a constraint: swarmkit, manager/constraint/constraint.go.

    Raises KeyError or ValueError for one that this version does not know.
    """
    key, operator, wanted = map(str.strip, re.split("(==|!=)", constraint, maxsplit=1))
    label = re.fullmatch(r"(?i)(node|engine)\.labels\.(.+)", key)
    if key.lower() == "node.ip":
        address = ipaddress.ip_address(str(value_at(node, "Status", "Addr")))
        return (address in ipaddress.ip_network(wanted, strict=False)) == (operator == "==")
    if label:
        value = value_at(node, *NODE_LABELS[label[1].lower()], label[2])
    else:
        value = value_at(node, *NODE_FACTS[key.lower()])
    return (str(value or "").lower() == wanted.lower()) == (operator == "==")


def is_amid_rollout(rollout: Rollout, differences: set[str]) -> bool:
    """Whether an update would take down, or forget, what an unsettled rollout has left of the old,
    given how the tasks differ that serve and that the update would stop.
    """
    if rollout.state in SETTLED:
        return False
    if rollout.changes_ports or differences - {""}:
        return True
    if not rollout.is_deploy:
        return False
    if rollout.state == "updating" and rollout.rolls_back:
        return True
    # One that has waited for long, as for a node, has replaced all tasks that serve.
    return rollout.state not in ("updating", "paused") or rollout.hours < LONG_HOURS


# Policy -------------------------------------------------------------------------------------------

Verdict = tuple[str, str]  # what happens to a service, and why


def decide(service: Service, host: str, options: argparse.Namespace) -> Verdict:
    """What happens to a service that docker is logged in to `host` for. Pure."""
    tasks = touched(service)
    applies = facts(service, tasks, host, options)
    row = next(row for row in POLICY if applies[row[0]])
    _, outcome, clock, may_be_forced, text = row
    reason = text.format(service, options)
    if options.all_services and may_be_forced:
        return FORCED, f"although {reason.partition(' ->')[0]}"
    if outcome == RESTARTING and options.no_restart:
        outcome = HELD
    is_overdue = {
        "": False,
        "rollout": service.rollout.hours >= LONG_HOURS,
        "change": service.unchanged_hours >= LONG_HOURS,
        "end": any(task.has_lasted for task in tasks if task.kind in OVER),
    }
    return OVERDUE if outcome == HELD and is_overdue[clock] else outcome, reason


def facts(
    service: Service, tasks: Sequence[Task], host: str, options: argparse.Namespace
) -> Mapping[str, bool]:
    """What POLICY asks for, given the tasks that an update touches."""
    kinds = {task.kind for task in tasks}
    differences = {task.difference for task in tasks if task.kind == SERVES}
    # A task that swarm stopped may have attempts left, or none: nobody knows.
    doubtful = STOPPED in kinds and service.condition != "none"
    repeats = bool(kinds & OVER)
    rollout = service.rollout
    return {
        "elsewhere": not ecr_host(service.image),
        "moved": ecr_host(service.image) != host,
        "a job": service.mode in ("ReplicatedJob", "GlobalJob"),
        "of an unknown mode": service.mode not in ("Replicated", "Global"),
        "not understood": bool(service.dropped),
        "without a tag": ":" not in service.image.rpartition("/")[2],
        "amid a rollout": is_amid_rollout(rollout, differences),
        "behind": OLDER in differences,
        "to roll back": rollout.leads_back and rollout.kept_hours < options.keep_rollback,
        "half finished, and lacks a token": repeats and LACKS_TOKEN in kinds,
        "half finished": repeats and (doubtful or bool(service.tasks(SERVES, PREPARES))),
        "finished": repeats,
        "starting": PREPARES in kinds,
        "unsorted": UNSORTED in differences,
        "misplaced": PLACED in differences,
        "too many": bool(differences),
        "in ECR": True,
    }


# Logins and updates -------------------------------------------------------------------------------


def ecr_host(image: str) -> str:
    """The ECR registry of an image, or "" if it is in another."""
    host, slash, _ = image.partition("/")
    return host if slash and ECR_HOST.fullmatch(host) else ""


def region_of(host: str) -> str:
    """The region of an ECR registry."""
    return ECR_HOST.sub(r"\1", host)


def get_token(run: "Run", region: str) -> str:
    """Have aws print a token, which goes nowhere but to docker login. Raises Problem."""
    beginning = "Failed to acquire docker login credentials"
    try:
        token = run.programs.run(*AWS_TOKEN, region, is_secret=True)
    except Problem as problem:
        raise problem.after(beginning) from None
    if not TOKEN.fullmatch(token):
        text = f"{beginning}: aws printed {len(token)} characters that are no token (not shown)"
        raise Problem(f"{text} -> see what a wrapper, an alias or a profile makes aws print")
    return token


def hand_over(run: "Run", host: str, token: str, where: Mapping[str, str]) -> None:
    """The one place that gives docker a token: for a folder of the run, or, never cut short, for
    the place where docker keeps its logins by itself. Raises Problem.
    """
    try:
        run.programs.run(*LOGIN, host, stdin=token, environment=where, is_stoppable=bool(where))
    except Problem as problem:
        # The registry has accepted it, and what the helper supplies by itself is as good.
        if where or "not implemented" not in problem.said:
            raise problem.after(f"Docker login failed for {host}") from None
        log.log(NOTICE, "The credential helper for %s stores no logins, and supplies its own", host)


def log_in(run: "Run", host: str) -> None:
    """Log docker in: for the updates of this run, and beside them for deploys from here, or for
    these alone. Notes how docker finds the login. Raises Problem.
    """
    token = run.tokens[region_of(host)].result()
    where = {}
    if not run.options.login_only:
        folder = make_login_folder(run.folder, host)
        config = os.path.join(folder, "config.json")
        size = os.path.getsize(config)
        where = {"DOCKER_CONFIG": folder, "DOCKER_CONTEXT": run.context}
        hand_over(run, host, token, where)
        if os.path.getsize(config) == size:
            text = f"Docker login failed for {host}: docker does not use the folder of the run"
            raise Problem(f"{text} -> as a snap's: use --login-only, then --refresh-only", NEVER)
    for_deploys = run.one_by_one.submit(log_in_for_deploys, run, host, token)
    if run.options.login_only:
        for_deploys.result()
    run.logins[host] = where
    log.info("Docker login succeeded for %s", host)


def log_in_for_deploys(run: "Run", host: str, token: str) -> None:
    """Log docker in where deploys from here find it. Raises Problem if that is all that is asked for."""
    try:
        hand_over(run, host, token, {})
    except Problem as problem:
        if run.options.login_only:
            raise
        log.warning("Deploys from this host may send no valid login to %s: %s", host, problem)


def make_login_folder(folder: str, host: str) -> str:
    """A folder for one login, with links to all that docker's own has but config.json and drafts of
    that. Raises OSError if there is no room for it.
    """
    place = os.path.abspath(os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"))
    # mkdtemp, for there may be one of an earlier attempt.
    path = tempfile.mkdtemp(prefix=f"{host}-", dir=folder)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        for name in os.listdir(place):
            if not name.startswith("config.json"):
                os.symlink(os.path.join(place, name), os.path.join(path, name))
    # With this, and not without, the client keeps the login in this very file, whatever store
    # is on the PATH: docker/cli, cli/config/credentials/default_store.go.
    with open(os.path.join(path, "config.json"), "w") as config:
        json.dump({"auths": {host: {}}}, config)
    return path


def prove(run: "Run", host: str) -> None:
    """Have docker authenticate with the login that it holds, and would send. Raises Problem."""
    try:
        run.one_by_one.submit(run.programs.run, *PROOF, host, is_stoppable=False).result()
    except Problem as problem:
        said = f"{problem.stdout} {problem.said}".lower()
        was_accepted = AUTHENTICATES in said and any(text in said for text in NOT_STORED)
        if not was_accepted or any(text in said for text in REFUSED):
            raise problem.after(f"docker holds no valid login to {host}") from None
    run.logins[host] = {}


def refresh(run: "Run", host: str, rows: Sequence[Row]) -> None:
    """Look at services of one registry, decide, update. Notes or raises problems."""
    if run.programs.seconds_left() < CLOSING_SECONDS:
        raise Problem(f"not started: the {TRY_SECONDS} seconds of the try were over")
    snapshot = look(run.programs, run.versions, rows)
    due = []
    for service in sorted(snapshot.services, key=lambda service: service.name):
        verdict = decide(service, host, run.options)
        if verdict[0] not in (DUE, RESTARTING, FORCED) or run.options.dry_run:
            run.report.conclude(service.name, verdict)
            continue
        due.append(service)
        # One that is merely refreshed is named when that is done.
        if verdict[0] != DUE:
            run.report.say(service.name, verdict)
    if due:
        update(run, host, due, snapshot.taken_at)


def update(run: "Run", host: str, due: Sequence[Service], taken_at: float) -> None:
    """Have swarm store the login that docker holds: the one step that changes the swarm.

    None is started STALE_SECONDS after the first question; what has begun by then goes on. What
    counts is that docker says which services it has updated. Notes the problems of the others.
    """
    seconds = taken_at + STALE_SECONDS - time.monotonic()
    if seconds < 0.1:
        raise Problem(f"docker took over {STALE_SECONDS} seconds to answer: too old to act on")
    ids = "\n".join(service.id for service in due)
    problem = Problem("docker did not confirm the update")
    try:
        printed = run.programs.run(
            *XARGS,
            *UPDATE,
            seconds=seconds,
            stdin=ids,
            environment=run.logins.get(host),
            drain_seconds=UPDATE_SECONDS,
        )
    except Problem as error:
        printed, problem = error.stdout, error
    for service in due:
        if service.id not in printed.split():
            run.problems[service.name] = problem
            continue
        run.updated.append(service)
        run.report.conclude(service.name, (REFRESHED, ""))
        if stopped(service):
            run.report.restarts.add(service.name)


def in_batches(
    pool: ThreadPoolExecutor,
    problems: Problems,
    rows: Sequence[Row],
    do: Callable[[Sequence[Row]], None],
) -> None:
    """Have something done to all rows, batches side by side. What a batch has left undone goes on
    in smaller ones; only what fails alone has failed.
    """

    def attend(batch: Sequence[Row]) -> None:
        """Do it to a batch, and note what goes wrong."""
        for row in batch:
            problems.pop(row.name, None)
        with noting(problems, [row.name for row in batch]):
            do(batch)

    for size in BATCHES:
        batches = [rows[at : at + size] for at in range(0, len(rows), size)]
        list(pool.map(attend, batches))
        large = [row for batch in batches if len(batch) > 1 for row in batch]
        rows = [row for row in large if row.name in problems]


def say_restarts(run: "Run") -> None:
    """Name the services whose tasks are being replaced although nothing had shown it before: one
    whose tasks all stay has no new UpdateStatus. Raises Problem.
    """
    services = {each.id: each for each in run.updated if not touched(each)}
    run.updated.clear()
    printed = run.programs.run(*STATUS, *services) if services else ""
    for line in printed.split("\n"):
        key, _, status = line.partition(" ")
        began = re.search(r'"StartedAt":"([^"]+)"', status)
        if began and began[1] != services[key].rollout.began:
            run.report.restarts.add(services[key].name)
            log.warning(UNFORESEEN, services[key].name, services[key].what_runs_then)


# What is said -------------------------------------------------------------------------------------


class Report:
    """What happened to services and registries: said at once, and counted in the last line."""

    def __init__(self) -> None:
        self.verdicts: dict[str, Verdict] = {}  # by what they befell
        self.restarts: set[str] = set()  # services
        self.said: set[str] = set()  # problems, in full
        self.begun_at = time.monotonic()

    def conclude(self, name: str, verdict: Verdict) -> None:
        """What happened to a service in the end; an alarm is for the last line."""
        self.verdicts[name] = verdict
        if verdict[0] not in (OVERDUE, FAILED):
            self.say(name, verdict)

    def say(self, name: str, verdict: Verdict) -> None:
        """What happens to a service, and why."""
        outcome, reason = verdict
        text = f"{name} {outcome}" if outcome == REFRESHED else f"{name} {outcome}: {reason}"
        log.log(LEVELS.get(outcome, logging.INFO), "%s", text)

    def say_again(self, problems: Problems, seconds: int) -> None:
        """What is attempted again, and when: in full if it is said for the first time."""
        for text, names in by_text(problems).items():
            who = "" if names == [THE_RUN] else f"{label(names)} "
            if text in self.said:
                log.log(NOTICE, "%sstill fails; next attempt in %d s", who, seconds)
            else:
                log.warning("%sfailed; next attempt in %d s: %s", who, seconds, text)
            self.said.add(text)

    def end(self, problems: Problems, logins: int) -> int:
        """Say what the run did, and what is missing. Returns the exit status."""
        self.verdicts.update({name: (FAILED, str(each)) for name, each in problems.items()})
        services = [outcome for name, (outcome, _) in self.verdicts.items() if " " not in name]
        counts = {"login" if logins == 1 else "logins": logins}
        counts.update({outcome: services.count(outcome) for outcome in OUTCOMES})
        counts["restarted"] = len(self.restarts)
        done = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        done = f"{done or 'nothing to do'} in {time.monotonic() - self.begun_at:.1f} seconds"
        for outcome, status in ((FAILED, 1), (OVERDUE, 3)):
            reasons = {name: why for name, (how, why) in self.verdicts.items() if how == outcome}
            if reasons:
                log.log(LEVELS[outcome], "%s; %s: %s", done, outcome, in_short(reasons))
                return status
        log.info("%s", done)
        return 0


def by_text(reasons: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names that have the same reason, or problem, by its text."""
    names: dict[str, list[str]] = {}
    for name, reason in sorted(reasons.items()):
        names.setdefault(str(reason), []).append(name)
    return names


def label(names: Sequence[str]) -> str:
    """Services by name, as long as they are few."""
    return ", ".join(names) if len(names) < 4 else f"{len(names)} services"


def in_short(reasons: Mapping[str, str]) -> str:
    """Names with their reasons, three reasons at most."""
    said = [f"{label(names)}: {reason}" for reason, names in by_text(reasons).items()]
    return "; ".join(said[:3] + ["see above for more"] * (len(said) > 3))


# The run ------------------------------------------------------------------------------------------


@dataclass
class Run:
    """What is to be done, with what, and how far it has come."""

    options: argparse.Namespace
    programs: Programs
    folder: str  # for the logins of the run
    report: Report = field(default_factory=Report)
    problems: Problems = field(default_factory=dict)  # of the latest attempt
    context: str = ""  # docker's current one
    versions: str = ""  # of the APIs, if the client's is older than the engine's
    rows: dict[str, Row] = field(default_factory=dict)  # the services, by name
    account_host: str = ""  # the registry of the account, once that is known
    tokens: dict[str, "Future[str]"] = field(default_factory=dict)  # by region
    # Where docker finds a login that is good: variables, by host.
    logins: dict[str, dict[str, str]] = field(default_factory=dict)
    # Docker replaces config.json without a lock, and two logins would lose one another's.
    one_by_one: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    workers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(BATCHES_AT_ONCE))
    updated: list[Service] = field(default_factory=list)  # and not yet looked at again


def run_all(programs: Programs, options: argparse.Namespace) -> int:
    """Do all there is to do, and say how it ended. Returns the exit status."""
    run = Run(options, programs, make_run_folder())
    if not options.login_only:
        headline = "Running docker update swarm services registry auth"
        log.info("Dry run: nothing is changed" if options.dry_run else headline)
    with noting(run.problems, [THE_RUN]):
        try_often(run)
    shutil.rmtree(run.folder, ignore_errors=True)
    return run.report.end(run.problems, 0 if options.refresh_only else len(run.logins))


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
    for number in range(1, run.options.tries + 1):
        # The pause has a time of its own.
        run.programs.begin_try()
        if number > 1 and not pause(run, number, TRY_PAUSE):
            return
        run.programs.begin_try()
        attempt(run)
        for seconds in PAUSES:
            if pause(run, number, seconds):
                attempt(run)


def pause(run: Run, number: int, seconds: int) -> bool:
    """Wait before the next attempt, if something is worth it in the try of that number."""
    problems = {name: each for name, each in run.problems.items() if each.tries >= number}
    if not problems or run.programs.seconds_left() < CLOSING_SECONDS:
        return False
    run.report.say_again(problems, seconds)
    run.programs.run("sleep", str(seconds), seconds=2 * TRY_PAUSE)
    return True


def attempt(run: Run) -> None:
    """Find the services, log in to their registries, refresh what is left. Notes problems."""
    run.problems.clear()
    with noting(run.problems, [THE_RUN]):
        find_services(run)
        hosts = find_registries(run)
        groups = {} if run.options.login_only or not leads(run) else rows_by_host(run)
        serve_registries(run, hosts, groups)
        # Whatever is waiting there comes first.
        run.one_by_one.submit(int).result()
        say_restarts(run)


def find_services(run: Run) -> None:
    """Find all services, or those named. Raises Problem if docker does not list them.

    At boot, where a login is all that is asked for, there may be no swarm yet.
    """
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(find_versions, run)
        try:
            printed = run.programs.run(*LIST, seconds=QUESTION_SECONDS)
        except Problem as problem:
            if not run.options.login_only or "swarm manager" not in problem.said:
                raise
            log.log(NOTICE, "Not in a swarm yet, or not a manager")
            printed = ""
        asked.result()
    listed = [line.split(" ") for line in printed.split("\n") if line]
    # A plugin has no image.
    rows = {name: Row(short_id, name, ecr_host(image)) for short_id, image, name in listed}
    named = run.options.services or list(rows)
    run.rows = {name: rows[name] for name in named if name in rows}
    missing = Problem("there is no such service -> see docker service ls", NEVER)
    run.problems.update({name: missing for name in named if name not in rows})


def find_versions(run: Run) -> None:
    """Note docker's context, and the versions if the client is older. Raises Problem."""
    try:
        printed = run.programs.run(*VERSION, seconds=QUESTION_SECONDS)
    except Problem as problem:
        # Where the daemon is down the context is printed nevertheless.
        printed = problem.stdout
        if not printed:
            raise
    run.context, client, engine = [*printed.split(" "), "0", "0"][:3]
    numbers = [[int(part) for part in version.split(".")] for version in (client, engine)]
    is_older = numbers[0] < numbers[1]
    run.versions = f" (client API {client}, engine API {engine})" if is_older else ""


def find_registries(run: Run) -> set[str]:
    """The hosts to log in to: those of the services, and what the options name. Raises Problem."""
    options = run.options
    hosts = {row.host for row in run.rows.values()}.union(options.registry)
    if options.region and not run.account_host:
        with noting(run.problems, [f"registry in {options.region}"]):
            run.account_host = find_account_host(run, options.region)
    hosts = (hosts | {run.account_host}) - {""}
    if options.login_only and not hosts and not options.region:
        raise Problem("No service uses ECR -> pass --region or --registry", NEVER)
    return hosts


def find_account_host(run: Run, region: str) -> str:
    """The account's registry in a region. Raises Problem."""
    if run.options.dry_run:
        # Which one it is only AWS knows.
        return f"the registry of your account in {region}"
    command = (*AWS_ACCOUNT, "--region", region)
    account = run.programs.run(*command, seconds=QUESTION_SECONDS)
    suffix = PARTITIONS.get(region.rsplit("-", 2)[0], "amazonaws.com")
    host = f"{account}.dkr.ecr.{region}.{suffix}"
    if not ECR_HOST.fullmatch(host):
        raise Problem(f"aws printed no account ID -> see what it prints: {' '.join(command)}")
    return host


def leads(run: Run) -> bool:
    """Whether this manager refreshes. Raises Problem or KeyError if docker does not say who leads."""
    if not run.options.leader_only:
        return True
    is_leader = {"true": True, "false": False}[run.programs.run(*LEADER)]
    if not is_leader:
        log.info("Another manager leads the swarm, and refreshes its services")
    return is_leader


def rows_by_host(run: Run) -> dict[str, list[Row]]:
    """The services that are still to be refreshed, by registry; in another order each time, if there
    is time for some only.
    """
    groups: dict[str, list[Row]] = {}
    rows = [row for name, row in run.rows.items() if name not in run.report.verdicts]
    for row in random.sample(rows, len(rows)):
        groups.setdefault(row.host, []).append(row)
    if not run.options.all_services:
        for row in sorted(groups.pop("", []), key=lambda row: row.name):
            run.report.conclude(row.name, (LEFT, POLICY[0][-1]))
    return groups


def serve_registries(run: Run, hosts: set[str], groups: Mapping[str, Sequence[Row]]) -> None:
    """Log in to all registries side by side, and refresh their services. Notes problems."""
    missing = set() if run.options.refresh_only else hosts - run.logins.keys()
    if run.options.dry_run:
        log.info("Would log in to %s", ", ".join(sorted(missing)) or "no registry")
        missing = set()
    # In another order each time, since logins for deploys are made one by one.
    order = random.sample(sorted(hosts | groups.keys()), len(hosts | groups.keys()))
    with ThreadPoolExecutor(2 * len(order) + 1) as pool:
        regions = {region_of(host) for host in missing}
        run.tokens = {region: pool.submit(get_token, run, region) for region in regions}
        for host in order:
            pool.submit(serve_registry, run, host, groups.get(host, ()), host in missing)


def serve_registry(run: Run, host: str, rows: Sequence[Row], lacks_login: bool) -> None:
    """Log in to a registry, then refresh its services. Notes problems."""
    with noting(run.problems, [row.name for row in rows] or [f"registry {host}"]):
        if lacks_login:
            log_in(run, host)
        elif run.options.refresh_only and rows and not run.options.dry_run:
            prove(run, host)
        in_batches(run.workers, run.problems, rows, lambda batch: refresh(run, host, batch))


# The command line, and this process ---------------------------------------------------------------


def main(arguments: Optional[list[str]] = None) -> int:
    """Run, and end as one who is told to stop. Returns the exit status."""
    options = parse(arguments)
    if SH_ERROR:
        sys.exit(
            f"ecr_swarm_login: {sys.executable} cannot load the library sh: {SH_ERROR}"
            " -> apt-get install python3-sh, or pip3 install 'sh<3'"
        )
    programs = Programs(program_environment())
    prepare(programs, options.quiet)
    with ThreadPoolExecutor(1) as pool:
        status = pool.submit(run_all, programs, options)
        # In this thread Python handles signals, and not while it waits without end.
        while not status.done():
            concurrent.futures.wait([status], 0.1)
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
    are_hosts = all(map(ECR_HOST.fullmatch, options.registry))
    logs_in = options.login_only or options.region or options.registry
    spares = options.no_restart or options.keep_rollback
    # fmt: off
    errors = (
        ("" in options.services,
         "SERVICE takes the name of a service"),
        ("://" in "".join(options.registry),
         "--registry takes a host alone: leave out https://"),
        (not are_hosts,
         "--registry takes a host such as 123456789012.dkr.ecr.eu-central-1.amazonaws.com"),
        (not is_region,
         "--region takes a region such as eu-central-1"),
        (not 0 <= options.keep_rollback <= 10,
         "--keep-rollback takes a number from 0 to 10"),
        (not 1 <= options.tries <= ALWAYS,
         f"--tries takes a number from 1 to {ALWAYS}"),
        (options.refresh_only and logs_in,
         "--refresh-only does not log in: leave out --login-only, --region and --registry"),
        (options.all_services and spares,
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
    level = logging.WARNING if is_quiet else logging.INFO
    # Whatever the locale is; and not sys.stderr, which is None where 2 was closed.
    stream = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
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
    given = {name: value for name, value in os.environ.items() if name != UNSET}
    return {**given, **ENVIRONMENT, "PATH": ":".join([*path, *FOLDERS])}


if __name__ == "__main__":
    sys.exit(main())
