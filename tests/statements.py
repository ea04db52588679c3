"""Count the statements and lines of a Python file, and fail if there are more: FILE STATEMENTS LINES.

Readers audit statements, not lines. Each counts, as Python's own parser sees it.
"""

import ast
import sys
from pathlib import Path

LONGEST = 30  # lines of a function


def main(path: str, most_statements: str, most_lines: str) -> int:
    """Print the counts. Returns the exit status."""
    text = Path(path).read_text()
    nodes = list(ast.walk(ast.parse(text)))
    statements = sum(isinstance(node, ast.stmt) for node in nodes)
    lines = text.count("\n")
    print(f"{path}: {statements} statements, at most {most_statements}")
    print(f"{path}: {lines} lines, at most {most_lines}")
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    long = [each.name for each in functions if each.end_lineno - each.lineno >= LONGEST]
    wide = [number for number, line in enumerate(text.split("\n"), 1) if len(line) > 100]
    print(
        f"functions of over {LONGEST} lines: {long or 'none'}; lines of over 100 columns: {wide or 'none'}"
    )
    is_more = statements > int(most_statements) or lines > int(most_lines)
    return int(is_more or bool(long or wide))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
