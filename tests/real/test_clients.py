"""A docker client that is older, or is made to be, than the engine: what it does not know, it drops."""

import os

import pytest
from case import SCRIPT, SEED
from promise import STACKS, stacks

# Engine, client: of each engine the settings that it has and the client does not know.
OLDER_CLIENTS = [("26.1", "20.10", "v1"), ("testing", "20.10", "v1"), ("testing", "26.1", "v1")]
if os.environ.get("STACKS"):
    OLDER_CLIENTS = [(engine, client, aws) for engine, client, aws in STACKS if engine != client]
older_clients = pytest.mark.parametrize("stack", OLDER_CLIENTS, ids="-".join, indirect=True)

# By the version of the API that has brought them: options, and where the API has what they set.
SETTINGS = {
    (1, 44): ("--health-cmd true --health-start-interval 1s", "Healthcheck.StartInterval"),
    (1, 48): ("--oom-score-adj 100", "OomScoreAdj"),
}
KEPT = "all settings are kept, its task goes on"


def api_versions(case):
    """(client's, engine's), as they are and as numbers to compare."""
    versions = "{{.Client.DefaultAPIVersion}} {{.Server.APIVersion}}"
    shown = case.manager.docker("version --format", versions).split()
    return shown, [tuple(map(int, version.split("."))) for version in shown]


def create_with_the_engines_client(case, name, options):
    """As somebody does elsewhere, whose client is as new as the engine."""
    docker = case.lab.engine_folder / "usr/bin/docker"
    words = f"service create -d --name {name} --with-registry-auth {options} {case.lab.image()}"
    case.manager.run([docker, *words.split()], env=case.manager.environment, check=True)


@older_clients
def test_older_client(case, verdict):
    """The docker client is older than the engine, and one of two services has newer settings"""
    # given
    shown, (client, engine) = api_versions(case)
    unknown = [each for since, each in SETTINGS.items() if client < since <= engine]
    assert unknown, (client, engine)
    options, settings = zip(*unknown)
    create_with_the_engines_client(case, "newer", " ".join(options))
    case.create("web")
    before, spec = case.runs("newer"), case.lab.service("newer")["Spec"]
    case.runs("web"), case.lab.rotate()
    # when
    said = [case.refresh("--dry-run").stderr] if case.way == SCRIPT else []
    result = case.refresh()
    said.append(result.stderr)
    # then
    assert result.returncode == 0, result
    restarts = case.seen(lambda: before - case.running("newer"), by=[SEED])
    kept = case.lab.service("newer")["Spec"] == spec and not restarts
    dropped = "its newer settings are dropped, its task restarts"
    verdict(KEPT if kept else dropped, seed=dropped, script=KEPT)
    assert case.updates("web") == 1
    if case.way == SCRIPT:
        for text in said:
            [line] = [line for line in text.splitlines() if line.startswith("newer ")]
            assert line.startswith("newer held back: ")
            parts = ("docker client", *settings, *shown, "-> update ")
            assert all(part in line for part in parts), line


@stacks
def test_old_api_version(case, verdict):
    """DOCKER_API_VERSION=1.40 in the environment, and a service with newer settings"""
    # given
    case.create("web", "--cap-add CAP_SYS_NICE --ulimit nofile=1000:1000")
    before, spec = case.runs("web"), case.lab.service("web")["Spec"]
    # when
    environment = {**case.manager.environment, "DOCKER_API_VERSION": "1.40"}
    result = case.manager.run(case.argv(case.manager), env=environment)
    # then
    assert result.returncode == 0, result
    restarts = case.seen(lambda: before - case.running("web"), by=[SEED])
    kept = case.lab.service("web")["Spec"] == spec
    verdict(
        f"{'kept' if kept else 'stripped'}; {'tasks restart' if restarts else 'tasks go on'}",
        seed="stripped; tasks restart",
        script="kept; tasks go on",
    )
