"""The READMEs say what is so: commands exist, options are the script's, texts can be found."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from shared import HEADLINE

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    path: (ROOT / path).read_text()
    for path in ("README.md", "systemd/README.md", "tests/README.md")
}
README, SYSTEMD, _ = PAGES.values()
SCRIPT = (ROOT / "ecr_swarm_login.py").read_text()
FUNCTIONS = [
    node
    for node in ast.walk(ast.parse(SCRIPT))
    if isinstance(node, (ast.FunctionDef, ast.ClassDef))
]

sys.path.append(str(ROOT / "tests" / "demo"))

import demo


def blocks(kind: str) -> list[str]:
    """The page's code blocks of this kind."""
    return [
        text for name, text in re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", README) if name == kind
    ]


def words(text: str) -> str:
    """The text without its line breaks, which depend on the terminal and on the Python."""
    return " ".join(text.split())


def tables(page: str) -> list[list[list[str]]]:
    """The tables of a page: rows of cells."""
    found = re.findall(r"(?m)(?:^\|.*\|\n)+", page)
    return [[row.strip("|").split("|") for row in table.splitlines()] for table in found]


def anchors(page: str) -> dict[str, str]:
    """The headings of a page, by what a link to them says."""
    headings = re.findall(r"(?m)^#+ (.*)$", re.sub(r"(?ms)^```.*?^```$", "", page))
    return {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-"): heading for heading in headings
    }


# The script ------------------------------------------------------------------------------------


def test_it_is_read_in_one_sitting() -> None:
    lengths = {
        node.name: (node.end_lineno or 0) - node.lineno + 1
        for node in FUNCTIONS
        if isinstance(node, ast.FunctionDef)
    }

    assert {name: length for name, length in lengths.items() if length > 30} == {}
    undocumented = [node.name for node in FUNCTIONS if not ast.get_docstring(node)]
    assert [name for name in undocumented if name != "__init__"] == []


@pytest.mark.parametrize(
    "name", ["Programs.start", "log_in", "touched", "spare", "update"], ids=str
)
def test_what_to_read_first_is_there(name: str) -> None:
    *_, function = name.split(".")

    assert f"`{name}()`" in README
    assert [node.name for node in FUNCTIONS].count(function) == 1


def test_one_place_starts_programs() -> None:
    modules = {
        name.partition(".")[0] for name in re.findall(r"(?m)^\s*(?:import|from) (\S+)", SCRIPT)
    }
    others = re.findall(r"os\.(?:system|popen|exec|spawn|posix_spawn|fork)\w*\(.*", SCRIPT)

    assert re.findall(r"\bsh\.(?!.*Error|.*Exception)\w+\(.*", SCRIPT) == [
        'sh.Command("timeout")(*limit, *through, *command, **options)'
    ]
    assert modules.isdisjoint(
        {"subprocess", "multiprocessing", "socket", "http", "urllib", "boto3", "docker", "requests"}
    )
    # It starts itself once more, to leave out what lies beside it.
    assert others == ['os.execv(sys.executable, [sys.executable, "-I", *sys.argv])']


def test_it_opens_no_file_with_a_token_in_it() -> None:
    opened = [text for text in re.findall(r"(?<!os\.)\bopen\((.*)", SCRIPT)]

    # What docker finds before it logs in: the name of a registry.
    assert opened == ['os.path.join(path, "config.json"), "w") as config:']
    assert re.findall(r"json\.dump\(.*", SCRIPT) == ['json.dump({"auths": {host: {}}}, config)']


# Options, commands and texts -------------------------------------------------------------------


def test_options_are_those_of_the_help(fakes: Any, script: Any) -> None:
    [shown] = [block for block in blocks("") if "--keep-rollback HOURS" in block]

    _, said, _ = fakes.run_program(sys.executable, script.__file__, "--help")

    for text in (said, shown):
        assert "SERVICE only these services, by name " in words(text)
    # Pythons differ in how they head the list, and where they break its lines.
    assert words(said[said.index("--region REGION") :]) == words(
        shown[shown.index("--region REGION") :]
    )


# Of docker, systemctl and others.
OTHER_OPTIONS = {
    "--collect",
    "--constraint-add",
    "--http-put-response-hop-limit",
    "--now",
    "--retry",
    "--user",
    "--with-registry-auth",
}


@pytest.mark.parametrize("page", [README, SYSTEMD], ids=["README", "systemd"])
def test_no_option_of_another_time(page: str) -> None:
    known = set(re.findall(r'"(--[a-z-]+)"', SCRIPT)) | {"--help"}

    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page)) - OTHER_OPTIONS <= known


@pytest.mark.parametrize(
    "target", sorted(set(re.findall(r"`make ([a-z0-9-]+)[` ]", "".join(PAGES.values()))))
)
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"(?m)^{target}:", (ROOT / "Makefile").read_text())


def test_files_that_are_copied_exist() -> None:
    [install] = [block for block in blocks("sh") if "apt-get install python3-sh" in block]
    copied = re.findall(r"(?m)^cp (.*) /\S+$", install)

    assert len(copied) == 2
    for path in " ".join(copied).split():
        assert (ROOT / path).is_file()


def test_policy_is_json_with_the_fewest_rights() -> None:
    [policy] = map(json.loads, blocks("json"))

    assert policy["Statement"][0] == {
        "Effect": "Allow",
        "Action": "ecr:GetAuthorizationToken",
        "Resource": "*",
    }


@pytest.mark.parametrize(
    "text",
    [
        "docker does not keep the login",
        "docker holds no login that the registry takes",
        "hung, and was killed after",
        "is it installed, and on the PATH?",
        "its time was over",
        "No service uses ECR, and no region is set",
        "has no library sh",
        "Not in a swarm yet",
        "restarts:",
    ],
)
def test_own_texts_can_be_searched(text: str) -> None:
    assert text in README and text in SCRIPT


@pytest.mark.parametrize(
    "text",
    [
        "No such image", "no basic auth credentials", "update out of sequence", "not implemented",
        "This node is not a swarm manager", "Cannot connect to the Docker daemon",
        "permission denied while trying to connect"],
)  # fmt: skip
def test_texts_of_docker_can_be_searched(text: str) -> None:
    assert text in README


def test_the_good_run_says_what_the_script_says(script: Any) -> None:
    [shown] = [block for block in blocks("") if HEADLINE in block]
    headline, search, login, backup, api, web, last = shown.splitlines()

    assert headline == HEADLINE
    assert login.startswith("Docker login succeeded for ")
    assert search == f"search left alone: {script.ELSEWHERE}"
    assert backup == f"backup left alone: {script.FINISHED}"
    assert (api, web) == ("api refreshed", "web refreshed")
    assert re.fullmatch(r"1 login, 2 refreshed, 2 left alone in [0-9.]+ seconds", last)


# The pages -------------------------------------------------------------------------------------


def test_it_has_at_most_300_lines() -> None:
    assert len(README.splitlines()) <= 300


def test_the_first_table_is_the_demos() -> None:
    rows = {row.name: row for row in demo.ROWS}
    _, _, *shown = tables(README)[0]

    assert len(shown) == 3
    for what, before, loop, script in shown:
        row = rows[re.findall("`(.*)`", what)[0]]
        for said, seen in ((before, row.before), (loop, row.after_loop), (script, row.after)):
            # 2 of 4 still work, ran 3 times, token fresh
            [fact] = re.findall(r"\d.\d|ran [a-z0-9]+|token fresh", said.replace(" of ", "/"))
            assert fact in seen


@pytest.mark.parametrize("page", [README, SYSTEMD], ids=["README", "systemd"])
def test_tables_fit_a_phone(page: str) -> None:
    """A browser breaks lines at spaces and hyphens, and not elsewhere: 390 pixels are 36 letters."""
    for table in tables(page):
        columns = list(zip(*table))
        longest = [
            max(re.split(r"[ -]", re.sub(r"[`*]|\]\(\S*\)", "", " ".join(cells[2:]))), key=len)
            for cells in columns
        ]
        assert len(columns) <= 4 and sum(map(len, longest)) <= 36, longest


@pytest.mark.parametrize("path", PAGES)
def test_nothing_is_left_to_fill_in(path: str) -> None:
    left = re.findall("@[A-Z]+@|TODO|BENCH|<!--.*", PAGES[path])

    # The two marks of the table that the real suite writes.
    marks = ["<!-- suite begin -->", "<!-- suite end -->"] if path == "tests/README.md" else []
    assert left == marks


@pytest.mark.parametrize("page", [README, SYSTEMD], ids=["README", "systemd"])
def test_code_fits_the_page(page: str) -> None:
    lines = "".join(text for _, text in re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", page))

    assert [line for line in lines.splitlines() if len(line) > 95] == []


@pytest.mark.parametrize(
    "path",
    [
        "ecr_swarm_login.py",
        "systemd/ecr-swarm-login.service",
        "systemd/ecr-swarm-login.timer",
    ],
)
def test_checksums_are_those_of_this_version(path: str) -> None:
    """Or user-data that was copied from systemd/README.md refuses the files."""
    found = re.findall(rf"(?m)^([0-9a-f]+)  {Path(path).name}$", SYSTEMD)

    is_right = found == [hashlib.sha256((ROOT / path).read_bytes()).hexdigest()]
    assert is_right, "systemd/README.md has another checksum: run make checksums"


@pytest.mark.parametrize("path", PAGES)
def test_links_lead_somewhere(path: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[path]):
        if not link.startswith("https://"):
            file, _, anchor = link.partition("#")
            target = ((ROOT / path).parent / file if file else ROOT / path).resolve()
            assert target.is_file(), link
            assert not anchor or anchor in anchors(target.read_text()), link


def test_the_menu_says_what_the_headings_say() -> None:
    [menu] = [part for part in README.split("\n\n") if part.startswith("[") and " · " in part]
    links = re.findall(r"\[([^\]]+)\]\(#([^)]+)\)", words(menu))

    assert [text for text, anchor in links if anchors(README).get(anchor) != text] == []
    sections = re.findall(r"(?m)^## (.*)$", re.sub(r"(?ms)^```.*?^```$", "", README))
    assert {text for text, _ in links} >= set(sections) - {"License"}


def test_changes_begin_with_this_version() -> None:
    [version] = re.findall(r"%\(prog\)s ([0-9.]+)", SCRIPT)

    assert README.index(f"**{version}**") < README.index("**1.0.0**")
