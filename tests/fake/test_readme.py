"""The README says what is so: its commands exist, its options are the script's, its texts can be found."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
SCRIPT = (ROOT / "ecr_swarm_login.py").read_text()


def blocks(kind: str) -> list[str]:
    """The code blocks of this kind."""
    return [
        text for name, text in re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", README) if name == kind
    ]


def words(text: str) -> str:
    """The text without its line breaks, which depend on the width of the terminal and on the Python."""
    return " ".join(text.split())


FUNCTIONS = [
    node
    for node in ast.walk(ast.parse(SCRIPT))
    if isinstance(node, (ast.FunctionDef, ast.ClassDef))
]


def test_it_is_read_in_one_sitting() -> None:
    lengths = {
        node.name: (node.end_lineno or 0) - node.lineno + 1
        for node in FUNCTIONS
        if isinstance(node, ast.FunctionDef)
    }

    assert {name: length for name, length in lengths.items() if length > 30} == {}
    undocumented = [node.name for node in FUNCTIONS if not ast.get_docstring(node)]
    assert [name for name in undocumented if name != "__init__"] == []


def test_no_function_is_complex() -> None:
    """radon counts comprehensions and conditional expressions, too."""
    complexity = pytest.importorskip("radon.complexity")

    blocks = complexity.cc_visit(SCRIPT)

    assert {block.fullname: block.complexity for block in blocks if block.complexity > 10} == {}


def test_one_place_starts_programs() -> None:
    modules = {
        name.partition(".")[0] for name in re.findall(r"(?m)^\s*(?:import|from) (\S+)", SCRIPT)
    }
    others = re.findall(r"os\.(?:system|popen|exec|spawn|posix_spawn|fork)\w*\(.*", SCRIPT)

    assert SCRIPT.count("sh.Command(") == 1
    assert modules.isdisjoint(
        {"subprocess", "multiprocessing", "socket", "http", "urllib", "boto3", "docker", "requests"}
    )
    # It starts itself once more, to leave out what lies beside it.
    assert others == ['os.execv(sys.executable, [sys.executable, "-I", *sys.argv])']


def test_it_opens_no_file_with_a_token_in_it() -> None:
    opened = re.findall(r"\bopen\((.*)", SCRIPT)

    assert [text for text in opened if "devnull" not in text and "2, " not in text] == [
        'path, "a+")  # noqa: SIM115'
    ]
    assert "pread(" in SCRIPT and SCRIPT.count("pread(") == 1  # what programs print


def test_options_are_those_of_the_help(fakes: Any, script: Any) -> None:
    [shown] = [block for block in blocks("") if "--keep-rollback" in block]
    if "--tries" not in shown:
        pytest.skip("the README shows the options of another version")

    _, said, _ = fakes.run_program(sys.executable, script.__file__, "--help")

    for text in (said, shown):
        assert "SERVICE only these services, by name " in words(text)
    # Pythons differ in how they head the list, and where they break its lines.
    assert words(said[said.index("--region REGION") :]) == words(
        shown[shown.index("--region REGION") :]
    )


def test_no_option_of_another_time() -> None:
    known = set(re.findall(r'"(--[a-z-]+)"', SCRIPT)) | {"--help"}
    others = {
        "--with-registry-auth",
        "--username",
        "--password-stdin",
        "--now",
        "--failed",
        "--format",
        "--filter",
        "--retry",
        "--collect",
        "--http-put-response-hop-limit",
        "--user",
        "--write-table",
    }

    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - others <= known


@pytest.mark.parametrize(
    "target",
    sorted(set(re.findall(r"`make ([a-z0-9-]+)`|^make ([a-z0-9-]+)$", README, re.MULTILINE))),
)
def test_make_targets_exist(target: tuple[str, str]) -> None:
    assert re.search(rf"(?m)^{''.join(target)}:", (ROOT / "Makefile").read_text())


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
        "No service uses ECR, and no region is set",
        "has no library sh",
        "its tasks may restart once",
    ],
)
def test_own_texts_can_be_searched(text: str) -> None:
    assert text in README and text in SCRIPT


@pytest.mark.parametrize(
    "text",
    [
        "No such image", "no basic auth credentials", "update out of sequence", "not implemented",
        "This node is not a swarm manager"],
)  # fmt: skip
def test_texts_of_docker_can_be_searched(text: str) -> None:
    assert text in README


def test_nothing_is_left_to_fill_in() -> None:
    # The two marks of the table that the real suite writes.
    assert re.findall("<!--.*", README) == ["<!-- suite begin -->", "<!-- suite end -->"]
    assert not re.search(r"@[A-Z]+@|TODO|BENCH", README)


def test_code_fits_the_page() -> None:
    lines = "".join(text for _, text in re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", README))

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
    """Or user-data that was copied from the README refuses the files."""
    found = hashlib.sha256((ROOT / path).read_bytes()).hexdigest()

    assert f"{found}  {Path(path).name}\n" in README


def test_links_lead_somewhere() -> None:
    headings = re.findall(r"(?m)^#+ (.*)$", README)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}

    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors


def test_changes_begin_with_this_version() -> None:
    [version] = re.findall(r"%\(prog\)s ([0-9.]+)", SCRIPT)

    assert README.index(f"**{version}**") < README.index("**1.0.0**")
