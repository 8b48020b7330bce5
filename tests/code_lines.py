"""Counts lines of code, docstrings, comments and blanks left out: `python tests/code_lines.py`.

With a commit (`python tests/code_lines.py HEAD~20`) that tree is counted beside the staged one.
"""

import ast
import io
import subprocess
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def code_lines(source: str) -> int:
    """The lines of a file that hold code.

    >>> code_lines('"Docstring."\\n\\nx = 1  # why\\n# alone\\ny = [\\n    2,\\n]\\n')
    4
    """
    lines = set[int]()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in LAYOUT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):  # a docstring, also that of a field
                lines.difference_update(range(node.lineno, (node.end_lineno or 0) + 1))
    return len(lines)


def part(path: str) -> str | None:
    """The package or the example that a file is counted under; None for other files."""
    parts = path.split("/")
    if parts[0] == "packages" and parts[2] == "src":
        return parts[1]
    return path if parts[0] == "examples" else None


def count(commit: str | None) -> dict[str, int]:
    """Lines of code of each package and example, in a commit or as staged."""
    listing = ["git", "ls-tree", "-r", "--name-only", commit] if commit else ["git", "ls-files"]
    totals = dict[str, int]()
    for path in run(listing).splitlines():
        name = part(path) if path.endswith(".py") else None
        if name:
            source = run(["git", "show", f"{commit or ''}:{path}"])  # of the index, without one
            totals[name] = totals.get(name, 0) + code_lines(source)
    return totals


def run(command: list[str]) -> str:
    """The output of a command, run at the root."""
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Prints a row for each package and example, and their sums."""
    counts = [count(commit) for commit in (*sys.argv[1:2], None)]
    names = sorted({name for column in counts for name in column})
    for group in ("packages", "examples"):
        own = [name for name in names if name.startswith("examples") == (group == "examples")]
        for name in own:
            print(f"{name:40}", *(f"{column.get(name, 0):7,}" for column in counts))
        sums = (sum(column.get(name, 0) for name in own) for column in counts)
        print(f"{group + ', in all':40}", *(f"{total:7,}" for total in sums))


if __name__ == "__main__":
    main()
