"""The pages say what is so: tables follow the script's, commands exist, links lead somewhere."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

import ecr_swarm_login as script

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    path: (ROOT / path).read_text()
    for path in ("README.md", "systemd/README.md", "tests/README.md")
}
README, SYSTEMD, _ = PAGES.values()
COMMANDS = (
    *(script.AWS_TOKEN, script.AWS_ACCOUNT, script.VERSION, script.LOGIN, script.PROOF),
    *(script.LEADER, script.LIST, script.INSPECT, script.TASKS, script.SPECS, script.NODES),
    *(script.SENT, script.UPDATE),
)


def table_below(heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, without its head."""
    text = README.partition(f"# {heading}\n")[2]
    rows = re.findall(r"(?m)^\|(.*)\|$", text.partition("\n#")[0])
    return [[cell.strip() for cell in row.split("|")] for row in rows[2:]]


def anchors(page: str) -> set[str]:
    """What links to the headings of a page say."""
    headings = re.findall(r"(?m)^#+ (.*)$", re.sub(r"(?ms)^```.*?^```$", "", page))
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def test_the_page_is_short() -> None:
    assert README.count("\n") <= 220


def test_the_table_of_what_happens_is_that_of_the_policy() -> None:
    """Row by row, after the one for a login that failed: the first bold words are the outcome."""
    words = {script.DUE: "refreshed", script.RESTARTING: "refreshed"}

    _, *rows = table_below("What happens to a service")

    outcomes = [re.findall(r"\*\*(.*?)\*\*", why)[0] for _, why in rows]
    assert outcomes == [words.get(outcome, outcome) for _, outcome, *_ in script.POLICY]


def test_what_no_restart_holds_back_is_said() -> None:
    _, *rows = table_below("What happens to a service")

    said = [("--no-restart" in why) for _, why in rows]

    assert said == [outcome == script.RESTARTING for _, outcome, *_ in script.POLICY]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_each_program_that_a_run_starts_is_listed(words: tuple[str, ...]) -> None:
    command = " ".join(words).partition(" --format")[0]
    command = command.removesuffix(" --region").partition(" --no-trunc")[0].partition(" --query")[0]

    listed = re.findall("`(.*?)`", " ".join(row[0] for row in table_below("What a run does")))

    assert command in listed


@pytest.mark.parametrize("program", ["timeout", "xargs", "sleep"])
def test_helpers_are_listed(program: str) -> None:
    assert f"`{program}`" in " ".join(row[0] for row in table_below("What a run does"))


def test_each_variable_that_is_changed_is_named() -> None:
    paragraph = README.partition("Variables such as")[2].partition("\n\n")[0]

    changed = {*script.ENVIRONMENT, "DOCKER_API_VERSION", "PATH", "DOCKER_CONFIG", "DOCKER_CONTEXT"}
    assert {name for name in changed if f"`{name}`" not in paragraph} == set()


def test_exit_statuses_are_those_of_the_help() -> None:
    statuses = [row[0] for row in table_below("If it fails")]

    assert statuses == ["0", "1", "2", "3", "128+n"]
    assert all(status in script.__doc__ for status in statuses)


@pytest.mark.parametrize(
    "text",
    [
        "Deploys from this host may",
        "supplies logins, and stores none",
        "hung, and was killed",
    ],
)
def test_texts_that_one_searches_for_are_the_script_s(text: str) -> None:
    assert text in README
    assert text in (ROOT / "ecr_swarm_login.py").read_text()


@pytest.mark.parametrize("path", PAGES)
def test_options_exist(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.parse(["--help"])
    known = set(re.findall("--[a-z-]+", capsys.readouterr().out))
    commands = re.findall(r"ecr_swarm_login\.py((?: --?[\w-]+(?: [\w.-]+)?)+)", PAGES[path])

    used = set(re.findall("--[a-z-]+", " ".join(commands)))

    assert used - known == set()


@pytest.mark.parametrize("path", PAGES)
def test_links_lead_somewhere(path: str) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", PAGES[path]):
        file, _, anchor = link.partition("#")
        if not file.startswith("http"):
            target = (ROOT / path).parent / file if file else ROOT / path
            assert target.exists(), link
            assert not anchor or anchor in anchors(target.read_text()), link


def test_what_aws_has_to_allow_is_json() -> None:
    (block,) = re.findall(r"(?ms)^```json\n(.*?)^```$", README)

    assert {each["Effect"] for each in json.loads(block)["Statement"]} == {"Allow"}


def test_targets_exist() -> None:
    targets = set(re.findall(r"(?m)^([a-z0-9-]+):", (ROOT / "Makefile").read_text()))

    used = {name for page in PAGES.values() for name in re.findall(r"`make ([a-z0-9-]+)", page)}

    assert used - targets == set()


def test_checksums_are_those_of_the_files() -> None:
    """After a change: make checksums."""
    listed = dict(reversed(line.split()) for line in re.findall("[0-9a-f]{64}  .*", SYSTEMD))

    files = [ROOT / "ecr_swarm_login.py", *(ROOT / "systemd").glob("ecr-swarm-login.*")]
    assert listed == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
