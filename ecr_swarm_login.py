#!/usr/bin/python3 -I
# /// script
# requires-python = ">=3.9"
# dependencies = ["sh>=1.14.1,<3"]
# ///
"""Give every Docker Swarm service that pulls from AWS ECR a fresh token, and change nothing else.

  ecr_swarm_login.py --dry-run    say what would become of each service, and why
  ecr_swarm_login.py              log in to the registries of all services, and refresh

Exit status: 0 all well, 1 something failed, 2 wrong options, 3 nothing failed, but a service has
been held back for over six hours, 128+n stopped by signal n.
"""

import os
import sys

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
import resource
import select
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Optional, Union

# Where root's pip installs on Fedora and Amazon Linux, which an isolated Python leaves out.
sys.path.append("/usr/local/lib/python{}.{}/site-packages".format(*sys.version_info))
# --help and --version do without.
with contextlib.suppress(ImportError):
    import sh

# How to read this file: from top to bottom. Few places do something to a machine: Programs.start()
# starts every program, log_in() hands a token from aws to docker, and update() changes the swarm.
# touched() computes what an update would do by swarm's own rules; spare() is the table of what
# is left alone for it. Nothing is written but the log, one folder in memory, and docker's logins.


# What is fixed ------------------------------------------------------------------------------------

RUN_SECONDS = 240  # of one try; eight of them and their pauses fit into the unit's TimeoutStartSec
PROGRAM_SECONDS = 60  # of one program: what takes longer hangs, and is killed
LOOK_SECONDS = 20  # of one question to docker
UPDATE_SECONDS = 30  # of one update
STALE_SECONDS = 2  # after a look nothing is begun that rests on it
PATIENCE_SECONDS = 3  # for a batch that hangs, before the next one begins beside it
CLOSING_SECONDS = 30  # that are kept for the look after the last updates
KILL_SECONDS = 5  # between SIGTERM and SIGKILL
READER_SECONDS = 5  # for a reader of the log that stalls; then the rest of it is dropped
# Seconds before what failed is tried again: a daemon that restarts takes some, and so does a new
# leader. TRY_SECONDS come before each further one of --tries.
PAUSES = (1, 3, 9)
TRY_SECONDS = 60
SECRET_LENGTH = 16  # characters in a row of a token that nothing shows
SAID_LENGTH = 500  # characters of what a program said that are shown: the last ones tell most
OUTPUT_BYTES = 64 * 2**20  # that a program may print: some ten times what 5,000 services take
BATCH = 100  # services at most that are looked at, then updated, within a second if docker keeps up
LONG_HOURS = 6  # half a token's life

# More at a time gain nothing: the start of the docker client takes all processors.
AT_ONCE = min(16, 4 * (os.cpu_count() or 1))

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

AWS_TOKEN = ("aws", "ecr", "get-login-password", "--region")
AWS_ACCOUNT = ("aws", "sts", "get-caller-identity", "--query", "Account", "--output", "text")
AWS_REGION = ("aws", "configure", "get", "region")
CONTEXT = ("docker", "context", "inspect", "--format", "{{.Name}}")
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
UPDATE = ("docker", "service", "update", "-d", "-q", "--with-registry-auth")

# What docker says when a credential helper gave it a login that the registry has taken, but cannot
# store one, as ECR's before 0.9.0 (amazon-ecr-credential-helper#102): that it tries, and later, by
# its version, one of two endings; and what it says if the registry has not taken it.
AUTHENTICATES = "authenticating with existing credentials"
NOT_STORED = ("saving credentials", "perform an interactive login")
REFUSED = ("login did not succeed", "invalid or expired")
NO_SWARM = 'use "docker swarm init"'
# What no second try cures, and what does.
REMEDIES = {
    "exit status 126": "may it be run?",
    "exit status 127": "is it installed, and on the PATH?",
    "permission denied while trying to connect": "run it as root, or as one of the group docker",
    NO_SWARM: "run it on a manager; at boot, with --login-only",
    "worker nodes can't be used": "run it on a manager",
    "swarm is encrypted": "unlock it: docker swarm unlock",
}

JOBS = ("ReplicatedJob", "GlobalJob")
MODES = ("Replicated", "Global")
SETTLED = ("", "completed", "rollback_completed")  # UpdateStatus.State
OWN = "your own registry in {}"

# What a task is to an update. Docker calls the desired states of a task that swarm wants so:
WANTED = ("Ready", "Running")
UNWANTED = ("Shutdown", "Remove", "Complete", "Orphaned")
SERVING, STARTING, STUCK, OVER, STOPPED = "serving", "starting", "stuck", "over", "stopped"
KINDS = {
    **dict.fromkeys(("New", "Allocated", "Pending", "Assigned", "Accepted", "Preparing"), STARTING),
    **dict.fromkeys(("Ready", "Starting", "Running"), SERVING),
    **dict.fromkeys(("Complete", "Failed"), OVER),  # by itself
    **dict.fromkeys(("Shutdown", "Remove", "Orphaned"), STOPPED),  # by swarm, or with its node
    "Rejected": STUCK,  # it never ran, as for a dead token
}
ENDED = {OVER, STOPPED}
AGE = re.compile(r"([A-Z][a-z]+) (?:less than a second|about an? [a-z]+|([0-9]{1,6}) ([a-z]+)) ago")

# Where docker node inspect shows what constraints ask for.
NODE_LABELS = {"node": ("Spec", "Labels"), "engine": ("Description", "Engine", "Labels")}
NODE_FACTS = {
    "node.id": ("ID",),
    "node.hostname": ("Description", "Hostname"),
    "node.role": ("Spec", "Role"),
    "node.platform.os": ("Description", "Platform", "OS"),
    "node.platform.arch": ("Description", "Platform", "Architecture"),
}

# What docker service inspect adds to Spec, but not to PreviousSpec: swarmkit, api/defaults.
ROLLOUT_DEFAULTS = {
    "Parallelism": 1,
    "FailureAction": "pause",
    "Monitor": 5 * 10**9,
    "MaxFailureRatio": 0,
    "Order": "stop-first",
}
RESTART_DEFAULTS = {"Condition": "any", "Delay": 5 * 10**9, "MaxAttempts": 0}

# Why, in the order of spare(); {0} is the Service, {1} the options.
ELSEWHERE = "its image is in no ECR registry, and its login would be replaced"
MOVED = "its image was in another registry when the run began; the next run refreshes it"
IS_JOB = "it is a job, and would run again"
UNKNOWN_MODE = "its mode is {0.mode}, which this version does not know"
NO_TAG = (
    "its image has neither tag nor digest, and the docker client would deploy {0.image}:latest;"
    " to give it one: docker service update --with-registry-auth --image {0.image}:TAG {0.name}"
)
ROLLOUT = (
    "its rollout is {0.rollout}, see docker service ps {0.name};"
    " to go on: docker service update --with-registry-auth {0.name}{0.way_back}"
)
KEPT = "docker service rollback is kept for {1.keep_rollback} hours"
ALL_THE_SAME = "; to refresh it all the same: ecr_swarm_login.py --all-services {0.name}"
CHOOSE = "some tasks have finished, and would run again; others need the token" + ALL_THE_SAME
PART_FINISHED = "some tasks have finished, and would run again" + ALL_THE_SAME
FINISHED = "its finished tasks would run again"
IS_STARTING = "its tasks are starting, and an update would start them once more"
LEFTOVER = (
    "its tasks restart: after it was scaled down, swarm would start a task that was left over,"
    " and remove a running one"
)
TOO_MANY = "its tasks restart: more tasks serve than it should have, and swarm would remove some"
UNSORTED = (
    "its tasks restart: the docker client sorts its mounts and ulimits (docker/cli#7226)"
    "{0.what_runs_then}"
)
PLACED = (
    "its tasks restart: they have another placement than the service, which swarm applies at the"
    " next update with a new token{0.what_runs_then}"
)
OLDER = "its tasks restart: they have an older spec than the service{0.what_runs_then}"
PULLS = "it pulls from ECR"

DUE, REFRESHED, LEFT, HELD, OVERDUE, FAILED = OUTCOMES = (
    "to be refreshed",
    "refreshed",
    "left alone",
    "held back",
    "held back too long",
    "failed",
)
NOTICE = logging.INFO + 5
LEVELS = {HELD: NOTICE, OVERDUE: logging.WARNING, FAILED: logging.ERROR}
PRIORITIES = {logging.INFO: 6, NOTICE: 5, logging.WARNING: 4, logging.ERROR: 3}  # sd-daemon(3)
log = logging.getLogger("ecr_swarm_login")


# Programs -----------------------------------------------------------------------------------------


class Problem(Exception):
    """What went wrong, in one line: what failed, what the program said, what to do next."""

    def __init__(self, text: str, is_final: bool = False) -> None:
        super().__init__(" ".join(text.split()))
        self.is_final = is_final  # to try again is no use

    def after(self, beginning: str) -> "Problem":
        """The same with more to say before it."""
        return Problem(f"{beginning}: {self}", self.is_final)


# By what they befell: a service, by its name; or with a space in it, which no name has.
Problems = dict[str, Problem]
THE_RUN = "the run"


def value_at(data: Any, *path: str) -> Any:
    """What lies at a path in nested objects; None where something is missing or no object."""
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data


@dataclass
class Result:
    """What a program that has ended leaves."""

    problem: Optional[Problem]
    stdout: str = ""
    said: str = ""  # on stderr, in one line, without what is secret

    def checked(self) -> "Result":
        """The same if there is no problem. Raises Problem."""
        if self.problem:
            raise self.problem
        return self

    def lines(self) -> list[str]:
        """What it printed. Not splitlines(), which cuts JSON at U+0085, too."""
        return [line for line in self.stdout.split("\n") if line]


class Programs:
    """Starts all programs, of which none outlives the run's time or a signal."""

    def __init__(self) -> None:
        self.stopped_by = 0  # the signal
        self.in_flight: set[int] = set()  # process groups that a signal ends
        self.secrets: list[str] = []  # which nothing is to show
        self.begin()

    def begin(self) -> None:
        """From now on a run has its RUN_SECONDS."""
        self.deadline = time.monotonic() + RUN_SECONDS

    def seconds_left(self) -> float:
        """Until the run has to end; none after a signal."""
        return 0 if self.stopped_by else self.deadline - time.monotonic()

    def stop(self, number: int, _frame: Any) -> None:
        """Handle a signal: start nothing more, end what runs, say nothing more."""
        self.stopped_by = number
        log.warning("Stopped by %s: the next run does what is left", signal.Signals(number).name)
        log.disabled = True
        self.pass_on()

    def pass_on(self) -> None:
        """End what runs, if a signal came."""
        for group in list(self.in_flight) if self.stopped_by else ():
            signal_group(group, signal.SIGTERM)

    def run(
        self,
        *command: str,
        seconds: float = PROGRAM_SECONDS,
        is_stoppable: bool = True,
        is_secret: bool = False,
        **how: Any,
    ) -> Result:
        """Run a program to its end, within its time and the run's.

        One that is not stoppable is given all its time, or not started. If what it prints is
        secret, nothing shows it from then on. For the rest see start().
        """
        name = " ".join(command[:3]).partition(" -")[0]
        limit = min(seconds, self.seconds_left())
        if limit < (0.1 if is_stoppable else seconds):
            return Result(Problem(f"{name} was not started: its time was over"))
        began = time.monotonic()
        status, stdout, said = self.start(command, limit, is_stoppable, **how)
        has_hung = status in (124, 137) and time.monotonic() - began >= limit - 0.1
        if is_secret:
            self.secrets.append(stdout)
        said = in_one_line(said, self.secrets)
        return Result(explain(name, status, said, limit * has_hung), stdout, said)

    def start(
        self,
        command: tuple[str, ...],
        seconds: float,
        is_stoppable: bool,
        stdin: str = "",
        through: tuple[str, ...] = (),  # what starts it in turn
        folder: str = "",  # of docker's logins
        drain_seconds: float = 0,  # for what it has started in turn
    ) -> tuple[int, str, str]:
        """The one place that starts programs. Returns the exit status, stdout, and stderr."""
        # In the foreground: it ends a program, but not what that has started in turn.
        limit = ("--foreground", f"--kill-after={KILL_SECONDS}", f"{seconds:.1f}")
        with memory(stdin) as given, memory() as out, memory() as err, memory() as born:
            try:
                options = sh_options(given, out, err, born, folder)
                running = sh.Command("timeout")(*limit, *through, *command, **options)
                self.in_flight.update([running.pid] * is_stoppable)
                self.pass_on()  # a signal that has come before that
                with contextlib.suppress(sh.ErrorReturnCode):
                    running.wait()
            finally:
                # Whatever went wrong, it ends, and with it what it left behind.
                self.end(int(content(born) or 0), drain_seconds)
            return running.exit_code, content(out), content(err)

    def end(self, group: int, drain_seconds: float) -> None:
        """Wait for what a program has left running, but not for long."""
        deadline = time.monotonic() + drain_seconds
        while group and signal_group(group, 0) and time.monotonic() < deadline:
            time.sleep(0.05)
        if group:
            signal_group(group, signal.SIGKILL)
        self.in_flight.discard(group)


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


def sh_options(
    given: io.FileIO, out: io.FileIO, err: io.FileIO, born: io.FileIO, folder: str
) -> dict[str, Any]:
    """How the library sh starts a program, with its logins in that folder, if there is one."""
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
        "_env": {**os.environ, **({"DOCKER_CONFIG": folder} if folder else {})},
        "_preexec_fn": lambda: become_bounded(born.fileno()),
    }


def become_bounded(born: int) -> None:
    """What a new process does first: note its number in a file, and bound what it can print."""
    os.write(born, b"%d" % os.getpid())
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_FSIZE, (OUTPUT_BYTES, hard))


def signal_group(group: int, number: int) -> bool:
    """Signal all processes of a group. Returns whether there is one left."""
    try:
        os.killpg(group, number)
    except OSError:
        return False
    return True


def in_one_line(said: str, secrets: list[str]) -> str:
    """What a program said in the end, in one line, without what is secret, whole or in parts."""
    said = re.sub(r"[\s\0-\37]+", " ", said[-8 * SAID_LENGTH :]).strip()
    every = "\n".join(secrets)
    hidden = {
        place + each
        for place in range(len(said) - SECRET_LENGTH + 1)
        if said[place : place + SECRET_LENGTH] in every
        for each in range(SECRET_LENGTH)
    }
    shown = ["\0" if place in hidden else letter for place, letter in enumerate(said)]
    return re.sub("\0+", "[secret]", "".join(shown))


def explain(name: str, status: int, said: str, hung_seconds: float) -> Optional[Problem]:
    """What went wrong with a program."""
    said = said[-SAID_LENGTH:]
    if not status:
        # Docker warns at each login that it stores it.
        if said and not name.startswith("docker login"):
            log.info("%s succeeded, and said: %s", name, said)
        return None
    reason = f"failed with exit status {status}"
    if hung_seconds:
        reason = f"hung, and was killed after {hung_seconds:.0f} seconds"
    elif status < 0:
        reason = f"was killed by signal {-status}"
    text = f"{name} {reason}: {said or 'it said nothing'}"
    for known, remedy in REMEDIES.items():
        if known in text.lower():
            return Problem(f"{text}: {remedy}", is_final=True)
    return Problem(text)


def attempt(names: Iterable[str], do: Any, *given: Any) -> Problems:
    """Do something. Returns its problems; what it raises is one for all of these names."""
    try:
        problems: Problems = do(*given)
    except Problem as problem:
        # Or all that it met on its way stays in memory.
        return dict.fromkeys(names, problem.with_traceback(None))
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        text = f"docker shows what cannot be read: {error!r}"
        return dict.fromkeys(names, Problem(text[:SAID_LENGTH]))
    except Exception as error:  # noqa: BLE001 (one line is all that a person should read)
        return dict.fromkeys(names, Problem(f"something went wrong: {error!r}"[:SAID_LENGTH]))
    return problems


def gather(jobs: list["Future[Problems]"]) -> Problems:
    """The problems of all that was done side by side."""
    return {name: problem for job in jobs for name, problem in job.result().items()}


# Registries and logins ----------------------------------------------------------------------------


def ecr_host(image: str) -> str:
    """The ECR registry of an image, or "" if it is in another."""
    host, slash, _ = image.partition("/")
    return host if slash and ECR_HOST.fullmatch(host) else ""


def region_of(host: str) -> str:
    """The region of an ECR registry."""
    return ECR_HOST.sub(r"\1", host)


def docker_folder() -> str:
    """Where docker keeps its logins by itself."""
    return os.path.abspath(os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"))


def make_run_folder() -> str:
    """A folder for the run's own logins, in memory if it can be."""
    # systemd's is gone even after SIGKILL: systemd.exec(5), RuntimeDirectory=.
    places = (os.environ.get("RUNTIME_DIRECTORY"), os.environ.get("TMPDIR"), "/dev/shm", "/tmp")
    for place in filter(None, places):
        with contextlib.suppress(OSError):
            return tempfile.mkdtemp(prefix="ecr_swarm_login-", dir=place)
    return "/dev/null/none"  # where there is room for nothing


@dataclass
class Registries:
    """Tokens and logins of one run, all registries at once, side by side."""

    programs: Programs
    folder: str  # the run's own
    tokens: dict[str, "Future[str]"] = field(default_factory=dict)  # by region
    # Where docker keeps a good login, by host: a folder of the run's own, or "" for docker's own
    # place, which others may change.
    logins: dict[str, str] = field(default_factory=dict)
    # Logins in docker's own place, by host.
    kept: dict[str, "Future[Optional[Problem]]"] = field(default_factory=dict)
    # One by one: docker replaces config.json without a lock, and two would lose one another's.
    one_by_one: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def get_token(self, region: str) -> str:
        """Have aws print a token, which goes nowhere but to docker login."""
        return self.programs.run(*AWS_TOKEN, region, is_secret=True).checked().stdout

    def log_in(self, host: str, is_for_deploys: bool) -> None:
        """Log docker in to a registry in its own place, and beside that in a folder of the run's own,
        unless it is for deploys from here alone.

        Notes that folder; "" if docker has its own place only. Raises Problem.
        """
        token = self.tokens[region_of(host)].result()
        self.kept[host] = self.one_by_one.submit(self.keep, host, token)
        folder = "" if is_for_deploys else self.log_in_apart(host, token)
        if not folder:
            problem = self.kept[host].result()
            # An older login that docker holds is no reason to go on when AWS's token is refused.
            if problem and not is_for_deploys:
                raise problem
        self.logins[host] = folder
        where = "" if folder or is_for_deploys else " in its own place only"
        log.info("Docker login succeeded for %s%s", host, where)

    def log_in_apart(self, host: str, token: str) -> str:
        """Log docker in in a folder of the run's own; "" if there is no room for one, or docker does
        not use it, as a snap's.
        """
        with contextlib.suppress(OSError):
            folder = make_login_folder(self.folder, host)
            config = os.path.join(folder, "config.json")
            size = os.path.getsize(config)
            result = self.programs.run(*LOGIN, host, stdin=token, folder=folder)
            if not result.problem and os.path.getsize(config) > size:
                return folder
        return ""

    def keep(self, host: str, token: str) -> Optional[Problem]:
        """Log docker in where it keeps its logins, for deploys from here. Raises Problem.

        This is never cut short. What counts is that a login is there, by whatever way; returned is
        the problem with this one. If docker says that it lies in config.json, and there is one, it
        does; else docker proves it.
        """
        result = self.programs.run(*LOGIN, host, stdin=token, is_stoppable=False)
        config = os.path.join(docker_folder(), "config.json")
        # It warns of a login that no credential store keeps.
        if not result.problem and "unencrypted" in result.said and os.path.exists(config):
            return None
        try:
            self.prove(host)
        except Problem as problem:
            raise result.problem or problem from None
        return result.problem

    def prove(self, host: str, beginning: str = "") -> None:
        """Have docker authenticate with the login that it holds, and would send. Raises Problem.

        It is not cut short either: some clients store the login again.
        """
        result = self.programs.run(*PROOF, host, is_stoppable=False)
        said = (result.stdout + result.said).lower()
        is_over = AUTHENTICATES in said and any(text in said for text in NOT_STORED)
        is_refused = any(text in said for text in REFUSED)
        if result.problem and (is_refused or not is_over):
            # The next attempt logs in again; a login in a folder of the run's own is still good.
            if not self.logins.get(host):
                self.logins.pop(host, None)
            text = f"{beginning}docker holds no login that the registry takes"
            raise result.problem.after(text)

    def say_what_is_not_kept(self) -> None:
        """Warn of registries that deploys from here have no login for."""
        for host in self.logins.keys() & self.kept.keys():
            problem = self.kept.pop(host).exception()
            if problem:
                text = "docker does not keep the login to %s, and a deploy from here sends none: %s"
                log.warning(text, host, problem)


def make_login_folder(folder: str, host: str) -> str:
    """A folder for one login of docker's, with links to all that its own place has but
    config.json and drafts of that. Raises OSError if there is no room for it.
    """
    # mkdtemp, for there may be one of an earlier attempt.
    path = tempfile.mkdtemp(prefix=f"{host}-", dir=folder)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        for name in os.listdir(docker_folder()):
            if not name.startswith("config.json"):
                os.symlink(os.path.join(docker_folder(), name), os.path.join(path, name))
    # With this, and not without, the client keeps the login in this very file, whatever store
    # is on the PATH: docker/cli, cli/config/credentials/default_store.go.
    with open(os.path.join(path, "config.json"), "w") as config:
        json.dump({"auths": {host: {}}}, config)
    return path


# The model: what swarm does with an update --------------------------------------------------------


@dataclass
class Task:
    """A task, as docker service ps shows it."""

    id: str
    node: str  # its ID, or "" as long as there is none
    is_wanted: bool  # swarm wants it to run: its desired state is at most Running
    state: str
    kind: str  # what it is to an update: a value of KINDS
    is_old: bool  # it has been in this state for LONG_HOURS
    difference: str = ""  # why it is not as an update would have it: UNSORTED, PLACED, OLDER


@dataclass
class Service:
    """All that decides about a service."""

    id: str
    name: str
    version: int  # which each update raises
    image: str  # with its tag and digest, as far as it has them
    mode: str  # Replicated, Global, ReplicatedJob, GlobalJob, or one that is unknown
    replicas: int
    condition: str  # when tasks are restarted: any, on-failure, none
    max_attempts: int  # of restarts; 0 if there is no limit
    rollout: str  # UpdateStatus.State
    began: str  # UpdateStatus.StartedAt, as docker prints it
    hours: float  # since the rollout ended or began, or since the service was created
    quiet_hours: float  # since anything was changed: its token is no younger
    rolls_back: bool  # by itself, if the rollout fails
    changed: set[str]  # the parts of its spec that the last update changed, besides the token
    template: dict[str, Any]  # TaskTemplate, with defaults
    slots: dict[str, list[Task]] = field(default_factory=dict)  # or nodes; the newest task first
    nodes: dict[str, bool] = field(default_factory=dict)  # whether it may use them, by ID

    @property
    def may_finish(self) -> bool:
        """Whether tasks can end for good, until an update starts them again."""
        return self.condition != "any" or self.max_attempts > 0

    def tasks(self, *kinds: str) -> list[Task]:
        """The tasks of some kinds that are a part of it now, that is, those that swarm wants."""
        tasks = [task for slot in self.slots.values() for task in slot]
        return [task for task in tasks if task.is_wanted and task.kind in kinds]

    @property
    def changes_tasks(self) -> bool:
        """Whether the last update brought more than a token for its tasks."""
        return not self.changed.isdisjoint(("TaskTemplate", "EndpointSpec"))

    @property
    def what_runs_then(self) -> str:
        """What a restart of its tasks comes to if their image is not pinned."""
        return (
            ""
            if "@" in self.image
            else "; they will run whatever the tag of their image points to by then"
        )

    @property
    def way_back(self) -> str:
        """How to go back from a rollout, if docker can do that."""
        can = self.rollout in ("updating", "paused")
        return f"; to go back: docker service rollback {self.name}" if can else ""

    @property
    def is_in_rollout(self) -> bool:
        """Whether something of the old is left, which an update would take down, or forget."""
        if self.rollout in SETTLED:
            return False
        runs_old = any(task.difference for task in self.tasks(SERVING))
        may_roll_back = self.rollout == "updating" and self.rolls_back
        is_stale = self.rollout in ("updating", "paused") and self.hours >= LONG_HOURS
        return runs_old or (self.changes_tasks and (may_roll_back or not is_stale))


def touched(service: Service) -> list[Task]:
    """The tasks to which an update with another token does something. Pure.

    Those that serve, start or are stuck are stopped, and most are replaced; those that are over are
    started again. Source: moby/swarmkit, manager/orchestrator: replicated/services.go and
    global/global.go (reconcile), restart/restart.go (UpdatableTasksInSlot), update/updater.go
    (worker).
    """
    slots = {number: updatable(service, tasks) for number, tasks in service.slots.items()}
    kept, removed = reconcile(service, slots)
    tasks = []
    for number in kept:
        tasks += tasks_replaced(service, slots[number])
    for number in removed:
        tasks += [task for task in slots[number] if task.kind == SERVING]
    if service.may_finish and service.mode == "Replicated":
        # Slots that do not count are deleted, and what is missing then is started.
        dead = [service.slots[number][0] for number in slots if not slots[number]]
        tasks += dead[: service.replicas - len(kept)]
    return tasks


def updatable(service: Service, tasks: list[Task]) -> list[Task]:
    """The tasks for which a slot counts: those wanted, or the newest if it is over for good."""
    wanted = [task for task in tasks if task.is_wanted]
    if not wanted and not restarts_itself(service, tasks[0]):
        return tasks[:1]
    return wanted


def restarts_itself(service: Service, task: Task) -> bool:
    """Whether swarm starts a task of this kind again by itself: restart.go, shouldRestart."""
    has_succeeded = service.condition == "on-failure" and task.state == "Complete"
    if service.condition == "none" or has_succeeded:
        return False
    # How many attempts are used up is not shown. All are, if it ended by itself and no other came;
    # and may be, if a replicated one is as the spec says: its node had gone. A rollout takes none.
    is_replaced = service.mode == "Global" or bool(task.difference)
    return not service.max_attempts or (task.kind == STOPPED and is_replaced)


def reconcile(service: Service, slots: dict[str, list[Task]]) -> tuple[list[str], list[str]]:
    """Which of the slots that count stay and are updated, and which are removed."""
    slots = {number: tasks for number, tasks in slots.items() if tasks}
    if service.mode != "Replicated":
        # Tasks on other nodes are shut down, if they are not yet, and start nothing. All count as
        # long as nobody has asked for nodes.
        return [node for node in slots if not service.nodes or service.nodes.get(node)], []
    numbers = in_order_of_removal(slots)
    return numbers[: service.replicas], numbers[service.replicas :]


def in_order_of_removal(slots: dict[str, list[Task]]) -> list[str]:
    """The slots of a replicated service, those that are removed first at the end.

    Source: replicated/slot.go. Running ones come first; then each counts as the nth copy on its
    node, and the first copies come first.
    """
    runs = {slot: any(task.state == "Running" for task in tasks) for slot, tasks in slots.items()}
    copies: dict[str, int] = {}
    rank: dict[str, float] = {}
    for slot in sorted(slots, key=lambda slot: (not runs[slot], int(slot))):
        node = slots[slot][0].node if len(slots[slot]) == 1 else ""
        copies[node] = copies.get(node, 0) + 1
        rank[slot] = copies[node] if node else float("inf")
    # Go's sort keeps the order of equals in short lists only: in long ones, expect the worst.
    is_long = len(slots) > 12
    return sorted(rank, key=lambda slot: (rank[slot], is_long and runs[slot]))


def tasks_replaced(service: Service, tasks: list[Task]) -> list[Task]:
    """The tasks of a slot that stays which are replaced, or shut down for another in the slot.

    One that is not dirty stays: task.go, IsTaskDirty. The token is left out of account for tasks
    that serve, and so is the placement, but only if it alone is different: what was ignored when
    the placement was changed counts with a new token.
    """
    stays = [task for task in tasks if task.kind == SERVING and not task.difference][:1]
    gone = [task for task in tasks if task.kind in ENDED and restarts_itself(service, task)]
    return [task for task in tasks if task not in stays + gone]


def may_use(node: dict[str, Any], constraints: list[str]) -> bool:
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
    value = value_at(node, *NODE_LABELS[label[1].lower()], label[2]) if label else None
    if key.lower() == "node.ip":
        address = ipaddress.ip_address(str(value_at(node, "Status", "Addr")))
        return (address in ipaddress.ip_network(wanted, strict=False)) == (operator == "==")
    if not label:
        value = value_at(node, *NODE_FACTS[key.lower()])
    return (str(value or "").lower() == wanted.lower()) == (operator == "==")


# Policy -------------------------------------------------------------------------------------------


def decide(service: Service, host: str, options: argparse.Namespace) -> tuple[str, str]:
    """What becomes of a service that docker is logged in to `host` for, and why. Pure."""
    outcome, reason = spare(service, host, options)
    # Not with the login of another registry.
    if options.all_services and outcome != DUE and reason != MOVED:
        return DUE, f"as every service is, although {reason}"
    return outcome, reason


def spare(service: Service, host: str, options: argparse.Namespace) -> tuple[str, str]:
    """What becomes of a service: the first line that applies."""
    tasks = touched(service)
    kinds = {task.kind for task in tasks}
    repeats = bool(kinds & ENDED)
    stops = why_stops(tasks)
    by_rollout = held_or_overdue(service.hours >= LONG_HOURS)
    by_change = held_or_overdue(service.quiet_hours >= LONG_HOURS)
    by_end = held_or_overdue(any(task.is_old for task in tasks if task.kind in ENDED))
    restart = by_change if options.no_restart else DUE
    # fmt: off
    table = (
        (not ecr_host(service.image),                      LEFT,       ELSEWHERE),
        (ecr_host(service.image) != host,                  HELD,       MOVED),
        (service.mode in JOBS,                             LEFT,       IS_JOB),
        (service.mode not in MODES,                        by_rollout, UNKNOWN_MODE),
        (":" not in service.image.rpartition("/")[2],      by_rollout, NO_TAG),
        (service.is_in_rollout,                            by_rollout, ROLLOUT),
        (keeps_rollback(service, options),                 LEFT,       KEPT),
        (repeats and stops == TOO_MANY,                    restart,    LEFTOVER),
        (repeats and STUCK in kinds,                       FAILED,     CHOOSE),
        (repeats and service.tasks(SERVING, STARTING),     by_end,     PART_FINISHED),
        (repeats,                                          LEFT,       FINISHED),
        (STARTING in kinds,                                by_change,  IS_STARTING),
        (stops,                                            restart,    stops),
        (True,                                             DUE,        PULLS),
    )
    # fmt: on
    outcome, reason = next((outcome, reason) for applies, outcome, reason in table if applies)
    return outcome, reason.format(service, options)


def why_stops(tasks: list[Task]) -> str:
    """Why tasks that serve are stopped; "" if none is."""
    reasons = [task.difference or TOO_MANY for task in tasks if task.kind == SERVING]
    return (reasons or [""])[0]


def held_or_overdue(is_long: bool) -> str:
    """What becomes of a service that is to wait: a person has to look if it has waited long."""
    return OVERDUE if is_long else HELD


def keeps_rollback(service: Service, options: argparse.Namespace) -> bool:
    """Whether docker service rollback is to go on to lead somewhere."""
    is_change = service.rollout == "completed" and service.changes_tasks
    return is_change and service.hours < options.keep_rollback


# Look, update, look again -------------------------------------------------------------------------


@dataclass
class Row:
    """A service as docker service ls shows it."""

    short_id: str  # how its ID begins
    name: str
    host: str  # the ECR registry of its image by then, or ""


def refresh(run: "Run", host: str, rows: dict[str, Row]) -> Problems:
    """Look at services of one registry, decide, update. Returns the problems of the updates.

    Several are looked at together. What spoils that, as one that has just been removed, raises
    Problem or something else for all; they are tried again one by one, and then it has it alone.
    """
    # Without one of the run's own that counts which docker holds in its own place.
    folder = run.registries.logins.get(host, "")
    is_guarded = bool(host) and not folder and not run.options.dry_run
    # A proof is not begun if it might have to be cut short.
    if run.programs.seconds_left() < CLOSING_SECONDS + 2 * PROGRAM_SECONDS * is_guarded:
        raise Problem(f"the {RUN_SECONDS} seconds of the run were over before its turn came")
    run.tried.update(rows)
    if is_guarded:
        run.registries.one_by_one.submit(run.registries.prove, host).result()
    services, looked_at = look(run.programs, rows, run.known)
    due = decide_all(run, host, services)
    if not due:
        run.pace = BATCH
        return {}
    problems = update(run, due, folder, looked_at)
    if is_guarded:
        text = "may have been sent an empty login: "
        run.registries.one_by_one.submit(run.registries.prove, host, text).result()
    for service in due:
        if service.name not in problems:
            run.report.refreshed(service)
    return problems


def look(
    programs: Programs, rows: dict[str, Row], known: dict[tuple[str, int], str]
) -> tuple[list[Service], float]:
    """What services are now, with their tasks, and since when docker says so. Raises Problem."""
    ids = [row.short_id for row in rows.values()]
    answered: list[float] = []

    def ask(*command: str) -> list[dict[str, Any]]:
        """Ask docker something, but not for long."""
        result = programs.run(*command, seconds=LOOK_SECONDS).checked()
        answered.append(time.monotonic())
        return [json.loads(line) for line in result.lines()]

    with ThreadPoolExecutor(1) as pool:
        tasks = pool.submit(ask, *TASKS, *ids)
        services = {data["Spec"]["Name"]: service_from(data) for data in ask(*INSPECT, *ids)}
    if services.keys() != rows.keys():
        # It prefers a name: moby, daemon/cluster/helpers.go, getService.
        raise Problem(
            f"docker shows {', '.join(services) or 'nothing'} for its ID {', '.join(ids)}"
        )
    found = list(services.values())
    attach(found, tasks.result())
    for service in found:
        if service.replicas and not service.slots:
            raise Problem(f"docker lists none of its {service.replicas} tasks")
    look_at_specs(found, ask, known)
    look_at_nodes(found, ask)
    return found, min(answered)


def look_at_specs(services: list[Service], ask: Any, known: dict[tuple[str, int], str]) -> None:
    """See whether tasks are as the spec says, where that is in doubt. Raises KeyError for one
    that docker does not show.

    What is known by task and version of its service is not asked for again: of many tasks the
    answer comes too late for an update, and the next try has it.
    """
    compared = [(task, service) for service in services for task in to_compare(service)]
    owners = {each.id: it for each, it in compared if (each.id, it.version) not in known}
    for data in ask(*SPECS, *owners) if owners else []:
        service = owners[data["ID"]]
        known[data["ID"], service.version] = difference_of(service, data)
    for task, service in compared:
        task.difference = task.difference or known[task.id, service.version]


def to_compare(service: Service) -> list[Task]:
    """The tasks of which it matters whether they are as the spec says."""
    # Where nothing was changed since a rollout has ended, tasks that serve are as the spec says. Not
    # so after a rollback, which is no refresh: it brings back the spec, and an older token.
    is_steady = service.rollout in ("", "completed") and not service.changed
    serving = [] if is_steady else service.tasks(SERVING)
    if service.mode == "Global" or not service.max_attempts:
        return serving
    slots = [tasks for tasks in service.slots.values() if not any(each.is_wanted for each in tasks)]
    return serving + [tasks[0] for tasks in slots if tasks[0].kind == STOPPED]


def look_at_nodes(services: list[Service], ask: Any) -> None:
    """See which nodes global services may use, where it matters."""
    # As long as they are not known, an update counts as if all could be used.
    spread = [service for service in services if service.mode == "Global" and touched(service)]
    nodes = {node for service in spread for node in service.slots}
    shown = ask(*NODES, *nodes) if nodes else []
    for service in spread:
        constraints = value_at(service.template, "Placement", "Constraints") or []
        service.nodes = {data["ID"]: may_use(data, constraints) for data in shown}


def service_from(data: dict[str, Any]) -> Service:
    """What docker service inspect says of a service. Raises KeyError and the like."""
    spec, status = data["Spec"], data.get("UpdateStatus") or {}
    template = with_defaults(spec)["TaskTemplate"]
    (mode,) = spec["Mode"]
    rollout = str(status.get("State", ""))
    began = str(status.get("StartedAt", ""))
    return Service(
        id=data["ID"],
        name=spec["Name"],
        version=data["Version"]["Index"],
        image=template["ContainerSpec"]["Image"],
        mode=mode,
        replicas=int(spec["Mode"][mode].get("Replicas", 0)),
        condition=template["RestartPolicy"]["Condition"],
        max_attempts=int(template["RestartPolicy"]["MaxAttempts"]),
        rollout=rollout,
        began=began,
        hours=hours_since(status.get("CompletedAt") or began or data["CreatedAt"]),
        quiet_hours=hours_since(data["UpdatedAt"]),
        rolls_back=value_at(spec, "UpdateConfig", "FailureAction") == "rollback",
        changed=changed_parts(spec, data.get("PreviousSpec"), rollout),
        template=template,
    )


def changed_parts(spec: dict[str, Any], previous: Any, rollout: str) -> set[str]:
    """The parts of a spec that the last update changed. docker does not show tokens.

    None were if the last update was a refresh; then tasks that serve are as the spec says, since a
    refresh replaces what is different. (Or it changed nothing and brought no token, either.)
    """
    if not previous:
        # A rollback that swarm began has none, either. Once that has paused, there is no other
        # spec that it could go on to: which tasks serve decides.
        return set() if rollout in ("", "rollback_paused") else {"TaskTemplate"}
    spec, previous = with_defaults(spec), with_defaults(previous)
    return {part for part in spec.keys() | previous.keys() if spec.get(part) != previous.get(part)}


def with_defaults(spec: dict[str, Any]) -> dict[str, Any]:
    """A spec as docker service inspect shows Spec, but not PreviousSpec and those of tasks."""
    template = spec["TaskTemplate"]
    container = {"StopGracePeriod": 10**10, "DNSConfig": {}}
    rollouts = {
        name: {**ROLLOUT_DEFAULTS, **(value_at(spec, name) or {})}
        for name in ("UpdateConfig", "RollbackConfig")
    }
    whole = {
        "Runtime": "container",
        "Resources": {},
        "Placement": {},
        **template,
        "RestartPolicy": {**RESTART_DEFAULTS, **(value_at(template, "RestartPolicy") or {})},
        "ContainerSpec": {**container, **(value_at(template, "ContainerSpec") or {})},
    }
    return {**spec, **rollouts, "TaskTemplate": whole}


def are_sorted(container: dict[str, Any]) -> bool:
    """Whether mounts and ulimits stand as the docker client sorts them at each update."""
    mounts = container.get("Mounts") or []
    places = [
        (value_at(mount, "Source") or "", value_at(mount, "Target") or "") for mount in mounts
    ]
    limits = [value_at(limit, "Name") or "" for limit in container.get("Ulimits") or []]
    return places == sorted(places) and limits == sorted(limits)


def hours_since(moment: str) -> float:
    """Hours since 2024-05-01T12:00:00.123456789Z; 0 before it by this clock. Raises ValueError."""
    then = datetime.fromisoformat(f"{moment[:19]}+00:00")
    return max(0.0, time.time() - then.timestamp()) / 3600


def attach(services: list[Service], listed: list[dict[str, Any]]) -> None:
    """Give services the tasks that docker lists: slot by slot, the newest first."""
    owners = {service.id: service for service in services}
    for data in listed:
        # SERVICE.SLOT, or SERVICE.NODE if it is global.
        owner, _, slot = data["Name"].partition(".")
        task = task_from(data, are_sorted(owners[owner].template["ContainerSpec"]))
        owners[owner].slots.setdefault(slot, []).append(task)
    for service in services:
        for newest, *former in service.slots.values():
            # It may wait for a token if the one before it had none, or its own is dying.
            lacks_token = newest.is_old or any(task.kind == STUCK for task in former[:1])
            if newest.kind == STARTING and lacks_token:
                newest.kind = STUCK


def task_from(data: dict[str, Any], is_sorted: bool) -> Task:
    """A task, as docker service ps shows it. Raises Problem."""
    desired, shown = data.get("DesiredState"), str(data.get("CurrentState"))
    # Running 7 hours ago
    age = AGE.fullmatch(shown)
    if not age or age[1] not in KINDS or desired not in (*WANTED, *UNWANTED):
        raise Problem(f"docker shows a task of it in an unknown state: {desired}, {shown[:99]}")
    kind = KINDS[age[1]]
    is_unwanted = desired in UNWANTED
    # Not every rejection is for want of a token: swarmkit, constraint_enforcer.go.
    is_misplaced = "assigned node no longer meets constraints" in str(data.get("Error"))
    if (is_unwanted and kind in (SERVING, STARTING)) or is_misplaced:
        kind = STOPPED
    is_old = age[3] in ("days", "weeks", "months", "years") or (
        age[3] == "hours" and int(age[2]) >= LONG_HOURS
    )
    difference = "" if is_sorted else UNSORTED
    return Task(data["ID"], data["Node"], not is_unwanted, age[1], kind, is_old, difference)


def difference_of(service: Service, data: dict[str, Any]) -> str:
    """In what a task is not as the spec says, given docker inspect of it."""
    template = with_defaults({"TaskTemplate": data["Spec"]})["TaskTemplate"]
    # docker shows no ports of a task, but those that are older than the rollout have the old.
    has_old_ports = data["CreatedAt"].rstrip("Z") < service.began.rstrip("Z")
    if has_old_ports and "EndpointSpec" in service.changed and service.rollout not in SETTLED:
        return OLDER
    if template == service.template:
        return ""
    is_placed = {**template, "Placement": {}} == {**service.template, "Placement": {}}
    return PLACED if is_placed else OLDER


def decide_all(run: "Run", host: str, services: list[Service]) -> list[Service]:
    """Say what becomes of services. Returns those to be updated, first what may finish soon."""
    due = []
    for service in sorted(services, key=lambda service: service.name):
        outcome, reason = decide(service, host, run.options)
        if outcome != DUE or run.options.dry_run:
            run.report.conclude(outcome, reason, service.name)
            continue
        due.append(service)
        # One that only pulls from ECR is named when it is refreshed.
        if reason != PULLS:
            log.warning("%s %s: %s", service.name, outcome, reason)
    return sorted(due, key=lambda service: not service.may_finish)


def update(run: "Run", due: list[Service], folder: str, looked_at: float) -> Problems:
    """Have swarm store the login that docker holds: the one step that changes the swarm.

    xargs starts programs faster than any library. It starts none STALE_SECONDS after the look;
    what has begun by then goes on. What counts is that docker says which services it has updated.
    """
    began = time.monotonic()
    result = run.programs.run(
        *UPDATE,
        stdin="\n".join(service.id for service in due),
        through=("xargs", "-r", f"-P{AT_ONCE}", "-n1"),
        folder=folder,
        seconds=looked_at + STALE_SECONDS - began,
        drain_seconds=UPDATE_SECONDS,
    )
    problem = result.problem or Problem("docker did not confirm the update")
    done = set(result.lines())
    # So many are looked at at a time as docker updates within a second, looks included.
    run.pace = 0.8 * len(done) / max(time.monotonic() - began, 0.01)
    run.updated += [service for service in due if service.id in done]
    return {service.name: problem for service in due if service.id not in done}


def say_restarts(run: "Run") -> None:
    """Name the services whose tasks were replaced although nobody could see it before.

    A service whose tasks all stay has no new UpdateStatus.
    """
    quiet = {each.id: each for each in run.updated if not touched(each)}
    run.updated = []
    result = run.programs.run(*STATUS, *quiet) if quiet else Result(None)
    for line in result.lines():
        key, _, status = line.partition(" ")
        began = re.search(r'"StartedAt":"([^"]+)"', status)
        if key in quiet and began and began[1] != quiet[key].began:
            run.report.restarts.add(quiet[key].name)
            text = "docker writes its spec in another way than it was written, as after an upgrade"
            log.warning("%s restarts: %s%s", quiet[key].name, text, quiet[key].what_runs_then)
    if result.problem:
        log.log(NOTICE, "Could not check whether tasks restarted: %s", result.problem)


# What is said -------------------------------------------------------------------------------------


class Stream:
    """stderr or stdout, which may be a pipe that nobody reads: what is not read is dropped."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.patience = READER_SECONDS
        # A terminal that is ready may take less than it is given. Opened anew it does not block us;
        # nor anybody who shares the old one.
        with contextlib.suppress(OSError):
            if os.isatty(descriptor):
                how = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
                self.descriptor = os.open(f"/proc/self/fd/{descriptor}", how)

    def write(self, text: str) -> None:
        """Write a line, or as much of it as is read in time."""
        left = text.encode(errors="backslashreplace")
        while left:
            _, ready, _ = select.select([], [self.descriptor], [], self.patience)
            if not ready:
                self.patience = 0
                return
            # A pipe that is ready takes as much without blocking: pipe(7), PIPE_BUF.
            left = left[os.write(self.descriptor, left[: select.PIPE_BUF]) :]


class Report:
    """What became of services and registries: said at once, and counted in the last line."""

    def __init__(self) -> None:
        self.outcomes: dict[str, tuple[str, str]] = {}  # and why, by what they befell
        self.restarts: set[str] = set()  # services
        self.names = Stream(1)
        self.began = time.monotonic()

    def conclude(self, outcome: str, reason: str, *names: str) -> None:
        """What became of services and the like, and why."""
        self.outcomes.update(dict.fromkeys(names, (outcome, reason)))
        level = LEVELS.get(outcome, logging.INFO)
        if outcome == DUE and reason != PULLS:
            level = logging.WARNING
        log.log(level, "%s %s: %s", label(names), outcome, reason)

    def refreshed(self, service: Service) -> None:
        """A service holds a fresh token. For a pipe its name goes to stdout."""
        self.outcomes[service.name] = REFRESHED, PULLS
        if why_stops(touched(service)):
            self.restarts.add(service.name)
        if os.isatty(1) or is_journal(1):
            log.info("%s refreshed", service.name)
        elif log.isEnabledFor(logging.INFO):
            # Whoever read it may have gone.
            with contextlib.suppress(OSError):
                self.names.write(f"{service.name}\n")

    def end(self, logins: int) -> int:
        """Say what the run did, and what is missing. Returns the exit status."""
        outcomes = [outcome for outcome, _ in self.outcomes.values()]
        counts = {"login" + "s" * (logins > 1): logins}
        counts.update({outcome: outcomes.count(outcome) for outcome in OUTCOMES})
        counts["restarted"] = len(self.restarts)
        done = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        done = f"{done or 'nothing was done'} in {time.monotonic() - self.began:.1f} seconds"
        for outcome, status in ((FAILED, 1), (OVERDUE, 3)):
            if outcome in outcomes:
                log.log(LEVELS[outcome], "%s; %s: %s", done, outcome, self.reasons(outcome))
                return status
        log.info("%s", done)
        return 0

    def reasons(self, outcome: str) -> str:
        """Who has an outcome and why, three reasons at most."""
        some = {name: why for name, (how, why) in self.outcomes.items() if how == outcome}
        said = [f"{label(names)}: {reason}" for reason, names in by_reason(some).items()]
        return "; ".join(said[:3] + ["more is said above"] * (len(said) > 3))


def by_reason(reasons: Mapping[str, Union[str, Problem]]) -> dict[str, list[str]]:
    """The names that have the same reason, or problem, by its text."""
    names: dict[str, list[str]] = {}
    for name, reason in sorted(reasons.items()):
        names.setdefault(str(reason), []).append(name)
    return names


def label(names: Sequence[str]) -> str:
    """Services by name, as long as they are few."""
    return ", ".join(names) if len(names) < 4 else f"{len(names)} services"


def is_journal(descriptor: int) -> bool:
    """Whether systemd's journal reads this stream: systemd.exec(5), JOURNAL_STREAM."""
    stream = os.fstat(descriptor)
    return os.environ.get("JOURNAL_STREAM") == f"{stream.st_dev}:{stream.st_ino}"


# The run ------------------------------------------------------------------------------------------


@dataclass
class Run:
    """What is to be done, with what, and how far it has come."""

    options: argparse.Namespace
    programs: Programs
    report: Report
    registries: Registries
    rows: dict[str, Row] = field(default_factory=dict)  # the services, by name
    hosts: set[str] = field(default_factory=set)  # registries, done or not
    own: set[str] = field(default_factory=set)  # the account's own one, if it was found
    tried: set[str] = field(default_factory=set)  # services, by name, together or alone
    pace: float = 2.0 * AT_ONCE  # updates per second
    updated: list[Service] = field(default_factory=list)  # and not yet looked at again
    # Differences of tasks, by their ID and the version of their service.
    known: dict[tuple[str, int], str] = field(default_factory=dict)
    turn: threading.Lock = field(default_factory=threading.Lock)  # to begin a batch


def run_all(programs: Programs, options: argparse.Namespace) -> int:
    """Do all there is to do, and say how it ended. Returns the exit status."""
    report = Report()
    folder = make_run_folder()
    run = Run(options, programs, report, Registries(programs, folder))
    if not options.login_only:
        headline = "Running docker update swarm services registry auth"
        log.info("Dry run: nothing is changed" if options.dry_run else headline)
    problems = attempt([THE_RUN], try_again_and_again, run)
    shutil.rmtree(folder, ignore_errors=True)
    for reason, names in by_reason(problems).items():
        report.conclude(FAILED, reason, *names)
    return report.end(len(run.registries.logins))


def try_again_and_again(run: Run) -> Problems:
    """Do what there is to do; what failed is tried again. Returns what is left of it."""
    problems = attempt([THE_RUN], work, run)
    pauses = [*PAUSES, *[TRY_SECONDS, *PAUSES] * (run.options.tries - 1)]
    for pause in PAUSES[:1] if run.options.dry_run else pauses:
        hopeful = {name: each for name, each in problems.items() if not each.is_final}
        if pause == TRY_SECONDS:
            run.programs.begin()
        if not hopeful or run.programs.seconds_left() < CLOSING_SECONDS:
            continue
        for reason, names in by_reason(hopeful).items():
            when = f"in {pause} second{'s' * (pause != 1)}"
            log.log(NOTICE, "%s to be tried again %s: %s", label(names), when, reason)
        run.programs.run("sleep", str(pause), seconds=2 * TRY_SECONDS)
        problems = attempt([THE_RUN], work, run)
    return problems


def work(run: Run) -> Problems:
    """Find the services, log in to their registries, refresh. Returns what went wrong."""
    problems = attempt([THE_RUN], find_services, run)
    if THE_RUN in problems and not run.options.login_only:
        return problems
    run.hosts = {row.host for row in run.rows.values()}.union(run.options.registry, run.own) - {""}
    region = own_region(run, are_listed=not problems)
    if region and not run.own and not run.options.refresh_only:
        problems.update(attempt([OWN.format(region)], find_own, run, region))
    run.hosts |= run.own
    groups = {} if run.options.login_only or not leads(run) else rows_by_host(run)
    return {**problems, **refresh_services(run, groups)}


def find_services(run: Run) -> Problems:
    """Find all services, or those named. Raises Problem if docker does not list them.

    At boot, where a login is all that is asked for, there may be no swarm yet.
    """
    with ThreadPoolExecutor(1) as pool:
        context = pool.submit(run.programs.run, *CONTEXT)
        result = run.programs.run(*LIST)
    # A login of the run's own lies in another folder, where docker finds no current context.
    os.environ["DOCKER_CONTEXT"] = context.result().checked().stdout
    if run.options.login_only and NO_SWARM in str(result.problem).lower():
        log.log(NOTICE, "Not in a swarm yet")
        return {}
    listed = [line.split(" ") for line in result.checked().lines()]
    # A plugin has no image.
    rows = {name: Row(short_id, name, ecr_host(image)) for short_id, image, name in listed}
    named = run.options.services or list(rows)
    run.rows = {name: rows[name] for name in named if name in rows}
    missing = Problem("there is no such service: see docker service ls", is_final=True)
    return {name: missing for name in named if name not in rows}


def own_region(run: Run, are_listed: bool) -> str:
    """Where to log in to the account's own registry; "" for nowhere.

    In --region, or, if no registry is known otherwise, where aws is set up. Raises Problem if a
    login is all that was asked for, there is none, and docker has listed the services.
    """
    options = run.options
    if options.region or run.hosts or options.services:
        return options.region or ""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    region = region or run.programs.run(*AWS_REGION).stdout
    if are_listed and not region:
        text = "No service uses ECR, and no region is set: pass --region or --registry"
        if run.options.login_only:
            raise Problem(text, is_final=True)
        log.log(NOTICE, "No service uses ECR")
    return region


def find_own(run: Run, region: str) -> Problems:
    """Note the account's own registry in a region as one to log in to. Raises Problem."""
    if run.options.dry_run:
        # Which one it is only AWS knows.
        run.own.add(OWN.format(region))
        return {}
    account = run.programs.run(*AWS_ACCOUNT, "--region", region, seconds=LOOK_SECONDS).checked()
    suffix = PARTITIONS.get(region.rsplit("-", 2)[0], "amazonaws.com")
    host = f"{account.stdout}.dkr.ecr.{region}.{suffix}"
    if not ECR_HOST.fullmatch(host):
        raise Problem(f"{host[:SAID_LENGTH]} is no registry: check the region")
    run.own.add(host)
    return {}


def leads(run: Run) -> bool:
    """Whether this manager refreshes. Raises Problem or KeyError if docker does not say who leads."""
    if not run.options.leader_only:
        return True
    is_leader = {"true": True, "false": False}[run.programs.run(*LEADER).checked().stdout]
    if not is_leader:
        log.info("Another manager leads the swarm, and refreshes its services")
    return is_leader


def rows_by_host(run: Run) -> dict[str, list[Row]]:
    """The services that are still to be done, by registry; in another order each time, if there is
    time for some only.
    """
    groups: dict[str, list[Row]] = {}
    rows = [row for name, row in run.rows.items() if name not in run.report.outcomes]
    for row in random.sample(rows, len(rows)):
        groups.setdefault(row.host, []).append(row)
    if not run.options.all_services:
        for row in sorted(groups.pop("", []), key=lambda row: row.name):
            run.report.conclude(LEFT, ELSEWHERE, row.name)
    return groups


def refresh_services(run: Run, groups: dict[str, list[Row]]) -> Problems:
    """Refresh services as soon as docker is logged in to their registry. Returns the problems."""
    missing = set() if run.options.refresh_only else run.hosts - run.registries.logins.keys()
    if run.options.dry_run:
        log.info("Would log in to %s", ", ".join(sorted(missing)) or "no registry")
        missing = set()
    regions = {region_of(host) for host in missing}
    # In another order each time, since docker's own place takes logins one by one.
    hosts = run.hosts | groups.keys()
    order = random.sample(sorted(hosts), len(hosts))
    jobs = []
    # More workers than batches at work, since some may hang.
    with ThreadPoolExecutor(2 * AT_ONCE) as workers, ThreadPoolExecutor(2 * len(order) + 1) as pool:
        run.registries.tokens = {
            region: pool.submit(run.registries.get_token, region) for region in regions
        }
        for host in order:
            rows = groups.get(host, [])
            names = [row.name for row in rows] or [f"registry {host}"]
            jobs.append(pool.submit(attempt, names, refresh_registry, run, host, rows, workers))
    say_restarts(run)
    run.registries.say_what_is_not_kept()
    return gather(jobs)


def refresh_registry(run: Run, host: str, rows: list[Row], workers: ThreadPoolExecutor) -> Problems:
    """Log in to a registry, then refresh its services, as many at a time as docker updates within
    a second. Raises Problem if there is no login.

    What failed before is tried one by one. A batch that hangs holds the next up for a while only.
    """
    # Where there are no tokens docker's own logins are to do.
    if region_of(host) in run.registries.tokens and host not in run.registries.logins:
        try:
            run.registries.log_in(host, is_for_deploys=not rows)
        except Problem as problem:
            raise problem.after(f"Docker login failed for {host}") from None
    batches: list[Future[Problems]] = []
    rows = sorted(rows, key=lambda row: row.name in run.tried)
    while rows:
        with run.turn:
            size = min(BATCH, max(AT_ONCE, int(run.pace)))
            untried = [row for row in rows[:size] if row.name not in run.tried]
            batch = {row.name: row for row in untried or rows[:1]}
            batches.append(workers.submit(attempt, batch, refresh, run, host, batch))
            concurrent.futures.wait(batches[-1:], PATIENCE_SECONDS if untried else 0)
        rows = rows[len(batch) :]
    return gather(batches)


# The command line, and this process ---------------------------------------------------------------


def main(arguments: Optional[list[str]] = None) -> int:
    """Run, and end as one who is told to stop. Returns the exit status."""
    options = parse(arguments)
    if "sh" not in sys.modules:
        sys.exit(
            f"ecr_swarm_login: {sys.executable} has no library sh:"
            " apt-get install python3-sh, or pip3 install 'sh<3'"
        )
    programs = Programs()
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
    add("--region", help="also log in to this account's own registry there")
    add("--registry", metavar="HOST", action="append", default=[],
        help="also log in to this registry; repeatable")
    add("--login-only", action="store_true", help="log in and stop, as when a manager boots")
    add("--refresh-only", action="store_true",
        help="refresh with the logins that docker holds, as from a credential helper")
    add("--leader-only", action="store_true",
        help="log in, but leave the refresh to the leading manager")
    add("--all-services", action="store_true",
        help="refresh all: runs jobs again, wipes logins of other registries")
    add("--no-restart", action="store_true",
        help="hold back services whose tasks the update restarts: changed placement, unsorted"
        " mounts or ulimits")
    add("--keep-rollback", metavar="HOURS", type=int, default=0,
        help="leave a service alone for HOURS after a rollout: a refresh breaks docker service"
        " rollback. 0 by default, at most 10: tokens live 12")
    add("--tries", metavar="N", type=int, default=1,
        help="when something failed, try it again a minute later, N times in all. 1 by default")
    add("-n", "--dry-run", action="store_true",
        help="say what would be done, and why; change nothing")
    add("-q", "--quiet", action="store_true", help="warnings and errors only")
    add("--version", action="version", version="%(prog)s 1.2.0")
    # fmt: on


def check(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Exit with status 2 if options make no sense."""
    is_region = re.fullmatch("[a-z]+(-[a-z]+)+-[0-9]+", options.region or "eu-central-1")
    are_hosts = all(map(ECR_HOST.fullmatch, options.registry))
    logs_in = options.login_only or options.region or options.registry
    keeps = options.keep_rollback
    spares = options.no_restart or keeps
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
        (not 0 <= keeps <= 10,
         "--keep-rollback takes a number from 0 to 10"),
        (not 1 <= options.tries <= 60,
         "--tries takes a number from 1 to 60"),
        (options.refresh_only and logs_in,
         "--refresh-only logs in nowhere: leave out --login-only, --region and --registry"),
        (options.all_services and spares,
         "--all-services spares none: leave out --no-restart and --keep-rollback"),
    )
    # fmt: on
    for applies, text in errors:
        if applies:
            parser.error(text)


def prepare(programs: Programs, is_quiet: bool) -> None:
    """Set up this process: streams, log, environment, signals."""
    # Fill 0 to 2 if they are closed, or the next file that is opened becomes stdout.
    for _ in range(3):
        os.open(os.devnull, os.O_RDWR)
    for level, priority in PRIORITIES.items():
        logging.addLevelName(level, f"<{priority}>" if is_journal(2) else "")
    level = logging.WARNING if is_quiet else logging.INFO
    logging.basicConfig(format="%(levelname)s%(message)s", level=level, stream=Stream(2))
    logging.getLogger("sh").propagate = False
    logging.raiseExceptions = False
    set_up_environment()
    # Whoever ignores SIGCHLD passes that on, and then nobody can wait for a program.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, programs.stop)


def set_up_environment() -> None:
    """What all programs find in their environment."""
    # Not the current folder, which an empty element stands for. Cron's lacks where aws may be.
    path = [each for each in os.environ.get("PATH", os.defpath).split(":") if each.startswith("/")]
    os.environ.update(
        PATH=":".join([*path, "/usr/local/bin", "/snap/bin"]),
        GOGC="off",  # the docker client starts faster
        GOMAXPROCS="1",
        DOCKER_AUTH_CONFIG="",  # the client of 28 would prefer it to the new login
        AWS_ECR_IGNORE_CREDS_STORAGE="true",  # or a credential helper refuses docker login
        AWS_CLI_AUTO_PROMPT="off",  # or aws fails without a terminal
    )
    # An old one strips settings that it does not know from each service.
    os.environ.pop("DOCKER_API_VERSION", None)


if __name__ == "__main__":
    sys.exit(main())
