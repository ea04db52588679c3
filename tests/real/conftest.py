"""The table at the end of a run of the tests on real engines, and how they share the processors."""

import itertools
import os

import pytest
import table
import units
from case import NOTHING, SCRIPT, SEED
from lab import machine as machines
from promise import Labs, case_on


def pytest_collection_modifyitems(config, items):
    """With pytest-xdist (-n 4 --dist loadgroup), one process for each engine and way.

    A lab is shared by the tests of one process, so these must not be torn apart. They wait
    for the swarm more than they compute: several labs at once cost little.
    """
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            item.add_marker(pytest.mark.xdist_group(group_of(item)))
    # What takes longest begins first, or all else waits for it in the end.
    items.sort(key=lambda item: item.originalname != "test_twins")


def group_of(item):
    """The name of those that run in one process: of one engine and way, or of one file."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    values = [parameters.get(each) for each in ("stack", "way")]
    if "stack" not in parameters:
        values += [item.path.stem, parameters.get("engine")]
    # A function's text is another one in each process.
    return "-".join(str(getattr(value, "__name__", value)) for value in values)


def pytest_addoption(parser):
    text = "write what the engines did into the table of tests/RESULTS.md"
    parser.addoption("--write-table", action="store_true", help=text)


def reports_of(config):
    stats = config.pluginmanager.get_plugin("terminalreporter").stats
    return list(itertools.chain.from_iterable(stats.values()))


def has_skipped(reports):
    """Whether an engine was not to be had."""
    skipped = [report for report in reports if getattr(report, "skipped", False)]
    return any(not hasattr(report, "wasxfail") for report in skipped)


def is_whole_suite(config, reports):
    """Whether all cases ran: a part of them says nothing about the README's table."""
    by_name = config.option.keyword or config.option.markexpr
    chosen = by_name or config.getoption("lf", False) or os.environ.get("STACKS")
    return not chosen and table.files(reports) == table.files_of_suite()


def pytest_sessionfinish(session, exitstatus):
    """A README that says something else than the engines did fails the whole suite."""
    config = session.config
    if (
        hasattr(config, "workerinput")
        or exitstatus
        or not is_whole_suite(config, reports_of(config))
    ):
        return
    seen = table.lines(reports_of(config), is_for_readme=True)
    if config.option.write_table:
        table.write(seen)
    elif table.is_outdated(seen, has_skipped(reports_of(config))):
        config.stash[OUTDATED] = True
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


OUTDATED = pytest.StashKey[bool]()


def pytest_terminal_summary(terminalreporter, config):
    lines = table.lines(reports_of(config))
    if lines:
        terminalreporter.section("what the engines did")
    for line in lines:
        terminalreporter.write_line(line)
    if config.stash.get(OUTDATED, False):
        text = "FAILED: tests/RESULTS.md says something else; to mend it: make e2e OPTIONS=--write-table"
        terminalreporter.write_line(text, red=True)


# Swarms


@pytest.fixture(scope="session")
def stack(request):
    labs = Labs(*request.param)
    yield labs
    labs.close()


@pytest.fixture(params=[SEED, SCRIPT], ids=["seed", "script"])
def way(request):
    return request.param


@pytest.fixture
def case(stack, way):
    """A swarm of one manager and one worker, without services."""
    with case_on(stack, way, managers=1, workers=1) as case:
        yield case


@pytest.fixture
def three_managers(stack, way):
    with case_on(stack, way, managers=3, workers=0) as case:
        yield case


@pytest.fixture
def verdict(request, way, stack):
    """Say what was seen, and compare it with what has to be seen that way."""

    def verdict(observed, *, seed, script, control=None):
        title = request.node.function.__doc__.split("\n")[0]
        table.record(request, title, stack.title(), way, observed)
        assert observed == {SEED: seed, SCRIPT: script, NOTHING: control}[way]

    return verdict


# Booted systems


@pytest.fixture(scope="session")
def base():
    """The folder with the system that all machines start from."""
    missing = machines.missing_requirements()
    if missing:
        pytest.fail("needs " + ", ".join(missing), pytrace=False)
    return machines.base_system()


@pytest.fixture
def machine(base):
    """A machine that has the project's files, and nothing of them installed."""
    with machines.booted(base) as booted:
        units.bring_source(booted)
        yield booted


@pytest.fixture
def manager(machine):
    """A manager with one service; the project is installed by copy, the timer not yet enabled."""
    units.install_by_copy(machine)
    machine.write(units.SETTINGS, units.OPTIONS)
    machine.start_swarm("web")
    return machine


@pytest.fixture(params=["v1", "v2"])
def aws(request, machine):
    """The version of the AWS CLI that the machine has."""
    units.use_aws(machine, request.param)
    return request.param
