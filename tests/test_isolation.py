"""Every module of each package can be imported with only its declared dependencies."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
NAMES = [path.name for path in PACKAGES]
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[(?P<extras>[^]]*)\])?(?P<marker>.*)")


def declared(package: Path) -> dict:
    return tomllib.loads((package / "pyproject.toml").read_text())["project"]


def closure(requirements: list[str]) -> set[str]:
    """The installed distributions that the requirements need, directly or through others."""
    found: set[tuple[str, str]] = set()
    waiting = [(requirement, "") for requirement in requirements]
    while waiting:
        requirement, wanted = waiting.pop()
        name, extras, marker = REQUIREMENT.match(requirement).group("name", "extras", "marker")
        extra = re.search(r"extra == ['\"]([\w-]+)", marker)
        if (name, extras or "") in found or (extra and extra[1] not in wanted.split(",")):
            continue
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:  # meant for another platform or Python
            continue
        found.add((name, extras or ""))
        waiting += [(need, extras or "") for need in needs]
    return {name for name, _ in found}


def link(distributions: set[str], folder: Path) -> None:
    """Fill the folder with links to the files of these distributions only."""
    for name in distributions:
        files = distribution(name).files or []
        for top in {path.parts[0] for path in files} - {"..", "__pycache__"}:
            target = folder / top
            if not target.exists():
                target.symlink_to(distribution(name).locate_file(top))


@pytest.mark.parametrize("package", PACKAGES, ids=NAMES)
def test_imports_with_its_declared_dependencies_only(package, tmp_path):
    link(closure(declared(package)["dependencies"]), tmp_path)
    search = os.pathsep.join([str(package / "src"), str(tmp_path)])
    run = subprocess.run(
        # -S: no site-packages.
        [sys.executable, "-S", ROOT / "tests/import_all.py", package.name.replace("-", "_")],
        env=os.environ | {"PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("package", PACKAGES, ids=NAMES)
def test_declares_no_sibling_and_no_upper_bound(package):
    project = declared(package)
    extras = project.get("optional-dependencies", {})
    for requirement in chain(project["dependencies"], *extras.values()):
        name = REQUIREMENT.match(requirement)["name"]
        assert name not in set(NAMES) - {package.name}
        assert not re.search(r"<|==|~=", requirement.partition(";")[0]), requirement


@pytest.mark.parametrize("package", PACKAGES, ids=NAMES)
def test_says_its_version_shows_itself_and_is_typed(package):
    version = declared(package)["version"]
    assert f"## {version}" in (package / "CHANGELOG.md").read_text()
    assert "```python\n" in (package / "README.md").read_text()
    assert (package / "src" / package.name.replace("-", "_") / "py.typed").exists()


def test_the_packages_write_files_in_one_way() -> None:
    names = ("iai_iterate/whole_file.py", "iai_tasks/_whole_file.py", "iai_train/whole_file.py")
    files = [path for path in ROOT.glob("packages/*/src/*/*.py") if str(path).endswith(names)]
    assert len(files) == len(names) and len({file.read_bytes() for file in files}) == 1
