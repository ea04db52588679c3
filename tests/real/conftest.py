"""The table at the end of a run of the tests on real engines, and how they share the processors."""

import itertools

import pytest
import table


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
