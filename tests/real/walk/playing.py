"""Plays sessions on a real swarm of three nodes, and says what became of each story's twins."""

import contextlib
import functools
import hashlib
import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import lab as labs
from case import Case
from lab import Lab, ecr_host, wait_until

from walk import histories, judging, recording
from walk.judging import PLAIN, SCRIPT, TWINS

# Rollouts go on after the last step: four tasks, one after the other, take some 3 seconds each
# until the next may start, and a lost node is noticed after six. Twins that are still on their
# way differ by chance, and prove nothing.
REST_SECONDS = 15
BARE_SECONDS = 5  # more where nothing is spelled out: swarm then monitors a rollout for five
SETTLE_SECONDS = 20  # in which most rollouts end or pause
# Then those that are not alike get some more: a restart may be seen in one and not in the other.
GRACE_SECONDS = 8
# In which what an update does to tasks has happened: swarm begins at once, one slot after the other.
WATCH_SECONDS = 14
# A second try of a disagreement may end with twins that are not alike: it is tried once more.
RETRIES = 2


def say(*lines):
    """To somebody who watches a file."""
    print(*lines, sep="\n", flush=True)


@dataclass
class Seen:
    """All services and tasks of a swarm at one moment."""

    now: float
    services: dict  # by name
    tasks: dict  # lists, by ID of their service
    nodes: dict  # (state, availability), by ID

    def tasks_of(self, name):
        return self.tasks.get(self.services[name]["ID"], [])

    def likeness(self, name):
        return judging.likeness(self.services[name], self.tasks_of(name), self.nodes, self.now)


def name_of(story, twin):
    return f"s{story.number}{twin}"


class Walk:
    """Plays sessions on one lab, which is as new after each of them."""

    def __init__(self, lab):
        self.lab = lab
        self.manager = lab.manager
        # Or a lost node is noticed after 15 seconds only.
        self.manager.docker("swarm update --dispatcher-heartbeat 2s")
        lab.login(self.manager)
        self.images = {
            f"@{name}-{number}": lab.image("sh", "-c", command)
            for name, command in histories.COMMANDS.items()
            for number in (1, 2)
        }
        with ThreadPoolExecutor() as pool:
            list(pool.map(self.pull, lab.nodes))
        self.images["@missing"] = f"{ecr_host()}/app:missing"
        self.logins = [self.other_login(number) for number in range(histories.ROUNDS + 1)]
        self.needed = lab.folder / "needed"
        self.needed.mkdir()
        (self.needed / "file").write_text("full")
        self.away = {}  # what happened to nodes and the file, by name

    def pull(self, node):
        """All images: twins that wait for a node's first pull go different ways."""
        self.lab.login(node)
        for image in self.images.values():
            node.docker("pull -q", image)

    def other_login(self, number):
        """A login that is as good as the manager's own, and another, as AWS's is each time.

        To swarm it is another if the address of the registry is written in another way.
        """
        folder = self.manager.home / f"other-{number}"
        self.lab.login(self.manager, config=folder)
        path = folder / "config.json"
        login = json.loads(path.read_text())
        auths = login["auths"].items()
        login["auths"] = {f"https://{host}/{number}": secret for host, secret in auths}
        path.write_text(json.dumps(login))
        return folder

    # ----------------------------------------------------------------- a session

    def play(self, session):
        """The Endings of a session's stories."""
        uneven = self.live(session)
        time.sleep(REST_SECONDS + BARE_SECONDS * any(story.is_bare for story in session.stories))
        before = self.alike(session.stories)
        records = self.records([story for story in session.stories if story.number in before])
        result = self.refresh(session.stories)
        time.sleep(WATCH_SECONDS)
        after = self.look()
        endings = [
            Ending.of(story, before[story.number], after, result)
            if story.number in before and story.number not in uneven
            else Ending(story)
            for story in session.stories
        ]
        for ending in endings:
            if ending.category:
                ending.record = records[ending.story.number]
        return endings

    def live(self, session):
        """All rounds. Returns the stories in which not all twins could take the same step."""
        uneven = set()
        with ThreadPoolExecutor(8) as pool:
            for number, pause in enumerate(session.pauses):
                if session.settles and number == histories.ROUNDS:
                    self.settle([story for story in session.stories if story.breaks])
                for each, kind, node in session.events:
                    if each == number:
                        self.happen(kind, node)
                steps = [(story, story.step_at(number)) for story in session.stories]
                taken = [(story, step, twin) for story, step in steps if step for twin in TWINS]
                results = list(pool.map(self.take, *zip(*taken))) if taken else []
                for story in session.stories:
                    mine = {done for (each, *_), done in zip(taken, results) if each is story}
                    uneven |= {story.number} if len(mine) > 1 else set()
                time.sleep(pause)
        return uneven

    def settle(self, some):
        """Wait for the rollouts of these stories to end or pause, which most do; but not for ever."""
        names = [name_of(story, twin) for story in some for twin in TWINS]
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            services = self.look().services
            if not any(judging.goes_on(services[name]) for name in names if name in services):
                return
            time.sleep(0.5)

    def records(self, some):
        """{number of the story: what docker shows of its script's twin}."""
        names = {story.number: name_of(story, SCRIPT) for story in some}
        docker = functools.partial(self.manager.docker, check=False)
        now = time.time()
        nodes = [node["ID"] for node in self.manager.api("/nodes")]
        shown = recording.shown(docker, names.values(), nodes)
        return {number: recording.of(name, shown, now) for number, name in names.items()}

    def refresh(self, some):
        """The script for all its twins at once, and plain updates. Returns what the script did."""
        with ThreadPoolExecutor() as pool:
            names = [name_of(story, SCRIPT) for story in some]
            result = pool.submit(self.manager.script, *names)
            # The script has to log in before: about the same moment.
            time.sleep(1)
            list(pool.map(self.update, [name_of(story, PLAIN) for story in some]))
            return result.result()

    def take(self, story, step, twin):
        """A step of a twin. Returns whether docker did it: a rollback to nothing fails, say."""
        name = name_of(story, twin)
        port = 8000 + 10 * story.number + TWINS.index(twin)
        argv = [self.word(word, name, port) for word in step.words]
        config = self.logins[step.round] if step.has_token else None
        return self.docker(argv, config)

    def word(self, word, name, port):
        """A word of a command, with what is a twin's own."""
        option, mark, image = word.partition("@")
        if mark:
            return f"{option}{self.images[mark + image]}"
        own = {"NAME": name, "PORT": str(port), "FOLDER": str(self.needed)}
        for placeholder, value in own.items():
            word = word.replace(placeholder, value)
        return word

    def docker(self, argv, config=None):
        """Run the client; again if swarm itself changed the service at the same moment."""
        for _ in range(4):
            try:
                self.manager.docker(*argv, config=config)
                return True
            except RuntimeError as error:
                if "out of sequence" not in str(error):
                    return False
        return False

    def update(self, name):
        return self.docker(f"service update -d -q --with-registry-auth {name}".split())

    # --------------------------------------------------------------------- nodes

    def node(self, name):
        return next(node for node in self.lab.nodes if node.name == name)

    def happen(self, kind, name):
        """A node goes, or comes back; or the file does that tasks need at their start."""
        if name == histories.FILE:
            (self.needed / "file").write_text({"empty": "", "fill": "full"}[kind])
        elif kind in ("lose", "find"):
            node = self.node(name)
            # Cut off: an engine that was killed takes a second for each of its containers to start.
            action, state = {"lose": ("add", "down"), "find": ("del", "ready")}[kind]
            node.ip(f"route {action} blackhole {self.manager.address}/32")
            wait_until(lambda: self.state(node) == state, f"{name} is {state}", 60)
        else:
            availability = {"activate": "active"}.get(kind, kind)
            self.manager.docker(f"node update --availability {availability} {name}")
        if name in self.away:
            del self.away[name]
        else:
            self.away[name] = kind

    def state(self, node):
        return self.lab.node_info(node)["Status"]["State"]

    def clear(self):
        """Bring back what went, then remove the services: so nothing is left of their tasks."""
        for name, kind in list(self.away.items()):
            self.happen(histories.back_from(kind), name)
        Case(self.lab, None).end()

    # ----------------------------------------------------------------------- look

    def look(self):
        tasks = {}
        for task in self.manager.api("/tasks"):
            tasks.setdefault(task["ServiceID"], []).append(task)
        services = {each["Spec"]["Name"]: each for each in self.manager.api("/services")}
        nodes = {
            each["ID"]: (each["Status"]["State"], each["Spec"]["Availability"])
            for each in self.manager.api("/nodes")
        }
        return Seen(time.time(), services, tasks, nodes)

    def alike(self, some):
        """{number of the story: Seen, when its twins were alike}, without those that never were."""
        deadline = time.monotonic() + GRACE_SECONDS
        while True:
            seen = self.look()
            found = {story.number: seen for story in some if are_alike(story, seen)}
            if len(found) == len(some) or time.monotonic() > deadline:
                return found
            time.sleep(0.5)


def are_alike(story, seen):
    names = [name_of(story, twin) for twin in TWINS]
    if not all(name in seen.services for name in names):
        return False
    first, *others = map(seen.likeness, names)
    return all(other == first for other in others)


# How a story ended --------------------------------------------------------------------------------


@dataclass
class Ending:
    """What the twins of a story came to; the story alone if they were not alike."""

    story: histories.Story
    category: str = ""
    text: str = ""
    said: judging.Said = field(default_factory=judging.Said)
    counts: dict = field(default_factory=dict)  # {twin: Count}
    record: dict = field(default_factory=dict)  # what docker showed: see recording.py

    @classmethod
    def of(cls, story, before, after, result):
        """`before` and `after` are Seen, `result` is the script's."""
        if not before:
            return cls(story)
        name = name_of(story, SCRIPT)
        said = judging.said_of(name, result.stdout, result.stderr)
        counts = {twin: count(before, after, name_of(story, twin)) for twin in TWINS}
        text = [f"  script: {line}" for line in result.stderr.splitlines() if name in line]
        text += [f"  script: {name} refreshed"] if said.is_refreshed else []
        for twin in TWINS:
            text += describe(name_of(story, twin), counts[twin], before, after)
        return cls(story, judging.judge(said, counts), "\n".join(text), said, counts)

    @property
    def is_bad(self):
        return self.category in judging.DISAGREEMENTS


def count(before, after, name):
    return judging.count(before.tasks_of(name), after.tasks_of(name), before.now)


def describe(name, counts, before, after):
    """What became of one twin, and its tasks as they were before."""
    rollouts = [judging.rollout_of(seen.services[name]) or "none" for seen in (before, after)]
    lines = [f"  {name}: {counts}; rollout before {rollouts[0]}, after {rollouts[1]}"]
    template = before.services[name]["Spec"]["TaskTemplate"]
    for slot, tasks in judging.slots_of(before.tasks_of(name)).items():
        said = [
            f"{judging.state_of(task)}/{task['DesiredState']}"
            + "".join(f" !{part}" for part in judging.differences(task["Spec"], template))
            for task in tasks
        ]
        lines.append(f"    {slot}: {', '.join(said)}")
    return lines


# A run --------------------------------------------------------------------------------------------


class Run:
    """Sessions, one after the other, and what they came to."""

    def __init__(self, engine, aws="v1", record=None):
        self.programs = {"engine": engine, "aws": aws}
        self.record = record  # the file that gets what docker showed
        self.open = contextlib.ExitStack()
        self.walk = None
        self.endings = []  # (Session, Ending)
        self.believed, self.doubted = [], []

    def play(self, session):
        """A session on the lab, or on a new one if what was before has left it in disorder."""
        if self.walk is None:
            lab = Lab(managers=1, workers=2, **self.programs)
            self.walk = Walk(self.open.enter_context(lab))
        try:
            endings = self.walk.play(session)
            self.walk.clear()
        except (AssertionError, RuntimeError, OSError, subprocess.SubprocessError) as error:
            say(f"session {session.seed}/{session.number}: a new lab, for {error!r}")
            self.close()
            return []
        return endings

    def close(self):
        self.walk = None
        self.open.close()

    def session(self, session):
        began = time.monotonic()
        endings = self.play(session)
        self.endings += [(session, ending) for ending in endings]
        if self.record:
            titles = {
                "engine": self.programs["engine"],
                "session": f"{session.seed}/{session.number}",
                "script": hashlib.sha256(labs.SCRIPT.read_bytes()).hexdigest(),
            }
            recording.append(self.record, titles, endings)
        said = ", ".join(f"{each.story.number} {each.category or 'not alike'}" for each in endings)
        seconds = time.monotonic() - began
        say(f"session {session.seed}/{session.number} ({seconds:.0f} s): {said or 'failed'}")
        for ending in endings:
            if ending.is_bad:
                say(report(session, ending))

    def try_again(self):
        """Each disagreement once more, since a busy machine may make one: then it is believed."""
        suspects = {}
        for session, ending in self.endings:
            if ending.is_bad:
                suspects.setdefault(session.number, (session, []))[1].append(ending)
        for session, endings in suspects.values():
            self.try_session_again(session, {ending.story.number: ending for ending in endings})

    def try_session_again(self, session, suspects):
        left = dict(suspects)
        for _ in range(RETRIES):
            again = self.play(session.only(left)) if left else []
            for ending in again:
                if ending.category:
                    self.conclude(session, left.pop(ending.story.number), ending)
        for ending in left.values():
            self.conclude(session, ending, Ending(ending.story))

    def conclude(self, session, first, again):
        (self.believed if again.is_bad else self.doubted).append((session, first))
        verdict = f"believed: {again.category}" if again.is_bad else "not confirmed"
        came = f"then {again.category or 'not alike'}"
        say(f"AGAIN {verdict}; first {first.category}, {came}", report(session, first), again.text)

    def summary(self):
        doubted = [ending.story for _, ending in self.doubted]
        sure = [ending for _, ending in self.endings if ending.story not in doubted]
        categories = [ending.category for ending in sure if ending.category]
        bare = sum(bool(ending.category) and ending.story.is_bare for ending in sure)
        return judging.summary(categories, bare, len(sure) - len(categories), len(doubted))


def report(session, ending):
    title = f"{ending.category.upper()} {session.seed}/{session.number}/{ending.story.number}"
    lines = [title, "  " + histories.events_text(session), *ending.story.lines(), ending.text]
    return "\n".join(lines)


def walk(sessions, engine="20.10", aws="v1", record=None):
    """Play sessions, try disagreements again. Returns the Run, which has it all."""
    run = Run(engine, aws, record)
    try:
        for session in sessions:
            run.session(session)
        run.try_again()
    finally:
        run.close()
    return run
