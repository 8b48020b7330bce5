"""For all tests: Hypothesis profiles, and Markdown pages whose Python is run."""

import contextlib
import doctest
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# `default` draws the same few examples every time; `property` draws many, new each time.
settings.register_profile("default", max_examples=15, deadline=None, derandomize=True)
settings.register_profile("property", max_examples=300, deadline=None, print_blob=True)
settings.load_profile("default")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says how many forged files this process tried; the processes of xdist do not report it."""
    counts = getattr(sys.modules.get("forgery"), "counts", {})
    if counts:
        terminalreporter.write_line(
            f"forged files: {counts['tried']} tried, {counts['refused']} refused, the others read "
            "or made anew"
        )


BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> "Page | None":
    return Page.from_parent(parent, path=file_path) if file_path.suffix == ".md" else None


class Page(pytest.File):
    """A Markdown page; it is a test if it has Python blocks."""

    def collect(self) -> Iterator[pytest.Item]:
        if BLOCK.search(self.path.read_text()):
            yield PageTest.from_parent(self, name="python")


class PageTest(pytest.Item):
    """Runs a page's Python blocks in order: as a doctest if there is a prompt, else as code."""

    def runtest(self) -> None:
        page = self.path.read_text()
        names: dict[str, object] = {"__name__": "__main__"}
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            for block in BLOCK.finditer(page):
                line = page[: block.start(1)].count("\n")
                if ">>>" in block[1]:
                    names = self._doctest(block[1], names, line)
                else:
                    exec(compile("\n" * line + block[1], str(self.path), "exec"), names)

    def _doctest(self, block: str, names: dict[str, object], line: int) -> dict[str, object]:
        parsed = doctest.DocTestParser().get_doctest(block, names, self.name, str(self.path), line)
        report: list[str] = []
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        if runner.run(parsed, out=report.append, clear_globs=False).failed:
            raise AssertionError("".join(report))
        return parsed.globs
