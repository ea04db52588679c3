"""What docker showed of the stories of the walk, what the script said of it, and what happened.

A recorded story can be told to any later script without a swarm: what docker showed right before the
script ran is asked of the walk's own client, and all of it, whatever the script of today asks for.
What the plain update did to its twin says what any decision would have come to. See
tests/unit/test_recorded.py, whose stories are made of what the walk has recorded by

    python tests/real/walk/recording.py FILES
"""

import dataclasses
import gzip
import json
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]
RECORDED = TESTS / "unit" / "recorded.jsonl.gz"
JSON = "--format '{{json .}}'"


def shown(docker, names, nodes):
    """What docker shows of services: (services, rows of their tasks, tasks, nodes).

    `docker` runs the client; one that does not show all it is asked for fails, and shows the rest.
    """
    services = objects(docker(f"service inspect {JSON}", *names))
    rows = objects(docker(f"service ps --no-trunc --no-resolve {JSON}", *names))
    ids = [row["ID"] for row in rows]
    tasks = objects(docker(f"inspect --type task {JSON}", *ids)) if ids else []
    return services, rows, tasks, objects(docker(f"node inspect {JSON}", *nodes))


def objects(text):
    """The JSON objects, one a line."""
    return [json.loads(line) for line in text.split("\n") if line]


def of(name, shown, now):
    """The part of a record that docker showed of one service.

    {"service": {}, "history": [rows of service ps], "specs": [tasks], "nodes": [], "now": seconds}
    """
    services, rows, tasks, nodes = shown
    [service] = (each for each in services if each["Spec"]["Name"] == name)
    return {
        "service": service,
        "history": [row for row in rows if row["Name"].partition(".")[0] == service["ID"]],
        "specs": [task for task in tasks if task["ServiceID"] == service["ID"]],
        "nodes": list(map(without_plugins, nodes)),
        "now": now,
    }


def without_plugins(node):
    """A node without what fills pages: the plugins of its engine, and its certificate."""
    description = dict(node["Description"])
    engine = description.pop("Engine", {})
    description.pop("TLSInfo", None)
    if engine.get("Labels"):
        description["Engine"] = {"Labels": engine["Labels"]}
    return {**node, "Description": description}


def append(path, titles, endings):
    """Add the stories that were judged to a file, one a line."""
    with path.open("a") as file:
        for ending in endings:
            if ending.record:
                print(json.dumps({**titles, **came_of(ending), **ending.record}), file=file)


def came_of(ending):
    """The part of a record that says what the script said, and what happened."""
    return {
        "story": ending.story.number,
        "bare": ending.story.is_bare,
        "category": ending.category,
        "refreshed": ending.said.is_refreshed,
        "said": ending.said.lines,
        "counts": {twin: dataclasses.asdict(count) for twin, count in ending.counts.items()},
    }


# To be told again ---------------------------------------------------------------------------------

# What is read of a task; docker shows more.
PARTS = ("ID", "CreatedAt", "ServiceID", "Slot", "NodeID", "DesiredState", "Status", "Spec")


def packed(story):
    """A record without what no script reads, and without tasks that are past."""
    service = {key: each for key, each in story["service"].items() if key != "Endpoint"}
    newest = {}
    for task in sorted(story["specs"], key=lambda task: task["CreatedAt"]):
        newest[task.get("Slot") or task.get("NodeID")] = task["ID"]
    specs = [
        {key: task[key] for key in PARTS if key in task}
        for task in story["specs"]
        if task["ID"] in newest.values() or task["DesiredState"] in ("ready", "running")
    ]
    kept = {key: each for key, each in story.items() if key not in ("script", "said", "refreshed")}
    return {**kept, "service": service, "specs": specs}


def to_keep(stories, category, title, good):
    """The stories that come to what is good: {title: story}; what would come of them is expected
    from then on. Says what became of the others, and what is new in those that were kept.
    """
    kept = {}
    for story in stories:
        former = story["category"]
        try:
            story["category"] = category(story)
        except (KeyError, AssertionError) as error:
            story["category"] = f"cannot be told: {error}"
        if story["category"] != former:
            print(f"{title(story)}: {former}, now {story['category']}")
        if story["category"] in good:
            kept[title(story)] = story
    return kept


def main(files):
    """Tell the stories of the walk, and those there are, to the script of this tree."""
    sys.path[:0] = [str(RECORDED.parent), str(TESTS), str(TESTS.parent)]
    import told
    from real.walk.judging import GOOD

    there = objects(gzip.decompress(RECORDED.read_bytes()).decode())
    new = [packed(story) for path in files for story in objects(Path(path).read_text())]
    stories = to_keep(there + new, told.category, told.title, GOOD)
    text = "".join(f"{json.dumps(story)}\n" for story in stories.values())
    RECORDED.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


if __name__ == "__main__":
    main(sys.argv[1:])
