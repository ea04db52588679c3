"""What is said: what failed, what the program said, what to do; and the last line."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

import ecr_swarm_login as script
from ecr_swarm_login import ALWAYS, NEVER, NOTICE, THE_RUN, TWICE, Problem

# What a program said ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said, line",
    [
        ("", ""),
        ("a line", "a line"),
        ("two\nlines\r\n", "two lines"),
        ("  much \t\v\f space  ", "much space"),
        ("\x1b[31mred\x1b[0m", "[31mred [0m"),
        ("bell\a, null\0, delete\x7f", "bell , null , delete"),
        ("\x9b31mred", "31mred"),  # one letter that begins a command, too
        ("right\u202eleft, next\u2028line", "right left, next line"),
        ("Überall “quoted”", "Überall “quoted”"),
        ("surrogate \udc80", "surrogate"),
        ("x" * 500, "x" * 500),
        ("first" + "x" * 500, "x" * 500),
        ("x" * 600 + " last", "x" * 495 + " last"),
        ("x\n" * 400, " ".join("x" * 400)[-500:]),
    ],
)
def test_in_one_line(said: str, line: str) -> None:
    assert script.in_one_line(said) == line


# Why a program failed -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status, has_hung, said, text",
    [
        (1, False, "denied", "docker login failed with exit status 1: denied"),
        (255, False, "two\nlines\n", "docker login failed with exit status 255: two lines"),
        (1, False, "", "docker login failed with exit status 1: no output"),
        (1, False, " \n", "docker login failed with exit status 1: no output"),
        (124, True, "", "docker login hung, and was killed: no output"),
        (137, True, "half a li", "docker login hung, and was killed: half a li"),
        # It ended so by itself.
        (124, False, "", "docker login failed with exit status 124: no output"),
        (1, False, "y" * 600, f"docker login failed with exit status 1: {'y' * 500}"),
    ],
)
def test_what_failed_and_what_it_said(status: int, has_hung: bool, said: str, text: str) -> None:
    problem = script.explained("docker login", status, has_hung, "printed", said)

    assert str(problem) == text
    assert (problem.stdout, problem.stderr, problem.tries) == ("printed", said, ALWAYS)


BUSYBOX = """timeout: unrecognized option: foreground
BusyBox v1.36.1 (2023-11-07 18:53:09 UTC) multi-call binary.

Usage: timeout [-s SIG] SECS PROG ARGS"""
SNAP = """snap-confine is packaged without necessary permissions and cannot continue
required permitted capability cap_dac_override not found in current capabilities:
  ="""
FAILED_TO_RUN = "timeout: failed to run command"
NO_PERMISSION = "permission denied while trying to connect to the"
OF_THE_DAEMON = "Error response from daemon: "
NOT_A_MANAGER = f"{OF_THE_DAEMON}This node is not a swarm manager. "
OF_AWS = "An error occurred"


def remedy(does: str, tries: int, said: str, status: int = 1) -> Any:
    """A row: what to do, and how many tries it is worth, if a program says so and fails."""
    return pytest.param(does, tries, said, status, id=f"{does} {said[:40]}")


# What programs say, those of old releases and of new ones.
REMEDIES = [
    remedy("this is BusyBox's: install coreutils and findutils", NEVER, BUSYBOX),
    remedy("make it executable", NEVER, f"{FAILED_TO_RUN} 'docker': Permission denied", 126),
    remedy(
        "install it, or set PATH= in /etc/default/ecr-swarm-login",
        NEVER,
        f"{FAILED_TO_RUN} 'aws': No such file or directory",
        127,
    ),
    remedy(
        "run it as root or in the group docker",
        NEVER,
        f"Got {NO_PERMISSION} Docker daemon socket at unix:///var/run/docker.sock",
    ),
    remedy(
        "run it as root or in the group docker",
        NEVER,
        f"{NO_PERMISSION} docker API at unix:///var/run/docker.sock",
    ),
    remedy(
        "run it on a manager; while one boots, with --login-only",
        NEVER,
        f'{NOT_A_MANAGER}Use "docker swarm init" or "docker swarm join" to connect this node to'
        " swarm and try again.",
    ),
    remedy(
        "run it on a manager",
        NEVER,
        f"{NOT_A_MANAGER}Worker nodes can't be used to view or modify cluster state.",
    ),
    remedy(
        "unlock it: docker swarm unlock",
        NEVER,
        f"{OF_THE_DAEMON}Swarm is encrypted and needs to be unlocked before it can be used.",
    ),
    remedy(
        "update the docker client",
        NEVER,
        f"{OF_THE_DAEMON}client version 1.41 is too old. Minimum supported API version is 1.44",
    ),
    remedy("see snaps in systemd/README.md", NEVER, SNAP),
    remedy(
        "give the instance a role, or set AWS_PROFILE",
        TWICE,
        'Unable to locate credentials. You can configure credentials by running "aws configure".',
        253,
    ),
    remedy(
        "see What AWS has to allow in README.md",
        TWICE,
        f"{OF_AWS} (AccessDeniedException) when calling the GetAuthorizationToken operation: no",
        254,
    ),
    remedy(
        "see What AWS has to allow in README.md",
        TWICE,
        f"{OF_AWS} (AccessDenied) when calling the GetCallerIdentity operation: no",
        254,
    ),
    remedy(
        "check --region, and VPC endpoints if there are any",
        ALWAYS,
        'Could not connect to the endpoint URL: "https://api.ecr.eu-centrl-1.amazonaws.com/"',
        255,
    ),
    remedy(
        "log in, or leave out --refresh-only",
        ALWAYS,
        "Error: Cannot perform an interactive login from a non TTY device",
    ),
    remedy(
        "log in, or leave out --refresh-only",
        ALWAYS,
        "error: cannot perform an interactive login from a non-TTY device",
    ),
    remedy(
        "see systemctl status docker",
        ALWAYS,
        "Cannot connect to the Docker daemon at unix:///var/run/docker.sock.",
    ),
    remedy(
        "see systemctl status docker",
        ALWAYS,
        "failed to connect to the docker API at unix:///var/run/docker.sock; check if the path is",
    ),
    remedy(
        "check the account and the region of this registry",
        ALWAYS,
        f"{OF_THE_DAEMON}login attempt to https://X/v2/ failed with status: 401 Unauthorized",
    ),
]


@pytest.mark.parametrize("does, tries, said, status", REMEDIES)
def test_what_to_do(does: str, tries: int, said: str, status: int) -> None:
    problem = script.explained("a program", status, False, "printed", said)

    assert str(problem).endswith(f" -> {does}")
    assert str(problem).count(" -> ") == 1
    assert problem.tries == tries
    assert (problem.stdout, problem.stderr) == ("printed", said)


def test_of_much_that_is_said_the_end_is_enough() -> None:
    """A program that floods costs no more than one that does not."""
    problem = script.explained("a program", 1, False, "", f"{'x' * 5_000_000}\nthe end")

    assert str(problem).endswith("x the end")
    assert len(str(problem)) < 600


def test_what_to_do_stays_where_much_is_said() -> None:
    problem = script.explained("a program", 1, False, "", f"{'x' * 600} 401 Unauthorized")

    assert str(problem).endswith(
        "401 Unauthorized -> check the account and the region of this registry"
    )


def test_each_remedy_has_a_text() -> None:
    does = {row.values[0] for row in REMEDIES}

    assert does == {remedy for *_, remedy in script.REMEDIES}


def test_two_tries_are_two_and_none_is_none() -> None:
    """See attempt_again(): a problem is worth the first tries of that number, and their attempts."""
    assert (NEVER, TWICE) == (0, 2)


def test_more_to_say_before_it() -> None:
    problem = script.explained("aws", 1, False, "secret", "AccessDenied").after("It failed")

    assert str(problem).startswith("It failed: aws failed with exit status 1: AccessDenied -> ")
    assert problem.tries == TWICE
    assert problem.stdout == ""


# Where what is raised ends up ---------------------------------------------------------------------


def test_a_problem_is_that_of_all_whom_it_befell() -> None:
    raised = Problem("what failed", NEVER)
    problems = {"other": Problem("as before")}
    with script.noting(problems, ["web", "api"]):
        raise raised

    assert problems["web"] is raised and problems["api"] is raised
    assert raised.__traceback__ is None, "all that it met on its way stays in memory"
    assert str(problems["other"]) == "as before"


def test_no_problem() -> None:
    problems: dict[str, Problem] = {}
    with script.noting(problems, ["web"]):
        pass

    assert problems == {}


def test_whatever_else_goes_wrong_is_a_problem_in_one_line() -> None:
    problems: dict[str, Problem] = {}
    with script.noting(problems, ["web"]):
        raise ValueError("a\n\x1b[31mb")

    text = "docker's output is unexpected, or this host lacks something: ValueError: a [31mb"
    assert str(problems["web"]) == text
    assert problems["web"].tries == ALWAYS


# The log ------------------------------------------------------------------------------------------


class Said:
    """The lines of the log, each with its level."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.caplog = caplog

    def lines(self) -> list[tuple[int, str]]:
        """What has been said since the last time."""
        lines = [(record.levelno, record.getMessage()) for record in self.caplog.records]
        self.caplog.clear()
        return lines


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Said:
    caplog.set_level(logging.INFO, "ecr_swarm_login")
    return Said(caplog)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> script.Run:
    """A run that took 2.25 seconds."""
    monkeypatch.setattr(script, "time", SimpleNamespace(monotonic=lambda: 12.25))
    programs: Any = None
    return script.Run(script.parse([]), programs, "", begun_at=10.0)


@pytest.mark.parametrize(
    "outcome, level",
    [
        (script.DUE, logging.INFO),
        (script.RESTARTING, logging.WARNING),
        (script.FORCED, logging.WARNING),
        (script.SPARED, logging.INFO),
        (script.HELD, NOTICE),
    ],
)
def test_what_happens_to_a_service(run: script.Run, said: Said, outcome: str, level: int) -> None:
    script.conclude(run, "web", (outcome, "100 % true"))

    assert said.lines() == [(level, f"web {outcome}: 100 % true")]


def test_a_service_is_refreshed(run: script.Run, said: Said) -> None:
    script.conclude(run, "web", (script.REFRESHED, ""))

    assert said.lines() == [(logging.INFO, "web refreshed")]


ALARMS = "1 held back too long, 1 failed in 2.2 seconds"


def test_what_happens_to_a_service_is_said_once(run: script.Run, said: Said) -> None:
    script.conclude(run, "web", (script.HELD, "its rollout is paused"))
    script.conclude(run, "web", (script.HELD, "its rollout is paused"))

    assert len(said.lines()) == 1


def test_whatever_went_wrong_with_a_service_before_is_over(run: script.Run, said: Said) -> None:
    run.problems = {"web": Problem("no"), "api": Problem("no")}
    script.conclude(run, "web", (script.REFRESHED, ""))

    assert list(run.problems) == ["api"]


def test_an_alarm_is_for_the_last_line(run: script.Run, said: Said) -> None:
    script.conclude(run, "web", (script.OVERDUE, "its rollout is paused"))
    script.conclude(run, "api", (script.FAILED, "finished tasks would start"))

    assert said.lines() == []
    assert script.report(run) == 1
    text = "failed: api: finished tasks would start; held back too long: web: its rollout is paused"
    assert said.lines() == [(logging.ERROR, f"{ALARMS}; {text}")]


# The last line


def ended(run: script.Run, said: Said) -> tuple[int, int, str]:
    """How the run ended: its exit status, and the level and the words of the last line."""
    status = script.report(run)
    [(level, text)] = said.lines()
    return status, level, text


def concluded(run: script.Run, said: Said, **verdicts: tuple[str, str]) -> None:
    """Services of a name and what happened to them."""
    for name, verdict in verdicts.items():
        script.conclude(run, name, verdict)
    said.lines()


def test_nothing_to_do(run: script.Run, said: Said) -> None:
    assert ended(run, said) == (0, logging.INFO, "nothing to do in 2.2 seconds")


def test_all_counts_in_one_order(run: script.Run, said: Said) -> None:
    outcomes = [
        script.FORCED,
        script.HELD,
        script.SPARED,
        script.REFRESHED,
        script.DUE,
        script.SPARED,
    ]
    concluded(run, said, **{f"web-{at}": (each, "") for at, each in enumerate(outcomes)})
    run.logins = {"a": {}, "b": {}}
    run.restarts = {"web-3"}

    text = (
        "2 logins, 1 will be refreshed, 1 will be refreshed anyway, 1 refreshed, 2 left alone,"
        " 1 held back, 1 restarted in 2.2 seconds"
    )
    assert ended(run, said) == (0, logging.INFO, text)


def test_one_login(run: script.Run, said: Said) -> None:
    run.logins = {"a": {}}

    assert ended(run, said) == (0, logging.INFO, "1 login in 2.2 seconds")


def test_logins_that_docker_held_anyway_are_not_counted(run: script.Run, said: Said) -> None:
    run.options.refresh_only = True
    run.logins = {"a": {}}

    assert ended(run, said)[2] == "nothing to do in 2.2 seconds"


@pytest.mark.parametrize(
    "problems, text",
    [
        ({"web": "no"}, "1 failed in 2.2 seconds; failed: web: no"),
        ({"web": "no", "api": "no"}, "2 failed in 2.2 seconds; failed: api, web: no"),
        ({"c": "z", "b": "y", "a": "z"}, "3 failed in 2.2 seconds; failed: a, c: z; b: y"),
        (dict.fromkeys("abc", "no"), "3 failed in 2.2 seconds; failed: a, b, c: no"),
        (dict.fromkeys("abcd", "no"), "4 failed in 2.2 seconds; failed: a, b, c and 1 more: no"),
        (dict.fromkeys("abcdef", "no"), "6 failed in 2.2 seconds; failed: a, b, c and 3 more: no"),
        ({"a": "1", "b": "2", "c": "3"}, "3 failed in 2.2 seconds; failed: a: 1; b: 2; c: 3"),
        # What is no service is not counted as one, and the run needs no name.
        ({THE_RUN: "no"}, "nothing done in 2.2 seconds; failed: no"),
        ({"registry a.b": "no"}, "nothing done in 2.2 seconds; failed: registry a.b: no"),
    ],
)
def test_what_failed_is_in_the_last_line(
    run: script.Run, said: Said, problems: dict[str, str], text: str
) -> None:
    run.problems = {name: Problem(why) for name, why in problems.items()}

    assert ended(run, said) == (1, logging.ERROR, text)


def test_a_name_that_no_terminal_takes_for_a_command(run: script.Run, said: Said) -> None:
    run.problems = {"web\x1b[31m": Problem("no")}

    assert ended(run, said)[2] == "1 failed in 2.2 seconds; failed: web [31m: no"


def test_four_reasons(run: script.Run, said: Said) -> None:
    run.problems = {name: Problem(f"as {name}") for name in "abcd"}
    script.report(run)

    assert [text for _, text in said.lines()] == [
        "failed: d: as d",
        "4 failed in 2.2 seconds; failed: a: as a; b: as b; c: as c; see above for more",
    ]


def test_more_than_three_reasons(run: script.Run, said: Said) -> None:
    run.problems = {name: Problem(f"as {name}") for name in "abcde"}

    assert script.report(run) == 1
    assert said.lines() == [
        (logging.ERROR, "failed: d: as d"),
        (logging.ERROR, "failed: e: as e"),
        (
            logging.ERROR,
            "5 failed in 2.2 seconds; failed: a: as a; b: as b; c: as c; see above for more",
        ),
    ]


def test_a_service_that_failed_in_the_end_counts_once(run: script.Run, said: Said) -> None:
    concluded(run, said, web=(script.REFRESHED, ""))
    run.problems = {"web": Problem("no")}

    assert ended(run, said)[2] == "1 failed in 2.2 seconds; failed: web: no"


def test_what_is_held_back_too_long_is_in_the_last_line(run: script.Run, said: Said) -> None:
    concluded(
        run, said, web=(script.OVERDUE, "so"), api=(script.OVERDUE, "so"), b=(script.HELD, "")
    )

    text = "1 held back, 2 held back too long in 2.2 seconds; held back too long: api, web: so"
    assert ended(run, said) == (3, logging.WARNING, text)


# What is attempted again


class Patient:
    """Stands in for Programs: there is time for everything, and it passes at once."""

    def seconds_left(self) -> float:
        return 1000

    def run(self, *command: str, **_: Any) -> str:
        assert command[0] == "sleep"
        return ""


def attempted_again(run: script.Run, seconds: int, **problems: str) -> None:
    """The run is attempted again, after that pause and with these problems."""
    run.programs = Patient()  # type: ignore[assignment]
    run.problems = {name: Problem(why) for name, why in problems.items()}
    attempts: list[script.Run] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "attempt", attempts.append)
        script.attempt_again(run, 1, seconds)
    assert attempts == [run]


def test_what_is_attempted_again_is_said_in_full_once(run: script.Run, said: Said) -> None:
    attempted_again(run, 1, web="no", api="no")
    assert said.lines() == [(logging.WARNING, "api, web failed; next attempt in 1 s: no")]
    attempted_again(run, 3, web="no", api="no")
    assert said.lines() == [(NOTICE, "api, web failed again; next attempt in 3 s")]
    attempted_again(run, 9, web="no more")
    assert said.lines() == [(logging.WARNING, "web failed; next attempt in 9 s: no more")]


def test_the_run_as_a_whole_is_attempted_again(run: script.Run, said: Said) -> None:
    attempted_again(run, 1, **{THE_RUN: "no"})
    attempted_again(run, 3, **{THE_RUN: "no"})

    assert said.lines() == [
        (logging.WARNING, "The run failed; next attempt in 1 s: no"),
        (NOTICE, "The run failed again; next attempt in 3 s"),
    ]


def test_the_last_line_has_it_all_the_same(run: script.Run, said: Said) -> None:
    attempted_again(run, 1, web="no")
    said.lines()

    assert ended(run, said)[2].endswith("; failed: web: no")


def test_each_reason_is_a_line_of_its_own(run: script.Run, said: Said) -> None:
    attempted_again(run, 60, web="no", api="100 %", **dict.fromkeys("abcd", "d"))

    assert said.lines() == [
        (logging.WARNING, "a, b, c and 1 more failed; next attempt in 60 s: d"),
        (logging.WARNING, "api failed; next attempt in 60 s: 100 %"),
        (logging.WARNING, "web failed; next attempt in 60 s: no"),
    ]
