"""The table of what the loop, the script and no run at all did, case by case."""

import re
from pathlib import Path

from case import NOTHING, SCRIPT, SEED

RESULTS = Path(__file__).resolve().parents[1] / "RESULTS.md"
BLOCK = re.compile("(?s)(<!-- suite begin -->\n)(.*?)(<!-- suite end -->)")
PROPERTY = "what the engine did"  # a property of a test's report, so that it comes from any process


def record(request, case, engine, way, observed):
    request.node.user_properties.append((PROPERTY, [case, engine, way, observed]))


def recorded(reports):
    """(report, what it recorded) of all tests, passed or failed, that recorded something."""
    for report in reports:
        for name, value in getattr(report, "user_properties", ()):
            if name == PROPERTY and report.when == "call":
                yield report, value


def files(reports):
    """The files of tests that recorded something."""
    return {Path(report.location[0]).name for report, _ in recorded(reports)}


def files_of_suite():
    """The files that do so when the whole suite runs."""
    tests = Path(__file__).parent.glob("test_*.py")
    return {path.name for path in tests if re.search(r"\bverdict\(", path.read_text())}


def observations(reports):
    """{(file and line of the test, case, engine): {way: what was seen}}."""
    observed = {}
    for report, (case, engine, way, seen) in recorded(reports):
        observed.setdefault((report.location[:2], case, engine), {})[way] = seen
    return observed


def rows(reports):
    """One row a case and outcome, those with a difference first; engines that agree share it."""
    merged = {}
    for (_, case, engine), seen in sorted(observations(reports).items()):
        outcome = case, *(seen.get(way, "-") for way in (SEED, SCRIPT, NOTHING))
        merged.setdefault(outcome, []).append(engine)
    found = sorted(merged.items(), key=lambda row: row[0][1] == row[0][2])
    return [(*outcome, engines) for outcome, engines in found]


def lines(reports, is_for_readme=False):
    """The table; the RESULTS has the cases that were tried with the loop, too."""
    body = [row for row in rows(reports) if not is_for_readme or row[1] != "-"]
    if not body:
        return []
    every = max((engines for *_, engines in body), key=len)
    named = [
        (*outcome, "all" if engines == every and len(every) > 2 else ", ".join(engines))
        for *outcome, engines in body
    ]
    heading = [("case", SEED, SCRIPT, NOTHING, "engine"), ("---",) * 5]
    table = [f"| {' | '.join(row)} |" for row in heading + named]
    return [*table, "", f"All engines: {', '.join(every)}."]


def written():
    """The lines that the RESULTS has."""
    return BLOCK.search(RESULTS.read_text()).group(2).strip().splitlines()


def write(seen):
    text = "\n".join(["", *seen, "", ""])
    RESULTS.write_text(BLOCK.sub(lambda found: found[1] + text + found[3], RESULTS.read_text()))


def is_outdated(seen, has_skipped):
    """Whether the RESULTS says something else; rows of engines that were not to be had are kept."""
    seen, said = without_engines(seen), without_engines(written())
    return not seen <= said if has_skipped else seen != said


def without_engines(some):
    """The rows alone: a point release of an engine is no news, nor is one that was not to be had."""
    return {line.rpartition(" | ")[0] for line in some if line.startswith("| ")}
