#!/usr/bin/python3
"""Give every Docker Swarm service that pulls from AWS ECR a fresh token, and change nothing else.

An ECR token lives 12 hours, and swarm never renews the one it stored at the last deploy: run this hourly
on a manager. The file reads in the order of a run: run() tells it, decide() says what becomes of a service
and why, update() is the one step that changes the swarm, program() the one place where programs are started.
"""
import argparse
import calendar
import concurrent.futures
import contextlib
import fcntl
import json
import logging
import os
import pwd
import re
import signal
import sys
import time
from typing import Any, BinaryIO, NamedTuple, Optional

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
ROLLOUTS = {  # UpdateStatus.State while an update would disturb one, or resume it
    "updating": "its rollout is under way", "rollback_started": "its rollback is under way",
    "paused": "its rollout is paused; go on with: docker service update --with-registry-auth {0.name}"
              "; or back with: docker service rollback {0.name}",
    "rollback_paused": "its rollback is paused; go on with: docker service update --with-registry-auth {0.name}"}

DUE, REFRESHED, LEFT_ALONE = "to be refreshed", "refreshed", "left alone"
HELD_BACK, OVERDUE, FAILED = "held back", "held back too long", "failed"
NOTICE = logging.INFO + 5
LEVELS = {DUE: logging.INFO, REFRESHED: logging.INFO, LEFT_ALONE: logging.INFO, HELD_BACK: NOTICE,
          OVERDUE: logging.WARNING, FAILED: logging.ERROR}
log = logging.getLogger("ecr_swarm_login")
outcomes: dict[str, str] = {}  # what became of each service or registry in this run
stopped_by: list[int] = []  # signals
in_flight: set[int] = set()  # process groups that a signal ends


HELP = """Give every swarm service that pulls from AWS ECR a fresh token, and change nothing else.

  ecr_swarm_login.py --dry-run      say what would become of each service, and why
  ecr_swarm_login.py                log in, and refresh"""
EXIT_STATUS = "Exit status: 0 all well, 1 something failed, 2 usage, 3 only held back for too long, 128+n stopped by signal n."
OPTIONS: dict[str, dict[str, Any]] = {
    "--region": {"help": "also log in to this account's own registry there"},
    "--registry": {"metavar": "HOST", "action": "append", "default": [], "help": "also log in to this registry; repeatable"},
    "--login-only": {"action": "store_true", "help": "log in and stop, as when a manager boots"},
    "--refresh-only": {"action": "store_true", "help": "refresh with the logins that docker holds, as in a credential helper"},
    "--leader-only": {"action": "store_true", "help": "log in, but leave the refresh to the swarm's leader"},
    "--all-services": {"action": "store_true", "help": "refresh every service, whatever that does to it"},
    "--no-restart": {"action": "store_true", "help": "hold back services whose tasks an update would restart"},
    "--keep-rollback": {"metavar": "HOURS", "type": float, "default": 0.0,
                        "help": "leave a service alone for HOURS after a rollout, so that docker service rollback works: "
                                "a refresh overwrites the previous spec. At most 10, for a token lives 12; 0 by default"},
    "-n --dry-run": {"action": "store_true", "help": "say what would be done, and why; change nothing"},
    "-q --quiet": {"action": "store_true", "help": "warnings and errors only"},
    "--version": {"action": "version", "version": f"%(prog)s {__version__}"}}


class Failure(Exception):
    """One line: what failed, what the program said, what to do next."""


class Service(NamedTuple):
    """All that decides about a service."""
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


def main(arguments: Optional[list[str]] = None) -> int:
    """Run once. Exit status: 0 all well, 1 failed, 2 usage, 3 held back too long, 128+n stopped by signal n."""
    began, options = time.monotonic(), parse(arguments)
    prepare(options)
    try:
        run(options)
    except (Failure, OSError) as failure:
        conclude("the run", FAILED, str(failure))
    except SystemExit:
        log.error("Stopped by %s: the next run does what is left", signal.Signals(stopped_by[0]).name)
        return 128 + stopped_by[0]
    missing = [name for name, outcome in outcomes.items() if outcome == FAILED]
    status = 1 if missing else 3 if OVERDUE in outcomes.values() else 0
    counts = ", ".join(f"{list(outcomes.values()).count(outcome)} {outcome}" for outcome in LEVELS)
    log.log((logging.INFO, logging.ERROR, 0, logging.WARNING)[status], "Ended after %.1f seconds: %s%s",
            time.monotonic() - began, counts, f"; missing: {', '.join(missing)}" if missing else "")
    return status


def run(options: argparse.Namespace) -> None:
    """Find the services, log in to their registries, refresh. Raises Failure if it cannot go on."""
    try:
        rows = list_services()
    except Failure as failure:
        if not options.login_only:
            raise
        log.log(NOTICE, "The registries of the services are not known yet: %s", failure)
        rows = {}  # a manager that boots may join its swarm later
    names = [name for name in rows if not options.services or name in options.services]
    for name in set(options.services).difference(rows):
        conclude(name, FAILED, "there is no such service: see docker service ls")
    hosts = {ecr_host(rows[name].get("Image")) for name in names} - {""}
    hosts = {host for host in hosts if holds_login(host)} if options.refresh_only else log_in_all(hosts, options)
    if options.login_only:
        return
    if options.leader_only and ask("docker", "node", "inspect", "self", "--format", "{{json .ManagerStatus.Leader}}") != [True]:
        log.info("Another manager leads the swarm, and refreshes its services")
        return
    log.info("Running docker update swarm services registry auth")
    refresh_all(names, hosts, options)


def conclude(name: str, outcome: str, reason: str) -> None:
    """Say what became of a service or registry, and why. The last word counts."""
    outcomes[name] = outcome
    log.log(LEVELS[outcome], "%s %s: %s", name, outcome, reason)


def list_services() -> dict[str, dict[str, Any]]:
    """The rows of docker service ls by name: Image, Mode, Replicas."""
    rows = ask("docker", "service", "ls", "--format", "{{json .}}")
    return {row["Name"]: row for row in rows if row.get("Name")}


def ecr_host(image: Any) -> str:
    """The ECR registry of an image; empty if it is in another registry."""
    host, slash, _ = str(image).partition("/")
    return host if slash and ECR_HOST.fullmatch(host) else ""


def log_in_all(used: set[str], options: argparse.Namespace) -> set[str]:
    """Log in to the registries used, those named, and the account's own in the region that is set. Returns where it is."""
    hosts, region = used.union(options.registry), options.region
    if not hosts and not region:
        problem, configured = program("aws", "configure", "get", "region")
        region = "" if problem else text(configured)
        if not region:
            raise Failure("No registry to log in to: no service uses ECR, no region is set: pass --region or --registry")
    own_region = [region] if region else []
    if options.dry_run:
        log.info("Would log in to %s", ", ".join([*sorted(hosts), *(f"your own registry in {name}" for name in own_region)]))
        return hosts
    # Side by side, for an aws takes up to a second. One token serves all registries of its region.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        own = pool.map(own_registry, own_region)
        regions = sorted({ECR_HOST.sub(r"\1", host) for host in hosts}.union(own_region))
        tokens = dict(zip(regions, pool.map(get_token, regions)))
    hosts.update(host for host in own if host)
    return {host for host in sorted(hosts) if log_in(host, tokens[ECR_HOST.sub(r"\1", host)])}


def own_registry(region: str) -> str:
    """The registry of the caller's account, or empty. Outside the partitions aws, aws-cn and aws-us-gov, use --registry."""
    problem, account = program("aws", "sts", "get-caller-identity", "--query", "Account", "--output", "text", "--region", region)
    host = f"{text(account)}.dkr.ecr.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"
    if not problem and ECR_HOST.fullmatch(host):
        return host
    conclude(f"your own registry in {region}", FAILED, problem or f"{host} is no registry")
    return ""


def get_token(region: str) -> Optional[BinaryIO]:
    """The file in memory that holds the token of a region, or None. Its content never comes into this process."""
    problem, token = program("aws", "ecr", "get-login-password", "--region", region)
    if not problem and os.fstat(token.fileno()).st_size < 2:
        problem = "aws ecr get-login-password succeeded, but printed nothing: try it by hand"
    if problem:
        log.error("Failed to acquire docker login credentials for %s: %s", region, problem)
    return None if problem else token


def log_in(host: str, token: Optional[BinaryIO]) -> bool:
    """Log docker in to one registry, never two at once: docker replaces its config.json without a lock."""
    problem = "there is no token for its region"
    if token:
        # Shielded from signals, or docker could leave a copy of its config.json behind.
        problem, _ = program("docker", "login", "--username", "AWS", "--password-stdin", host, stdin=token, shielded=True)
    if problem:
        conclude(host, FAILED, f"Docker login failed: {problem}")
    else:
        log.info("Docker login succeeded for %s", host)
    return not problem


def holds_login(host: str) -> bool:
    """Whether docker holds a login for a registry. It hides that, and would send an empty one (docker/cli
    cli/command/registry.go). So look where it looks: cli/config/configfile."""
    problem = "log in first, or leave out --refresh-only"
    try:
        with open(os.path.join(docker_folder(), "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        helper = dig(config, "credHelpers", host) or dig(config, "credsStore")
        entries = {} if helper else dig(config, "auths") or {}
        if helper:
            problem, answer = program(f"docker-credential-{helper}", "get", stdin=memory_file(host))
            problem = problem or ("" if dig(json.loads(text(answer)), "Secret") else f"{helper} holds none")
        if any(re.sub("^https?://", "", key).split("/")[0] == host and (dig(entry, "auth") or dig(entry, "identitytoken"))
               for key, entry in entries.items()):
            problem = ""
    except (OSError, KeyError, ValueError) as error:
        problem = f"config.json cannot be read: {error}"
    if problem:
        conclude(host, FAILED, f"docker holds no login for it: {problem}")
    return not problem


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


def docker_folder() -> str:
    """Where docker keeps its logins. Raises KeyError for a user without a home."""
    return os.environ.get("DOCKER_CONFIG") or os.path.join(os.environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir, ".docker")


def decide(service: Service, hosts: set[str], options: argparse.Namespace) -> tuple[str, str]:
    """What becomes of a service, given the registries that docker is logged in to, and why. Pure."""
    if service.host and service.host not in hosts:
        return FAILED, f"docker is not logged in to {service.host}"
    if options.all_services:
        return DUE, ""
    if not service.host:
        return LEFT_ALONE, "its image is in no registry that this run logged in to"
    if service.mode in ("replicated job", "global job"):
        return LEFT_ALONE, "it is a job, and would run again"
    if service.mode not in ("replicated", "global"):
        return held_back(service, f"its mode {service.mode!r} is not known to this version")
    if service.rollout == "completed" and service.can_roll_back and service.age < options.keep_rollback * 3600:
        return LEFT_ALONE, f"docker service rollback is kept for {options.keep_rollback:g} hours"
    if is_rolling_out(service):
        return held_back(service, ROLLOUTS.get(service.rollout, "its rollout is {0.rollout}, not known to this version").format(service))
    if service.may_finish and service.finished:
        return LEFT_ALONE, "its finished tasks would run again"
    if service.mounts_sorted:
        return DUE, ""
    reason = "its tasks may restart once: the docker client sorts its mounts (docker/cli#7226)"
    return held_back(service, reason) if options.no_restart else (DUE, reason)


def is_rolling_out(service: Service) -> bool:
    """Whether an update would disturb a rollout or resume it."""
    # A refresh during an outage of the registry is a rollout that pauses, and stays so when all is well again. It has
    # no new version to go on to; unless it came in the midst of a rollout, and a task still runs the older spec.
    only_token = service.rollout in ROLLOUTS and not service.tasks_change and not service.runs_older
    return service.rollout not in ("", "completed", "rollback_completed") and not only_token


def held_back(service: Service, reason: str) -> tuple[str, str]:
    """Held back, or too long. A clock that jumped must not silence the warning: abs()."""
    return (HELD_BACK if abs(service.age) < OVERDUE_SECONDS else OVERDUE), reason


def needs_tasks(service: Service) -> bool:
    """Whether the verdict depends on tasks. A global service shows 0/0 when all have finished (ListServiceStatuses)."""
    weak = service.mode == "global" or not service.full
    return service.may_finish and weak or service.rollout in ROLLOUTS and not service.tasks_change


def refresh_all(names: list[str], hosts: set[str], options: argparse.Namespace) -> None:
    """Refresh the services that are due, and try again those that something else updated at the same moment."""
    problems: dict[str, str] = {}
    for tries, seconds in enumerate(PAUSES):
        time.sleep(seconds)
        size, problems = len(names) if options.dry_run else BATCH, {}
        for begin in range(0, len(names), size or 1):
            batch = names[begin:begin + size]
            try:
                problems.update(refresh(batch, hosts, options, one_by_one=tries > 0))
            except Failure as failure:
                problems.update(dict.fromkeys(batch, str(failure)))
            if len(names) > size:
                log.info("%d of %d services", begin + len(batch), len(names))
        names = list(problems)
        if not names:
            return
        log.log(NOTICE, "To be tried again: %s", "; ".join(f"{name}: {problem}" for name, problem in problems.items()))
    for name, problem in problems.items():
        conclude(name, FAILED, problem)


def refresh(names: list[str], hosts: set[str], options: argparse.Namespace, one_by_one: bool) -> dict[str, str]:
    """Look at services, decide, update. Returns the services that are still due, and the problems."""
    due = []
    for service in look_at(names):
        outcome, reason = decide(service, hosts, options)
        if outcome != DUE or options.dry_run:
            conclude(service.name, outcome, reason)
            continue
        if reason:
            log.warning("%s: %s", service.name, reason)
        due.append(service)
    due.sort(key=lambda service: not service.may_finish)  # before a task of theirs does
    problems = dict(zip(due, update(due, one_by_one) if due else ()))
    for service, problem in problems.items():
        if not problem:
            outcomes[service.name] = REFRESHED
            if not options.quiet:
                print(service.name, flush=True)
    return {service.name: problem for service, problem in problems.items() if problem}


def update(services: list[Service], one_by_one: bool) -> list[str]:
    """Have swarm store the token that docker holds: the one step that changes the swarm. Returns a problem, or "", each."""
    command = ("docker", "service", "update", "-d", "-q", "--with-registry-auth")
    if one_by_one:  # for an error text of its own
        return [program(*command, service.id)[0] for service in services]
    # xargs, for it starts programs faster than any library. Docker prints the ID of each service that it updated.
    ids = memory_file("\n".join(service.id for service in services))
    problem, printed = program(*command, stdin=ids, before=("xargs", f"-P{UPDATES_AT_ONCE}", "-n1"))
    updated = set(text(printed).split())
    return ["" if service.id in updated else problem or "docker did not confirm the update" for service in services]


def look_at(names: list[str]) -> list[Service]:
    """Services as they are now, without those that have gone."""
    rows = list_services()
    names = [name for name in names if name in rows]
    found = ask("docker", "service", "inspect", "--format", "{{json .}}", *names) if names else []
    services = {item["ID"]: service_from(item, rows[item["Spec"]["Name"]]) for item in found}
    unclear = {item["ID"]: item["Spec"]["TaskTemplate"] for item in found if needs_tasks(services[item["ID"]])}
    tasks = ask("docker", "service", "ps", "--no-trunc", "--format", "{{json .ID}}", *unclear) if unclear else []
    slots = set()
    for task in ask("docker", "inspect", "--type", "task", "--format", "{{json .}}", *tasks) if tasks else []:
        key, state, slot = task["ServiceID"], dig(task, "Status", "State"), task.get("Slot") or task.get("NodeID")
        older = state == "running" and any(dig(unclear[key], part) != value for part, value in task["Spec"].items())
        # The newest of a slot comes first. One that was rejected, as for a dead token, never ran.
        finished = (key, slot) not in slots and state in ("complete", "failed")
        slots.add((key, slot))
        services[key] = services[key]._replace(finished=services[key].finished or finished,
                                               runs_older=services[key].runs_older or older)
    return list(services.values())


def service_from(item: dict[str, Any], row: dict[str, Any]) -> Service:
    """What docker service inspect and docker service ls say of a service."""
    spec, previous, status = item["Spec"], item.get("PreviousSpec"), item.get("UpdateStatus")
    template = dig(spec, "TaskTemplate")
    policy, mounts = dig(template, "RestartPolicy"), dig(template, "ContainerSpec", "Mounts") or []
    mounts = [(dig(mount, "Source") or "", dig(mount, "Target") or "") for mount in mounts]
    counted = re.match(r"(\d+)/(\d+)", str(row.get("Replicas")))
    return Service(
        id=item["ID"], name=spec["Name"], host=ecr_host(dig(template, "ContainerSpec", "Image")),
        mode=str(row.get("Mode")), full=bool(counted) and int(counted[1]) >= int(counted[2]),
        may_finish=(dig(policy, "Condition") or "any") != "any" or bool(dig(policy, "MaxAttempts")),
        rollout=dig(status, "State") or "",
        age=seconds_since(dig(status, "CompletedAt") or dig(status, "StartedAt") or item.get("UpdatedAt")),
        can_roll_back=previous is not None and previous != spec,
        tasks_change=dig(previous, "TaskTemplate") != template, mounts_sorted=mounts == sorted(mounts))


def dig(data: Any, *path: str) -> Any:
    """What lies at a path in nested objects; None where something is null, missing or no object."""
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def seconds_since(moment: Any) -> float:
    """Seconds since a time such as 2024-05-01T12:00:00.123456789Z; infinite if it is none."""
    try:
        return time.time() - calendar.timegm(time.strptime(str(moment)[:19], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return float("inf")


def program(*command: str, stdin: Optional[BinaryIO] = None, before: tuple[str, ...] = (),
            shielded: bool = False) -> tuple[str, BinaryIO]:
    """Run a program. Returns what went wrong, or "", and the file in memory that holds what it printed."""
    if stopped_by:
        raise SystemExit(128 + stopped_by[0])
    stdin, stdout, stderr, began, status = stdin or memory_file(), memory_file(), memory_file(), time.monotonic(), 0
    stdin.seek(0)
    wrapper, *arguments = (*before, "timeout", "--foreground", "--kill-after=5", str(PROGRAM_SECONDS), *command)
    try:
        running = sh.Command(wrapper)(*arguments, _in=stdin, _out=stdout, _err=stderr, _tty_out=False,
                                      _bg=True, _bg_exc=False, _new_session=True, _close_fds=False)
    except (sh.CommandNotFound, sh.ForkException) as error:
        return f"{wrapper} cannot be started: {error}", stdout
    in_flight.update([] if shielded else [running.pid])
    if stopped_by:
        stop(stopped_by[0], None)
    try:
        running.wait()
    except sh.ErrorReturnCode as error:
        status = error.exit_code
    in_flight.discard(running.pid)
    kill(running.pid, signal.SIGKILL)  # what it left behind
    return explain(" ".join(command[:4]), status, time.monotonic() - began, " ".join(text(stderr).split())), stdout


def explain(name: str, status: int, seconds: float, said: str) -> str:
    """What went wrong with a program, in one line; empty if nothing did."""
    said = said if len(said) < 1000 else said[:500] + " ... " + said[-500:]
    if not status:
        if said:
            log.log(NOTICE, "%s succeeded, and said: %s", name, said)
        return ""
    what = (f"hung, and was killed after {PROGRAM_SECONDS} seconds" if seconds >= PROGRAM_SECONDS
            else f"was killed by signal {-status}" if status < 0 else f"failed with exit status {status}")
    return f"{name} {what}: {said or 'it said nothing'}"


def ask(*command: str) -> list[Any]:
    """What docker printed as JSON, one value a line, without what has gone meanwhile. Raises Failure."""
    problem, printed = program(*command)
    try:
        values = [json.loads(line) for line in text(printed).splitlines()]
    except ValueError as error:
        values, problem = [], problem or f"{' '.join(command[:4])} printed what is not JSON: {error}"
    if problem and not values:
        raise Failure(problem)
    return values


def kill(group: int, number: int) -> None:
    """Signal a program and all it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def stop(number: int, _frame: Any) -> None:
    """Handle a signal: start nothing more, end what runs."""
    stopped_by.append(number)
    for group in list(in_flight):
        kill(group, signal.SIGTERM)


def memory_file(content: str = "") -> BinaryIO:
    """A file in memory: no program that keeps it open can block us, and sh, which logs what it reads, reads nothing."""
    file = os.fdopen(os.memfd_create("ecr_swarm_login"), "w+b", buffering=0)
    file.write(content.encode())
    return file


def text(file: BinaryIO) -> str:
    """The content of a file in memory, of whatever encoding."""
    file.seek(0)
    return file.read().decode(errors="replace").strip()


def prepare(options: argparse.Namespace) -> None:
    """Set up this process: environment, log, lock, signals."""
    outcomes.clear()
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
    for flags, settings in OPTIONS.items():
        parser.add_argument(*flags.split(), **settings)
    options = parser.parse_args(arguments)
    for host in options.registry:
        if not ECR_HOST.fullmatch(host):
            parser.error(f"{host!r} is not an ECR registry such as 123456789012.dkr.ecr.eu-central-1.amazonaws.com")
    if options.region is not None and not re.fullmatch("[a-z]+(-[a-z]+)+-[0-9]+", options.region):
        parser.error(f"{options.region!r} is not a region such as eu-central-1")
    if not 0 <= options.keep_rollback <= 10:
        parser.error("--keep-rollback takes 0 to 10 hours")
    if options.refresh_only and (options.login_only or options.region or options.registry):
        parser.error("--refresh-only logs in nowhere: leave out --login-only, --region and --registry")
    if options.all_services and (options.no_restart or options.keep_rollback):
        parser.error("--all-services spares no service: leave out --no-restart and --keep-rollback")
    options.region = options.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
    return options


if __name__ == "__main__":
    sys.exit(main())
