"""Tools that refresh registry tokens, side by side: 16 cases each, on a real swarm.

    python tests/real/compare.py --tool loop --tool yuliycv=CHECKOUT --tool shepherd=CHECKOUT \\
        --tool gantry=CHECKOUT --tool script=CHECKOUT --log said.txt >table.md

prints a table in Markdown, how many cases each tool passes, and the settings that it was given.
Where the checkouts come from is in TOOLS; `script` without a checkout is the one of this
repository. Each tool meets each case on services of its own, and a tool that does nothing passes
none: some service that has to be refreshed is in every case. Needs root; see lab.py.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import engines
from case import EXPECTED, Case
from helpers import write_program
from lab import OTHER_REGION, REGION, SCRIPT, Lab, ecr_host, wait_until
from promise import another_login
from test_harm import FAILS_WHEN_TOLD, fail, paused_rollout, service_of_another_registry
from test_healing import stuck_services

# Seconds to look out for what must not happen: longer than the tests, which have a control.
UNEXPECTED = 8

# ------------------------------------------------------------------------------- the tools


@dataclasses.dataclass(frozen=True)
class Tool:
    """How a tool is run; what is in braces is filled in for each run."""

    source: str
    command: str
    # Its environment, beside the region's AWS and docker's socket.
    settings: dict = dataclasses.field(default_factory=dict)
    # The lines of the file {others}: one for each registry but the first.
    login: str = ""
    # It knows one registry: it is run once for each.
    is_for_one_registry: bool = False
    # Programs that it finds first, so that it ends after one round and asks nobody but the lab.
    programs: dict = dataclasses.field(default_factory=dict)
    # For those who read the table.
    note: str = ""

    @property
    def never_ends(self):
        return "sleep" in self.programs


GANTRY_LOGINS = "{home}/gantry-logins"
TOOLS = {
    "loop": Tool(
        source="docker/for-aws#5",
        command="bash {folder}/seed.sh {pairs}",
        note="`docker login` for each registry, then `docker service update -d -q "
        "--with-registry-auth` for each service, under `set -eu`: SEED in tests/real/lab.py.",
    ),
    "yuliycv": Tool(
        source="yuliycv/docker-swarm-ecr-auth",
        command="sh {checkout}/start.sh",
        settings={
            "AwsAccessKey": "LAB",
            "AwsSecretKey": "lab",
            "AwsRegion": "{region}",
            "AwsAccountId": "{account}",
        },
        is_for_one_registry=True,
        programs={"sleep": "kill -TERM $PPID"},
        note="One round: its `sleep 6h` sends it the signal that it ends at. It knows one "
        "registry, so it is run once for each, with docker's logins in common.",
    ),
    "shepherd": Tool(
        source="containrrr/shepherd",
        command="bash {checkout}/shepherd",
        settings={
            "TZ": "UTC",
            "RUN_ONCE_AND_EXIT": "true",
            "WITH_REGISTRY_AUTH": "true",
            "FILTER_SERVICES": "",
            "ROLLBACK_OPTIONS": "",
            "UPDATE_OPTIONS": "--detach=true",
            "REGISTRY_USER": "AWS",
            "REGISTRY_PASSWORD": "{password}",
            "REGISTRY_HOST": "{host}",
            "REGISTRIES_FILE": "{others}",
        },
        login="{home}/.docker\t{host}\tAWS\t{password}",
        note="A second registry is a line of REGISTRIES_FILE whose configuration is docker's own, "
        "so that services need no label.",
    ),
    "gantry": Tool(
        source="shizunge/gantry",
        command="bash {checkout}/src/entrypoint.sh",
        settings={
            "GANTRY_MANIFEST_CMD": "none",
            "GANTRY_UPDATE_OPTIONS": "--detach=true",
            "GANTRY_ROLLBACK_ON_FAILURE": "false",
            "GANTRY_CLEANUP_IMAGES": "false",
            "GANTRY_REGISTRY_USER": "AWS",
            "GANTRY_REGISTRY_PASSWORD": "{password}",
            "GANTRY_REGISTRY_HOST": "{host}",
            "GANTRY_REGISTRY_CONFIG": GANTRY_LOGINS,
            "GANTRY_REGISTRY_CONFIGS_FILE": "{others}",
        },
        login=GANTRY_LOGINS + " {host} AWS {password}",
        programs={"curl": "exit 127"},
        note="Logins only: it updates every service, not only those with a new image (MANIFEST_CMD "
        "none), and neither rolls back nor removes images. With logins in a folder of their own it "
        "sends them to services of that registry alone. Without curl it does not ask Docker Hub.",
    ),
    "script": Tool(
        source="this script",
        command="{python} {checkout}/ecr_swarm_login.py",
        note="No options.",
    ),
}


# --------------------------------------------------------------------------------- a trial


class NamespaceLab(Lab):
    """A lab whose images are in a namespace: gantry finds the host of no others."""

    def _start(self, managers, workers):
        super()._start(managers, workers)
        repositories = self.registries.folder / "store/docker/registry/v2/repositories"
        (repositories / "team").mkdir(parents=True)
        (repositories / "team/app").symlink_to("../app")

    def image(self, *command, host=None):
        return super().image(*command, host=host).replace("/app:", "/team/app:")


class Trial(Case):
    """One tool in one case."""

    def __init__(self, lab, tool, checkout, log):
        super().__init__(lab, tool.source)
        self.tool = tool
        self._checkout = checkout
        self._log = log

    def begin(self):
        super().begin()
        self._programs = self.lab.folder / "compare"
        subprocess.run(["rm", "-rf", self._programs], check=True)
        self._programs.mkdir()
        for name, text in self.tool.programs.items():
            write_program(self._programs / name, f"#!/bin/sh\n{text}\n")
        return self

    def refresh(self, *hosts):
        """One run, for these registries; of several runs the one that went worst."""
        hosts = hosts or (ecr_host(),)
        rounds = [[host] for host in hosts] if self.tool.is_for_one_registry else [hosts]
        results = [self._run(each) for each in rounds]
        return max(results, key=lambda result: result.returncode)

    def _run(self, hosts):
        subprocess.run(["rm", "-rf", self.manager.home / "gantry-logins"], check=True)
        values = self._values(hosts)
        argv = shlex.split(self.tool.command.format(**values))
        settings = {name: text.format(**values) for name, text in self.tool.settings.items()}
        try:
            result = self.manager.run(argv, env={**self._environment(), **settings}, timeout=90)
        except subprocess.TimeoutExpired:
            result = subprocess.CompletedProcess(argv, 124, "", "ended after 90 seconds\n")
        said = f"exit {result.returncode}\n{result.stdout}{result.stderr}"
        print(self.tool.source, said, sep="\n", file=self._log, flush=True)
        return result

    def _environment(self):
        environment = {
            **self.manager.environment,
            "SSL_CERT_FILE": str(self.lab.registries.certificate),
            "TMPDIR": str(self.lab.folder),
        }
        environment["PATH"] = f"{self._programs}:{environment['PATH']}"
        return environment

    def _values(self, hosts):
        others = self._programs / "others"
        lines = [self.tool.login.format(**self._registry(host)) + "\n" for host in hosts[1:]]
        others.write_text("".join(lines))
        return {
            "checkout": shlex.quote(str(self._checkout)),
            "folder": self.lab.folder,
            "python": engines.python_with_sh(),
            "pairs": " ".join(f"{host.split('.')[3]} {host}" for host in hosts),
            "others": others,
            **self._registry(hosts[0]),
        }

    def _registry(self, host):
        account, _, _, region, *_ = host.split(".")
        values = {"host": host, "region": region, "account": account, "home": self.manager.home}
        if any("{password}" in text for text in self.tool.settings.values()):
            aws = [self.lab.programs / "aws", "ecr", "get-login-password", "--region", region]
            result = self.manager.run(aws, env=self.manager.environment, check=True)
            values["password"] = result.stdout.strip()
        return values

    # ------------------------------------------------------------------- given and then

    def update(self, name, *options):
        """As people deploy: without a login docker records no digest, and gantry then forces."""
        super().update(name, "--with-registry-auth", *options)

    def aws_hands_out_a_dead_token(self, region):
        """AWS answers as always, and the registry refuses what it hands out."""
        (self.lab.registries.aws_folder / f"token-{region}").write_text("dead")

    def create_plain(self):
        """A service that every run has to refresh, whatever else there is."""
        self.create("zzz")
        self.runs("zzz")

    def skipped_the_plain_one(self):
        return "" if self.updates("zzz") else "no other service is refreshed"

    def comes_true(self, condition, seconds=EXPECTED):
        try:
            return bool(wait_until(condition, "", seconds))
        except AssertionError:
            return False


@contextlib.contextmanager
def docker_that(lab, case):
    """For a while docker is a shell script, with that `case` before the real one."""
    program = lab.programs / "docker"
    real = program.readlink()
    text = f'#!/bin/sh\nreal="{real}"\ncase " $* " in {case} ;; esac\nexec "$real" "$@"\n'
    write_program(program, text)
    try:
        yield
    finally:
        program.unlink()
        program.symlink_to(real)


# --------------------------------------------------------------------------------- the cases
# Each says in its first line what must be true, and returns what is not so, or nothing.


def new_node(trial):
    """A node that joins after a run can pull"""
    trial.create("web", "--mode", "global")
    trial.runs("web", 2)
    trial.lab.rotate()
    trial.refresh()
    newcomer = trial.join()
    runs = trial.comes_true(lambda: trial.runs_on("web", newcomer))
    return "" if runs else "rejected"


def dead_tokens(trial):
    """Services rejected because their token died run after a run"""
    stuck = {
        "any": ["--restart-condition", "any"],
        "on-failure": ["--restart-condition", "on-failure"],
        "none": ["--restart-condition", "none"],
        "global": ["--mode", "global"],
    }
    constraint, label = trial.label()
    for name, options in stuck.items():
        trial.create(name, constraint, *options)
    trial.lab.rotate()
    trial.give(trial.lab.workers[0], label)
    trial.rejected(*stuck)
    trial.refresh()
    trial.comes_true(lambda: all(trial.running(name) for name in stuck))
    return ", ".join(f"{name} is stuck" for name in stuck if not trial.running(name))


def stays_finished(trial, *options, tasks=1):
    trial.create_plain()
    trial.create("work", *options, image=trial.lab.image("true"))
    trial.completed("work", tasks)
    before = trial.task_ids("work")
    trial.lab.rotate()
    trial.refresh()
    if trial.comes_true(lambda: trial.task_ids("work") - before, UNEXPECTED):
        return "ran again"
    return trial.skipped_the_plain_one()


def replicated_job(trial):
    """A finished replicated job stays finished"""
    return stays_finished(trial, "--mode", "replicated-job")


def global_job(trial):
    """A finished global job stays finished"""
    return stays_finished(trial, "--mode", "global-job", tasks=2)


def one_shot(trial):
    """A finished one-shot (restart condition none) stays finished"""
    return stays_finished(trial, "--restart-condition", "none")


def one_shot_on_failure(trial):
    """A finished one-shot (on-failure, exit 0) stays finished"""
    return stays_finished(trial, "--restart-condition", "on-failure")


def paused(trial):
    """A paused rollout of a bad image takes down no more tasks in three runs"""
    trial.create_plain()
    good = paused_rollout(trial)
    healthy = trial.running("web", good)
    for _ in range(3):  # the first may take the slot that has failed already
        trial.lab.rotate()
        trial.refresh()
        if trial.comes_true(lambda: trial.running("web", good) < healthy, UNEXPECTED):
            return "goes on"
    return trial.skipped_the_plain_one()


def automatic_rollback(trial):
    """A rollout with automatic rollback under way comes back to the good image"""
    trial.create_plain()
    worker = trial.lab.workers[0]
    good, bad = trial.lab.image(), trial.lab.image(*FAILS_WHEN_TOLD)
    options = f"--replicas 2 --constraint=node.hostname=={worker.name}"
    options += " --update-failure-action rollback --update-monitor 120s --rollback-monitor 1s"
    trial.create("web", *options.split(), image=good)
    trial.runs("web", 2)
    trial.update("web", "--image", bad)
    trial.runs("web", 2, bad)
    trial.lab.rotate()
    trial.refresh()
    fail(trial, worker, "web")
    if not trial.comes_true(lambda: len(trial.running("web", good)) == 2):
        return "stays on the bad image"
    return trial.skipped_the_plain_one()


def another_registry(trial):
    """A service of another registry keeps its login: a node pulls after a run"""
    trial.create_plain()
    label = service_of_another_registry(trial)
    trial.give(trial.manager, label)
    trial.runs("private")
    trial.lab.rotate()
    trial.refresh()
    trial.give(trial.lab.workers[0], label)
    worker = trial.lab.workers[0]
    trial.comes_true(lambda: trial.runs_on("private", worker) or trial.is_rejected("private"))
    if not trial.runs_on("private", worker):
        return "its login is wiped"
    return trial.skipped_the_plain_one()


def running_tasks(trial):
    """Running tasks are not restarted, and their services are refreshed"""
    names = {
        f"{mode}-{condition}": ["--mode", mode, "--restart-condition", condition]
        for mode in ("replicated", "global")
        for condition in ("any", "on-failure", "none")
    }
    for name, options in names.items():
        trial.create(name, *options)
    before = {name: trial.runs(name, 2 if "global" in name else 1) for name in names}
    trial.lab.rotate()
    trial.refresh()
    if trial.comes_true(
        lambda: any(trial.task_ids(each) != before[each] for each in names), UNEXPECTED
    ):
        return "restarted"
    return "" if all(trial.updates(name) for name in names) else "not all are refreshed"


def refused_login(trial):
    """When the registry refuses the login, live tokens stay: a node pulls after a run"""
    trial.lab.rotate()  # what the manager holds is as old as its last good run
    constraint, label = trial.label()
    trial.create("web", constraint, config=another_login(trial))
    trial.aws_hands_out_a_dead_token(REGION)
    trial.refresh()
    trial.give(trial.lab.workers[0], label)
    runs = trial.comes_true(lambda: trial.running("web") or trial.is_rejected("web"))
    return "" if runs and trial.running("web") else "a dead token in its place"


def one_of_two_regions(trial):
    """Of two regions whose services are stuck, one is refused: the other's heal"""
    hosts = [ecr_host(region=OTHER_REGION), ecr_host()]
    _, kept = stuck_services(trial, hosts)
    trial.aws_hands_out_a_dead_token(OTHER_REGION)
    trial.refresh(*hosts)
    return "" if trial.comes_true(lambda: trial.running(kept)) else "none heals"


GONE = '*" service update"*) "$real" service rm bad >/dev/null 2>&1'
FAILS = (
    '*" service update"*" bad "* | *" service update"*" {identity:.12}"*)'
    ' echo "Error response from daemon: update out of sequence" >&2; exit 1'
)


def bad_service(trial, case):
    """A run that cannot update the first of three services; returns its result."""
    trial.create("bad")
    identity = trial.lab.service("bad")["ID"]
    with docker_that(trial.lab, case.format(identity=identity)):
        return trial.refresh()


def one_bad_service(trial):
    """One service that vanishes, or whose update fails, does not stop the rest"""
    names = ["web1", "web2"]
    for name in names:
        trial.create(name)
        trial.runs(name)
    faults = []
    for fault, case in (("one vanishes", GONE), ("an update fails", FAILS)):
        before = [trial.updates(name) for name in names]
        trial.lab.rotate()
        bad_service(trial, case)
        after = [trial.updates(name) for name in names]
        if not all(old < new for old, new in zip(before, after)):
            faults.append(fault)
    return faults and f"stops when {' or '.join(faults)}"


class Watch(threading.Thread):
    """Reads the arguments of every process on the machine, over and over."""

    def __init__(self):
        super().__init__()
        self.seen = set()
        self._done = threading.Event()

    def run(self):
        while not self._done.is_set():
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):  # it has ended meanwhile
                    self.seen.add((process / "cmdline").read_bytes())

    def has_seen(self, part):
        return any(part in text for text in self.seen.copy())

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self.join()


def token_in_arguments(trial):
    """The token is never in the arguments of a process"""
    trial.create_plain()
    trial.lab.rotate()
    with Watch() as watch:
        for _ in range(10):  # one look at all processes may take as long as a docker login
            trial.refresh()
            if watch.has_seen(b"\0login\0--username"):
                break
        else:
            raise AssertionError("docker login was not caught at it")
    if watch.has_seen(trial.lab.registries.tokens[REGION].encode()):
        return "it is"
    return trial.skipped_the_plain_one()


SETTINGS = """--env A=1 --label a=1 --container-label b=2 --hostname box --user 0 --workdir /bin
--limit-memory 64M --reserve-cpu 0.01 --mount type=tmpfs,target=/a --stop-grace-period 3s
--stop-signal KILL --health-cmd true --health-interval 7s --update-parallelism 2 --update-delay 1s
--update-order start-first --rollback-monitor 2s --restart-max-attempts 5 --replicas 2
--placement-pref spread=node.labels.zone --constraint node.platform.os==linux --init --read-only
--log-driver json-file --log-opt max-size=1m --cap-add NET_ADMIN --cap-drop CHOWN
--ulimit nofile=100:200 --dns 10.0.0.1 --host other:10.0.0.2 --network host --replicas-max-per-node 2
--secret secret --config config"""


def settings_kept(trial):
    """All settings are kept (Spec of the API), also the digest of a tag that has moved"""
    for kind in ("secret", "config"):
        if not trial.manager.docker(kind, "ls", "-q"):
            trial.manager.docker(kind, "create", kind, "-", text="content")
    trial.create_plain()
    trial.create("rich", *SETTINGS.split())
    image = trial.lab.image()
    trial.create("pinned", image=image)
    trial.runs("rich", 2)
    trial.runs("pinned")
    trial.lab.registries.push(["sleep", "999999"], image.rpartition(":")[2])
    before = {name: trial.lab.service(name)["Spec"] for name in ("rich", "pinned")}
    trial.lab.rotate()
    trial.refresh()
    changed = [where for name in before for where in changes(trial, name, before[name])]
    if changed == ["pinned.TaskTemplate.ContainerSpec.Image"]:
        return "deploys what the tag is now"
    return f"changed: {', '.join(changed)}" if changed else trial.skipped_the_plain_one()


def changes(trial, name, before):
    return differences(before, trial.lab.service(name)["Spec"], name)


def differences(before, after, where):
    """Where two JSON documents differ."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return [] if before == after else [where]
    return [
        each
        for key in sorted({*before, *after})
        for each in differences(before.get(key), after.get(key), f"{where}.{key}")
    ]


def exit_status(trial):
    """The exit status is not 0 after a refused login, nor after an update that failed"""
    if trial.tool.never_ends:
        return "it goes on for ever"
    trial.create_plain()
    faults = [] if trial.refresh().returncode == 0 else ["not 0 after a good run"]
    if bad_service(trial, FAILS).returncode == 0:
        faults.append("0 after an update failed")
    trial.aws_hands_out_a_dead_token(REGION)
    if trial.refresh().returncode == 0:
        faults.append("0 after a refused login")
    return ", ".join(faults)


CASES = [
    new_node,
    dead_tokens,
    replicated_job,
    global_job,
    one_shot,
    one_shot_on_failure,
    paused,
    automatic_rollback,
    another_registry,
    running_tasks,
    refused_login,
    one_of_two_regions,
    one_bad_service,
    token_in_arguments,
    settings_kept,
    exit_status,
]


# ------------------------------------------------------------------------------- the table


def meet(lab, case, name, checkout, log):
    """What comes of it: "yes", "no: WHY", or "?: WHY" when the case itself did not come about."""
    print(f"\n=== {name}: {case.__doc__}", file=log, flush=True)
    for is_last in (False, True):
        trial = Trial(lab, TOOLS[name], checkout, log)
        try:
            trial.begin()
            fault = case(trial)
            trial.end()
        except (AssertionError, OSError, RuntimeError, subprocess.SubprocessError) as error:
            traceback.print_exc(file=log)
            fault = f"?: {error}"
            with contextlib.suppress(AssertionError, OSError, RuntimeError):
                trial.end()
        if is_last or not (fault and fault.startswith("?")):
            break
    cell = "yes" if not fault else fault if fault.startswith("?") else f"no: {fault}"
    print(cell, file=log, flush=True)
    return cell


def table(tools, rows):
    """The lines of the table, and how many cases each tool passed."""
    yield "| # | what must be true | " + " | ".join(map(title, tools)) + " |"
    yield "|---|---|" + "---|" * len(tools)
    for number, case, cells in rows:
        yield f"| {number} | {case.__doc__} | " + " | ".join(cells) + " |"
    counts = [sum(cells[column] == "yes" for _, _, cells in rows) for column in range(len(tools))]
    yield f"| | **passes, of {len(rows)}** | " + " | ".join(map(str, counts)) + " |"


def title(name):
    return "the loop" if name == "loop" else "this script" if name == "script" else name


def how(name, checkout):
    """How that tool was run, in Markdown, with nothing of this machine."""
    tool = TOOLS[name]
    registry = {"host": "HOST", "region": "REGION", "account": "ACCOUNT", "home": "$HOME"}
    registry["password"] = "$(aws ecr get-login-password --region REGION)"
    values = {"checkout": ".", "folder": ".", "python": "python", "pairs": "REGION HOST"}
    values = {**registry, **values, "others": "OTHERS"}
    lines = [f'{key}="{text.format(**values)}" \\' for key, text in tool.settings.items()]
    yield f"**{title(name)}**: {tool.source}{commit(checkout)}. {tool.note}"
    yield from ("", "```sh", *lines, tool.command.format(**values))
    if tool.login:
        yield f"# OTHERS, a line for each registry but the first: {tool.login.format(**registry)}"
    yield from ("```", "")


def commit(checkout):
    if not checkout:
        return ""
    git = ["git", "-C", str(checkout)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], text=True, capture_output=True, check=False)
    changed = subprocess.run([*git, "status", "--short", "-uno"], capture_output=True, check=False)
    return f" at {head.stdout.strip() or '?'}" + (", changed" if changed.stdout else "")


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    text = f"one of {', '.join(TOOLS)}, and the folder of its checkout; once for each"
    parser.add_argument("--tool", action="append", metavar="NAME=PATH", help=text)
    parser.add_argument("--engine", default="20.10", help="default: %(default)s; see engines.py")
    parser.add_argument("--case", action="append", type=int, help="only the case of that number")
    parser.add_argument("--log", default=os.devnull, help="file for all that the tools say")
    options = parser.parse_args(arguments)
    options.tools = {}
    for each in options.tool or ["loop", "script"]:
        name, _, path = each.partition("=")
        checkout = Path(path).resolve() if path else SCRIPT.parent if name == "script" else None
        if name not in TOOLS or (not checkout and "{checkout}" in TOOLS[name].command):
            parser.error(f"--tool {each}: {text}")
        options.tools[name] = checkout
    return options


def main(arguments):
    options = parse(arguments)
    cases = [(number, case) for number, case in enumerate(CASES, 1)]
    cases = [each for each in cases if not options.case or each[0] in options.case]
    rows = []
    with NamespaceLab(options.engine) as lab, open(options.log, "w") as log:
        versions = json.loads(lab.manager.docker("version", "--format", "{{json .}}"))
        for number, case in cases:
            cells = [meet(lab, case, *tool, log) for tool in options.tools.items()]
            rows.append((number, case, cells))
            print(number, *cells, sep=" | ", file=sys.stderr, flush=True)
    versions = [versions[side]["Version"] for side in ("Server", "Client")]
    print(*table(options.tools, rows), "", sep="\n")
    print("Engine {}, client {}.\n".format(*versions))
    for tool in options.tools.items():
        print(*how(*tool), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
