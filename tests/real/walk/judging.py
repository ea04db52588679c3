"""What became of a story's twins, counted and judged. Pure.

Nobody needs to know swarm's rules for that: what happened to the twin that was left alone would have
happened anyway, and what happened to the one with a plain update is what an update does.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

TWINS = ALONE, SCRIPT, PLAIN = ("alone", "script", "plain")
# What the script and an update can come to.
RIGHT, FORESEEN, IN_VAIN, WAITS = GOOD = ("right", "foreseen", "in vain", "waits")
HARM, TOO_LATE, NEEDLESS = DISAGREEMENTS = ("harm", "said too late", "needless")
CATEGORIES = (*GOOD, *DISAGREEMENTS)

# What is seen of a twin ---------------------------------------------------------------------------

ENDED = ("complete", "failed", "rejected")  # by itself; not shut down by swarm
IN_FLUX = ("new", "allocated", "assigned", "accepted", "preparing", "ready", "starting")
RESTLESS_SECONDS = 12  # of a task's last end: less than the rest, more than a restart takes


@dataclass(frozen=True)
class Count:
    """What happened to a twin after it was left alone, given to the script, or updated.

    Slots that were restless already, as in a crash loop, are counted apart: their tasks start
    and end all the while, so that their number differs by chance.
    """

    stopped: int = 0  # tasks that ran in quiet slots, and do no longer
    started: int = (
        0  # new tasks in quiet slots, with a container, or to come after one that is over
    )
    restarted: int = 0  # new tasks in restless slots
    restless: int = 0  # slots

    def exceeds(self, alone):
        """Whether more happened than to the one that was left alone.

        A restless slot may well have got one start more in the same time, and a half more when
        the machine is busy.
        """
        expected = alone.restarted * self.restless / max(1, alone.restless)
        noise = expected // 2 + max(self.restless, alone.restless)
        is_louder = self.restarted > expected + noise
        return is_louder or self.stopped > alone.stopped or self.started > alone.started

    def __str__(self):
        loop = f", {self.restarted} new in {self.restless} restless slots" if self.restless else ""
        return f"stopped {self.stopped}, started {self.started}{loop}"


def slots_of(tasks):
    """{slot, or node of a global service: its tasks, the newest first}."""
    slots = {}
    for task in sorted(tasks, key=lambda task: task["CreatedAt"], reverse=True):
        # The task of a slot that went with a scale-down.
        if task["DesiredState"] != "remove":
            slots.setdefault(task.get("Slot") or task.get("NodeID"), []).append(task)
    return slots


def state_of(task):
    return task["Status"]["State"]


def is_wanted(task):
    return task["DesiredState"] in ("ready", "running")


def is_running(task):
    return state_of(task) == task["DesiredState"] == "running"


def has_started(task):
    """Whether it got as far as a container: one that waits, or was rejected, did nobody harm."""
    return bool(task["Status"].get("ContainerStatus", {}).get("ContainerID"))


def seconds_since(moment, now):
    """`now` as time.time() has it, `moment` as the API shows it."""
    return now - datetime.fromisoformat(f"{moment[:19]}+00:00").timestamp()


def is_restless(tasks, now):
    """Whether the tasks of a slot end and are started again, or are on their way, at that moment.

    A slot in which nothing is wanted any more is at rest, even if its task has just ended.
    """
    wanted = list(filter(is_wanted, tasks))
    has_ended = any(
        state_of(task) in ENDED
        and seconds_since(task["Status"]["Timestamp"], now) < RESTLESS_SECONDS
        for task in tasks
    )
    return bool(wanted) and (has_ended or any(state_of(task) in IN_FLUX for task in wanted))


def restless_slots(tasks, now):
    return {slot for slot, some in slots_of(tasks).items() if is_restless(some, now)}


def likeness(service, tasks, nodes, now):
    """What has to be the same for twins to be alike, whatever nodes their tasks are on.

    Of each slot the tasks that are wanted, or the newest: with the others swarm does nothing. How
    many slots a rollout had come to when it paused is chance; that there are some of each kind is not.
    `nodes` are {ID: (state, availability)}: a task on a lost node is another thing.
    """
    template = service["Spec"]["TaskTemplate"]
    kinds = Counter()
    for some in slots_of(tasks).values():
        shown = list(filter(is_wanted, some)) or some[:1]
        kind = tuple(facts(task, template, nodes) for task in shown)
        kinds["restless" if is_restless(some, now) else kind] += 1
    slots = {kind: number if is_at_work(kind) else "some" for kind, number in kinds.items()}
    # A rollout that is over and none at all are the same to swarm.
    is_over = rollout_of(service) in ("completed", "rollback_completed")
    rollout = "" if is_over else rollout_of(service)
    return slots, sum(kinds.values()), rollout, service["Spec"] == service.get("PreviousSpec")


def is_at_work(kind):
    """Whether the tasks of a slot run, as the spec of their service says."""
    return kind != "restless" and all(
        state == wanted == "running" and not outdated for state, wanted, outdated, _ in kind
    )


def facts(task, template, nodes):
    """Of one task. What spec a task had that is over decides nothing."""
    outdated = differences(task["Spec"], template) if is_wanted(task) else ()
    return state_of(task), task["DesiredState"], outdated, nodes.get(task.get("NodeID"), ())


def differences(spec, template):
    """In which parts a task's spec is not the service's: it may be of an older version."""
    keys = sorted(spec.keys() | template.keys())
    # Runtime stands in a service's spec alone.
    return tuple(key for key in keys if spec.get(key) != template.get(key) and key != "Runtime")


def rollout_of(service):
    return (service.get("UpdateStatus") or {}).get("State", "")


def goes_on(service):
    return rollout_of(service) in ("updating", "rollback_started")


def count(before, after, now):
    """What happened to a twin between two lists of its tasks; `now` is the time of the first."""
    restless = restless_slots(before, now)
    known = {task["ID"] for task in before}
    still = {task["ID"] for task in after if is_running(task)}
    counts = Counter(restless=len(restless))
    for slot, some in slots_of(before).items():
        if slot not in restless:
            counts["stopped"] += sum(is_running(task) and task["ID"] not in still for task in some)
    over = {slot for slot, some in slots_of(before).items() if not any(map(is_wanted, some))}
    for task in after:
        slot = task.get("Slot") or task.get("NodeID")
        # What had finished runs again even if it has to wait, as for a port.
        will_run = slot in over and is_wanted(task)
        if task["ID"] not in known and (has_started(task) or will_run):
            counts["restarted" if slot in restless else "started"] += 1
    return Count(**counts)


# Judging ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """What the script said of one service."""

    is_refreshed: bool = False
    lines: tuple = ()  # (outcome or "restarts", reason)

    def has(self, *outcomes):
        return any(outcome in outcomes for outcome, _ in self.lines)

    @property
    def promises(self):
        """Whether it is to be refreshed, by what was said before."""
        return any(outcome.startswith(PROMISES) for outcome, _ in self.lines)

    @property
    def foresaw(self):
        """Whether it said before the update that tasks would be replaced."""
        return any(
            outcome.startswith(PROMISES) and "restart" in f"{outcome} {reason}"
            for outcome, reason in self.lines
        )

    @property
    def waits(self):
        """Whether it was held back for what passes by itself."""
        return any(
            outcome in ("held back", "held back too long")
            and ("rollout" in reason or "starting" in reason)
            for outcome, reason in self.lines
        )

    def decides_like(self, other):
        """Whether the same would come of it."""
        return (self.is_refreshed, self.foresaw, self.waits) == (
            other.is_refreshed,
            other.foresaw,
            other.waits,
        )


PROMISES = ("will be refreshed", "to be refreshed")  # and before version 2.0
OUTCOMES = (
    "held back too long",
    "held back",
    "left alone",
    "failed",
    "will be refreshed, which restarts its tasks",
    *PROMISES,
    "restarts",
)


def said_of(name, stdout, stderr):
    """What the script's output says of a service. A line may have several names before it."""
    lines = []
    for line in stderr.splitlines():
        head, colon, reason = line.partition(": ")
        for outcome in OUTCOMES:
            names, found, rest = head.rpartition(f" {outcome}")
            if colon and found and not rest and name in names.replace(",", " ").split():
                lines.append((outcome, reason))
                break
        lines += alarms_of(name, line)
    is_refreshed = name in stdout.split() or f"{name} refreshed" in stderr.splitlines()
    return Said(is_refreshed, tuple(lines))


def alarms_of(name, line):
    """What the last line says of a service: `...; failed: web, api: REASON; cache: REASON`."""
    for outcome in ("held back too long", "failed"):
        _, found, reasons = line.partition(f"; {outcome}: ")
        for part in reasons.split("; ") if found else ():
            names, _, reason = part.partition(": ")
            if name in names.split(", "):
                yield outcome, reason


def judge(said, counts):
    """The category of a story whose twins were alike. `counts` are {twin: Count}. Pure."""
    script_did_harm = counts[SCRIPT].exceeds(counts[ALONE])
    update_did_harm = counts[PLAIN].exceeds(counts[ALONE])
    if said.is_refreshed:
        if said.foresaw:
            return FORESEEN if script_did_harm else IN_VAIN
        if not script_did_harm:
            return RIGHT
        return TOO_LATE if said.has("restarts") else HARM
    if update_did_harm:
        return RIGHT
    return WAITS if said.waits else NEEDLESS


def judge_decision(said, counts):
    """What would have come of what another version of the script says, told without a swarm. Pure.

    An update does the same whoever sends it: what the plain one did is what would have happened.
    """
    return judge(said, {**counts, SCRIPT: counts[PLAIN]})


def summary(categories, bare, not_alike, not_confirmed):
    """The counts in one line; `bare` of the categories are of services with nothing spelled out."""
    found = Counter(categories)
    parts = ", ".join(f"{name} {found[name]}" for name in CATEGORIES)
    return f"judged {len(categories)}, {bare} with nothing spelled out: {parts}; not alike {not_alike}; not confirmed {not_confirmed}"
