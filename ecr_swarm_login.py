#!/usr/bin/python3
"""Give every Docker Swarm service that pulls from AWS ECR a fresh token, and change nothing else.

An ECR token lives 12 hours, and swarm never renews the one it stored at the last deploy: run this hourly on a
manager. Run.go() tells the run, Service.decide() what becomes of a service and why, Run.update() is the one step
that changes the swarm, and program() the one place where programs are started.
"""
import argparse
import calendar
import concurrent.futures
import fcntl
import io
import json
import logging
import os
import pwd
import re
import signal
import sys
import time
from typing import Any, NamedTuple, Optional

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
NOTICE = logging.INFO + 5
DUE, REFRESHED, LEFT, HELD, OVERDUE, FAILED = OUTCOMES = (
    "to be refreshed", "refreshed", "left alone", "held back", "held back too long", "failed")
LEVELS = {HELD: NOTICE, OVERDUE: logging.WARNING, FAILED: logging.ERROR}
FLAGS = {
    "--login-only": "log in and stop, as when a manager boots",
    "--refresh-only": "refresh with the logins that docker holds, as in a credential helper",
    "--leader-only": "log in, but leave the refresh to the manager that leads the swarm",
    "--all-services": "refresh every service, whatever that does to it",
    "--no-restart": "hold back services whose tasks an update would restart",
    "-n --dry-run": "say what would be done, and why; change nothing",
    "-q --quiet": "warnings and errors only"}
KEEP_ROLLBACK = """leave a service alone for HOURS after a rollout, so that docker service rollback works: a refresh
overwrites the previous spec. 0 by default; at most 10, for a token lives 12"""
HELP = """Give every swarm service that pulls from AWS ECR a fresh token, and change nothing else.

  ecr_swarm_login.py --dry-run    say what would become of each service, and why
  ecr_swarm_login.py              log in, and refresh"""
EXIT_STATUS = "Exit status: 0 all well, 1 something failed, 2 usage, 3 only held back too long, 128+n stopped by signal n."
log = logging.getLogger("ecr_swarm_login")
stopped_by: list[int] = []  # signals
in_flight: set[int] = set()  # process groups that a signal ends


class Failure(Exception):
    """One line: what failed, what the program said, what to do next."""


class File(io.FileIO):
    """A file in memory. Programs read and print there: none can block us, and sh, which logs what it reads, reads nothing."""

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
    full: bool = True  # as many tasks run as are wanted
    may_finish: bool = False  # swarm lets a task end for good, and an update would run it again
    rollout: str = ""  # UpdateStatus.State
    age: float = float("inf")  # seconds since the rollout ended, or began, or else since any update
    can_roll_back: bool = False  # the previous spec differs
    tasks_change: bool = True  # the rollout changes more than the token
    mounts_sorted: bool = True  # as the docker client sorts them
    finished: bool = False  # the newest task of some slot is; known only if needs_tasks()
    runs_older: bool = False  # a running task has an older spec; known only if needs_tasks()

    def decide(self, hosts: set[str], options: argparse.Namespace) -> tuple[str, str]:
        """What becomes of it, given the registries that docker is logged in to, and why. Pure."""
        if self.host and self.host not in hosts:
            return FAILED, f"docker is not logged in to {self.host}"
        if options.all_services:
            return DUE, "as every service"
        if not self.host:
            return LEFT, "its image is in no registry that this run logged in to"
        if self.mode in ("replicated job", "global job"):
            return LEFT, "it is a job, and would run again"
        if self.mode not in ("replicated", "global"):
            return self.hold(f"its mode is {self.mode!r}, which this version does not know")
        if self.rollout not in ("", "completed", "rollback_completed") and not self.only_token_changes():
            return self.hold(f"its rollout is {self.rollout}; to go on: docker service update --with-registry-auth "
                             f"{self.name}; to go back: docker service rollback {self.name}")
        if self.rollout == "completed" and self.can_roll_back and self.age < options.keep_rollback * 3600:
            return LEFT, f"docker service rollback is kept for {options.keep_rollback:g} hours"
        if self.may_finish and self.finished:
            return LEFT, "its finished tasks would run again"
        if self.mounts_sorted:
            return DUE, "nothing speaks against it"
        reason = "its tasks may restart once: the docker client sorts its mounts (docker/cli#7226)"
        return self.hold(reason) if options.no_restart else (DUE, reason)

    def hold(self, reason: str) -> tuple[str, str]:
        """Held back, or too long. A clock that jumped must not silence the warning: abs()."""
        return HELD if abs(self.age) < OVERDUE_SECONDS else OVERDUE, reason

    def only_token_changes(self) -> bool:
        """Whether an unsettled rollout is but a refresh: one that met an outage of the registry pauses, and stays so
        when all is well again. A running task with an older spec tells that it came in the midst of a real rollout."""
        return self.rollout in ("updating", "paused") and not self.tasks_change and not self.runs_older

    def needs_tasks(self) -> bool:
        """Whether its tasks decide. A finished global service shows 0/0 running (swarmkit, ListServiceStatuses)."""
        return self.may_finish and (self.mode == "global" or not self.full) or self.only_token_changes()


class Run:
    """One run, and what became of each service and registry in it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.outcomes: dict[str, str] = {}

    def go(self) -> None:
        """Find the services, log in to their registries, refresh. Raises Failure where it cannot go on."""
        options, rows = self.options, {}
        try:
            rows = list_services()
        except Failure as failure:
            if not options.login_only:  # a manager that boots may join its swarm later
                raise
            log.log(NOTICE, "The registries of the services are not known yet: %s", failure)
        for name in set(options.services).difference(rows):
            self.conclude(name, FAILED, "there is no such service: see docker service ls")
        names = [name for name in rows if not options.services or name in options.services]
        used = {ecr_host(rows[name].get("Image")) for name in names} - {""}
        hosts = set(filter(self.holds_login, used)) if options.refresh_only else self.log_in_all(used)
        if options.login_only:
            return
        if options.leader_only and ask("docker", "node", "inspect", "self", "--format", "{{.ManagerStatus.Leader}}") != [True]:
            log.info("Another manager leads the swarm, and refreshes its services")
            return
        log.info("Running docker update swarm services registry auth")
        self.refresh_all(names, hosts)

    def conclude(self, name: str, outcome: str, reason: str) -> None:
        """Say what became of a service or registry, and why. The last word counts."""
        self.outcomes[name] = outcome
        log.log(LEVELS.get(outcome, logging.INFO), "%s %s: %s", name, outcome, reason)

    def summary(self, seconds: float) -> int:
        """Say in one line how the run ended, and what is missing. Returns the exit status."""
        found = list(self.outcomes.values())
        missing = [name for name, outcome in self.outcomes.items() if outcome == FAILED]
        status, level = (1, logging.ERROR) if missing else (3, logging.WARNING) if OVERDUE in found else (0, logging.INFO)
        counts = ", ".join(f"{found.count(outcome)} {outcome}" for outcome in OUTCOMES)
        log.log(level, "After %.1f seconds: %s%s", seconds, counts, f"; missing: {' '.join(missing)}" if missing else "")
        return status

    def log_in_all(self, used: set[str]) -> set[str]:
        """Log in to the registries used, those named, and the account's own in the region set. Returns where it is."""
        hosts, region = used.union(self.options.registry), self.options.region
        if not hosts and not region:
            region = program("aws", "configure", "get", "region")[1].text()
            if not region:
                raise Failure("No registry to log in to: no service uses ECR, no region is set: pass --region or --registry")
        own = [region] if region else []
        if self.options.dry_run:
            log.info("Would log in to %s", ", ".join(sorted(hosts) + [f"your own registry in {name}" for name in own]))
            return hosts
        # Side by side, for an aws takes up to a second. One token serves all registries of its region.
        with concurrent.futures.ThreadPoolExecutor() as pool:
            own_hosts = pool.map(self.own_registry, own)
            regions = sorted({region_of(host) for host in hosts}.union(own))
            tokens = dict(zip(regions, pool.map(self.token, regions)))
        hosts.update(host for host in own_hosts if host)
        return {host for host in sorted(hosts) if self.log_in(host, tokens[region_of(host)])}

    def own_registry(self, region: str) -> str:
        """The registry of the caller's account. Outside the partitions aws, aws-cn and aws-us-gov, --registry names it."""
        problem, account = program("aws", "sts", "get-caller-identity", "--query", "Account", "--output", "text", "--region", region)
        host = f"{account.text()}.dkr.ecr.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"
        if problem or not region_of(host):
            self.conclude(f"your own registry in {region}", FAILED, problem or f"{host} is no registry: check the region")
            return ""
        return host

    def token(self, region: str) -> Optional[File]:
        """The file that holds the token of a region, or None. Its content never comes into this process."""
        problem, token = program("aws", "ecr", "get-login-password", "--region", region)
        if not problem and not os.fstat(token.fileno()).st_size:
            problem = "aws ecr get-login-password printed nothing: try it by hand"
        if problem:
            log.error("Failed to acquire docker login credentials for %s: %s", region, problem)
        return None if problem else token

    def log_in(self, host: str, token: Optional[File]) -> bool:
        """Log docker in to a registry, never to two at once: docker replaces its config.json without a lock."""
        problem = "there is no token for its region"
        if token:  # not to be stopped, or docker could leave a copy of config.json behind
            problem, _ = program("docker", "login", "--username", "AWS", "--password-stdin", host, stdin=token, stoppable=False)
        if problem:
            self.conclude(host, FAILED, f"Docker login failed: {problem}")
        else:
            log.info("Docker login succeeded for %s", host)
        return not problem

    def holds_login(self, host: str) -> bool:
        """Whether docker holds a login for a registry. Without one it sends an empty one and keeps silent (docker/cli
        cli/command/registry.go): so look where it looks (cli/config/configfile)."""
        with open(os.path.join(docker_folder(), "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        helper = dig(config, "credHelpers", host) or dig(config, "credsStore")
        if helper:
            held = dig(ask(f"docker-credential-{helper}", "get", stdin=File(host)), 0, "Secret")
        else:
            held = any(re.sub("^https?://", "", key).split("/")[0] == host and (dig(login, "auth") or dig(login, "identitytoken"))
                       for key, login in (dig(config, "auths") or {}).items())
        if not held:
            self.conclude(host, FAILED, "docker holds no login for it: log in, or leave out --refresh-only")
        return bool(held)

    def refresh_all(self, names: list[str], hosts: set[str]) -> None:
        """Refresh the services that are due, and try again those that something else updated at the same moment."""
        queue = [(0, names[begin:begin + BATCH]) for begin in range(0, len(names), BATCH)]
        for tries, batch in queue:
            time.sleep(PAUSES[tries])
            try:
                problems = self.refresh(batch, hosts, one_by_one=tries > 0)
            except Failure as failure:
                problems = dict.fromkeys(batch, str(failure))
            last = tries + 1 == len(PAUSES)
            if problems and not last:
                queue.append((tries + 1, list(problems)))
                log.log(NOTICE, "To be tried again: %s", "; ".join(f"{name}: {problems[name]}" for name in problems))
            for name in problems if last else ():
                self.conclude(name, FAILED, problems[name])
            if not tries and len(names) > BATCH:
                log.info("%d of %d services seen to", names.index(batch[-1]) + 1, len(names))

    def refresh(self, names: list[str], hosts: set[str], one_by_one: bool) -> dict[str, str]:
        """Look at some services, decide, update. Returns those that are due still, and why."""
        services, problems = look_at(names)
        verdicts = {service: service.decide(hosts, self.options) for service in services}
        due = [service for service in services if verdicts[service][0] == DUE and not self.options.dry_run]
        for service in services:
            if service not in due or not service.mounts_sorted:
                self.conclude(service.name, *verdicts[service])
        due.sort(key=lambda service: not service.may_finish)  # before a task of theirs does
        for service, problem in zip(due, self.update(due, one_by_one)):
            if problem:
                problems[service.name] = problem
            else:
                self.outcomes[service.name] = REFRESHED
                if not self.options.quiet:
                    print(service.name, flush=True)
        return problems

    def update(self, services: list[Service], one_by_one: bool) -> list[str]:
        """Have swarm store the token that docker holds: the one step that changes the swarm. Returns a problem, or "", each."""
        command = ("docker", "service", "update", "-d", "-q", "--with-registry-auth")
        if one_by_one:  # for an error text of its own
            return [program(*command, service.id)[0] for service in services]
        # xargs, for it starts programs faster than any library. Docker prints the ID of each service that it updated.
        ids = File("\n".join(service.id for service in services))
        problem, printed = program(*command, stdin=ids, before=("xargs", "-r", f"-P{UPDATES_AT_ONCE}", "-n1"))
        updated = set(printed.text().split())
        return ["" if service.id in updated else problem or "docker did not confirm it" for service in services]


def list_services() -> dict[str, dict[str, Any]]:
    """The rows of docker service ls by name: Image, Mode, Replicas."""
    rows = ask("docker", "service", "ls", "--format", "{{json .}}")
    return {row["Name"]: row for row in rows if dig(row, "Name")}


def look_at(names: list[str]) -> tuple[list[Service], dict[str, str]]:
    """Services as they are now, and those that docker does not describe. What has gone is in neither."""
    rows = list_services()
    names = [name for name in names if name in rows]
    found = ask("docker", "service", "inspect", "--format", "{{json .}}", *names) if names else []
    found = {item["ID"]: item for item in found if dig(item, "ID") and dig(item, "Spec", "Name") in rows}
    services = {key: service_from(item, rows[item["Spec"]["Name"]]) for key, item in found.items()}
    unclear = [key for key, service in services.items() if service.needs_tasks()]
    tasks = ask("docker", "service", "ps", "--no-trunc", "--format", "{{json .ID}}", *unclear) if unclear else []
    slots = set()
    for task in ask("docker", "inspect", "--type", "task", "--format", "{{json .}}", *tasks) if tasks else []:
        key, state, slot = task["ServiceID"], dig(task, "Status", "State"), task.get("Slot") or task.get("NodeID")
        older = state == "running" and any(dig(found[key], "Spec", "TaskTemplate", part) != value
                                           for part, value in (dig(task, "Spec") or {}).items())
        # The newest of a slot comes first. One that was rejected, as for a dead token, never ran.
        finished = (key, slot) not in slots and state in ("complete", "failed")
        slots.add((key, slot))
        services[key] = services[key]._replace(finished=services[key].finished or finished,
                                               runs_older=services[key].runs_older or older)
    missing = set(names).difference(service.name for service in services.values())
    return list(services.values()), dict.fromkeys(missing, "docker service inspect does not describe it")


def service_from(item: dict[str, Any], row: dict[str, Any]) -> Service:
    """What docker service inspect and docker service ls say of a service."""
    spec, previous, status = item["Spec"], item.get("PreviousSpec"), item.get("UpdateStatus")
    template, moment = dig(spec, "TaskTemplate"), item.get("UpdatedAt")
    mounts = [(dig(mount, "Source") or "", dig(mount, "Target") or "")
              for mount in dig(template, "ContainerSpec", "Mounts") or []]
    counted = re.match(r"(\d+)/(\d+)", str(row.get("Replicas")))
    moment = dig(status, "CompletedAt") or dig(status, "StartedAt") or item.get("UpdatedAt")
    try:  # such as 2024-05-01T12:00:00.123456789Z
        began = calendar.timegm(time.strptime(str(moment)[:19], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        began = 0
    return Service(
        id=item["ID"], name=spec["Name"], host=ecr_host(dig(template, "ContainerSpec", "Image")), mode=str(row.get("Mode")),
        full=bool(counted) and int(counted[1]) >= int(counted[2]), rollout=dig(status, "State") or "", age=time.time() - began,
        may_finish=(dig(template, "RestartPolicy", "Condition") or "any") != "any"
        or bool(dig(template, "RestartPolicy", "MaxAttempts")), can_roll_back=bool(previous) and previous != spec,
        tasks_change=dig(previous, "TaskTemplate") != template, mounts_sorted=mounts == sorted(mounts))


def ecr_host(image: Any) -> str:
    """The ECR registry of an image; empty if it is in another registry."""
    host, slash, _ = str(image).partition("/")
    return host if slash and region_of(host) else ""


def region_of(host: str) -> str:
    """The region of an ECR registry; empty if the host is none."""
    match = ECR_HOST.fullmatch(host)
    return match.group(1) if match else ""


def dig(data: Any, *path: str) -> Any:
    """What lies at a path in nested objects; None where something is null, missing or no object."""
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def ask(*command: str, stdin: Optional[File] = None) -> list[Any]:
    """What a program printed as JSON, one value a line, without what has gone meanwhile. Raises Failure."""
    problem, printed = program(*command, stdin=stdin)
    try:
        values = [json.loads(line) for line in printed.text().splitlines()]
    except ValueError as error:
        values, problem = [], problem or f"{' '.join(command[:4])} did not print JSON: {error}"
    if problem and not values:
        raise Failure(problem)
    return values


def program(*command: str, stdin: Optional[File] = None, before: tuple[str, ...] = (),
            stoppable: bool = True) -> tuple[str, File]:
    """Run a program. Returns what went wrong in one line, or "", and the file that it printed to."""
    if stopped_by:
        raise SystemExit(128 + stopped_by[0])
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
    kill(running.pid, signal.SIGKILL)  # what it left behind
    said, name = " ".join(stderr.text().split()), " ".join(command[:4])
    if said and not status:
        log.log(NOTICE, "%s succeeded, and said: %s", name, said)
    what = {124: f"hung for {PROGRAM_SECONDS} seconds and was killed", 127: "is not installed, or not on the PATH"}
    return status and f"{name} {what.get(status, f'failed with exit status {status}')}: {said[:500]}", stdout


def stop(number: int, _frame: Any) -> None:
    """Handle a signal: start nothing more, end what runs."""
    stopped_by.append(number)
    for group in list(in_flight):
        kill(group, signal.SIGTERM)


def kill(group: int, number: int) -> None:
    """Signal a program and all that it started."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        pass


def docker_folder() -> str:
    """Where docker keeps its logins. Raises KeyError for a user without a home."""
    return os.environ.get("DOCKER_CONFIG") or os.path.join(os.environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir, ".docker")


def lock_logins() -> None:
    """Wait until no other run of this user logs in: docker replaces config.json without a lock."""
    try:
        os.makedirs(docker_folder(), mode=0o700, exist_ok=True)
        folder = os.open(docker_folder(), os.O_RDONLY)  # left open: the lock ends with this process
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.log(NOTICE, "Waiting for another run to end")
            fcntl.flock(folder, fcntl.LOCK_EX)
    except (OSError, KeyError) as error:
        log.warning("Going on without a lock, so that two runs at once may lose a login: %s", error)


def prepare(options: argparse.Namespace) -> None:
    """Set up this process: environment, log, lock, signals."""
    stopped_by.clear()
    while os.open(os.devnull, os.O_RDWR) < 3:
        pass  # a closed stdout must not become the next file that is opened
    # Cron's PATH is /usr/bin:/bin, and aws is often elsewhere.
    os.environ["PATH"] = os.environ.get("PATH", os.defpath) + ":/usr/local/bin:/snap/bin"
    # A docker client lives for milliseconds: without garbage collection and threads it starts a quarter faster.
    os.environ.update(GOGC="off", GOMAXPROCS="1")
    journal = os.environ.get("JOURNAL_STREAM") == "{0.st_dev}:{0.st_ino}".format(os.fstat(2))
    for level, priority in ((logging.INFO, 6), (NOTICE, 5), (logging.WARNING, 4), (logging.ERROR, 3)):
        logging.addLevelName(level, f"<{priority}>" if journal else "")  # sd-daemon(3)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s%(message)s"))
    log.handlers[:], log.propagate, logging.raiseExceptions = [handler], False, False
    log.setLevel(logging.WARNING if options.quiet else logging.INFO)
    if not options.dry_run:
        lock_logins()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)


def parse(arguments: Optional[list[str]]) -> argparse.Namespace:
    """The command line. Exits with status 2 if it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="ecr_swarm_login.py", usage="%(prog)s [options] [SERVICE ...]", allow_abbrev=False, epilog=EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter, description=HELP)
    parser.add_argument("services", nargs="*", metavar="SERVICE", help="only these services, by name")
    parser.add_argument("--region", help="also log in to this account's own registry there")
    parser.add_argument("--registry", metavar="HOST", action="append", default=[], help="also log in to this registry; repeatable")
    parser.add_argument("--keep-rollback", metavar="HOURS", type=float, default=0, help=KEEP_ROLLBACK)
    for flags, meaning in FLAGS.items():
        parser.add_argument(*flags.split(), action="store_true", help=meaning)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    options = parser.parse_args(arguments)
    for host in options.registry:
        if not region_of(host):
            parser.error(f"{host!r} is no ECR registry such as 123456789012.dkr.ecr.eu-central-1.amazonaws.com")
    if options.region is not None and not re.fullmatch("[a-z]+(-[a-z]+)+-[0-9]+", options.region):
        parser.error(f"{options.region!r} is no region such as eu-central-1")
    if not 0 <= options.keep_rollback <= 10:
        parser.error("--keep-rollback takes 0 to 10 hours")
    if options.refresh_only and (options.login_only or options.region or options.registry):
        parser.error("--refresh-only logs in nowhere: leave out --login-only, --region and --registry")
    if options.all_services and (options.no_restart or options.keep_rollback):
        parser.error("--all-services spares none: leave out --no-restart and --keep-rollback")
    options.region = options.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return options


def main(arguments: Optional[list[str]] = None) -> int:
    """Run once. Exit status: 0 all well, 1 failed, 2 usage, 3 held back too long, 128+n stopped by signal n."""
    began, options = time.monotonic(), parse(arguments)
    prepare(options)
    this = Run(options)
    try:
        this.go()
    except (Failure, OSError, ValueError, sh.CommandNotFound, sh.ForkException) as failure:
        this.conclude("the run", FAILED, str(failure))
    except SystemExit:
        log.error("Stopped by %s: the next run does what is left", signal.Signals(stopped_by[0]).name)
        return 128 + stopped_by[0]
    return this.summary(time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(main())
