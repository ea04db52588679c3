"""What whole runs say, word by word."""

from __future__ import annotations

import re
from typing import Any

from pretend.calls import HEADLINE, REGION_US, Run, add_all, login_of, write_config
from pretend.runner import Answers
from pretend.services import ECR, ONE_SHOT, PAUSED, UNSORTED
from pretend.swarm import ECR_US, PretendSwarm

import ecr_swarm_login as script

RESTARTS = (
    "files will be refreshed, which restarts its tasks: the docker client reorders its mounts"
)
GO_ON = "to continue: docker service update --with-registry-auth"
LOGGED_IN = f"Docker login succeeded for {ECR}"
NO_SUCH = "there is no such service -> see docker service ls"


def pushed_on(name: str, rollout: str) -> str:
    """Why a rollout is held back, and what a person can do."""
    return (
        f"its rollout is {rollout}, and a refresh would advance it -> {GO_ON} {name};"
        f" to roll back: docker service rollback {name}"
    )


OTHER = "other left alone: its image is not in ECR, and an update may wipe its login"
LEFT_OR_HELD = [
    "job left alone: it is a job, and would run again",
    "once left alone: its tasks have finished, and would run again",
    f"rolling held back: {pushed_on('rolling', 'updating')}",
    "starting held back: its tasks are starting, and would be restarted",
]
STUCK = f"held back too long: stuck: {pushed_on('stuck', 'paused')}"


def a_swarm_of_all_kinds(swarm: PretendSwarm) -> None:
    """A service of each kind, not in the order of their names."""
    swarm.add("web")
    swarm.add("other", "nginx:1")
    swarm.add("job", mode="global job", **ONE_SHOT)
    swarm.add("once", restart="none", **ONE_SHOT)
    swarm.add("stuck", **PAUSED, hours_ago=7)
    swarm.add("rolling", **{**PAUSED, "rollout": "updating"})
    swarm.add("starting", replicas="1/2", others="Preparing")
    swarm.add("files", **UNSORTED)


def test_a_run(run: Run, swarm: PretendSwarm) -> None:
    a_swarm_of_all_kinds(swarm)

    assert run().lines == [
        HEADLINE,
        OTHER,
        LOGGED_IN,
        f"{RESTARTS} or ulimits",
        *LEFT_OR_HELD,
        "files refreshed",
        "web refreshed",
        (
            "1 login, 2 refreshed, 3 left alone, 2 held back, 1 held back too long, 1 restarted in N"
            f" seconds; {STUCK}"
        ),
    ]


def test_a_run_with_names(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("web")
    swarm.add("stuck", **PAUSED, hours_ago=7)

    assert run("web", "stuck", "nix").lines == [
        HEADLINE,
        LOGGED_IN,
        "web refreshed",
        (
            "1 login, 1 refreshed, 1 held back too long, 1 failed in N seconds; failed: nix:"
            f" {NO_SUCH}; {STUCK}"
        ),
    ]


def test_a_dry_run(run: Run, swarm: PretendSwarm) -> None:
    a_swarm_of_all_kinds(swarm)

    outcome = run("--dry-run", "--keep-rollback", "2", "--region", REGION_US)

    assert outcome.lines == [
        "Dry run: nothing is changed",
        OTHER,
        f"Would log in to {ECR}, the registry of your account in {REGION_US}",
        f"{RESTARTS} or ulimits",
        *LEFT_OR_HELD,
        "web will be refreshed: it pulls from ECR",
        (
            "1 will be refreshed, 1 will be refreshed, which restarts its tasks, 3 left alone, 2 held"
            f" back, 1 held back too long in N seconds; {STUCK}"
        ),
    ]


def test_a_dry_run_of_all_services(run: Run, swarm: PretendSwarm) -> None:
    """It says of each what would happen to it, without what one could do instead."""
    a_swarm_of_all_kinds(swarm)

    lines = run("--dry-run", "--all-services").lines

    held = [OTHER, *LEFT_OR_HELD, STUCK.replace("held back too long: stuck:", "stuck held back:")]
    forced = [
        re.sub("^(\\S+) .*?: ", r"\1 will be refreshed anyway: although ", line).partition(" ->")[0]
        for line in held
    ]
    assert [line for line in forced if line not in lines] == []
    assert f"{RESTARTS} or ulimits" in lines and "web will be refreshed: it pulls from ECR" in lines


def test_a_manager_that_does_not_lead(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("web")
    swarm.state["leader"] = False

    assert run("--leader-only").lines == [
        HEADLINE,
        "Another manager leads the swarm, and refreshes its services",
        LOGGED_IN,
        "1 login in N seconds",
    ]


def test_a_login(run: Run, swarm: PretendSwarm) -> None:
    swarm.add("web")
    swarm.add("us", f"{ECR_US}/us:1")

    *logins, last = run("--login-only").lines

    assert sorted(logins) == [LOGGED_IN, f"Docker login succeeded for {ECR_US}"]
    assert last == "2 logins in N seconds"


def test_a_swarm_without_services(run: Run, swarm: PretendSwarm) -> None:
    assert run().lines == [HEADLINE, "nothing to do in N seconds"]


def test_a_refresh_without_a_login(run: Run, swarm: PretendSwarm, home: Any) -> None:
    write_config(home, auths={ECR: login_of("secret-eu-central-1-good")})
    swarm.add("web")
    swarm.add("us", f"{ECR_US}/us:1")

    refused = (
        f"docker holds no valid login to {ECR_US}: docker login {ECR_US} failed with exit status 1:"
        " error: cannot perform an interactive login from a non-TTY device -> log in, or leave out"
        " --refresh-only"
    )
    assert run("--refresh-only").lines == [
        HEADLINE,
        "web refreshed",
        f"us failed; next attempt in 1 s: {refused}",
        "us failed again; next attempt in 3 s",
        "us failed again; next attempt in 9 s",
        f"1 refreshed, 1 failed in N seconds; failed: us: {refused}",
    ]


def test_what_is_tried_again(run: Run, programs: Answers, swarm: PretendSwarm) -> None:
    swarm.add("api")
    swarm.add("web")
    programs.answer(*swarm.update_of("web"), stderr="out of sequence", exit_status=1, times=3)

    failed = "docker service update failed with exit status 123: out of sequence"
    assert run().lines == [
        HEADLINE,
        LOGGED_IN,
        "api refreshed",
        f"web failed; next attempt in 1 s: {failed}",
        "web failed again; next attempt in 3 s",
        "web refreshed",
        "1 login, 2 refreshed in N seconds",
    ]


def test_a_failure_of_many_services(run: Run, programs: Answers, swarm: PretendSwarm) -> None:
    add_all(swarm, 30)
    denied = {"stderr": "Unable to locate credentials", "exit_status": 253}
    programs.answer(*script.AWS_TOKEN, programs.fp.any(), **denied, times=4)

    reason = (
        "Failed to acquire docker login credentials: aws ecr get-login-password failed with exit"
        " status 253: Unable to locate credentials -> give the instance a role, or set AWS_PROFILE"
    )
    assert run().lines == [
        HEADLINE,
        f"web-00, web-01, web-02 and 27 more failed; next attempt in 1 s: {reason}",
        "web-00, web-01, web-02 and 27 more failed again; next attempt in 3 s",
        "web-00, web-01, web-02 and 27 more failed again; next attempt in 9 s",
        f"30 failed in N seconds; failed: web-00, web-01, web-02 and 27 more: {reason}",
    ]


def test_more_than_three_reasons_stand_above(
    run: Run, programs: Answers, swarm: PretendSwarm
) -> None:
    """The last line is the one that an alert shows."""
    for name in add_all(swarm, 5):
        programs.answer(*swarm.update_of(name), stderr=f"no {name}", exit_status=1, times=99)

    last = run().last_line

    assert "5 failed in " in last
    missing = last.partition("; failed: ")[2].split("; ")
    assert len(missing) == 4 and missing[-1] == "see above for more"


# The loop that this script replaces: "Docker Swarm ECR Auto-Login", an article of 2019, what it says.
SEED = """
if [ -n "$LOGIN_ARGS" ]; then
    docker login ${LOGIN_ARGS[@]}
    if [ $? -eq 0 ]; then
        >&2 echo "Docker login succeeded"

        # Refresh auth tokens
        >&2 echo "Running docker update swarm services registry auth"
        SERVICES=$(docker service ls --format '{{.Name}}' 2>/dev/null)
        for SERVICE in $SERVICES; do
            docker service update -d -q --with-registry-auth $SERVICE
        done
    else
        >&2 echo "Docker login failed"
        exit 1
    fi
else
    >&2 echo "Failed to acquire docker login credentials"
    exit 1
fi
"""


def test_the_lines_of_the_loop_stay(run: Run, programs: Answers, swarm: PretendSwarm) -> None:
    """Whoever searches the log for them goes on to find them."""
    swarm.add("web")
    said = run().stderr
    for failing in (script.LOGIN, script.AWS_TOKEN):
        programs.answer(*failing, programs.fp.any(), stderr="no", exit_status=1, times=5)
        said += run().stderr

    lines = re.findall('>&2 echo "(.*)"', SEED)
    assert len(lines) == 4
    assert [line for line in lines if line not in said] == []
