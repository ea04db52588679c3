#!/usr/bin/python3
"""Give every Docker Swarm service that pulls from AWS ECR a fresh token, and change nothing else.

  ecr_swarm_login.py --dry-run                say what would become of each service, and why
  ecr_swarm_login.py --region eu-central-1    log in, there too, and refresh

Exit status: 0 all well, 1 something failed, 2 usage, 3 only held back for too long, 128+n stopped by signal n.
"""
import argparse
import calendar
import contextlib
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
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace as Service  # its fields: service_from()
from typing import Any, Optional

try:
    import sh
except ImportError:
    sys.exit(f"ecr_swarm_login: {sys.executable} has no library sh: apt-get install python3-sh, or pip3 install 'sh<3'")

PROGRAM_SECONDS = 60  # what takes longer hangs, and is killed with its children
XARGS = ("xargs", "-r", f"-P{min(16, 4 * (os.cpu_count() or 1))}")  # more gain nothing: docker's start is CPU-bound
BATCH = 200  # services looked at, then updated: the fewer, the less happens in between
PAUSES = (1, 3, 9)  # seconds before each further try: a daemon that restarts, or a new leader, takes some
OVERDUE_SECONDS = 6 * 3600  # half a token's life
ECR_HOST = re.compile(  # match whole hosts: a look-alike would get a token; amazon-ecr-credential-helper api/client.go
    r"[0-9]{12}\.dkr[.-]ecr(?:-fips)?\.([a-z0-9][a-z0-9-]*)\.(?:amazonaws\.com(?:\.cn)?|amazonaws\.eu|on\.aws"
    r"|on\.amazonwebservices\.com\.cn|sc2s\.sgov\.gov|c2s\.ic\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)")
PARTITIONS = {"cn": "amazonaws.com.cn", "eusc-de": "amazonaws.eu", "us-iso": "c2s.ic.gov", "us-isob": "sc2s.sgov.gov",
              "us-isof": "csp.hci.ic.gov", "eu-isoe": "cloud.adc-e.uk"}
AWS_ACCOUNT = ("aws", "sts", "get-caller-identity", "--query", "Account", "--output", "text", "--region")
LIST = ("docker", "service", "ls", "--format", "{{json .}}")
INSPECT = ("docker", "service", "inspect", "--format", "{{json .}}")
PS = ("docker", "service", "ps", "--no-trunc", "--no-resolve", "--format", "{{json .}}")
TASKS = ("docker", "inspect", "--type", "task", "--format", "{{json .}}")
UPDATE = ("docker", "service", "update", "-d", "-q", "--with-registry-auth")
SETTLED = ("", "completed", "rollback_completed")  # UpdateStatus.State
GO_ON = "; to go on: docker service update --with-registry-auth {0}"
WAYS = {"paused": GO_ON + "; to go back: docker service rollback {0}", "rollback_paused": GO_ON}
RESTARTS = "its tasks may restart once: the docker client sorts its mounts and ulimits (docker/cli#7226)"
DUE, REFRESHED, LEFT, HELD, OVERDUE, FAILED = OUTCOMES = (
    "to be refreshed", "refreshed", "left alone", "held back", "held back too long", "failed")
NOTICE = logging.INFO + 5
LEVELS = {HELD: NOTICE, OVERDUE: logging.WARNING, FAILED: logging.ERROR}
log = logging.getLogger("ecr_swarm_login")
outcomes: dict[str, str] = {}  # of each service and registry, by name
stopped_by: list[int] = []  # signals
in_flight: set[int] = set()  # process groups that a signal ends
Failure = RuntimeError  # one line: what failed, what the program said, what to do next

class File(io.FileIO):
    """A file in memory, which programs read or print to: no pipe of theirs can block us, and sh logs none of it."""
    def __init__(self, content: str = "") -> None:
        super().__init__(os.memfd_create("ecr_swarm_login"), "r+")
        fcntl.fcntl(self, fcntl.F_SETFL, os.O_APPEND)  # or programs side by side print over each other's lines
        self.write(content.encode())

    def text(self) -> str:
        """Its content, of whatever encoding."""
        return os.pread(self.fileno(), os.fstat(self.fileno()).st_size, 0).decode(errors="replace").strip()

def main(arguments: Optional[list[str]] = None) -> int:
    """Run once, and say how it ended. Returns the exit status."""
    began, options = time.monotonic(), parse(arguments)
    try:
        prepare(options)
        run(options)
    except KeyboardInterrupt:  # while it waited for another run
        return 128 + signal.SIGINT
    except Exception as failure:  # noqa: BLE001 - one line is all that a person should read
        conclude(FAILED, str(failure) if isinstance(failure, (Failure, OSError)) else repr(failure), "the run")
    if stopped_by:
        return 128 + stopped_by[0]
    ended, missing = list(outcomes.values()), [name for name in outcomes if outcomes[name] == FAILED]
    status, level = (1, logging.ERROR) if missing else (3, logging.WARNING) if OVERDUE in ended else (0, logging.INFO)
    counts = ", ".join(f"{ended.count(each)} {each}" for each in OUTCOMES if each in ended or each != DUE)
    log.log(level, f"{counts} in {time.monotonic() - began:.1f} seconds; missing: {', '.join(missing) or 'nothing'}")
    return status

def parse(arguments: Optional[list[str]]) -> argparse.Namespace:
    """The command line. Exits with status 2 if it makes no sense."""
    parser = argparse.ArgumentParser(usage="%(prog)s [options] [SERVICE ...]", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("services", nargs="*", metavar="SERVICE", help="only these services, by name")
    option("--region", help="also log in to this account's own registry there")
    option("--registry", metavar="HOST", action="append", default=[], help="also log in to this registry; repeatable")
    option("--login-only", action="store_true", help="log in and stop, as when a manager boots")
    option("--refresh-only", action="store_true", help="refresh with the logins that docker has, as from a helper")
    option("--leader-only", action="store_true", help="log in, but leave the refresh to the leading manager")
    option("--all-services", action="store_true", help="refresh all: runs jobs again, wipes logins of other registries")
    option("--no-restart", action="store_true", help="hold back services whose tasks an update would restart")
    option("--keep-rollback", metavar="HOURS", type=int, choices=range(11), default=0, help="leave a service alone for "
           "HOURS after a rollout: a refresh breaks docker service rollback. 0 by default, at most 10: tokens live 12")
    option("-n", "--dry-run", action="store_true", help="say what would be done, and why; change nothing")
    option("-q", "--quiet", action="store_true", help="warnings and errors only")
    option("--version", action="version", version="%(prog)s 1.0.0")
    return check(parser.parse_args(arguments), parser)

def check(options: argparse.Namespace, parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Exit with status 2 if options make no sense; fill in what the environment says."""
    if not all(map(ECR_HOST.fullmatch, options.registry)):
        parser.error("--registry takes a host such as 123456789012.dkr.ecr.eu-central-1.amazonaws.com")
    if not re.fullmatch("([a-z]+(-[a-z]+)+-[0-9]+)?", options.region or ""):
        parser.error("--region takes a region such as eu-central-1")
    if options.refresh_only and (options.login_only or options.region or options.registry):
        parser.error("--refresh-only logs in nowhere: leave out --login-only, --region and --registry")
    if options.all_services and (options.no_restart or options.keep_rollback):
        parser.error("--all-services spares none: leave out --no-restart and --keep-rollback")
    options.region = options.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return options

def prepare(options: argparse.Namespace) -> None:
    """Set up this process: log, environment, lock, signals."""
    [os.open(os.devnull, os.O_RDWR) for _ in range(3)]  # fill 0 to 2 if closed, or the next file becomes stdout
    journal = os.environ.get("JOURNAL_STREAM") == "{0.st_dev}:{0.st_ino}".format(os.fstat(2))
    for level, priority in ((logging.INFO, 6), (NOTICE, 5), (logging.WARNING, 4), (logging.ERROR, 3)):
        logging.addLevelName(level, f"<{priority}>" if journal else "")  # sd-daemon(3)
    stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115 - sys.stderr can spoil the status
    logging.basicConfig(format="%(levelname)s%(message)s", level="WARNING" if options.quiet else "INFO", stream=stderr)
    logging.getLogger("sh").propagate = logging.raiseExceptions = False
    os.environ["PATH"] = os.environ.get("PATH", os.defpath) + ":/usr/local/bin:/snap/bin"  # cron's lacks aws
    os.environ.update(GOGC="off", GOMAXPROCS="1", DOCKER_AUTH_CONFIG="")  # starts faster; sends no other login
    options.docker_folder = os.environ.get("DOCKER_CONFIG") or os.path.join(
        os.environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir, ".docker")
    if not options.dry_run:  # two runs at once could lose a login, for docker replaces config.json without a lock
        os.makedirs(options.docker_folder, mode=0o700, exist_ok=True)
        lock = os.open(options.docker_folder, os.O_RDONLY)  # left open: it ends with this process
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.log(NOTICE, "Waiting for another run to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whoever ignores it passes that on, and then nobody can wait
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN if signal.getsignal(number) == signal.SIG_IGN else stop)

def stop(number: int, _frame: Any) -> None:
    """Handle a signal: start nothing more, end what runs."""
    stopped_by.append(number)
    for group in list(in_flight):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGTERM)
    log.warning("Stopped by %s: the next run does what is left", signal.Signals(number).name)

def run(options: argparse.Namespace) -> None:
    """Find the services, log in to their registries, refresh. Raises Failure where it cannot go on."""
    rows = {row["Name"]: row for row in ask(*LIST, partial=options.login_only)}  # at boot: no swarm yet
    for name in set(options.services).difference(rows):
        conclude(FAILED, "there is no such service: see docker service ls", name)
    rows = {name: rows[name] for name in rows if not options.services or name in options.services}
    used = {ecr_host(row.get("Image")) for row in rows.values()} - {""}
    logins = held_logins(used, options) if options.refresh_only else log_in_all(used, options)
    for host in filter(logins.get, logins):
        conclude(FAILED, logins[host], host)
    if options.login_only:
        return
    if options.leader_only and not ask("docker", "node", "inspect", "self", "--format", "{{.ManagerStatus.Leader}}")[0]:
        log.info("Another manager leads the swarm, and refreshes its services")
        return
    log.info("%s docker update swarm services registry auth", "Not running" if options.dry_run else "Running")
    for begin in range(0, len(rows), BATCH):
        refresh(dict(list(rows.items())[begin:begin + BATCH]), {host for host in logins if not logins[host]}, options)
        log.info("%d of %d services processed", min(begin + BATCH, len(rows)), len(rows))

def conclude(outcome: str, reason: str, *names: str) -> None:
    """Say what became of services or registries, and why. A later outcome replaces an earlier one."""
    outcomes.update(dict.fromkeys(names, outcome))
    log.log(LEVELS.get(outcome, logging.INFO), "%s %s: %s", " ".join(names), outcome, reason)

def ecr_host(image: Any) -> str:
    """The ECR registry of an image, or "" if it is in another."""
    host, slash, _ = str(image).partition("/")
    return host if slash and ECR_HOST.fullmatch(host) else ""

def log_in_all(used: set[str], options: argparse.Namespace) -> dict[str, str]:
    """Log in to the registries used, those named, and the account's own in the region set. Returns problems by host."""
    hosts, own, problems = used.union(options.registry), [options.region] if options.region else [], {}
    own = own or ([] if hosts else program("aws", "configure", "get", "region")[1].text().split())
    if not hosts and not own:
        raise Failure("No service uses ECR, and no region is set: pass --region or --registry")
    if options.dry_run:
        log.info("Would log in to %s", ", ".join(sorted(hosts) + [f"your own registry in {each}" for each in own]))
        return dict.fromkeys(hosts, "")
    with ThreadPoolExecutor() as pool:  # an aws takes up to a second; one token serves all registries of its region
        accounts = pool.map(lambda region: program(*AWS_ACCOUNT, region), own)
        regions = {ECR_HOST.sub(r"\1", host) for host in hosts}.union(own)
        tokens = {each: pool.submit(program, "aws", "ecr", "get-login-password", "--region", each) for each in regions}
        for region, (problem, account) in zip(own, accounts):
            host = f"{account.text()}.dkr.ecr.{region}.{PARTITIONS.get(region.rsplit('-', 2)[0], 'amazonaws.com')}"
            if problem or not ECR_HOST.fullmatch(host):
                problems[f"your own registry in {region}"] = problem or f"{host} is no registry: check the region"
            else:
                hosts.add(host)
        problems.update((host, log_in(host, *tokens[ECR_HOST.sub(r"\1", host)].result())) for host in sorted(hosts))
    return problems

def log_in(host: str, problem: str, token: File) -> str:
    """Log docker in to a registry. Never to two at once, nor cut short: docker replaces config.json without a lock."""
    if problem:
        return f"Failed to acquire docker login credentials: {problem}"
    problem, _ = program("docker", "login", "--username", "AWS", "--password-stdin", host, stdin=token, stoppable=False)
    if not problem:
        log.info("Docker login succeeded for %s", host)
    return problem and f"Docker login failed: {problem}"

def held_logins(used: set[str], options: argparse.Namespace) -> dict[str, str]:
    """By host, why docker holds no login, or "": it would send an empty one. Looks where docker/cli cli/config does."""
    try:
        config = json.loads(io.FileIO(f"{options.docker_folder}/config.json").read())
    except (OSError, ValueError) as error:
        raise Failure(f"config.json cannot be read: {error}: leave out --refresh-only, or mend it") from None
    held = {re.sub("^https?://", "", key).split("/")[0] for key, login in (dig(config, "auths") or {}).items()
            if dig(login, "auth") or dig(login, "identitytoken")}
    problems = {host: "" if host in held else "docker holds no login for it: leave out --refresh-only" for host in used}
    for host in used:
        helper = dig(config, "credHelpers", host) or dig(config, "credsStore")
        if helper:
            problem, answer = program(f"docker-credential-{helper}", "get", stdin=File(host))
            is_held = not problem and re.search(r'"Secret":\s*"[^"]', answer.text())
            problems[host] = "" if is_held else f"{problem or 'no login'}: echo {host} | docker-credential-{helper} get"
    return problems

def refresh(rows: dict[str, Any], hosts: set[str], options: argparse.Namespace, tries: int = 0) -> None:
    """Look at services, listed by name, decide, update. What fails is looked at anew: something may have updated it."""
    try:
        services, problems = look_at(rows)
    except Failure as failure:
        services, problems = [], dict.fromkeys(rows, str(failure))
    verdicts = [(one, *decide(one, hosts, options)) for one in sorted(services, key=lambda one: not one.may_finish)]
    due = [service for service, outcome, _ in verdicts if outcome == DUE and not options.dry_run]
    for service, outcome, reason in verdicts:  # what may finish goes first, before its tasks do
        if outcome != DUE or options.dry_run or not service.mounts_sorted:  # a restart is announced
            conclude(outcome, reason, service.name)
    for some in [due] if due and not tries else [[service] for service in due]:  # again: for error texts of their own
        problems.update(update(some))
    for name in [service.name for service in due if service.name not in problems]:
        outcomes[name] = REFRESHED
        with contextlib.suppress(OSError):  # whoever read it may have gone; print() would fail again at the end
            os.write(1, b"" if options.quiet else f"{name}\n".encode())
    outcome = FAILED if tries == len(PAUSES) else "to be tried again"
    for problem in sorted(set(problems.values())):
        conclude(outcome, problem, *(name for name in problems if problems[name] == problem))
    if problems and outcome != FAILED:
        program("sleep", str(PAUSES[tries]))
        refresh({name: rows[name] for name in problems}, hosts, options, tries + 1)

def look_at(rows: dict[str, Any]) -> tuple[list[Service], dict[str, str]]:
    """Services as they are now, and a problem for each that docker does not describe. What has gone is in neither."""
    found = ask(*INSPECT, partial=True, stdin=File("\n".join(rows)), before=(*XARGS, "-n50"))
    services = {item["ID"]: service_from(item) for item in found
                if dig(item, "ID") and dig(item, "Spec", "Name") in rows and dig(item, "Spec", "TaskTemplate")}
    missing = set(rows).difference(service.name for service in services.values())
    left = {row["Name"] for row in ask(*LIST)} if missing else set()
    look_at_tasks({key: each for key, each in services.items() if each.host and (
        each.may_finish or each.token_only and each.rollout not in SETTLED  # or fewer tasks run than are wanted
        or not re.match(r"(\d+)/\1\b", str(rows[each.name].get("Replicas"))))})
    return list(services.values()), dict.fromkeys(missing & left, "docker does not show it")

def look_at_tasks(services: dict[str, Service]) -> None:
    """Find out what tasks alone tell of services, by ID. The list of services counts those on lost nodes as running."""
    rows, slots = ask(*PS, *services) if services else [], dict[str, list[Any]]()
    for row in rows:  # the newest of a slot comes first; its name is SERVICE.SLOT, its state is Running 2 hours ago
        slots.setdefault(str(dig(row, "Name")), []).append(row)
    for slot, tasks in slots.items():
        service = services.get(slot.partition(".")[0])
        states = [str(dig(task, "CurrentState")).partition(" ")[0] for task in tasks]
        if service and states[0] != "Rejected":  # which never ran, as for a dead token
            lost = service.mode == "Replicated" and tasks[0].get("DesiredState") == "Shutdown"
            service.finished |= service.may_finish and (lost or states[0] in ("Complete", "Failed"))
            service.starting |= states[0] in ("Assigned", "Accepted", "Preparing") and "Rejected" not in states
    wanted = [row["ID"] for row in rows if dig(row, "ID") and dig(row, "DesiredState") == "Running"]
    for task in ask(*TASKS, stdin=File("\n".join(wanted)), before=("xargs", "-n500")) if wanted else []:
        service = services.get(dig(task, "ServiceID"))
        if service and dig(task, "Status", "State") == "running":  # or else an update would resume the rollout
            service.token_only &= filled(dig(task, "Spec")) == service.template

def service_from(item: dict[str, Any]) -> Service:
    """All that decides about a service, from docker service inspect."""
    spec, previous, status = item["Spec"], item.get("PreviousSpec"), item.get("UpdateStatus")
    template, began = filled(spec["TaskTemplate"]), float("-inf")
    moment = dig(status, "CompletedAt") or dig(status, "StartedAt") or item.get("UpdatedAt")
    with contextlib.suppress(ValueError):  # 2024-05-01T12:00:00.123456789Z
        began = calendar.timegm(time.strptime(str(moment)[:19], "%Y-%m-%dT%H:%M:%S"))
    policy, mounts = template["RestartPolicy"], template["ContainerSpec"].get("Mounts") or []
    places = [(dig(mount, "Source") or "", dig(mount, "Target") or "") for mount in mounts]
    limits = [dig(limit, "Name") or "" for limit in template["ContainerSpec"].get("Ulimits") or []]
    return Service(
        id=item["ID"], name=spec["Name"], template=template, mode="".join(dig(spec, "Mode") or {}),
        host=ecr_host(dig(template, "ContainerSpec", "Image")),  # empty if it is not ECR
        rollout=dig(status, "State") or "",
        age=time.time() - began,  # seconds since the rollout ended, or began, or else since any update
        token_only=dig(status, "State") == "rollback_paused" and not previous  # the rollout changes no task, if
        or filled(dig(previous, "TaskTemplate")) == template  # look_at_tasks() finds none that runs an older spec
        and dig(previous, "EndpointSpec") == dig(spec, "EndpointSpec"),
        may_finish=(policy["Condition"] or "any") != "any" or bool(policy["MaxAttempts"]),  # an update runs it again
        finished=False, starting=False,  # whether a task has ended for good, is about to run: look_at_tasks() finds out
        mounts_sorted=places == sorted(places) and limits == sorted(limits))

def filled(task: Any) -> dict[str, Any]:
    """With the defaults that docker service inspect fills in (swarmkit api/defaults), but in Spec alone."""
    return {"Runtime": "container", "Resources": {}, "Placement": {}, **(task or {}),
            "RestartPolicy": {"Condition": "any", "Delay": 5e9, "MaxAttempts": 0, **(dig(task, "RestartPolicy") or {})},
            "ContainerSpec": {"StopGracePeriod": 1e10, "DNSConfig": {}, **(dig(task, "ContainerSpec") or {})}}

def decide(service: Service, hosts: set[str], options: argparse.Namespace) -> tuple[str, str]:
    """What becomes of a service, given the registries that docker is logged in to, and why. Pure."""
    held = HELD if abs(service.age) < OVERDUE_SECONDS else OVERDUE  # abs(): a clock may have jumped
    if service.host and service.host not in hosts:
        return FAILED, f"docker is not logged in to {service.host}"
    if options.all_services:
        return DUE, "as every service is"
    if not service.host:
        return LEFT, "its image is in no ECR registry"
    if service.mode in ("ReplicatedJob", "GlobalJob"):
        return LEFT, "it is a job, and would run again"
    if service.mode not in ("Replicated", "Global"):
        return held, f"its mode is {service.mode}, which this version does not know"
    # A refresh that met an outage of the registry stays paused, but has nothing to roll out: it can go on.
    if service.rollout not in SETTLED and not service.token_only:
        return held, f"its rollout is {service.rollout}" + WAYS.get(service.rollout, "").format(service.name)
    if service.rollout == "completed" and not service.token_only and abs(service.age) < options.keep_rollback * 3600:
        return LEFT, f"docker service rollback is kept for {options.keep_rollback} hours"
    if service.finished:
        return LEFT, "its finished tasks would run again"
    if service.starting and held == HELD:  # swarmkit orchestrator/task.go IsTaskDirty; later its token may be dead
        return HELD, "its tasks are starting, and an update would start them once more"
    return (DUE, "it pulls from ECR") if service.mounts_sorted else (held if options.no_restart else DUE, RESTARTS)

def update(services: list[Service]) -> dict[str, str]:
    """Have swarm store the token that docker holds: the one step that changes the swarm. Returns problems by name."""
    # xargs, for it starts programs faster than any library. Docker prints the ID of each service that it updated.
    problem, done = program(*UPDATE, stdin=File("\n".join(service.id for service in services)), before=(*XARGS, "-n1"))
    return {service.name: problem or "docker did not confirm" for service in services if service.id not in done.text()}

def dig(data: Any, *path: str) -> Any:
    """What lies at a path in nested objects; None where something is null, missing or no object."""
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data

def ask(*command: str, partial: bool = False, **how: Any) -> list[Any]:
    """What docker printed as JSON, one value a line. Raises Failure, unless a part, or nothing, will do."""
    problem, printed = program(*command, **how)
    if problem and not partial:
        raise Failure(problem)
    if problem:
        log.log(NOTICE, "%s", problem)
    try:
        return [json.loads(line) for line in printed.text().splitlines()]
    except ValueError as error:
        raise Failure(f"{' '.join(command[:3])} did not print JSON: {error}") from None

def program(*command: str, stdin: Optional[File] = None, before: tuple[str, ...] = (),
            stoppable: bool = True) -> tuple[str, File]:
    """Run a program. Returns what went wrong in one line, or "", and the file that it printed to."""
    if stopped_by:
        sys.exit(128 + stopped_by[0])
    stdin, stdout, stderr, status = stdin or File(), File(), File(), 0
    stdin.seek(0)
    limit = ("--foreground", "--kill-after=5", str(PROGRAM_SECONDS))  # its children: killpg, below
    try:
        running = sh.Command("timeout")(*limit, *before, *command, _in=stdin, _out=stdout, _err=stderr, _tty_out=False,
                                        _close_fds=False, _new_session=True, _bg=True, _bg_exc=False)
    except (sh.CommandNotFound, sh.ForkException, OSError) as error:
        return explain(" ".join(command[:3]), 126, str(error)), stdout
    in_flight.update([running.pid] if stoppable else [])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGTERM if stopped_by and stoppable else 0)  # one that came meanwhile
    try:
        running.wait()
    except sh.ErrorReturnCode as error:
        status = error.exit_code
    in_flight.discard(running.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)  # what it left behind
    return explain(" ".join(command[:3]), status, re.sub(r"[\s\0-\37]+", " ", stderr.text())[-500:]), stdout

def explain(name: str, status: int, said: str) -> str:
    """What went wrong with a program, in one line, or ""."""
    if said and not status and "docker login" not in name:  # docker warns at each login that it stores it
        log.info("%s succeeded, and said: %s", name, said)
    hung = f"hung, and was killed after {PROGRAM_SECONDS} seconds"
    says = {123: "failed", 124: hung, 137: hung, 126: "cannot be executed", 127: "is not installed, or not on the PATH"}
    what = says.get(status, f"failed with exit status {status}" if status > 0 else f"was killed by signal {-status}")
    return f"{name} {what}: {said or 'it said nothing'}" if status else ""

if __name__ == "__main__":
    sys.exit(main())
