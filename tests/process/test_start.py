"""How programs are started as processes, what they see, and how they end."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest
from pretend.calls import REGION, Run
from pretend.services import ECR, login_opens
from pretend.swarm import ECR_US, PretendSwarm
from stubs import Stubs

import ecr_swarm_login as script

PRINTS = "secret-eu-central-1-of-the-test"


@pytest.fixture
def starter(stubs: Stubs) -> Any:
    """What starts them, at the beginning of a run."""
    starter = script.Programs(script.program_environment())
    starter.begin_try(0)
    return starter


# Their streams


def test_programs_side_by_side_do_not_print_over_each_other(starter: Any) -> None:
    # They share one place in one file; what runs under xargs -P does, too.
    side_by_side = "for letter in a b c d; do (printf %0200000d 0 | tr 0 $letter) & done; wait"

    text = starter.run("/bin/sh", "-c", f"PATH=/usr/bin:/bin; {side_by_side}")

    assert sorted(set(text)) == list("abcd") and len(text) == 4 * 200_000


def test_a_program_reads_what_it_is_given_from_the_beginning(starter: Any) -> None:
    read = [starter.run("/bin/cat", stdin="secret") for _ in range(2)]

    assert read == ["secret", "secret"]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_program_that_says_much_blocks_nobody(stubs: Stubs, starter: Any, stream: str) -> None:
    stubs.answer("docker", "info", **{stream: b"\xff" * 5_000_000})

    status, *said = starter.start(("docker", "info"), 60)

    assert status == 0
    assert sorted(map(len, said)) == [0, 5_000_000]


def test_no_program_sees_a_terminal(run: Run, stubs: Stubs, swarm: PretendSwarm) -> None:
    swarm.add("web")

    assert run().status == 0

    assert not any(is_terminal for call in stubs.calls for is_terminal in call.are_terminals)


# Their end


@pytest.mark.parametrize("order", ["child", "daemon"])
def test_one_that_keeps_the_output_holds_nobody_up(
    run: Run, stubs: Stubs, swarm: PretendSwarm, order: str
) -> None:
    swarm.add("web")
    stubs.answer("aws", stubs.fp.any(), stdout=PRINTS, orders=[order])

    assert run().refreshed == ["web"]

    # A daemon is in a session of its own, where nobody finds it.
    assert order == "daemon" or stubs.still_running() == []


def test_what_hangs_is_killed_with_its_child(
    stubs: Stubs, starter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Be they deaf to SIGTERM."""
    monkeypatch.setattr(script, "TIMEOUT", ("--foreground", "--kill-after=0.2"))
    stubs.answer("docker", "info", stdout="so far", orders=["ignore-sigterm", "child", "hang"])

    # Time for the stub to come so far, on a machine that is busy.
    status, stdout, _ = starter.start(("docker", "info"), 2)

    assert (status, stdout) == (-9, "so far") or (status, stdout) == (137, "so far")
    assert stubs.still_running() == []


def test_a_machine_that_cannot_start_the_next_program(
    run: Run, stubs: Stubs, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "PAUSES", (0.01,))
    swarm.add("web")
    fork = os.fork

    def fail_once() -> int:
        monkeypatch.setattr(os, "fork", fork)
        raise BlockingIOError(11, "Resource temporarily unavailable")

    stubs.when(*script.UPDATE, do=lambda: monkeypatch.setattr(os, "fork", fail_once))

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (0, ["web"])
    assert "BlockingIOError: [Errno 11] " in outcome.stderr


# xargs


def test_updates_that_have_begun_go_on_when_xargs_has_ended(
    run: Run, stubs: Stubs, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are neither killed nor done again."""
    monkeypatch.setattr(script, "STALE_SECONDS", 1)
    swarm.add("web")
    id_ = swarm.service("web")["id"]
    stubs.answer(*script.UPDATE, id_, stdout=f"{id_}\n", orders=["sleep-1.5"])

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (0, ["web"])
    [update] = stubs.calls_of(*script.UPDATE)
    assert update.has_ended_by_itself


def test_an_update_that_hangs_is_killed_with_its_child(
    run: Run, stubs: Stubs, swarm: PretendSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "STALE_SECONDS", 2)
    monkeypatch.setattr(script, "UPDATE_SECONDS", 0.3)
    monkeypatch.setattr(script, "PAUSES", ())
    swarm.add("web")
    stubs.answer(*swarm.update_of("web"), orders=["child", "hang"])

    outcome = run()

    assert outcome.status == 1
    assert "; failed: web: docker service update hung, and was killed" in outcome.last_line
    assert stubs.still_running() == []


def test_a_run_of_many_services(run: Run, stubs: Stubs, swarm: PretendSwarm) -> None:
    names = [f"web-{number:02}" for number in range(12)]
    for number, name in enumerate(names):
        swarm.add(name, f"{ECR_US if number % 2 else ECR}/app:2")

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (0, names)
    assert all(map(login_opens, swarm.services))


# What is missing


def test_a_missing_timeout_is_said_once(run: Run, stubs: Stubs, swarm: PretendSwarm) -> None:
    (stubs.bin / "timeout").unlink()

    outcome = run("--tries", "3")

    assert outcome.status == 1 and not stubs.calls
    says = "timeout is not on the PATH -> install coreutils"
    assert outcome.stderr.count(says) == 1 and outcome.last_line.endswith(says)


BUSYBOX = """#!/bin/sh
echo 'BusyBox v1.36.1 (Debian 1:1.36.1-9) multi-call binary.' >&2
echo 'Usage: timeout [-s SIG] [-k KILL_SECS] SECS PROG ARGS' >&2
exit 1
"""


@pytest.mark.parametrize("name", ["timeout", "xargs"])
def test_busybox_is_said_once(run: Run, stubs: Stubs, swarm: PretendSwarm, name: str) -> None:
    swarm.add("web")
    (stubs.bin / name).unlink()
    (stubs.bin / name).write_text(BUSYBOX)
    (stubs.bin / name).chmod(0o755)

    outcome = run("--tries", "3")

    says = " -> this is BusyBox's: install coreutils and findutils"
    assert outcome.status == 1 and outcome.last_line.endswith(says)
    assert not stubs.calls_of("sleep") and not stubs.calls_of(*script.UPDATE)


# The token


@pytest.fixture
def debug_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the library sh logs at DEBUG, while the script's own log is at DEBUG, too."""
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(f"{record.getMessage()} {record.args}")  # type: ignore[method-assign]
    configure = logging.basicConfig
    monkeypatch.setattr(
        logging, "basicConfig", lambda **options: configure(**{**options, "level": logging.DEBUG})
    )
    logger = logging.getLogger("sh")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield records
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_the_token_is_in_no_argument_environment_or_log(
    run: Run, stubs: Stubs, swarm: PretendSwarm, debug_log: list[str]
) -> None:
    swarm.add("web")

    outcome = run("--region", REGION)

    assert (outcome.status, outcome.refreshed) == (0, ["web"])
    assert swarm.tokens and [call for token in swarm.tokens for call in stubs.leaks_of(token)] == []
    assert any("docker service ls" in record for record in debug_log), "this test sees nothing"
    assert [record for record in debug_log if "secret-" in record] == []
    assert "secret-" not in outcome.stdout + outcome.stderr
    # Nor does another story come into the log than the script's own.
    assert "process started" not in outcome.stderr
