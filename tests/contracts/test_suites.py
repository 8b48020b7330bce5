"""Every role has one suite, under a name of its own, and newcomers are told of it."""

import re
from pathlib import Path

import iai_encoders.testing
import iai_iterate.testing
import iai_regimes.testing
import iai_tasks.testing
import iai_train.testing

PACKAGES = [iai_tasks, iai_encoders, iai_regimes, iai_iterate, iai_train]
ROOT = Path(__file__).parents[2]


def suites() -> list[tuple[str, str]]:
    """The name of each suite, and its package."""
    return [
        (name, package.__name__)
        for package in PACKAGES
        for name, value in vars(package.testing).items()
        if name.startswith("check_")
        and getattr(value, "__module__", "").startswith(f"{package.__name__}.testing")
    ]


def test_no_two_suites_have_one_name():
    names = [name for name, _ in suites()]
    assert len(names) == len(set(names)) == 16


def test_the_page_on_new_parts_names_every_suite():
    page = (ROOT / "docs" / "extending.md").read_text()
    assert [name for name, _ in suites() if f"`{name}" not in page and f".{name}" not in page] == []


def test_a_role_names_a_suite_that_there_is():
    known = set(suites())
    for package in PACKAGES:
        text = Path(package.interfaces.__file__).read_text()
        named = re.findall(r"testing\.(check_\w+)", text)
        assert named and {(name, package.__name__) for name in named} <= known
