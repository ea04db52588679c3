#!/usr/bin/python3 -I
"""Give every Docker Swarm service that pulls from AWS ECR a fresh token, and change nothing else.

  ecr_swarm_login.py --dry-run                say what would become of each service, and why
  ecr_swarm_login.py --region eu-central-1    log in, there too, and refresh

Exit status: 0 all well, 1 something failed, 2 usage, 3 only held back for too long,
128+n stopped by signal n.
"""

import os
import sys

# The first line keeps out what lies beside this file, in PYTHONPATH and in a user's folder: root
# runs it. Another Python that was named, a virtual environment's, starts itself again that way.
if __name__ == "__main__" and not sys.flags.isolated:
    os.execv(sys.executable, [sys.executable, "-I", *sys.argv])

import argparse
import contextlib
import errno
import fcntl
import io
import json
import logging
import pwd
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Optional

# Isolated, the Pythons of Fedora and Amazon Linux leave out where root's pip installs.
sys.path.append("/usr/local/lib/python{}.{}/site-packages".format(*sys.version_info))
# --help and --version do without.
with contextlib.suppress(ImportError):
    import sh

# How to read this file: from top to bottom, as a run goes; main(), run_once() and work() tell it.
# What it does to a machine is done in few places. Programs.start() starts every program. log_in()
# hands a token from aws to docker. update_together() and update_singly() change the swarm, and
# spare() is the table of what they leave alone. Nothing else is written but a lock and the log.


# What is fixed ------------------------------------------------------------------------------------

RUN_SECONDS = 240  # of one run; eight of them and their pauses fit into the unit's TimeoutStartSec
PROGRAM_SECONDS = 60  # of one program: what takes longer hangs, and is killed with its children
UPDATE_SECONDS = 30  # of one update: it is tried again later, and the others wait for it
CLOSING_SECONDS = 30  # that are kept for the look after the last updates
UNASKED_SECONDS = 10  # of an aws that asks for a registry which no service and nobody has named
KILL_SECONDS = 5  # between SIGTERM and SIGKILL
TRY_SECONDS = 60  # between the runs of --tries
# Seconds before each further try: a daemon that restarts takes some, and so does a new leader.
PAUSES = (1, 3, 9)
SAID_LENGTH = 500  # characters of what a program said that are shown: the last ones tell most
BATCH = 200  # services looked at, then updated: the fewer, the less happens in between
LONG_HOURS = 6  # half a token's life

# More at a time gain nothing: the start of the docker client takes all processors.
AT_ONCE = min(16, 4 * (os.cpu_count() or 1))
XARGS = ("xargs", "-r", f"-P{AT_ONCE}")

# Whole hosts only: a look-alike would get a token; amazon-ecr-credential-helper, api/client.go.
ECR_HOST = re.compile(
    r"[0-9]{12}\.dkr[.-]ecr(?:-fips)?\.([a-z0-9][a-z0-9-]*)\."
    r"(?:amazonaws\.com(?:\.cn)?|amazonaws\.eu|on\.aws|on\.amazonwebservices\.com\.cn"
    r"|sc2s\.sgov\.gov|c2s\.ic\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)"
)
# Where a region's name begins so, its registries are elsewhere than in amazonaws.com.
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
LOGIN = ("docker", "login", "--username", "AWS", "--password-stdin")
PROOF = ("docker", "login")
INFO = ("docker", "info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}")
LEADER = ("docker", "node", "inspect", "self", "--format", "{{.ManagerStatus.Leader}}")
LIST = ("docker", "service", "ls", "--format", "{{json .}}")
INSPECT = ("docker", "service", "inspect", "--format", "{{json .}}")
STATUS = ("docker", "service", "inspect", "--format", "{{.ID}} {{json .UpdateStatus}}")
TASKS = ("docker", "service", "ps", "--no-trunc", "--no-resolve", "--format", "{{json .}}")
WANTED = ("--filter", "desired-state=ready", "--filter", "desired-state=running")
SPECS = ("docker", "inspect", "--type", "task", "--format", "{{json .}}")
UPDATE = ("docker", "service", "update", "-d", "-q", "--with-registry-auth")

# The docker client then goes on without any login, and sends an empty one; the client of 28 says
# the second.
CONFIG_IS_BROKEN = ("Error loading config file", "Error parsing config file")
# What it says when a credential helper gave it a login that is good, but stores none: helpers
# before 0.9.0 (amazon-ecr-credential-helper#102). The client of 28 hides that it could not store,
# and goes on to ask for a password; the "non TTY device" of 28 is a "non-TTY device" in 29, where
# errors begin with a small letter. Anything else is no proof.
GOOD = "authenticating with existing credentials"
NOT_STORED = ("error saving credentials", "interactive login from a non")
NOT_GOOD = ("login did not succeed", "invalid or expired")

JOBS = ("ReplicatedJob", "GlobalJob")
MODES = ("Replicated", "Global")
SETTLED = ("", "completed", "rollback_completed")  # UpdateStatus.State
DRY_HEADLINE = "Dry run: nothing is changed"
HEADLINE = "Running docker update swarm services registry auth"
# Task states that an update with another token does not spare: swarm replaces such tasks when they
# serve already (swarmkit orchestrator/task.go, IsTaskDirty).
WAITING = ("New", "Allocated", "Pending", "Assigned", "Accepted", "Preparing")
SERVING = ("Ready", "Starting", "Running")

# Why, in the order of spare(); {0} is the Service, {1} the options.
ELSEWHERE = "its image is in no ECR registry, and its login would be replaced"
IS_JOB = "it is a job, and would run again"
UNKNOWN_MODE = "its mode is {0.mode}, which this version does not know"
NO_TAG = (
    "its image has neither tag nor digest, and the docker client would deploy {0.image}:latest;"
    " to give it one: docker service update --with-registry-auth --image {0.image}:TAG {0.name}"
)
ROLLOUT = (
    "its rollout is {0.rollout}, see docker service ps {0.name};"
    " to go on: docker service update --with-registry-auth {0.name}"
)
ROLLOUT_AND_BACK = ROLLOUT + "; to go back: docker service rollback {0.name}"
KEPT = "docker service rollback is kept for {1.keep_rollback} hours"
ALL_THE_SAME = "; to refresh it all the same: ecr_swarm_login.py --all-services {0.name}"
CHOOSE = "some tasks have finished, and would run again; others need the token" + ALL_THE_SAME
PART_ENDED = "some tasks have finished, and would run again" + ALL_THE_SAME
ENDED = "its finished tasks would run again"
STARTING = "its tasks are starting, and an update would start them once more"
SORTED = "the docker client sorts its mounts and ulimits (docker/cli#7226){0.what_runs_then}"
MAY_RESTART = "its tasks may restart once: " + SORTED
PULLS = "it pulls from ECR"
# Why tasks restart that nobody saw before the update.
UNFORESEEN = (
    "the update replaces its tasks, which nobody could see before it: docker writes the spec"
    " in another way than it was written, as after an upgrade{0.what_runs_then}"
)
LOST_AGAIN = "docker loses its login again and again"

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


class Failure(Exception):
    """One line: what failed, what the program said, what to do next."""


class Stopped(Exception):
    """A signal came: nothing more is to be started."""


def main(arguments: Optional[list[str]] = None) -> int:
    """Run, once or until it goes well, and say how it ended. Returns the exit status."""
    options = parse(arguments)
    if "sh" not in sys.modules:
        print(
            f"ecr_swarm_login: {sys.executable} has no library sh:"
            " apt-get install python3-sh, or pip3 install 'sh<3'",
            file=sys.stderr,
        )
        return 1
    programs = Programs()
    prepare(programs, options.quiet)
    try:
        for tries_left in reversed(range(max(1, options.tries))):
            status = run_once(programs, options)
            if status != 1 or not tries_left:
                return status
            log.log(NOTICE, "Trying again in %d seconds, %d more", TRY_SECONDS, tries_left)
            programs.begin()
            programs.run("sleep", str(TRY_SECONDS), seconds=2 * TRY_SECONDS)
    except Stopped:
        pass
    return 128 + programs.stopped_by


# The command line ---------------------------------------------------------------------------------


def parse(arguments: Optional[list[str]]) -> argparse.Namespace:
    """The command line, and what the environment adds. Exits with status 2 if it makes no sense."""
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
        help="hold back services whose tasks an update is known to restart: mounts or ulimits"
        " are out of order")
    add("--keep-rollback", metavar="HOURS", type=number_up_to(10), default=0,
        help="leave a service alone for HOURS after a rollout: a refresh breaks docker service"
        " rollback. 0 by default, at most 10: tokens live 12")
    add("--tries", metavar="N", type=number_up_to(60), default=1,
        help="when something failed, run again a minute later, N times in all. 1 by default")
    add("-n", "--dry-run", action="store_true",
        help="say what would be done, and why; change nothing")
    add("-q", "--quiet", action="store_true", help="warnings and errors only")
    add("--version", action="version", version="%(prog)s 1.1.0")
    # fmt: on


def number_up_to(most: int) -> Any:
    """The type of an option that takes a number from 0 to `most`."""

    def number(text: str) -> int:
        """Raises argparse's error, in the same words on each Python."""
        if not re.fullmatch("[0-9]{1,2}", text) or int(text) > most:
            raise argparse.ArgumentTypeError(f"takes a number from 0 to {most}, not '{text}'")
        return int(text)

    return number


def check(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Exit with status 2 if options make no sense."""
    is_region = re.fullmatch("[a-z]+(-[a-z]+)+-[0-9]+", options.region or "eu-central-1")
    are_hosts = all(map(ECR_HOST.fullmatch, options.registry))
    logs_in = options.login_only or options.region or options.registry
    spares = options.no_restart or options.keep_rollback
    # fmt: off
    errors = (
        ("://" in "".join(options.registry),
         "--registry takes a host alone: leave out https://"),
        (not are_hosts,
         "--registry takes a host such as 123456789012.dkr.ecr.eu-central-1.amazonaws.com"),
        (not is_region,
         "--region takes a region such as eu-central-1"),
        (options.refresh_only and logs_in,
         "--refresh-only logs in nowhere: leave out --login-only, --region and --registry"),
        (options.all_services and spares,
         "--all-services spares none: leave out --no-restart and --keep-rollback"),
    )
    # fmt: on
    for applies, text in errors:
        if applies:
            parser.error(text)


# This process -------------------------------------------------------------------------------------


def prepare(programs: "Programs", is_quiet: bool) -> None:
    """Set up this process: streams, log, environment, signals."""
    # Fill 0 to 2 if they are closed, or the next file that is opened becomes stdout.
    for _ in range(3):
        os.open(os.devnull, os.O_RDWR)
    set_up_log(is_quiet)
    # Cron's lacks where aws may be.
    os.environ["PATH"] = os.environ.get("PATH", os.defpath) + ":/usr/local/bin:/snap/bin"
    os.environ.update(
        GOGC="off",  # the docker client starts faster
        GOMAXPROCS="1",
        DOCKER_AUTH_CONFIG="",  # the client of 28 would prefer it to the new login
        AWS_ECR_IGNORE_CREDS_STORAGE="true",  # or a credential helper refuses docker login
        AWS_CLI_AUTO_PROMPT="off",  # or aws fails without a terminal
    )
    # Whoever ignores SIGCHLD passes that on, and then nobody can wait for a program.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, programs.stop)


def set_up_log(is_quiet: bool) -> None:
    """Log to stderr, with priorities if that is the journal."""
    for level, priority in PRIORITIES.items():
        logging.addLevelName(level, f"<{priority}>" if is_journal(2) else "")
    # Not sys.stderr: a failure to flush it in the end would change the exit status.
    stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
    level = logging.WARNING if is_quiet else logging.INFO
    logging.basicConfig(format="%(levelname)s%(message)s", level=level, stream=stderr)
    logging.getLogger("sh").propagate = False
    logging.raiseExceptions = False


def is_journal(descriptor: int) -> bool:
    """Whether systemd's journal reads this stream: systemd.exec(5), JOURNAL_STREAM."""
    stream = os.fstat(descriptor)
    return os.environ.get("JOURNAL_STREAM") == f"{stream.st_dev}:{stream.st_ino}"


def docker_folder() -> str:
    """Where docker keeps its logins. Raises Failure if nobody can know."""
    home = os.environ.get("HOME")
    if not home:
        with contextlib.suppress(KeyError):
            home = pwd.getpwuid(os.getuid()).pw_dir
    folder = os.environ.get("DOCKER_CONFIG")
    if not folder and not home:
        raise Failure(f"user {os.getuid()} has no home folder: set HOME or DOCKER_CONFIG")
    return folder or os.path.join(str(home), ".docker")


@contextlib.contextmanager
def alone(programs: "Programs") -> Iterator[None]:
    """Wait for another run to end: docker replaces config.json unlocked, so one could lose a login.

    Raises Failure if that takes as long as a run may take.
    """
    folder = docker_folder()
    path = os.path.join(folder, "ecr_swarm_login.lock")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        lock = open(path, "a+")  # noqa: SIM115
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        # Then docker cannot replace config.json either, and no login can be lost.
        yield
        return
    with lock:
        is_said = False
        while not take(lock):
            lock.seek(0)
            other = f"another run, process {lock.read().strip() or 'unknown'},"
            if not is_said:
                log.log(NOTICE, "Waiting for %s to end", other)
            is_said = True
            if programs.run("sleep", "0.2").problem:
                raise Failure(f"{other} has not ended within {RUN_SECONDS} seconds: see ps -ef")
        yield


def take(lock: Any) -> bool:
    """Lock the file until it is closed, and write our process into it; False if another has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    # On a full disk docker login says so, if it matters.
    with contextlib.suppress(OSError):
        os.truncate(lock.fileno(), 0)
        os.write(lock.fileno(), f"{os.getpid()}\n".encode())
    return True


# The run ------------------------------------------------------------------------------------------


@dataclass
class Run:
    """One run: what it is to do, what it does it with, and what it has found out."""

    options: argparse.Namespace
    programs: "Programs"
    report: "Report"
    tokens: dict[str, "Ended"] = field(default_factory=dict)  # the aws that printed it, by region
    problems: dict[str, str] = field(default_factory=dict)  # of logins, by host: "" if it is good
    unasked: set[str] = field(default_factory=set)  # hosts that no service and nobody has named


def run_once(programs: "Programs", options: argparse.Namespace) -> int:
    """One run from the list of services to the last line. Returns the exit status."""
    programs.begin()
    run = Run(options, programs, Report(options.quiet))
    try:
        with contextlib.nullcontext() if options.dry_run else alone(programs):
            work(run)
    except Stopped:
        raise
    except (Failure, OSError) as failure:
        run.report.conclude(FAILED, str(failure), "the run")
    # One line is all that a person should read.
    except Exception as error:  # noqa: BLE001
        run.report.conclude(FAILED, repr(error), "the run")
    return run.report.end(programs.seconds_gone())


def work(run: Run) -> None:
    """Find the services, log in to their registries, refresh. Raises Failure if it cannot go on."""
    rows = choose(run, list_services(run))
    used = {row.host for row in rows if row.host}
    log_in_to_all(run, used)
    if run.options.login_only:
        prove_again(run, set(run.problems))
    elif run.options.leader_only and not leads(run):
        prove_again(run, set(run.problems))
        log.info("Another manager leads the swarm, and refreshes its services")
    else:
        prove_again(run, run.problems.keys() - used)
        log.info(DRY_HEADLINE if run.options.dry_run else HEADLINE)
        refresh_all(run, rows)


def list_services(run: Run) -> list["Row"]:
    """All services. Raises Failure if docker does not list them; at boot there is no swarm yet."""
    ended = ask_patiently(run, *LIST)
    if ended.problem:
        state = run.programs.run(*INFO).stdout.text()
        text = f"not in a swarm yet: {ended.problem}" if "inactive" in state else ended.problem
        if not run.options.login_only:
            raise Failure(text)
        log.log(NOTICE, "Not in a swarm yet" if "inactive" in state else text)
        return []
    found = [row_from(data) for data in ended.stdout.objects()]
    rows = [row for row in found if row.short_id and row.name]
    unread = len(ended.stdout.lines()) - len(rows)
    if unread:
        problem = f"{unread} services are listed in a way that cannot be read"
        run.report.conclude(FAILED, problem, "docker service ls")
    return rows


def ask_patiently(run: Run, *command: str) -> "Ended":
    """Run a program, and again if it fails, unless docker says that it will go on to fail."""
    for pause in PAUSES:
        ended = run.programs.run(*command)
        if not ended.problem:
            return ended
        state = run.programs.run(*INFO)
        # A node that is in no swarm, a worker, or a swarm that is locked.
        if not state.problem and state.stdout.text() != "active true":
            return ended
        log.log(NOTICE, "To be tried again: %s", ended.problem)
        run.programs.run("sleep", str(pause))
    return run.programs.run(*command)


def leads(run: Run) -> bool:
    """Whether this manager leads the swarm. Raises Failure if docker does not say."""
    ended = ask_patiently(run, *LEADER)
    if ended.problem:
        raise Failure(ended.problem)
    return ended.stdout.text() == "true"


def choose(run: Run, rows: list["Row"]) -> list["Row"]:
    """The services named on the command line, or all."""
    names = {row.name for row in rows}
    for name in run.options.services:
        if name not in names:
            run.report.conclude(FAILED, "there is no such service: see docker service ls", name)
    return [row for row in rows if not run.options.services or row.name in run.options.services]


# Registries ---------------------------------------------------------------------------------------


def ecr_host(image: Any) -> str:
    """The ECR registry of an image, or "" if it is in another."""
    host, slash, _ = str(image).partition("/")
    return host if slash and ECR_HOST.fullmatch(host) else ""


def region_of(host: str) -> str:
    """The region of an ECR registry."""
    return ECR_HOST.sub(r"\1", host)


def log_in_to_all(run: Run, used: set[str]) -> None:
    """Log in to the registries used, those named, and the account's own in the region set."""
    hosts = used.union(run.options.registry)
    if run.options.refresh_only:
        run.problems.update(dict.fromkeys(hosts, ""))
        return
    region, is_asked = own_region(run, hosts)
    if not hosts and not region:
        say_nothing_is_known(run)
    elif run.options.dry_run:
        say_logins(run, hosts, region)
    else:
        own = get_tokens(run, {region_of(host) for host in hosts}, region, is_asked)
        if not is_asked:
            run.unasked = own - hosts
        for host in sorted(hosts | own):
            note_login(run, host, log_in(run, host))


def own_region(run: Run, hosts: set[str]) -> tuple[str, bool]:
    """The region in which to log in to the account's own registry, and whether that was asked for.

    It was if it stands on the command line, or if no other registry is known.
    """
    region = run.options.region or os.environ.get("AWS_REGION") or ""
    region = region or os.environ.get("AWS_DEFAULT_REGION") or ""
    if not region and not hosts and not run.options.services:
        region = run.programs.run(*AWS_REGION).stdout.text()
    return region, bool(run.options.region) or not hosts


def say_nothing_is_known(run: Run) -> None:
    """No service uses ECR. Raises Failure if a login is all that was asked for."""
    if run.options.login_only:
        raise Failure("No service uses ECR, and no region is set: pass --region or --registry")
    if not run.options.services:
        log.log(NOTICE, "No service uses ECR")


def say_logins(run: Run, hosts: set[str], region: str) -> None:
    """What a dry run does instead of a login: take it for done, if there is an aws."""
    own = [f"your own registry in {region}"] if region else []
    log.info("Would log in to %s", ", ".join(sorted(hosts) + own))
    if not shutil.which("aws"):
        run.report.conclude(FAILED, "is not installed, or not on the PATH", "aws")
    run.problems.update(dict.fromkeys(hosts, ""))


def get_tokens(run: Run, regions: set[str], own: str, is_asked: bool) -> set[str]:
    """Get all tokens side by side, for an aws takes up to a second.

    Returns the account's own registry in the region `own`, if that is set and there is one.
    """
    limits = dict.fromkeys(regions, PROGRAM_SECONDS)
    seconds = PROGRAM_SECONDS if is_asked else UNASKED_SECONDS
    if own:
        limits.setdefault(own, seconds)
    with ThreadPoolExecutor() as pool:
        tokens = {each: pool.submit(get_token, run, each, limits[each]) for each in limits}
        host, problem = own_registry(run, own, seconds)
    for region, token in tokens.items():
        run.tokens[region] = token.result()
    if problem and is_asked:
        run.report.lose(own, f"your own registry in {own}: {problem}")
    elif problem:
        log.log(NOTICE, "your own registry in %s is left out: %s", own, problem)
    return {host} if host else set()


def get_token(run: Run, region: str, seconds: float) -> "Ended":
    """Have aws print a token to a file in memory, which nobody but docker login reads."""
    ended = run.programs.run(*AWS_TOKEN, region, seconds=seconds)
    if not ended.problem and ended.stdout.size() <= 1:
        ended.problem = "aws ecr get-login-password succeeded, but printed nothing"
    return ended


def own_registry(run: Run, region: str, seconds: float) -> tuple[str, str]:
    """The host of the account's own registry, or "", and the problem, or ""."""
    if not region:
        return "", ""
    account = run.programs.run(*AWS_ACCOUNT, "--region", region, seconds=seconds)
    suffix = PARTITIONS.get(region.rsplit("-", 2)[0], "amazonaws.com")
    host = f"{account.stdout.text()}.dkr.ecr.{region}.{suffix}"
    if account.problem:
        return "", account.problem
    if not ECR_HOST.fullmatch(host):
        return "", f"{host} is no registry: check the region"
    return host, ""


def log_in(run: Run, host: str) -> str:
    """Log docker in to a registry. Returns the problem.

    Never to two at once, nor cut short: docker replaces config.json without a lock.
    """
    token = run.tokens[region_of(host)]
    if token.problem:
        return f"Failed to acquire docker login credentials: {token.problem}"
    login = run.programs.run(*LOGIN, host, stdin=token.stdout, is_stoppable=False)
    if login.problem:
        return f"Docker login failed: {login.problem}"
    log.info("Docker login succeeded for %s", host)
    return ""


def prove_again(run: Run, hosts: set[str]) -> set[str]:
    """Prove logins that were good; log in once more where one has gone. Returns these hosts."""
    lost = set()
    for host in sorted(hosts):
        if run.problems[host] or run.options.dry_run:
            continue
        problem = prove(run, host)
        if not problem:
            continue
        lost.add(host)
        if not run.options.refresh_only:
            log.log(NOTICE, "Logging in to %s once more: %s", host, problem)
            problem = log_in(run, host) or prove(run, host)
        note_login(run, host, problem)
    return lost


def prove(run: Run, host: str) -> str:
    """Have docker authenticate with the login that it holds, and would send. Returns the problem.

    Without a name, a password and a terminal, docker login does just that. It is not cut short
    either: it stores the login again.
    """
    ended = run.programs.run(*PROOF, host, is_stoppable=False)
    said = (ended.stdout.text() + ended.said).lower()
    is_good = GOOD in said and not any(text in said for text in NOT_GOOD)
    if not ended.problem or (is_good and any(text in said for text in NOT_STORED)):
        return ""
    do = "leave out --refresh-only, or log in" if run.options.refresh_only else "see its credsStore"
    return f"docker holds no login that the registry takes: {ended.problem}: {do}"


def note_login(run: Run, host: str, problem: str) -> None:
    """Keep what became of a login."""
    run.problems[host] = problem
    run.report.logins[host] = not problem
    if problem and host in run.unasked:
        log.log(NOTICE, "%s is left out: %s", host, problem)
    elif problem:
        run.report.lose(host, f"not logged in to {host}: {problem}")


# Services: all of them, in batches ----------------------------------------------------------------


@dataclass
class Row:
    """A service as docker service ls shows it, and how far this run has come with it."""

    short_id: str  # how its ID begins
    name: str
    host: str  # the ECR registry of its image by then, or "" if it was in another
    service: "Service"  # as it is now
    problem: str = ""  # why it has to be tried again
    is_in_doubt: bool = False  # an update may have sent an empty login, and none a good one since

    @property
    def lacks_login(self) -> bool:
        """Whether its last update went well, but may have sent an empty login."""
        return self.is_in_doubt and not self.problem


def row_from(data: dict[str, Any]) -> Row:
    """What docker service ls says of a service."""
    id_, name = str(data.get("ID") or ""), str(data.get("Name") or "")
    return Row(id_, name, ecr_host(data.get("Image")), Service())


Update = Callable[[Run, list[Row]], None]


def refresh_all(run: Run, rows: list[Row]) -> None:
    """Refresh in batches; try what failed again in the end, one by one; say what is left."""
    # Other batches each time, if there is time for some only.
    left = random.sample(rows, len(rows))
    refresh_batches(run, left, update_together)
    for pause in PAUSES:
        left = [row for row in left if row.problem]
        if not left or run.programs.seconds_left() < CLOSING_SECONDS + pause:
            break
        say_problems(run, left, "to be tried again")
        run.programs.run("sleep", str(pause))
        refresh_batches(run, left, update_singly)
    say_problems(run, left, FAILED)


def refresh_batches(run: Run, rows: list[Row], update: Update) -> None:
    """Refresh so many at a time, until the run's time is over."""
    for begin in range(0, len(rows), BATCH):
        batch = rows[begin : begin + BATCH]
        if run.programs.seconds_left() > CLOSING_SECONDS:
            refresh(run, batch, update)
        else:
            for row in batch:
                row.problem = f"the {RUN_SECONDS} seconds of the run were over before its turn came"
        if len(rows) > BATCH:
            log.info("%d of %d services processed", begin + len(batch), len(rows))


def say_problems(run: Run, rows: list[Row], outcome: str) -> None:
    """A line for each problem, and for ten names at most."""
    for problem in sorted({row.problem for row in rows if row.problem}):
        names = sorted(row.name for row in rows if row.problem == problem)
        for begin in range(0, len(names), 10):
            run.report.conclude(outcome, problem, *names[begin : begin + 10])


def refresh(run: Run, rows: list[Row], update: Update) -> None:
    """Look at services, decide, update, look again."""
    with ThreadPoolExecutor() as pool:
        proof = pool.submit(prove_again, run, run.problems.keys() & {row.host for row in rows})
        look(run, rows)
    # Raises what it raised.
    proof.result()
    due = decide_all(run, [row for row in rows if row.service.id and not row.problem])
    if run.options.dry_run:
        return
    update_and_prove(run, due, update)
    for row in due:
        if not row.problem:
            run.report.refreshed(row.name)


# Services: look -----------------------------------------------------------------------------------


@dataclass
class Task:
    """The newest task of a slot, or of a node if its service is global."""

    state: str  # as swarmkit calls it: Pending, Running, ...
    is_wanted: bool  # swarm wants it to run; else it has ended, or is to end
    is_old: bool = False  # it has been in this state for LONG_HOURS
    former: str = ""  # the state of the task before it, if that was asked for

    @property
    def is_waiting(self) -> bool:
        """Whether it is about to start: an update would replace it when it serves already."""
        return self.is_wanted and self.state in WAITING

    @property
    def lacks_token(self) -> bool:
        """Whether it may wait for a token: the one before it had none, or its own is dying."""
        return self.is_old or self.former == "Rejected"


@dataclass
class Service:
    """All that decides about a service."""

    id: str = ""  # in full; "" if it has gone, or docker does not show it
    name: str = ""
    image: str = ""  # with its tag and digest, as far as it has them
    host: str = ""  # the ECR registry of the image, or "" if it is in another
    mode: str = "Replicated"  # or Global, ReplicatedJob, GlobalJob, or one that is unknown
    condition: str = "any"  # when tasks are restarted: any, on-failure, none
    max_attempts: int = 0  # of restarts; 0 if there is no limit
    rollout: str = ""  # UpdateStatus.State
    began: str = ""  # UpdateStatus.StartedAt, as docker prints it
    hours: float = 0.0  # since the rollout ended or began, or since the service was created
    rolls_back: bool = False  # by itself, if the rollout fails
    changes_token_only: bool = False  # the spec of the rollout is the one before it
    is_in_order: bool = True  # mounts and ulimits stand as the docker client sorts them
    template: dict[str, Any] = field(default_factory=dict)  # TaskTemplate, with defaults
    tasks: dict[str, Task] = field(default_factory=dict)  # by slot or node
    running: list[str] = field(default_factory=list)  # IDs of all tasks that run and are wanted
    runs_older: bool = False  # one of these has an older spec than the service

    @property
    def may_finish(self) -> bool:
        """Whether tasks can end for good, until an update starts them again."""
        return self.condition != "any" or self.max_attempts > 0

    @property
    def needs_history(self) -> bool:
        """Whether tasks that swarm no longer wants decide, too: what has ended, or was rejected."""
        is_waiting = any(task.is_waiting for task in self.tasks.values())
        return self.may_finish or is_waiting or not self.tasks

    @property
    def waits(self) -> bool:
        """Whether a task is about to start, and has the token for it."""
        return any(task.is_waiting and not task.lacks_token for task in self.tasks.values())

    @property
    def ended(self) -> list[Task]:
        """Tasks that are over, and that an update would start again."""
        return [task for task in self.tasks.values() if self.may_finish and self.has_ended(task)]

    def has_ended(self, task: Task) -> bool:
        """Whether swarm does not start it again by itself: swarmkit restart.go, shouldRestart."""
        if task.state in ("Complete", "Failed"):
            return True
        # Rejected tasks never ran, as for a dead token.
        if task.is_wanted or task.state == "Rejected":
            return False
        # It was lost or shut down with its node. Elsewhere, or when the node is back, swarm starts
        # it by itself, but not with condition none, and maybe not with a limit of attempts.
        return self.mode == "Replicated" or self.condition == "none" or self.max_attempts > 0

    @property
    def still_works(self) -> bool:
        """Whether a task runs, or is to, besides those that have ended."""
        return any(task.is_wanted and not self.has_ended(task) for task in self.tasks.values())

    @property
    def is_rejected(self) -> bool:
        """Whether a node did not let a task in, as for a dead token."""
        return any(task.state == "Rejected" for task in self.tasks.values())

    @property
    def serves(self) -> bool:
        """Whether it has wanted tasks, and each is up: then an update has none to replace."""
        wanted = [task.state for task in self.tasks.values() if task.is_wanted]
        return bool(wanted) and not self.is_rejected and set(wanted) <= set(SERVING)

    @property
    def what_runs_then(self) -> str:
        """What a restart of its tasks comes to if their image is not pinned."""
        return "" if "@" in self.image else "; they run what the tag of their image means by then"

    @property
    def is_in_rollout(self) -> bool:
        """Whether something of the old is left, which an update would take down, or forget."""
        if self.rollout in SETTLED:
            return False
        is_stale = self.rollout in ("updating", "paused") and self.hours >= LONG_HOURS
        may_roll_back = self.rollout == "updating" and self.rolls_back
        may_go_on = self.changes_token_only or (is_stale and not may_roll_back)
        return self.runs_older or not may_go_on


def look(run: Run, rows: list[Row]) -> None:
    """Find out what services are now. One that has gone is left without an ID and a problem."""
    for _ in range(3):
        look_once(run, rows)
        # One that goes meanwhile makes docker service ps fail, for all: once more, without it.
        rows = [row for row in rows if row.service.id]
        if not any(row.problem for row in rows):
            break


def look_once(run: Run, rows: list[Row]) -> None:
    """Look at services, side by side with the tasks that are wanted, then at what needs more."""
    for row in rows:
        row.service, row.problem = Service(), ""
    with ThreadPoolExecutor() as pool:
        wanted = pool.submit(list_tasks, run, [row.short_id for row in rows if row.host], *WANTED)
        inspect(run, rows, [row.short_id for row in rows])
    look_by_name(run, [row for row in rows if not row.service.id])
    look_at_tasks(run, [row for row in rows if row.service.host], wanted.result())


def look_at_tasks(run: Run, shown: list[Row], wanted: "Ended") -> None:
    """Look at the tasks of services: at those that are wanted, and at all where others decide."""
    attach(shown, wanted)
    unclear = [row for row in shown if row.service.needs_history]
    attach(unclear, list_tasks(run, [row.service.id for row in unclear]))
    compare_specs(run, [row for row in shown if row.service.rollout not in SETTLED])


def look_by_name(run: Run, rows: list[Row]) -> None:
    """Look at services whose ID may be the name of another service, which docker prefers."""
    if not rows:
        return
    inspect(run, rows, [row.name for row in rows])
    listed = run.programs.run(*LIST)
    ids = {row_from(data).short_id for data in listed.stdout.objects()}
    for row in rows:
        if not row.service.id and (listed.problem or row.short_id in ids):
            row.problem = listed.problem or "docker shows nothing of it that can be read"


def inspect(run: Run, rows: list[Row], ask_for: list[str]) -> None:
    """Have docker describe services by ID or by name."""
    by_name = {row.name: row for row in rows}
    stdin = File("\n".join(ask_for))
    ended = run.programs.run(*INSPECT, stdin=stdin, before=(*XARGS, "-n50"))
    for item in ended.stdout.objects():
        row = by_name.get(str(value_at(item, "Spec", "Name")))
        if row and str(value_at(item, "ID")).startswith(row.short_id):
            # What cannot be understood stays missing, and so costs its own service.
            with contextlib.suppress(TypeError, KeyError, ValueError, AttributeError):
                row.service = service_from(item)
    if ended.problem and not all(row.service.id for row in rows):
        log.log(NOTICE, "%s", ended.problem)


def service_from(item: dict[str, Any]) -> Service:
    """What docker service inspect says of a service."""
    spec, status = item["Spec"], item.get("UpdateStatus")
    template = with_defaults(spec["TaskTemplate"])
    policy, container = template["RestartPolicy"], template["ContainerSpec"]
    rollout = str(value_at(status, "State") or "")
    ended = value_at(status, "CompletedAt") or value_at(status, "StartedAt")
    return Service(
        id=item["ID"],
        name=spec["Name"],
        image=str(container.get("Image")),
        host=ecr_host(container.get("Image")),
        mode="".join(value_at(spec, "Mode") or {}),
        condition=policy["Condition"] or "any",
        max_attempts=policy["MaxAttempts"] or 0,
        rollout=rollout,
        began=str(value_at(status, "StartedAt") or ""),
        hours=hours_since(ended or item.get("CreatedAt")),
        rolls_back=value_at(spec, "UpdateConfig", "FailureAction") == "rollback",
        changes_token_only=changes_token_only(spec, item.get("PreviousSpec"), rollout),
        is_in_order=is_in_order(container),
        template=template,
    )


def changes_token_only(spec: Any, previous: Any, rollout: str) -> bool:
    """Whether a rollout brings nothing but a token, as one of this script that met an outage."""
    if not previous:
        # The automatic rollback of such a rollout: nothing else has no previous spec.
        return rollout == "rollback_paused"
    template, former = (value_at(each, "TaskTemplate") or {} for each in (spec, previous))
    ports, former_ports = (value_at(each, "EndpointSpec") for each in (spec, previous))
    return with_defaults(template) == with_defaults(former) and ports == former_ports


def with_defaults(template: dict[str, Any]) -> dict[str, Any]:
    """A TaskTemplate as docker service inspect shows it of Spec alone: swarmkit api/defaults."""
    policy = {"Condition": "any", "Delay": 5e9, "MaxAttempts": 0}
    container = {"StopGracePeriod": 1e10, "DNSConfig": {}}
    return {
        "Runtime": "container",
        "Resources": {},
        "Placement": {},
        **template,
        "RestartPolicy": {**policy, **(value_at(template, "RestartPolicy") or {})},
        "ContainerSpec": {**container, **(value_at(template, "ContainerSpec") or {})},
    }


def is_in_order(container: dict[str, Any]) -> bool:
    """Whether mounts and ulimits stand as the docker client sorts them at each update."""
    mounts = container.get("Mounts") or []
    places = [
        (value_at(mount, "Source") or "", value_at(mount, "Target") or "") for mount in mounts
    ]
    limits = [value_at(limit, "Name") or "" for limit in container.get("Ulimits") or []]
    return places == sorted(places) and limits == sorted(limits)


def hours_since(moment: Any) -> float:
    """Hours since 2024-05-01T12:00:00.123456789Z; without end if it cannot be read."""
    try:
        then = datetime.fromisoformat(f"{str(moment)[:19]}+00:00")
    except ValueError:
        return float("inf")
    # A clock may have jumped.
    return abs(time.time() - then.timestamp()) / 3600


def list_tasks(run: Run, ids: list[str], *filters: str) -> "Ended":
    """The tasks of services, slot by slot, the newest first."""
    return run.programs.run(*TASKS, *filters, *ids) if ids else Ended("", File(), "")


def attach(rows: list[Row], listed: "Ended") -> None:
    """Give services their tasks, which docker lists slot by slot, the newest first."""
    services = {row.service.id: row.service for row in rows}
    bad_lines = listed.stdout.bad_lines()
    for row in rows:
        row.service.tasks, row.service.running = {}, []
        row.problem = row.problem or listed.problem
        if any(row.service.id in line for line in bad_lines):
            row.problem = "docker service ps says of its tasks what cannot be read"
    for data in listed.stdout.objects():
        # SERVICE.SLOT, or SERVICE.NODE if it is global.
        owner, _, slot = str(data.get("Name")).partition(".")
        # A slot whose tasks are to be removed is no more: the service was scaled down.
        if owner in services and data.get("DesiredState") != "Remove":
            add_task(services[owner], slot, data)


def add_task(service: Service, slot: str, data: dict[str, Any]) -> None:
    """Add a task to a service, as docker service ps shows it."""
    # Pending 7 hours ago
    state, _, since = str(data.get("CurrentState")).partition(" ")
    is_wanted = data.get("DesiredState") in ("Ready", "Running")
    hours = re.search("([0-9]+) hours", since)
    is_long = bool(hours and int(hours.group(1)) >= LONG_HOURS)
    is_longer = bool(re.search("days|weeks|months|years", since))
    if is_wanted and state == "Running":
        service.running.append(str(data.get("ID")))
    if slot not in service.tasks:
        service.tasks[slot] = Task(state, is_wanted, is_long or is_longer)
    elif not service.tasks[slot].former:
        service.tasks[slot].former = state


def compare_specs(run: Run, rows: list[Row]) -> None:
    """Find out which services have a task that runs an older spec."""
    owners = {task: row for row in rows for task in row.service.running}
    if not owners:
        return
    ended = run.programs.run(*SPECS, stdin=File("\n".join(owners)), before=("xargs", "-n500"))
    for item in ended.stdout.objects():
        row = owners.get(str(item.get("ID")))
        # What cannot be understood stays unseen.
        with contextlib.suppress(TypeError, KeyError):
            if row and with_defaults(item["Spec"]) != row.service.template:
                row.service.runs_older = True
            owners.pop(str(item["ID"]), None)
    for row in owners.values():
        row.problem = "docker inspect does not show its tasks"


# Services: decide ---------------------------------------------------------------------------------


def decide_all(run: Run, rows: list[Row]) -> list[Row]:
    """Say what becomes of services. Returns those to be updated, first what may finish soon."""
    due = []
    failed: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: row.name):
        outcome, reason = decide(row.service, run.problems, run.options)
        if row.is_in_doubt and outcome not in (DUE, FAILED):
            outcome, reason = FAILED, f"may have been sent an empty login, and now {reason}"
        if outcome == DUE:
            due.append(row)
        if outcome == FAILED:
            failed.setdefault(reason, []).append(row.name)
        # One that only pulls from ECR is named when it is refreshed.
        elif reason != PULLS or run.options.dry_run:
            run.report.conclude(outcome, reason, row.name)
    for reason, names in failed.items():
        run.report.conclude(FAILED, reason, *names, said=label(names))
    # So that a run that has to end early leaves out others each time.
    random.shuffle(due)
    return sorted(due, key=lambda row: not row.service.may_finish)


def decide(
    service: Service, problems: dict[str, str], options: argparse.Namespace
) -> tuple[str, str]:
    """What becomes of a service, given the problem of each login, and why. Pure."""
    problem = problems.get(service.host, "it came to this registry after the run had begun")
    if service.host and problem:
        return FAILED, f"not logged in to {service.host}: {problem}"
    outcome, reason = spare(service, options)
    if options.all_services and outcome != DUE:
        return DUE, f"as every service is, although {reason}"
    return outcome, reason


def spare(service: Service, options: argparse.Namespace) -> tuple[str, str]:
    """What becomes of a service that docker has a login for: the first line that applies."""
    held = OVERDUE if service.hours >= LONG_HOURS else HELD
    is_kept = keeps_rollback(service, options)
    ended = bool(service.ended)
    part = OVERDUE if any(task.is_old for task in service.ended) else HELD
    rollout = ROLLOUT_AND_BACK if service.rollout in ("updating", "paused") else ROLLOUT
    restart = held if options.no_restart else DUE
    # fmt: off
    table = (
        (not service.host,              LEFT,    ELSEWHERE),
        (service.mode in JOBS,          LEFT,    IS_JOB),
        (service.mode not in MODES,     held,    UNKNOWN_MODE),
        (not has_tag(service.image),    held,    NO_TAG),
        (service.is_in_rollout,         held,    rollout),
        (is_kept,                       LEFT,    KEPT),
        (ended and service.is_rejected, FAILED,  CHOOSE),
        (ended and service.still_works, part,    PART_ENDED),
        (ended,                         LEFT,    ENDED),
        (service.waits,                 HELD,    STARTING),
        (not service.is_in_order,       restart, MAY_RESTART),
        (True,                          DUE,     PULLS),
    )
    # fmt: on
    outcome, reason = next((outcome, reason) for applies, outcome, reason in table if applies)
    return outcome, reason.format(service, options)


def keeps_rollback(service: Service, options: argparse.Namespace) -> bool:
    """Whether docker service rollback is to go on to lead somewhere."""
    is_change = service.rollout == "completed" and not service.changes_token_only
    return is_change and service.hours < options.keep_rollback


def has_tag(image: str) -> bool:
    """Whether an image has a tag or a digest: the docker client adds :latest to one without."""
    return ":" in image.rpartition("/")[2]


# Services: update, and look again -----------------------------------------------------------------


def update_and_prove(run: Run, due: list[Row], update: Update) -> None:
    """Update services; where a login was not there all the while, some got an empty one: again."""
    update_once(run, due, update)
    again = [row for row in due if row.lacks_login and not run.problems[row.service.host]]
    if again:
        text = "Somebody logged in or out meanwhile: what was updated is updated once more"
        log.log(NOTICE, text)
        update_once(run, again, update)
    for row in due:
        if row.lacks_login:
            problem = run.problems[row.service.host] or LOST_AGAIN
            row.problem = f"may have been sent an empty login: {problem}"


def update_once(run: Run, rows: list[Row], update: Update) -> None:
    """Update services, and see whether the logins were there and whose tasks are replaced."""
    state = login_state()
    update(run, rows)
    is_touched = login_state() != state
    hosts = {row.service.host for row in rows if row.service.host}
    with ThreadPoolExecutor() as pool:
        proof = pool.submit(prove_again, run, hosts)
        say_restarts(run, [row for row in rows if not row.problem])
    lost = proof.result()
    if is_touched:
        lost = hosts
    for row in rows:
        if row.service.host in lost:
            row.is_in_doubt = True
        elif not row.problem:
            row.is_in_doubt = False


def update_together(run: Run, rows: list[Row]) -> None:
    """Have swarm store the login that docker holds: the one step that changes the swarm.

    xargs starts programs faster than any library.
    """
    if not rows:
        return
    each = (*XARGS, "-n1", *time_limit(UPDATE_SECONDS))
    stdin = File("\n".join(row.service.id for row in rows))
    seconds = run.programs.seconds_left() - CLOSING_SECONDS
    confirm(rows, run.programs.run(*UPDATE, stdin=stdin, before=each, seconds=seconds))


def update_singly(run: Run, rows: list[Row]) -> None:
    """The same with an error text for each."""

    def update(row: Row) -> None:
        """One service."""
        seconds = min(UPDATE_SECONDS, run.programs.seconds_left() - CLOSING_SECONDS)
        confirm([row], run.programs.run(*UPDATE, row.service.id, seconds=seconds))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        # Raises what one of them raised.
        for _ in pool.map(update, rows):
            pass


def confirm(rows: list[Row], ended: "Ended") -> None:
    """See which updates count: docker prints the ID of each service that it has updated."""
    done = set(ended.stdout.lines())
    problem = ended.problem or "docker did not confirm the update"
    if any(text in ended.said for text in CONFIG_IS_BROKEN):
        done = set()
        for row in rows:
            row.is_in_doubt = True
        problem = f"docker service update sent no login: {ended.said[-SAID_LENGTH:]}"
    for row in rows:
        row.problem = "" if row.service.id in done else problem


def login_state() -> Any:
    """What changes when somebody logs in or out, since docker then replaces config.json."""
    with contextlib.suppress(OSError, Failure):
        status = os.stat(os.path.join(docker_folder(), "config.json"))
        return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
    return None


def say_restarts(run: Run, rows: list[Row]) -> None:
    """Name the services whose tasks the update replaces, which nobody can see before it.

    A service whose tasks stay has no new UpdateStatus. One of which a task did not run has.
    """
    serving = {row.service.id: row.service for row in rows if row.service.serves}
    if not serving:
        return
    ended = run.programs.run(*STATUS, stdin=File("\n".join(serving)), before=(*XARGS, "-n50"))
    for line in ended.stdout.lines():
        key, _, status = line.partition(" ")
        began = re.search(r'"StartedAt":"([^"]+)"', status)
        if key in serving and began and began.group(1) != serving[key].began:
            run.report.restarted(serving[key])
    if ended.problem:
        log.log(NOTICE, "Nobody looked whether tasks restart: %s", ended.problem)


# What is said -------------------------------------------------------------------------------------


class Report:
    """What became of services and registries: said at once, and counted in the last line."""

    def __init__(self, is_quiet: bool) -> None:
        self.outcomes: dict[str, tuple[str, str]] = {}  # outcome and reason, by service
        self.logins: dict[str, bool] = {}  # whether it is good, by host
        self.lost: dict[str, str] = {}  # problems, by registry
        self.restarts: set[str] = set()  # services
        self.is_quiet = is_quiet

    def conclude(self, outcome: str, reason: str, *names: str, said: str = "") -> None:
        """What became of services, and why. A later outcome replaces an earlier one."""
        self.outcomes.update(dict.fromkeys(names, (outcome, reason)))
        who = said or " ".join(names)
        log.log(LEVELS.get(outcome, logging.INFO), "%s %s: %s", who, outcome, reason)

    def lose(self, registry: str, problem: str) -> None:
        """No login to a registry."""
        self.lost[registry] = problem
        log.error("%s", problem)

    def refreshed(self, name: str) -> None:
        """A service holds a fresh token. Its name goes to stdout, for pipes."""
        self.outcomes[name] = (REFRESHED, "")
        if is_journal(1):
            log.info("%s refreshed", name)
        elif not self.is_quiet:
            # Whoever read it may have gone.
            with contextlib.suppress(OSError):
                os.write(1, f"{name}\n".encode())

    def restarted(self, service: Service) -> None:
        """The tasks of a service are being replaced."""
        if service.name in self.restarts:
            return
        self.restarts.add(service.name)
        why = UNFORESEEN if service.is_in_order else SORTED
        log.warning("%s restarts: %s", service.name, why.format(service))

    def end(self, seconds: float) -> int:
        """Say what the run did, and what is missing. Returns the exit status."""
        ended = [outcome for outcome, _ in self.outcomes.values()]
        failures = self.failures()
        logins = sum(self.logins.values())
        counts = [count(logins, "login")] if logins else []
        counts += [f"{ended.count(each)} {each}" for each in OUTCOMES if each in ended]
        counts += [f"{len(self.restarts)} restarted"] if self.restarts else []
        what = f"{', '.join(counts) or 'nothing to do'} in {seconds:.1f} seconds"
        if failures:
            log.error("%s; missing: %s", what, "; ".join(failures))
            return 1
        if OVERDUE in ended:
            log.warning("%s", what)
            return 3
        log.info("%s", what)
        return 0

    def failures(self) -> list[str]:
        """Who failed and why, three reasons at most."""
        names: dict[str, list[str]] = {}
        for name, (outcome, reason) in self.outcomes.items():
            if outcome == FAILED:
                names.setdefault(reason, []).append(name)
        for registry, problem in self.lost.items():
            names.setdefault(problem, [registry])
        said = [f"{label(some)}: {reason}" for reason, some in names.items()]
        return said[:3] + (["more is said above"] if len(said) > 3 else [])


def label(names: list[str]) -> str:
    """Services by name, as long as they are few."""
    return ", ".join(names) if len(names) < 4 else count(len(names), "service")


def count(number: int, noun: str) -> str:
    """A number of things: 1 login, 2 logins."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# Programs -----------------------------------------------------------------------------------------


class File(io.FileIO):
    """A file in memory, which programs read or print to.

    So no pipe of theirs can block us, the library sh logs none of it, and a token that goes from
    one program to another does not even enter this process.
    """

    def __init__(self, content: str = "") -> None:
        super().__init__(os.memfd_create("ecr_swarm_login"), "r+")
        # Or programs side by side print over each other's lines.
        fcntl.fcntl(self, fcntl.F_SETFL, os.O_APPEND)
        self.write(content.encode())

    def size(self) -> int:
        """In bytes."""
        return os.fstat(self.fileno()).st_size

    def text(self) -> str:
        """Its content, of whatever encoding."""
        return os.pread(self.fileno(), self.size(), 0).decode(errors="replace").strip()

    def lines(self) -> list[str]:
        """Its lines. Not splitlines(), which cuts JSON at U+0085, too."""
        return [line for line in self.text().split("\n") if line]

    def objects(self) -> list[dict[str, Any]]:
        """The JSON objects, one a line, as far as they are some."""
        return [found for found in map(object_from, self.lines()) if found is not None]

    def bad_lines(self) -> list[str]:
        """The lines that are no JSON objects."""
        return [line for line in self.lines() if object_from(line) is None]


def object_from(line: str) -> Optional[dict[str, Any]]:
    """A JSON object, or None."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def value_at(data: Any, *path: str) -> Any:
    """What lies at a path in nested objects; None where something is missing or no object."""
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data


@dataclass
class Ended:
    """A program that has ended."""

    problem: str  # in one line, or ""
    stdout: File
    said: str  # on stderr, in one line


def time_limit(seconds: float) -> tuple[str, ...]:
    """What bounds a program. In the foreground: its children are ended by process group."""
    # To timeout, 0 is no limit at all.
    limit = f"{max(seconds, 0.1):.1f}"
    return ("timeout", "--foreground", f"--kill-after={KILL_SECONDS}", limit)


STREAMS = ("_in", "_out", "_err")
SH_OPTIONS: dict[str, Any] = {
    "_tty_out": False,  # or the program believes in a terminal
    "_close_fds": False,  # needs no /proc
    "_new_session": True,
    "_bg": True,
    "_bg_exc": False,  # or a thread prints a traceback, with the program's stdout in it
}


class Programs:
    """Starts all programs, of which none outlives the run's time or a signal."""

    def __init__(self) -> None:
        self.stopped_by = 0  # the signal
        self.in_flight: set[int] = set()  # process groups that a signal ends
        self.began = 0.0

    def begin(self) -> None:
        """From now on a run has its RUN_SECONDS."""
        self.began = time.monotonic()

    def seconds_gone(self) -> float:
        """Since the run began."""
        return time.monotonic() - self.began

    def seconds_left(self) -> float:
        """Until the run has to end."""
        return RUN_SECONDS - self.seconds_gone()

    def stop(self, number: int, _frame: Any) -> None:
        """Handle a signal: start nothing more, end what runs, say nothing more."""
        self.stopped_by = number
        for group in list(self.in_flight):
            signal_group(group, signal.SIGTERM)
        log.warning("Stopped by %s: the next run does what is left", signal.Signals(number).name)
        log.disabled = True

    def run(
        self,
        *command: str,
        stdin: Optional[File] = None,
        before: tuple[str, ...] = (),
        is_stoppable: bool = True,
        seconds: float = PROGRAM_SECONDS,
    ) -> Ended:
        """Run a program to its end, within its time and the run's. Raises Stopped after a signal.

        One that is not stoppable is given its time even if the run's is over.
        """
        if self.stopped_by:
            raise Stopped
        name = " ".join(command[:3])
        seconds_at_most = min(seconds, self.seconds_left())
        if seconds_at_most <= 0:
            problem = f"{name} was not started: the {RUN_SECONDS} seconds of the run are over"
            return Ended(problem, File(), "")
        if is_stoppable:
            seconds = seconds_at_most
        files = (stdin or File(), File(), File())
        status, problem = self.start((*time_limit(seconds), *before, *command), files, is_stoppable)
        if self.stopped_by:
            raise Stopped
        said = re.sub(r"[\s\0-\37]+", " ", files[2].text() or problem)
        # Docker warns at each login that it stores it.
        if said and not status and PROOF != command[:2]:
            log.info("%s succeeded, and said: %s", name, said[-SAID_LENGTH:])
        return Ended(explain(name, status, said, seconds), files[1], said)

    def start(
        self, command: tuple[str, ...], files: tuple[File, File, File], is_stoppable: bool
    ) -> tuple[int, str]:
        """The one place that starts programs. Returns the exit status, and why there is none."""
        files[0].seek(0)
        # By number: sh keeps what it is given in a cycle, open until the garbage collector comes.
        streams: dict[str, Any] = dict(zip(STREAMS, map(File.fileno, files)))
        status = 0
        try:
            running = sh.Command(command[0])(*command[1:], **streams, **SH_OPTIONS)
        except (sh.CommandNotFound, sh.ForkException, OSError) as error:
            return 126, str(error)
        if is_stoppable:
            self.in_flight.add(running.pid)
        # A signal may have come before it was in flight.
        if is_stoppable and self.stopped_by:
            signal_group(running.pid, signal.SIGTERM)
        try:
            running.wait()
        except sh.ErrorReturnCode as error:
            status = error.exit_code
        self.in_flight.discard(running.pid)
        # What it left behind.
        signal_group(running.pid, signal.SIGKILL)
        return status, ""


def signal_group(group: int, number: int) -> None:
    """Signal all processes of a group, if there is one left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def explain(name: str, status: int, said: str, seconds: float) -> str:
    """What went wrong with a program, in one line, or ""."""
    if not status:
        return ""
    hung = f"hung, and was killed after {seconds:.0f} seconds"
    reasons = {
        123: "failed",  # of xargs
        124: hung,
        126: "cannot be executed",
        127: "is not installed, or not on the PATH",
        137: hung,
    }
    killed = f"was killed by signal {-status}"
    other = f"failed with exit status {status}" if status > 0 else killed
    return f"{name} {reasons.get(status, other)}: {said[-SAID_LENGTH:] or 'it said nothing'}"


if __name__ == "__main__":
    sys.exit(main())
