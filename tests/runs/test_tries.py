"""What failed is tried again, what a retry cannot fix is not, and each cause is said once."""

from __future__ import annotations

import re

import pytest
from pretend.calls import ECR_OTHER_ACCOUNT, Run, add_all, is_untouched, looks_at, updates_of
from pretend.runner import Answers
from pretend.services import PAUSED
from pretend.swarm import PretendSwarm

import ecr_swarm_login as script

SEQUENCE = "rpc error: code = Unknown desc = update out of sequence"
FAILED = f"docker service update failed with exit status 123: {SEQUENCE}"
PAUSES = ["1", "3", "9"]

# Trying again


def test_what_failed_is_looked_at_and_tried_again(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    names = add_all(swarm, 3)
    for name in names:
        programs.answer(*swarm.update_of(name), stderr=SEQUENCE, exit_status=1)

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (0, names)
    assert [updates_of(programs, swarm, name) for name in names] == [2, 2, 2]
    for name in names:
        looks = looks_at(programs, swarm, name)
        _, second = map(programs.calls.index, programs.calls_of(*swarm.update_of(name)))
        assert len(looks) == 2 and looks[1] < second
    assert (len(programs.calls_of(*script.LIST)), len(programs.calls_of(*script.AWS_TOKEN))) == (
        1,
        1,
    )


def test_the_pauses(run: Run, programs: Answers, swarm: PretendSwarm) -> None:
    """A daemon that restarts takes some seconds, and so does a new leader; then a minute."""
    swarm.add("web")
    programs.answer(*swarm.update_of("web"), stderr=SEQUENCE, exit_status=1, times=99)

    assert run("--tries", "2").status == 1

    assert [call.argv[1] for call in programs.calls_of("sleep")] == [*PAUSES, "60", *PAUSES]
    assert updates_of(programs, swarm, "web") == 8


def test_failing_with_the_same_words_is_said_once(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    """And in the last line; between them that it still fails, and when it is tried again."""
    swarm.add("web")
    programs.answer(*swarm.update_of("web"), stderr=SEQUENCE, exit_status=1, times=99)

    outcome = run("--tries", "2")

    first, *others, last = [line for line in outcome.lines if "fail" in line]
    assert first == f"web failed; next attempt in 1 s: {FAILED}"
    waits = re.findall(r"web failed again; next attempt in (\d+) s\n", outcome.stderr)
    assert waits == ["3", "9", "60", *PAUSES] and len(others) == len(waits)
    assert last.endswith(f"; failed: web: {FAILED}")


def test_other_words_are_said_again(run: Run, programs: Answers, swarm: PretendSwarm) -> None:
    swarm.add("web")
    for text in ("one thing", "another"):
        programs.answer(*swarm.update_of("web"), stderr=text, exit_status=1)

    outcome = run()

    said = [line.rpartition(": ")[2] for line in outcome.lines if "next attempt" in line]
    assert said == ["one thing", "another"]


def test_tries_leave_alone_what_is_refreshed(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    swarm.add("web")
    swarm.add("api")
    swarm.add("other", f"{ECR_OTHER_ACCOUNT}/app:2")
    programs.answer(*swarm.update_of("web"), stderr=SEQUENCE, exit_status=1, times=5)

    outcome = run("--tries", "3")

    assert (outcome.status, outcome.refreshed) == (0, ["api", "other", "web"])
    assert [updates_of(programs, swarm, name) for name in ("web", "api", "other")] == [6, 1, 1]
    # Nor is anything else done again: a token is good for 12 hours.
    assert len(programs.calls_of(*script.AWS_TOKEN)) == 1


def test_tries_end_with_the_first_that_goes_well(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    swarm.add("web")
    swarm.state["node"] = "down"
    for do in (*[lambda: None for _ in range(4)], lambda: swarm.state.update(node="manager")):
        programs.when("sleep", do=do)

    outcome = run("--tries", "8")

    assert (outcome.status, outcome.refreshed) == (0, ["web"])
    assert len(programs.calls_of(*script.LIST)) == 6


@pytest.mark.parametrize("hours_ago, status", [(1, 0), (7, 3)])
def test_nothing_is_tried_again_that_did_not_fail(
    run: Run, programs: Answers, swarm: PretendSwarm, hours_ago: float, status: int
) -> None:
    swarm.add("stuck", **PAUSED, hours_ago=hours_ago)

    assert run("--tries", "5").status == status

    assert len(programs.calls_of(*script.LIST)) == 1


@pytest.mark.parametrize(
    "call, arguments",
    [(script.LIST, []), (script.LIST, ["--login-only"]), (script.LEADER, ["--leader-only"])],
)
def test_first_calls_are_tried_again(
    run: Run,
    programs: Answers,
    swarm: PretendSwarm,
    call: tuple[str, ...],
    arguments: list[str],
) -> None:
    """cron gets what systemd's Restart= gives."""
    swarm.add("web")
    text = "rpc error: code = Unknown desc = The swarm does not have a leader."
    programs.answer(*call, programs.fp.any(), stderr=text, exit_status=1, times=3)

    outcome = run(*arguments)

    assert outcome.status == 0
    assert outcome.stderr.count("next attempt in ") == 3 and outcome.stderr.count(text) == 1
    assert len(programs.calls_of(*call)) == 4


def test_an_update_that_is_not_confirmed_is_tried_again(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    swarm.add("web")
    programs.answer(*swarm.update_of("web"), stdout="")

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (0, ["web"])
    text = "web failed; next attempt in 1 s: docker did not confirm the update"
    assert text in outcome.stderr
    assert swarm.service("web")["version"] == 2


# What a retry cannot fix

DENIED = "permission denied while trying to connect to the docker API at unix:///x.sock"
NEVER_AGAIN = {
    "a worker": ("worker", "", " -> run it on a manager"),
    "no swarm": ("none", "", " -> run it on a manager; while one boots, with --login-only"),
    "a locked swarm": ("locked", "", " -> unlock it: docker swarm unlock"),
    "no permission": ("manager", DENIED, " -> run it as root or in the group docker"),
    "a client that is too old": (
        "manager",
        "Error response from daemon: client version 1.41 is too old. Minimum is 1.44",
        " -> update the docker client",
    ),
}


@pytest.mark.parametrize("node, said, remedy", NEVER_AGAIN.values(), ids=NEVER_AGAIN)
def test_what_a_retry_cannot_fix_is_said_once(
    run: Run, programs: Answers, swarm: PretendSwarm, node: str, said: str, remedy: str
) -> None:
    swarm.state["node"] = node
    if said:
        programs.answer(*script.LIST, stderr=said, exit_status=1)

    outcome = run("--tries", "8")

    assert outcome.status == 1
    _, last = outcome.lines
    assert "; failed: docker service ls failed with exit status 1: " in last
    assert last.endswith(remedy) and said in last
    assert len(programs.calls_of(*script.LIST)) == 1


@pytest.mark.parametrize(
    "name, option, says",
    [
        ("docker", "", "docker service ls failed"),
        ("docker", "--login-only", "docker service ls failed"),
        ("aws", "", "aws ecr get-login-password failed"),
        ("aws", "--login-only", "aws ecr get-login-password failed"),
        ("xargs", "", "docker service update failed"),
    ],
)
def test_a_missing_program_is_said_once(
    run: Run, programs: Answers, swarm: PretendSwarm, name: str, option: str, says: str
) -> None:
    swarm.add("web")
    programs.remove(name)

    outcome = run("--tries", "3", *option.split())

    assert outcome.status == 1 and is_untouched(swarm, "web")
    said = f"{says} with exit status 127: timeout: failed to run command ‘{name}’: No such file or"
    assert outcome.stderr.count(said) == 1 and said in outcome.last_line
    assert " -> install it, or set PATH= in " in outcome.last_line
    assert not programs.calls_of("sleep")


def test_a_program_that_may_not_be_run_is_said_once(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    swarm.add("web")
    programs.forbid("aws")

    outcome = run("--tries", "3")

    assert outcome.status == 1 and is_untouched(swarm, "web")
    assert outcome.last_line.endswith(" ‘aws’: Permission denied -> make it executable")
    assert not programs.calls_of("sleep")


def test_a_service_named_aws_hides_no_missing_aws(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    swarm.add("aws")
    programs.remove("aws")

    outcome = run("aws")

    assert (outcome.status, outcome.refreshed) == (1, [])
    assert "; failed: aws: Failed to acquire docker login credentials: aws ecr" in outcome.last_line
    assert "failed to run command ‘aws’: No such file or directory -> " in outcome.last_line


BUSYBOX = "BusyBox v1.36.1 () multi-call binary.\n\nUsage: timeout [-s SIG] SECS PROG ARGS"


def test_busybox_is_named(run: Run, programs: Answers, swarm: PretendSwarm) -> None:
    """7: its timeout and xargs lack options."""
    swarm.add("web")
    programs.answer(*script.LIST, stderr=BUSYBOX, exit_status=1)

    outcome = run("--tries", "3")

    remedy = " -> this is BusyBox's: install coreutils and findutils"
    assert outcome.status == 1 and outcome.last_line.endswith(remedy)
    assert not programs.calls_of("sleep")


TWICE = {
    "Unable to locate credentials. You can configure credentials": "give the instance a role",
    "An error occurred (AccessDeniedException) when calling": "see What AWS has to allow in README",
}


@pytest.mark.parametrize("said", TWICE)
def test_a_role_may_come_late_at_boot(
    run: Run, programs: Answers, swarm: PretendSwarm, said: str
) -> None:
    """Then two tries are enough."""
    swarm.add("web")
    programs.answer(*script.AWS_TOKEN, programs.fp.any(), stderr=said, exit_status=253, times=99)

    outcome = run("--tries", "8")

    assert outcome.status == 1
    assert f"{said} -> {TWICE[said]}" in outcome.last_line
    assert [call.argv[1] for call in programs.calls_of("sleep")] == [*PAUSES, "60", *PAUSES]


@pytest.mark.parametrize("status", [124, 137])
def test_an_exit_status_of_a_program_s_own(
    run: Run, programs: Answers, swarm: PretendSwarm, status: int
) -> None:
    """Those with which timeout says that a program hung."""
    swarm.add("web")
    programs.answer(
        *script.AWS_TOKEN, programs.fp.any(), stderr="mine", exit_status=status, times=99
    )

    outcome = run()

    text = f"aws ecr get-login-password failed with exit status {status}: mine"
    assert outcome.status == 1 and text in outcome.last_line


def test_a_login_that_failed_is_made_again(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    """With the token that there is."""
    swarm.add("web")
    programs.answer(*script.LOGIN, programs.fp.any(), stderr="EOF", exit_status=1)

    outcome = run()

    assert (outcome.status, outcome.refreshed) == (0, ["web"])
    assert "next attempt in 1 s: Docker login failed for " in outcome.stderr


def test_what_is_updated_is_updated_once(run: Run, programs: Answers, swarm: PretendSwarm) -> None:
    names = add_all(swarm, 40)

    assert run().refreshed == names
    assert len(programs.calls_of(*script.UPDATE)) == 40
