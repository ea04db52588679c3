"""What docker showed the script in a story of the walk, and what the script made of it.

A recorded story can be told again without a swarm: tests/fake/test_recorded.py, which reads
`cat FILES | gzip -9n >tests/fake/recorded.jsonl.gz`.
"""

import json


def shown(folder):
    """The calls that a recorder noted: [(argv, objects that docker printed)], in order."""
    calls = []
    for path in sorted(folder.glob("*.argv"), key=lambda path: path.stat().st_mtime_ns):
        argv, printed = path.read_text().splitlines(), path.with_suffix("")
        if "{{json .}}" in argv:
            calls.append((argv, objects(printed.read_text())))
        path.unlink()
        printed.unlink()
    # Tasks are asked for beside their service, and belong to it.
    return sorted(calls, key=lambda call: part(call[0]) != "service")


def objects(text):
    """The JSON objects, one a line; none if docker failed in their middle."""
    try:
        return [json.loads(line) for line in text.splitlines()]
    except ValueError:
        return []


def of(name, calls, now, said):
    """The record of one service: what was shown of it, last by last, and what was said.

    {"service": {}, "history": [], "specs": [], "nodes": [], "now": seconds, "refreshed": bool,
    "said": [[outcome, reason]]}; older ones have "tasks" in place of a history that decided nothing
    """
    record = {"service": {}, "history": [], "specs": [], "nodes": []}
    for argv, found in calls:
        key = part(argv)
        if key == "service":
            found = [each for each in found if each["Spec"]["Name"] == name]
        elif key == "history":
            found = [each for each in found if is_of(record["service"], each["Name"])]
        elif key == "specs":
            found = [each for each in found if each["ServiceID"] == record["service"].get("ID")]
        elif key == "nodes":
            found = list(map(without_plugins, found))
        if found:
            record[key] = found[0] if key == "service" else found
    return {**record, "now": now, "refreshed": said.is_refreshed, "said": said.lines}


def part(argv):
    """What a call asks for."""
    if argv[:2] == ["service", "inspect"]:
        return "service"
    if argv[:2] == ["service", "ps"]:
        return "history"
    return "specs" if argv[0] == "inspect" else "nodes"


def without_plugins(node):
    """A node of an engine, of which the plugins fill pages."""
    node["Description"].pop("Engine", None)
    node["Description"].pop("TLSInfo", None)
    return node


def is_of(service, name):
    return name.partition(".")[0] == service.get("ID")


def append(path, titles, endings):
    """Add the stories in which all went well to a file, one a line."""
    with path.open("a") as file:
        for ending in endings:
            if ending.record and not ending.is_bad:
                story = {**titles, "story": ending.story.number, "category": ending.category}
                print(json.dumps({**story, **ending.record}), file=file)
