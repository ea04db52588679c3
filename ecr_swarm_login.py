#!/usr/bin/python3
"""Give every Docker Swarm service that pulls from AWS ECR a fresh token, and change nothing else.

  ecr_swarm_login.py --dry-run                say what would become of each service, and why
  ecr_swarm_login.py --region eu-central-1    log in, there too, and refresh

An ECR token lives 12 hours, and swarm never renews the one it stored at the last deploy: run this
hourly on a manager. Exit status: 0 all well, 1 something failed, 2 usage, 3 only held back for too
long, 128+n stopped by signal n.
"""
from __future__ import annotations

import argparse
import calendar
import contextlib
import fcntl
import functools
import io
import json
import logging
import os
import pwd
import re
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

try:
    import sh
except ImportError:
    sys.exit(f"ecr_swarm_login: {sys.executable} has no library sh: apt-get install python3-sh, or pip3 install 'sh<3'")

__version__ = "1.0.0"
PROGRAM_SECONDS = 60  # what takes longer hangs, and is killed with its children
UPDATES_AT_ONCE = min(8, 2 * (os.cpu_count() or 1))  # the start of the docker client is CPU-bound
BATCH = 200  # services looked at, then updated: the fewer, the less happens in between
PAUSES = (0, 1, 3, 9)  # seconds before each try: a new leader or a daemon's restart takes some
OVERDUE_SECONDS = 6 * 3600  # half a token's life
# The whole host, since a look-alike must not get a token: amazon-ecr-credential-helper, ecr-login/api/client.go
ECR_HOST = re.compile(
    r"[0-9]{12}\.dkr[.-]ecr(?:-fips)?\.([a-z0-9][a-z0-9-]*)\.(?:amazonaws\.com(?:\.cn)?|amazonaws\.eu|on\.aws"
    r"|on\.amazonwebservices\.com\.cn|sc2s\.sgov\.gov|c2s\.ic\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)")
LIST = ("docker", "service", "ls", "--format", "{{json .}}")
UPDATE = ("docker", "service", "update", "-d", "-q", "--with-registry-auth")
SETTLED = ("", "completed", "rollback_completed")  # UpdateStatus.State
DUE, REFRESHED, LEFT, HELD, OVERDUE, FAILED = OUTCOMES = (
    "to be refreshed", "refreshed", "left alone", "held back", "held back too long", "failed")
NOTICE = logging.INFO + 5
LEVELS = {HELD: NOTICE, OVERDUE: logging.WARNING, FAILED: logging.ERROR}
log = logging.getLogger("ecr_swarm_login")
outcomes: dict[str, str] = {}  # of each service and registry, by name
stopped_by: list[int] = []  # signals
in_flight: set[int] = set()  # process groups that a signal ends


class Failure(Exception):
    """One line: what failed, what the program said, what to do next."""


class File(io.FileIO):
    """A file in memory, which programs read or print to: no pipe of theirs can block us, and sh logs none of it."""

    def __init__(self, content: str = "") -> None:
        super().__init__(os.memfd_create("ecr_swarm_login"), "r+")
        self.write(content.encode())

    def text(self) -> str:
        """Its content, of whatever encoding."""
        self.seek(0)
        return self.readall().decode(errors="replace").strip()


class Service(NamedTuple):
    """All that decides what becomes of a service."""

    id: str
    name: str
    host: str  # its image's ECR registry, or empty
    mode: str = "replicated"
    rollout: str = ""  # UpdateStatus.State
    age: float = float("inf")  # seconds since the rollout ended, or began, or else since any update
    can_roll_back: bool = False  # the previous spec differs
    token_only: bool = False  # the rollout changes no task: it was a refresh
    runs_older: bool = False  # a running task has yet another spec; looked up if token_only
    may_finish: bool = False  # swarm lets a task end for good, and an update would run it again
    full: bool = True  # as many tasks run as are wanted
    finished: bool = False  # the newest task of a slot is; looked up if it may_finish and is not full
    mounts_sorted: bool = True  # as the docker client sorts them


def main(arguments: list[str] | None = None) -> int:
    """Run once, and say how it ended. Returns the exit status."""
    began, options = time.monotonic(), parse(arguments)
    prepare(options)
    try:
        run(options)
    except (Failure, OSError, ValueError, sh.CommandNotFound, sh.ForkException) as failure:
        conclude("the run", FAILED, str(failure))
    ended, missing = list(outcomes.values()), [name for name in outcomes if outcomes[name] == FAILED]
    status, level = (1, logging.ERROR) if missing else (3, logging.WARNING) if OVERDUE in ended else (0, logging.INFO)
    counts = ", ".join(f"{ended.count(outcome)} {outcome}" for outcome in OUTCOMES)
    log.log(level, "After %.1f seconds: %s%s", time.monotonic() - began, counts,
            f"; missing: {' '.join(missing)}" if missing else "")
    return status


def run(options: argparse.Namespace) -> None:
    """Find the services, log in to their registries, refresh. Raises Failure where it cannot go on."""
    rows: dict[str, Any] = {}
    try:
        rows = {row["Name"]: row for row in ask(*LIST)}
    except Failure as failure:
        if not options.login_only:  # a manager that boots may join its swarm later
            raise
        log.log(NOTICE, "The registries of the services are not known yet: %s", failure)
    for name in set(options.services).difference(rows):
        conclude(name, FAILED, "there is no such service: see docker service ls")
    names = [name for name in rows if not options.services or name in options.services]
    used = {ecr_host(rows[name].get("Image")) for name in names} - {""}
    hosts = {host for host in used if holds_login(host, options.docker_folder)} if options.refresh_only else log_in_all(used, options)
    if options.login_only:
        return
    if options.leader_only and ask("docker", "node", "inspect", "self", "--format", "{{.ManagerStatus.Leader}}") != [True]:
        log.info("Another manager leads the swarm, and refreshes its services")
        return
    log.info("Running docker update swarm services registry auth")
    for begin in range(0, len(names), BATCH):
        refresh(names[begin:begin + BATCH], hosts, options)
        log.info("%d of %d services seen to", min(begin + BATCH, len(names)), len(names))


def conclude(name: str, outcome: str, reason: str) -> None:
    """Say what became of a service or registry, and why. The last word counts."""
    outcomes[name] = outcome
    log.log(LEVELS.get(outcome, logging.INFO), "%s %s: %s", name, outcome, reason)


def ecr_host(image: Any) -> str:
    """The ECR registry of an image; empty if it is in another registry."""
    host, slash, _ = str(image).partition("/")
    return host if slash and ECR_HOST.fullmatch(host) else ""


def log_in_all(used: set[str], options: argparse.Namespace) -> set[str]:
    """Log in to the registries used, those named, and the account's own in the region set. Returns where that worked."""
    hosts, region = used.union(options.registry), options.region
    if not hosts and not region:
        region = program("aws", "configure", "get", "region")[1].text()
        if not region:
            raise Failure("No registry to log in to: no service uses ECR, no region is set: pass --region or --registry")
    own = [region] if region else []
    if options.dry_run:
        log.info("Would log in to %s", ", ".join(sorted(hosts) + [f"your own registry in {region}" for region in own]))
        return hosts
    # Side by side, for an aws takes up to a second. One token serves all registries of its region.
    with ThreadPoolExecutor() as pool:
        own_hosts = pool.map(own_registry, own)
        regions = sorted({ECR_HOST.sub(r"\1", host) for host in hosts}.union(own))
        tokens = dict(zip(regions, pool.map(lambda region: program("aws", "ecr", "get-login-password", "--region", region), regions)))
    hosts.update(host for host in own_hosts if host)
    return {host for host in sorted(hosts) if log_in(host, *tokens[ECR_HOST.sub(r"\1", host)])}


def own_registry(region: str) -> str:
    """The registry of the caller's account, or "". Outside the partitions aws, aws-cn and aws-us-gov, --registry names it."""
    problem, account = program("aws", "sts", "get-caller-identity", "--query", "Account", "--output", "text", "--region", region)
    host = f"{account.text()}.dkr.ecr.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"
    if not problem and ECR_HOST.fullmatch(host):
        return host
    conclude(f"your own registry in {region}", FAILED, problem or f"{host} is no registry: check the region")
    return ""


def log_in(host: str, problem: str, token: File) -> bool:
    """Log docker in to a registry, never to two at once: docker replaces its config.json without a lock."""
    failed = "Failed to acquire docker login credentials"
    if not problem:  # not to be stopped, or docker could leave a copy of config.json behind
        failed, command = "Docker login failed", ("docker", "login", "--username", "AWS", "--password-stdin", host)
        problem, _ = program(*command, stdin=token, stoppable=False)
    if problem:
        conclude(host, FAILED, f"{failed}: {problem}")
    else:
        log.info("Docker login succeeded for %s", host)
    return not problem


def holds_login(host: str, folder: str) -> bool:
    """Whether docker holds a login for a registry. Without one it sends an empty one and keeps silent (docker/cli
    cli/command/registry.go): so look where it looks (cli/config/configfile)."""
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    helper, problem = dig(config, "credHelpers", host) or dig(config, "credsStore"), ""
    if helper:
        problem, _ = program(f"docker-credential-{helper}", "get", stdin=File(host))
    elif not any(dig(login, "auth") or dig(login, "identitytoken") for key, login in (dig(config, "auths") or {}).items()
                 if re.sub("^https?://", "", key).split("/")[0] == host):
        problem = "log in, or leave out --refresh-only"
    if problem:
        conclude(host, FAILED, f"docker holds no login for it: {problem}")
    return not problem


def decide(service: Service, hosts: set[str], options: argparse.Namespace) -> tuple[str, str]:
    """What becomes of a service, given the registries that docker is logged in to, and why. Pure."""
    if service.host and service.host not in hosts:
        return FAILED, f"docker is not logged in to {service.host}"
    if options.all_services:
        return DUE, "as every service"
    if not service.host:
        return LEFT, "its image is in no registry that this run logged in to"
    if service.mode in ("replicated job", "global job"):
        return LEFT, "it is a job, and would run again"
    if service.mode not in ("replicated", "global"):
        return hold(service, f"its mode is {service.mode}, which this version does not know")
    # A refresh that met an outage of the registry stays paused when all is well again. It can go on, for there is nothing
    # new to roll out; unless it hit a rollout that was under way: then a task with an older spec is still running.
    if service.rollout not in SETTLED and (service.runs_older or not service.token_only):
        return hold(service, f"its rollout is {service.rollout}; to go on: docker service update --with-registry-auth "
                             f"{service.name}; to go back: docker service rollback {service.name}")
    if service.rollout == "completed" and service.can_roll_back and service.age < options.keep_rollback * 3600:
        return LEFT, f"docker service rollback is kept for {options.keep_rollback:g} hours"
    if service.finished:
        return LEFT, "its finished tasks would run again"
    if service.mounts_sorted:
        return DUE, "nothing speaks against it"
    reason = "its tasks may restart once: the docker client sorts its mounts (docker/cli#7226)"
    return hold(service, reason) if options.no_restart else (DUE, reason)


def hold(service: Service, reason: str) -> tuple[str, str]:
    """Held back, or too long. A clock that jumped must not silence the warning: abs()."""
    return HELD if abs(service.age) < OVERDUE_SECONDS else OVERDUE, reason


def refresh(names: list[str], hosts: set[str], options: argparse.Namespace, tries: int = 0) -> None:
    """Look at some services, decide, update. What fails is looked at anew: something else may have updated it."""
    time.sleep(PAUSES[tries])
    try:
        services, problems = look_at(names)
    except Failure as failure:
        services, problems = [], dict.fromkeys(names, str(failure))
    due = []
    for service in sorted(services, key=lambda service: not service.may_finish):  # before a task of theirs does
        outcome, reason = decide(service, hosts, options)
        if outcome == DUE and not options.dry_run:
            due.append(service)
        if service not in due or not service.mounts_sorted:
            conclude(service.name, outcome, reason)
    for service, problem in zip(due, update(due, one_by_one=tries > 0)):
        problems.update({service.name: problem} if problem else {})
        outcomes[service.name] = DUE if problem else REFRESHED
        if not problem and not options.quiet:
            print(service.name, flush=True)
    if problems and tries + 1 < len(PAUSES):
        log.log(NOTICE, "To be tried again: %s", "; ".join(f"{name}: {problems[name]}" for name in problems))
        return refresh(list(problems), hosts, options, tries + 1)
    for name, problem in problems.items():
        conclude(name, FAILED, problem)


def update(services: list[Service], one_by_one: bool) -> list[str]:
    """Have swarm store the token that docker holds: the one step that changes the swarm. Returns a problem each, or ""."""
    if one_by_one:  # for an error text of its own
        return [program(*UPDATE, service.id)[0] for service in services]
    # xargs, for it starts programs faster than any library. Docker prints the ID of each service that it updated.
    ids = File("\n".join(service.id for service in services))
    problem, printed = program(*UPDATE, stdin=ids, before=("xargs", "-r", f"-P{UPDATES_AT_ONCE}", "-n1"))
    updated = set(printed.text().split())
    return ["" if service.id in updated else problem or "docker did not confirm it" for service in services]


def look_at(names: list[str]) -> tuple[list[Service], dict[str, str]]:
    """Services as they are now, and a problem for each that docker does not describe. What has gone is in neither."""
    rows = {row["Name"]: row for row in ask(*LIST)}
    names = [name for name in names if name in rows]
    found = ask("docker", "service", "inspect", "--format", "{{json .}}", *names) if names else []
    found = {item["ID"]: item for item in found if dig(item, "ID") and dig(item, "Spec", "Name") in rows}
    services = {key: service_from(item, rows[item["Spec"]["Name"]]) for key, item in found.items()}
    # Docker counts only those tasks of a global service that are to run: 0/0 if all have finished (ListServiceStatuses).
    unclear = [key for key, service in services.items() if service.token_only and service.rollout not in SETTLED
               or service.may_finish and (service.mode == "global" or not service.full)]
    ids = ask("docker", "service", "ps", "--no-trunc", "--format", "{{json .ID}}", *unclear) if unclear else []
    newest = set()
    for task in ask("docker", "inspect", "--type", "task", "--format", "{{json .}}", *ids) if ids else []:
        service, template = services[task["ServiceID"]], dig(found[task["ServiceID"]], "Spec", "TaskTemplate")
        state, slot = dig(task, "Status", "State"), (service.id, task.get("Slot") or task.get("NodeID"))
        older = state == "running" and {**template, **(dig(task, "Spec") or {})} != template
        # The newest of a slot comes first. One that was rejected, as for a dead token, never ran.
        finished = slot not in newest and state in ("complete", "failed") and service.may_finish
        newest.add(slot)
        services[service.id] = service._replace(finished=service.finished or finished, runs_older=service.runs_older or older)
    missing = set(names).difference(service.name for service in services.values())
    return list(services.values()), dict.fromkeys(missing, "docker service inspect does not describe it")


def service_from(item: dict[str, Any], row: dict[str, Any]) -> Service:
    """What an object of docker service inspect and a row of docker service ls say of a service."""
    spec, previous, status = item["Spec"], item.get("PreviousSpec"), item.get("UpdateStatus")
    template, began = dig(spec, "TaskTemplate"), float("-inf")
    moment = dig(status, "CompletedAt") or dig(status, "StartedAt") or item.get("UpdatedAt")
    with contextlib.suppress(ValueError):  # 2024-05-01T12:00:00.123456789Z
        began = calendar.timegm(time.strptime(str(moment)[:19], "%Y-%m-%dT%H:%M:%S"))
    policy, counted = dig(template, "RestartPolicy"), re.match(r"(\d+)/(\d+)", str(row.get("Replicas")))
    mounts = [(dig(mount, "Source") or "", dig(mount, "Target") or "")
              for mount in dig(template, "ContainerSpec", "Mounts") or []]
    return Service(
        item["ID"], spec["Name"], ecr_host(dig(template, "ContainerSpec", "Image")), mode=str(row.get("Mode")),
        rollout=dig(status, "State") or "", age=time.time() - began,
        can_roll_back=bool(previous) and previous != spec, token_only=dig(previous, "TaskTemplate") == template,
        may_finish=(dig(policy, "Condition") or "any") != "any" or bool(dig(policy, "MaxAttempts")),
        full=bool(counted) and int(counted[1]) >= int(counted[2]), mounts_sorted=mounts == sorted(mounts))


def dig(data: Any, *path: str) -> Any:
    """What lies at a path in nested objects; None where something is null, missing or no object."""
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def ask(*command: str) -> list[Any]:
    """What docker printed as JSON, one value a line, without what has gone meanwhile. Raises Failure."""
    problem, printed = program(*command)
    try:
        values = [json.loads(line) for line in printed.text().splitlines()]
    except ValueError as error:
        raise Failure(problem or f"{' '.join(command[:4])} did not print JSON: {error}") from None
    if problem and not values:
        raise Failure(problem)
    return values


def program(*command: str, stdin: File | None = None, before: tuple[str, ...] = (),
            stoppable: bool = True) -> tuple[str, File]:
    """Run a program. Returns what went wrong in one line, or "", and the file that it printed to."""
    if stopped_by:
        log.error("Stopped by %s: the next run does what is left", signal.Signals(stopped_by[0]).name)
        sys.exit(128 + stopped_by[0])
    stdin, stdout, stderr, status = stdin or File(), File(), File(), 0
    stdin.seek(0)
    argv = (*before, "timeout", "--foreground", "--kill-after=5", str(PROGRAM_SECONDS), *command)
    running = sh.Command(argv[0])(*argv[1:], _in=stdin, _out=stdout, _err=stderr, _tty_out=False, _close_fds=False,
                                  _new_session=True, _bg=True, _bg_exc=False)
    in_flight.update([running.pid] if stoppable else [])
    if stopped_by:  # meanwhile
        stop(stopped_by[0], None)
    try:
        running.wait()
    except sh.ErrorReturnCode as error:
        status = error.exit_code
    in_flight.discard(running.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)  # what it left behind
    said, name = " ".join(stderr.text().split())[:500], " ".join(command[:4])
    if said and not status:
        log.log(NOTICE, "%s succeeded, and said: %s", name, said)
    what = {124: f"hung, and was killed after {PROGRAM_SECONDS} seconds", 127: "is not installed, or not on the PATH"}
    return f"{name} {what.get(status, f'failed with exit status {status}')}: {said}" if status else "", stdout


def stop(number: int, _frame: Any) -> None:
    """Handle a signal: start nothing more, end what runs."""
    stopped_by.append(number)
    for group in list(in_flight):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGTERM)


def lock_logins(folder: str) -> None:
    """Wait until no other run of this user logs in: docker replaces config.json without a lock."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)  # left open: it ends with this process
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.log(NOTICE, "Waiting for another run to end")
        fcntl.flock(lock, fcntl.LOCK_EX)


def prepare(options: argparse.Namespace) -> None:
    """Set up this process: log, environment, lock, signals."""
    while os.open(os.devnull, os.O_RDWR) < 3:
        pass  # a closed stdout must not become the next file that is opened
    journal = os.environ.get("JOURNAL_STREAM") == "{0.st_dev}:{0.st_ino}".format(os.fstat(2))
    for level, priority in ((logging.INFO, 6), (NOTICE, 5), (logging.WARNING, 4), (logging.ERROR, 3)):
        logging.addLevelName(level, f"<{priority}>" if journal else "")  # sd-daemon(3)
    logging.basicConfig(format="%(levelname)s%(message)s", level=logging.WARNING if options.quiet else logging.INFO)
    logging.getLogger("sh").propagate = logging.raiseExceptions = False
    # Cron's PATH is /usr/bin:/bin, and aws is often elsewhere.
    os.environ["PATH"] = os.environ.get("PATH", os.defpath) + ":/usr/local/bin:/snap/bin"
    # A docker client lives for milliseconds: without garbage collection and threads it starts a quarter faster.
    os.environ.update(GOGC="off", GOMAXPROCS="1")
    if not options.dry_run:
        lock_logins(options.docker_folder)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line. Exits with status 2 if it makes no sense."""
    parser = argparse.ArgumentParser(prog="ecr_swarm_login.py", usage="%(prog)s [options] [SERVICE ...]", description=__doc__,
                                     allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("services", nargs="*", metavar="SERVICE", help="only these services, by name")
    parser.add_argument("--region", help="also log in to this account's own registry there")
    parser.add_argument("--registry", metavar="HOST", action="append", default=[], help="also log in to this one; repeatable")
    flag = functools.partial(parser.add_argument, action="store_true")
    flag("--login-only", help="log in and stop, as when a manager boots")
    flag("--refresh-only", help="refresh with the logins that docker holds, as in a credential helper")
    flag("--leader-only", help="log in, but leave the refresh to the manager that leads the swarm")
    flag("--all-services", help="refresh every service, whatever that does to it")
    flag("--no-restart", help="hold back services whose tasks an update would restart")
    flag("-n", "--dry-run", help="say what would be done, and why; change nothing")
    flag("-q", "--quiet", help="warnings and errors only")
    parser.add_argument("--keep-rollback", metavar="HOURS", type=float, default=0, help=(
        "leave a service alone for HOURS after a rollout, so that docker service rollback works: a refresh "
        "overwrites the previous spec. 0 by default; at most 10, for a token lives 12"))
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    options = parser.parse_args(arguments)
    for wrong, message in (
            (not all(map(ECR_HOST.fullmatch, options.registry)), "--registry takes 123456789012.dkr.ecr.eu-central-1.amazonaws.com"),
            (not re.fullmatch("([a-z]+(-[a-z]+)+-[0-9]+)?", options.region or ""), "--region takes one such as eu-central-1"),
            (not 0 <= options.keep_rollback <= 10, "--keep-rollback takes 0 to 10 hours"),
            (options.refresh_only and (options.login_only or options.region or options.registry),
             "--refresh-only logs in nowhere: leave out --login-only, --region and --registry"),
            (options.all_services and (options.no_restart or options.keep_rollback),
             "--all-services spares none: leave out --no-restart and --keep-rollback")):
        if wrong:
            parser.error(message)
    options.region = options.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    home = os.environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir
    options.docker_folder = os.environ.get("DOCKER_CONFIG") or os.path.join(home, ".docker")
    return options


if __name__ == "__main__":
    sys.exit(main())
