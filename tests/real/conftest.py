"""The table at the end of a run of the tests on real engines, and how they share the processors."""

import itertools

import machine as machines
import pytest
import table
import units


def pytest_collection_modifyitems(config, items):
    """With pytest-xdist (-n 4 --dist loadgroup), one process for each engine and way.

    A lab is shared by the tests of one process, so these must not be torn apart. They wait
    for the swarm more than they compute: several labs at once cost little.
    """
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            parameters = getattr(getattr(item, "callspec", None), "params", {})
            name = (
                f"{parameters.get('stack')}-{parameters.get('way')}-{parameters.get('start_lab')}"
            )
            item.add_marker(pytest.mark.xdist_group(name))


def pytest_terminal_summary(terminalreporter):
    reports = list(itertools.chain.from_iterable(terminalreporter.stats.values()))
    lines = table.lines(reports)
    if lines:
        terminalreporter.section("what the engines did")
    for line in lines:
        terminalreporter.write_line(line)


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
