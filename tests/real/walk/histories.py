"""Histories, drawn from a seed. Pure: playing.py plays them on a real swarm.

A session has sixteen stories, and a story three services made alike, its twins. History comes in
rounds: in each one nodes may go or come back, or what tasks need at their start; then each story may
take a step, which all its twins take.
"""

import json
import random
import shlex
from dataclasses import dataclass, field, replace

STORIES = 16  # a session
ROUNDS = 6

# What containers do, each as images of two tags, so that there is a good one to update to. None starts
# where the environment breaks it, or during an outage, if it needs the file.
STARTS = '[ -z "$BROKEN" ] || exit 1; [ ! -d /needed ] || [ -s /needed/file ] || exit 1; '
ONE = "case $PART in 1|w1) {};; esac; exec sleep 1000000"
COMMANDS = {
    "stays": f"{STARTS}exec sleep 1000000",
    "ends": f"{STARTS}sleep 1",
    "ends-late": f"{STARTS}sleep 6",
    "fails": f"{STARTS}sleep 1; exit 1",
    "ends-in-one": STARTS + ONE.format("exit 0"),
    "fails-in-one": STARTS + ONE.format("sleep 1; exit 1"),
    "is-bad": "exit 1",
}
SOME_NODES = ("node.hostname!=w1", "node.hostname==w2", "node.role==worker", "node.hostname!=m1")
ALL_NODES = ("node.platform.os==linux", "node.labels.nowhere!=yes", "node.hostname!=elsewhere")
NO_NODE = ("node.labels.nowhere==yes",)
TMPFS = "type=tmpfs,target="
VOLUME = "type=volume,source=volume-{0},target=/{0}"
NEEDED = "type=bind,source=FOLDER,target=/needed"
FILE = "the file"  # what some tasks need at their start, in place of a node


@dataclass(frozen=True)
class Step:
    """One docker command; NAME, PORT, FOLDER and @IMAGE in its words stand for what a lab has."""

    round: int
    words: tuple
    has_token: bool = False  # it brings a login, which is another than the last one


@dataclass
class Story:
    """What three twins live through."""

    number: int
    is_global: bool
    command: str  # one of COMMANDS
    is_bare: bool  # made as people make services: next to nothing is spelled out
    needs_file: bool  # at each start of a task
    breaks: bool  # at the end an update fails, and most often pauses
    steps: list[Step] = field(default_factory=list)

    def step_at(self, number):
        """The step of that round, or None."""
        return next((step for step in self.steps if step.round == number), None)

    def lines(self):
        """The history as somebody would type it."""
        return [
            f"  round {step.round}: docker {' '.join(step.words)}"
            f"{'  (with another login)' if step.has_token else ''}"
            for step in self.steps
        ]


@dataclass
class Session:
    """Stories side by side, and what happens to the nodes and to FILE meanwhile."""

    seed: int
    number: int
    stories: list[Story]
    events: list[tuple]  # (round, what happens, node or FILE), in order
    pauses: list[float]  # seconds after each round
    settles: bool  # the last round waits for rollouts that fail to stand still

    def only(self, numbers):
        """The same with these stories alone: they depend on each other for nothing but time."""
        stories = [story for story in self.stories if story.number in numbers]
        return replace(self, stories=stories)


def session_from(seed, number):
    """The session of that number; the same seed and number give the same one."""
    draw = random.Random(f"{seed}-{number}")
    # Short pauses: then one step often comes while the rollout of the one before is under way.
    pauses = [draw.choice((2, 4)), *draw.choices((0, 0.5, 1, 2, 3, 4), k=ROUNDS)]
    settles = draw.random() < 0.8
    outage = outage_from(draw)
    events = sorted(events_from(draw) + outage, key=lambda event: event[0])
    stories = [story_from(seed, number, each, bool(outage)) for each in range(1, STORIES + 1)]
    return Session(seed, number, stories, events, pauses, settles)


def events_from(draw):
    """Nodes that go, in half of the sessions; most of them come back."""
    events = []
    for node in draw.sample(("m1", "w1", "w2"), draw.choice((0, 0, 1, 2))):
        # The manager has to stay: everything is seen and done through it.
        kind = draw.choice(("drain", "pause") if node == "m1" else ("drain", "pause", "lose"))
        begins = draw.randint(1, ROUNDS - 1)
        events.append((begins, kind, node))
        if draw.random() < 0.65:
            events.append((draw.randint(begins + 1, ROUNDS), back_from(kind), node))
    return events


def outage_from(draw):
    """The file that tasks need at their start goes, in some sessions, and often comes back."""
    if draw.random() < 0.6:
        return []
    begins = draw.randint(2, ROUNDS - 1)
    ends = [(draw.randint(begins + 1, ROUNDS), "fill", FILE)]
    return [(begins, "empty", FILE), *(ends if draw.random() < 0.5 else [])]


def back_from(kind):
    """How a node, or the file, comes back from what happened to it."""
    return {"lose": "find", "empty": "fill"}.get(kind, "activate")


def story_from(seed, session, number, has_outage):
    """One story: how its services are made, and 1 to 6 steps."""
    draw = random.Random(f"{seed}-{session}-{number}")
    is_bare, breaks = draw.random() < 0.4, draw.random() < 0.4
    # Most services stay: those that end in a loop differ by chance, and tell less. By default all do.
    weights = (12, 1, 0, 1, 1, 1, 0) if is_bare else (12, 2, 2, 2, 4, 2, 0)
    command = "stays" if breaks else draw.choices(list(COMMANDS), weights)[0]
    story = Story(
        number,
        is_global=draw.random() < 0.3,
        command=command,
        is_bare=is_bare,
        needs_file=has_outage and draw.random() < 0.6,
        breaks=breaks,
    )
    story.steps.append(creation(draw, story))
    rounds = sorted(draw.sample(range(1, ROUNDS + 1), draw.randint(1, ROUNDS)))
    if story.breaks:
        # Time enough for it to be at work by then.
        rounds = [each for each in rounds if each < ROUNDS - 3]
    for each in rounds:
        story.steps.append(next_step(draw, story, each))
    if story.breaks:
        story.steps += breaking_end(draw, story)
    return story


def breaking_end(draw, story):
    """An update that fails, and often somebody who wants it to go on: an update of nothing."""
    begins = draw.choice((ROUNDS - 2, ROUNDS - 1, ROUNDS - 1, ROUNDS))
    # During an outage any update fails that starts tasks.
    options = default_options if story.needs_file and draw.random() < 0.6 else breaking_options
    yield update_step(begins, options(draw, story), draw.random() < 0.6)
    if begins < ROUNDS and draw.random() < 0.7:
        yield update_step(ROUNDS, (), False)


def creation(draw, story):
    """docker service create."""
    replicas = draw.randint(3 if story.breaks else 1, 4)
    options = ["--mode=global"] if story.is_global else [f"--replicas={replicas}"]
    if not story.is_bare:
        options += spelled_out(draw, story)
    if "$PART" in COMMANDS[story.command]:
        options += [f"--env=PART={{{{.{'Node.Hostname' if story.is_global else 'Task.Slot'}}}}}"]
    if story.needs_file:
        options += [f"--mount={NEEDED}"]
    for _ in range(draw.choice((0, 0, 0, 1) if story.is_bare else (0, 0, 1, 1, 2))):
        options += draw.choice(extras(draw, story.is_global))
    create = shlex.split("service create -d -q --with-registry-auth --name=NAME")
    return Step(0, (*create, *options, f"@{story.command}-1"), has_token=True)


def spelled_out(draw, story):
    """What not everybody knows of. All delays are short, so that much happens in a session."""
    actions = ("pause",) * 5 if story.breaks else ()
    return [
        f"--restart-condition={draw.choice(('any', 'any', 'on-failure', 'on-failure', 'none'))}",
        f"--restart-max-attempts={draw.choice((0, 0, 0, 1, 3))}",
        "--restart-delay=2s",
        "--stop-grace-period=1s",
        f"--update-failure-action={draw.choice(('pause', 'continue', 'rollback', *actions))}",
        f"--update-order={draw.choice(('stop-first', 'start-first'))}",
        f"--update-parallelism={draw.choice((1, 1, 2) if story.breaks else (1, 1, 2, 0))}",
        f"--update-delay={'1s' if story.breaks else draw.choice(('0s', '1s'))}",
        f"--update-monitor={draw.choice(('500ms', '1s', '2s'))}",
        f"--rollback-order={draw.choice(('stop-first', 'start-first'))}",
        "--rollback-monitor=1s",
    ]


def extras(draw, is_global):
    """Options of create that not every service has."""
    replicated = () if is_global else (("--replicas-max-per-node=2",),)
    # Only create leaves mounts as they are given: docker service update sorts them.
    unsorted = f"--mount={TMPFS}/b", f"--mount={TMPFS}/a"
    sorted_ = f"--mount={VOLUME.format('one')}", f"--mount={VOLUME.format('two')}"
    return (
        ("--health-cmd=true", "--health-interval=2s"),
        unsorted,
        sorted_,
        (f"--constraint={draw.choice(SOME_NODES + ALL_NODES)}",),
        ("--placement-pref=spread=node.labels.zone",),
        ("--limit-memory=64MB",),
        ("--publish=mode=host,target=80,published=PORT",),
        *replicated,
    )


def next_step(draw, story, number):
    """One of all that may happen to a service after it was made."""
    has_failed = any(part in " ".join(story.steps[-1].words) for part in SIGNS_OF_FAILURE)
    if has_failed and draw.random() < 0.4:
        return update_step(number, (), False)
    kind = draw.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
    options = KINDS[kind][1](draw, story)
    if kind == "rollback":
        return Step(number, ("service", "rollback", "-d", "-q", "NAME"))
    if kind == "scale" and options:
        return Step(number, ("service", "scale", "-d", *options))
    return update_step(
        number, options, kind == "refresh" or (kind != "nothing" and draw.random() < 0.6)
    )


def update_step(number, options, has_token):
    """An update; with no options it changes nothing."""
    login = ("--with-registry-auth",) if has_token else ()
    return Step(number, ("service", "update", "-d", "-q", *login, *options, "NAME"), has_token)


def breaking_options(draw, _):
    """What new tasks fail by, each in its way."""
    health = ("--health-cmd=false", "--health-interval=2s", "--health-retries=1")
    return draw.choice(
        (("--image=@is-bad-1",), ("--image=@missing",), health, (BROKEN,), (BROKEN,))
    )


def default_options(draw, story):
    """What is so by default, spelled out: to swarm it is another spec."""
    placement = () if story.is_global else ("--replicas-max-per-node=0",)
    return (draw.choice((*DEFAULTS, *DEFAULTS, *FURTHER_DEFAULTS, *placement)),)


def image_options(draw, story):
    """Another image: good, one that fails, one that nobody can pull."""
    good = f"@{story.command}-2", f"@{story.command}-1", "@stays-2"
    return (f"--image={draw.choice((*good, '@is-bad-1', '@missing'))}",)


def constraint_options(draw, _):
    """Add one that all, some or no nodes meet, or remove one that is there or not."""
    action = draw.choice(("add", "add", "rm"))
    some = draw.choice((ALL_NODES, ALL_NODES, SOME_NODES, NO_NODE))
    return (f"--constraint-{action}={draw.choice(some)}",)


def resource_options(draw, _):
    """A limit, or a reservation that some node has, or none."""
    reserve = draw.choice(("--reserve-memory=900GB", "--reserve-memory=1MB"))
    return (draw.choice(("--limit-memory=48MB", "--limit-memory=80MB", reserve)),)


def port_options(draw, _):
    """A port of the host, of which each node has one: further tasks there have to wait."""
    add = "--publish-add=mode=host,target=80,published=PORT"
    return (draw.choice((add, add, "--publish-rm=80")),)


def mount_options(draw, _):
    """Mounts come and go."""
    add = tuple(f"--mount-add={TMPFS}/{name}" for name in draw.sample("xyz", 2))
    volume = (f"--mount-add={VOLUME.format('three')}",)
    return draw.choice((add, volume, ("--mount-rm=/a",), ("--mount-rm=/x",)))


def placement_options(draw, story):
    """Preferences, and how many tasks a node may have."""
    zone = "spread=node.labels.zone"
    options = [f"--placement-pref-add={zone}", f"--placement-pref-rm={zone}"]
    if not story.is_global:
        options += [f"--replicas-max-per-node={draw.choice((0, 1, 2, 3))}"]
    return (draw.choice(options),)


def policy_options(draw, _):
    """When swarm starts tasks again, and what a rollout does that fails."""
    condition = f"--restart-condition={draw.choice(('any', 'on-failure', 'none'))}"
    attempts = f"--restart-max-attempts={draw.choice((0, 1, 2))}"
    action = f"--update-failure-action={draw.choice(('pause', 'continue', 'rollback'))}"
    return (draw.choice((condition, attempts, action)),)


def health_options(draw, _):
    """A check that is passed, one that is not, or none."""
    retries = "--health-interval=2s", "--health-retries=1"
    commands = ("--health-cmd=true",), ("--health-cmd=true",), ("--health-cmd=false",)
    return draw.choice((*((*command, *retries) for command in commands), ("--no-healthcheck",)))


def scale_options(draw, story):
    """Up, down or to nothing; a global service has as many tasks as there are nodes."""
    return () if story.is_global else (f"NAME={draw.choice((0, 0, 1, 2, 3, 5))}",)


def number_option(option):
    """An option that sets N to another number."""
    return lambda draw, _: (f"{option}=N={draw.randint(1, 10**6)}",)


def fixed_options(*options):
    return lambda *_: options


BROKEN = "--env-add=BROKEN=yes"
SIGNS_OF_FAILURE = (BROKEN, "@is-bad", "@missing", "--health-cmd=false")
DEFAULTS = shlex.split(
    "--restart-condition=any --restart-delay=5s --restart-max-attempts=0 --stop-grace-period=10s"
)
FURTHER_DEFAULTS = shlex.split("""
    --restart-window=0s --update-parallelism=1 --update-delay=0s --update-monitor=5s
    --update-failure-action=pause --update-order=stop-first --rollback-parallelism=1
    --endpoint-mode=vip --isolation=default --limit-memory=0 --reserve-memory=0
    --read-only=false --tty=false --no-healthcheck=false
""")

# How often each comes, and its options.
KINDS = {
    "image": (6, image_options),
    "environment": (3, number_option("--env-add")),
    "label": (2, number_option("--label-add")),
    "container label": (2, number_option("--container-label-add")),
    "constraint": (5, constraint_options),
    "placement": (3, placement_options),
    "resources": (3, resource_options),
    "port": (3, port_options),
    "mount": (2, mount_options),
    "policy": (3, policy_options),
    "health": (2, health_options),
    "force": (2, fixed_options("--force")),
    "rollback": (3, fixed_options()),
    "refresh": (4, fixed_options()),
    "nothing": (5, fixed_options()),
    "default": (5, default_options),
    "failure": (2, breaking_options),
    "scale": (6, scale_options),
}


def events_text(session):
    """What happened to the nodes and the file, in one line."""
    said = [f"round {number}: {kind} {node}" for number, kind, node in session.events]
    return f"meanwhile: {'; '.join(said) or 'nothing'}; pauses: {json.dumps(session.pauses)}"
