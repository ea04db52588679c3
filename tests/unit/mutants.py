"""Mutation testing of what decides: whether the tests of single functions notice a change in it.

mutmut makes the mutants: reading, model, policy, messages, and their tables. It would start pytest
for each; here they are judged by tests that are collected once, each mutant in a process of its own,
and first by the test that found the one before. `make mutants` runs this; it prints those that live.
"""

from __future__ import annotations

import ast
import difflib
import functools
import gc
import importlib
import json
import os
import re
import resource
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".cache" / "mutants"
NAME = "ecr_swarm_login"
# What decides begins at the first of these lines, and ends at the second one.
SECTION = ("# What docker shows ---", "# Logins and updates ---")
MESSAGES = {
    "Problem",
    "in_one_line",
    "explained",
    "conclude",
    "say",
    "report",
    "summary",
    "by_reason",
}
TABLES = {"REMEDIES", "SETTLED", "DESIRED", "KINDS", "OVER", "NODE_LABELS", "NODE_FACTS",
          "TEMPLATE_DEFAULTS", "LEVELS", "POLICY"}  # fmt: skip
AT_LEAST = 95  # of 100 mutants have to be found


def main() -> int:
    """Make the mutants, judge them, print those that live. Returns the exit status."""
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    shutil.copytree(ROOT / "tests" / "unit", WORK / "unit", ignore=shutil.ignore_patterns("*.pyc"))
    (WORK / "setup.cfg").write_text(f"[mutmut]\nsource_paths={NAME}.py\n")
    os.chdir(WORK)
    mutated = make_mutants((ROOT / f"{NAME}.py").read_text())
    Path(f"{NAME}.py").write_text(mutated)
    names = sorted(set(re.findall(r"\bx\S*__mutmut_[0-9]+", mutated)))
    judge = Judge([name for name in names if re.match("|".join(sys.argv[1:]), name)])
    if not judge.names:
        sys.exit("No mutant has such a name")
    tests = [f"unit/test_{each}.py" for each in ("words", "model", "policy", "documents")]
    # In place of the script's own folder: there it has no mutants.
    path = f"pythonpath={WORK} {ROOT / 'tests'}"
    ended = pytest.main(["-q", "-s", "-p", "no:cacheprovider", "-o", path, *tests], plugins=[judge])
    return int(ended) or report(mutated, judge.found)


def make_mutants(source: str) -> str:
    """The script with all its mutants beside its functions, of which one can be chosen."""
    from mutmut.mutation.file_mutation import mutate_file_contents

    source = with_tables_as_functions(source)
    lines = source.splitlines()
    begin, end = (
        next(at for at, line in enumerate(lines, 1) if line.startswith(each)) for each in SECTION
    )
    decides = set(range(begin, end))
    for node in ast.parse(source).body:
        name = getattr(node, "name", "")
        if name in MESSAGES or name.startswith("make_table_"):
            decides.update(range(node.lineno, (node.end_lineno or 0) + 1))
    return mutate_file_contents(f"{NAME}.py", source, covered_lines=decides).code


def with_tables_as_functions(source: str) -> str:
    """The script with functions that make its tables, since mutmut changes functions alone."""
    lines = source.splitlines()
    for node in reversed(ast.parse(source).body):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        name = getattr(target, "id", "")
        if name in TABLES:
            value = ast.get_source_segment(source, node.value)  # type: ignore[attr-defined]
            function = (
                f"def make_table_{name}():\n    return {value}\n\n{name} = make_table_{name}()"
            )
            lines[node.lineno - 1 : node.end_lineno] = function.split("\n")
    return "\n".join(lines) + "\n"


class Judge:
    """A plugin of pytest that runs the tests once for each mutant."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names  # of the mutants
        self.found: dict[str, str] = {}  # by the mutant: the test that found it, or ""
        self.callers: dict[str, set[pytest.Item]] = {}  # of a function: the tests that come to it

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In place of the tests: share the mutants among as many processes as there are processors."""
        self.items = list(session.items)
        self.run_without_mutants(session)
        gc.freeze()  # what is here stays, and is not looked through again in each process
        shares = os.cpu_count() or 1
        processes = [self.start(session, number, shares) for number in range(shares)]
        for process in processes:
            os.waitpid(process, 0)
        for number in range(shares):
            for line in Path(f"found-{number}").read_text().splitlines():
                self.found.update(json.loads(line))
        return True

    def run_without_mutants(self, session: pytest.Session) -> None:
        """Note which tests come to which function."""
        functions = {name.partition("__mutmut_")[0] for name in self.names}
        for function in functions:
            self.callers[function] = set()
            put_in_place(f"{function}__mutmut_orig", self.callers[function])
        for item in self.items:
            Called.test = item
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        assert not session.testsfailed, "a test fails without any mutant"
        for function in functions:
            put_in_place(f"{function}__mutmut_orig")

    def start(self, session: pytest.Session, number: int, shares: int) -> int:
        """Start a process that judges its share of the mutants. Returns its number."""
        process = os.fork()
        if not process:
            with open(f"found-{number}", "w", buffering=1) as file:
                for name in self.names[number::shares]:
                    print(json.dumps({name: self.failing_test(session, name)}), file=file)
            os._exit(0)
        return process

    def failing_test(self, session: pytest.Session, mutant: str) -> str:
        """The test that fails with this mutant, or "": in a process of its own."""
        reader, writer = os.pipe()
        process = os.fork()
        if not process:
            os.close(reader)
            try:
                choose(mutant)
                os.write(writer, self.first_failure(session, mutant).encode())
            except BaseException as error:  # noqa: BLE001 (whatever it is, it was noticed)
                os.write(writer, repr(error).encode()[:1000])
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            failing = pipe.read()
        status = os.waitpid(process, 0)[1]
        self.items.sort(key=lambda item: item.nodeid != failing)
        return failing or (f"ended by signal {status}" if status else "")

    def first_failure(self, session: pytest.Session, mutant: str) -> str:
        """Run the tests that come to the function, up to the first that fails. Returns that, or ""."""
        # A table is made once, before all tests.
        callers = self.callers[mutant.partition("__mutmut_")[0]] or set(self.items)
        for item in self.items:
            if item in callers:
                session.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            if session.testsfailed:
                return item.nodeid
        return ""


class Called:
    """A function that notes which test comes to it."""

    test: pytest.Item | None = None

    def __init__(self, function: Any, callers: set[Any]) -> None:
        self.function, self.callers = function, callers

    def __call__(self, *words: Any, **named: Any) -> Any:
        self.callers.add(Called.test)
        return self.function(*words, **named)

    def __get__(self, instance: Any, owner: Any) -> Any:
        return functools.partial(self, instance)


def choose(mutant: str) -> None:
    """Let this mutant take the place of its function, within bounds, and in silence."""
    gc.disable()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    signal.alarm(600)
    put_in_place(mutant)


def put_in_place(mutant: str, callers: set[Any] | None = None) -> None:
    """Let a function be this one, without mutmut's own switch, which takes most of the time."""
    script = importlib.import_module(NAME)
    # x_function, or xǁClassǁmethod
    *owners, name = mutant.partition("__mutmut_")[0].replace("x_", "xǁ", 1).split("ǁ")[1:]
    owner = getattr(script, owners[0]) if owners else script
    function = getattr(owner, mutant)
    setattr(owner, name, function if callers is None else Called(function, callers))
    if name.startswith("make_table_"):
        setattr(script, name[len("make_table_") :], function())


def report(mutated: str, found: dict[str, str]) -> int:
    """Print the mutants that live, and how many there are. Returns the exit status."""
    functions = dict(functions_in(ast.parse(mutated), mutated))
    alive = [name for name in found if not found[name]]
    for name in alive:
        original = functions[f"{name.partition('__mutmut_')[0]}__mutmut_orig"]
        print(f"\n# {name}")
        print(*changed_lines(original, functions[name]), sep="\n")
    for what, names in (("mutants", list(found)), ("that live", alive)):
        counts = Counter(name.partition("__mutmut_")[0] for name in names)
        print(
            f"\n{len(names)} {what}:", *(f"{each} {count}" for each, count in counts.most_common())
        )
    percent = 100 - 100 * len(alive) / max(1, len(found))
    print(f"\n{percent:.1f} of 100 mutants are found; {AT_LEAST} have to be")
    return int(percent < AT_LEAST)


def functions_in(tree: Any, source: str) -> Iterator[tuple[str, str]]:
    """The functions and methods, each with its text."""
    lines = source.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield node.name, "\n".join(lines[node.lineno : node.end_lineno])


def changed_lines(original: str, mutant: str) -> list[str]:
    """What is otherwise, without what surrounds it."""
    lines = difflib.unified_diff(original.splitlines(), mutant.splitlines(), n=0, lineterm="")
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


if __name__ == "__main__":
    sys.exit(main())
