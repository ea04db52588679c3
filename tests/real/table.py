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
    """One row a case and outcome; engines on which the outcome is the same share the row."""
    merged = {}
    for (_, case, engine), seen in sorted(observations(reports).items()):
        outcome = case, seen.get(SEED, "-"), seen.get(SCRIPT, "-")
        merged.setdefault(outcome, []).append(engine)
    return [(case, ", ".join(engines), seed, script)
            for (case, seed, script), engines in merged.items()]


def lines(reports):
    heading = [("case", "engine", "the loop", "this script"), ("---",) * 4]
    body = rows(reports)
    return [f"| {' | '.join(row)} |" for row in heading + body] if body else []
