"""The table of what the seed's loop did and what the script did, case by case."""

from case import SCRIPT, SEED

PROPERTY = "what the engine did"  # a property of a test's report, so that it comes from any process


def record(request, case, engine, way, observed):
    request.node.user_properties.append((PROPERTY, [case, engine, way, observed]))


def observations(reports):
    """{(line of the test, case, engine): {way: what was seen}}, of tests passed or failed."""
    observed = {}
    for report in reports:
        for name, value in getattr(report, "user_properties", ()):
            if name == PROPERTY and report.when == "call":
                case, engine, way, seen = value
                observed.setdefault((report.location[1], case, engine), {})[way] = seen
    return observed


def rows(reports):
    """One row a case and outcome, those with a difference first; engines that agree share the row."""
    merged = {}
    for (_, case, engine), seen in sorted(observations(reports).items()):
        outcome = case, seen.get(SEED, "-"), seen.get(SCRIPT, "-")
        merged.setdefault(outcome, []).append(engine)
    found = sorted(merged.items(), key=lambda row: row[0][1] == row[0][2])
    return [(*outcome, engines) for outcome, engines in found]


def lines(reports):
    body = rows(reports)
    if not body:
        return []
    every = max((engines for *_, engines in body), key=len)
    named = [
        (*outcome, "all" if engines == every and len(every) > 2 else ", ".join(engines))
        for *outcome, engines in body
    ]
    heading = [("case", "the loop", "this script", "engine"), ("---",) * 4]
    table = [f"| {' | '.join(row)} |" for row in heading + named]
    return [*table, "", f"All engines: {', '.join(every)}."]
