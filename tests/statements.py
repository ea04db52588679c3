"""Count the statements of a Python file, and fail if there are more than a number: FILE NUMBER.

Readers audit statements, not lines. Each counts, as Python's own parser sees it.
"""

import ast
import sys
from pathlib import Path


def main(path: str, most: str) -> int:
    """Print the count. Returns the exit status."""
    tree = ast.parse(Path(path).read_text())
    number = sum(isinstance(node, ast.stmt) for node in ast.walk(tree))
    print(f"{path}: {number} statements, at most {most}")
    return int(number > int(most))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
