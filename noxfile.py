"""Everything that is done to this repository, one session each: `nox -l` lists them."""

import ast
import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "tests"]

ROOT = Path(__file__).parent
PACKAGES = ("iai-tasks", "iai-encoders", "iai-regimes", "iai-iterate", "iai-train")
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@nox.session
def demo(session: nox.Session) -> None:
    """Train and show a learner on real handwritten digits: minutes on two cores."""
    install(session, *packages(), *group("examples"))
    session.run("python", "examples/digits.py", "--preset", "demo", "--out", "runs/demo")


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, doctests, contracts and example smoke runs, on all cores: what CI runs."""
    install(session, *packages(), *group("test", "whole", "examples"))
    arguments = ("-n", "auto", "--dist", "worksteal", "--durations=10", *session.posargs)
    session.run("pytest", *arguments, env=ONE_THREAD)


@nox.session
@nox.parametrize("name", PACKAGES, ids=PACKAGES)
def package(session: nox.Session, name: str) -> None:
    """One package's tests, with only its declared dependencies installed."""
    module = name.replace("-", "_")
    # uv would reuse an old build if the package's pyproject.toml has not changed.
    anew = ["--refresh-package", name] if session.venv_backend == "uv" else []
    install(session, *anew, f"./packages/{name}", *group("test"))
    shown = (f"packages/{name}/tests", f"packages/{name}/README.md")
    session.run("pytest", "--pyargs", module, *shown, *session.posargs, env=ONE_THREAD)


@nox.session(name="property")
def property_tests(session: nox.Session) -> None:
    """The property tests again, with fresh draws and twenty times as many."""
    install(session, *packages(), *group("test", "examples"))
    arguments = ("-m", "hypothesis", "--hypothesis-profile=property", *session.posargs)
    session.run("pytest", *arguments, env=ONE_THREAD)


@nox.session
def gpu(session: nox.Session) -> None:
    """The tests that need a CUDA device; without one they are skipped and say so."""
    install(session, *packages(), *group("test", "examples"))
    session.run("pytest", "-m", "gpu", *session.posargs)


@nox.session
def peers(session: nox.Session) -> None:
    """Compare our meta-gradients with those of other libraries, on the same weights and tasks."""
    install(session, *packages(), *group("test", "peers"))
    session.run("pytest", "tests/peers", *session.posargs, env=ONE_THREAD)


@nox.session
def types(session: nox.Session) -> None:
    """Strict mypy over the packages, and over every producer against its consumers' Protocols."""
    install(session, *packages(), *group("types"))
    session.run("mypy", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff, the import rules, and a check that every imported dependency is declared."""
    install(session, *group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    sources = os.pathsep.join(str(ROOT / "packages" / name / "src") for name in PACKAGES)
    session.run("lint-imports", env={"PYTHONPATH": sources})
    for name in PACKAGES:
        with session.chdir(f"packages/{name}"):
            session.run("deptry", "src")


@nox.session
def build(session: nox.Session) -> None:
    """Build and check the wheel and source archive of each package; then run `wheels`."""
    install(session, *group("build"))
    shutil.rmtree("dist", ignore_errors=True)
    for name in session.posargs or PACKAGES:
        arguments = ("--no-isolation", "--outdir", "dist", f"packages/{name}")
        session.run("python", "-m", "build", *arguments)
    session.run("twine", "check", "--strict", *map(str, Path("dist").iterdir()))
    session.notify("wheels", posargs=[])


@nox.session
def wheels(session: nox.Session) -> None:
    """Install the built wheels in a clean environment, and import all their modules."""
    built = sorted(Path("dist").glob("*.whl"))
    install(session, *map(str, built))
    for wheel in built:
        module = wheel.name.split("-")[0]
        session.run("python", "tests/import_all.py", module)


@nox.session
def examples(session: nox.Session) -> None:
    """Every example, each into its own folder of runs/; `-- --preset smoke` takes seconds."""
    install(session, *packages(), *group("examples"))
    for script in sorted(Path("examples").glob("*.py")):
        arguments = session.posargs or ["--preset", "cpu"]
        session.run("python", str(script), "--out", f"runs/{script.stem}", *arguments)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into docs/_build; every warning is an error."""
    install(session, *packages(), *group("docs"))
    session.run("sphinx-build", "-q", "-n", "-W", "--keep-going", "docs", "docs/_build")


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks; each prints ratios of things timed in the same run."""
    install(session, *packages(), *group("examples", "peers"))
    for script in sorted(Path("tests/benchmarks").glob("*.py")):
        session.run("python", str(script), *session.posargs)


@nox.session(venv_backend="none")
def dev(session: nox.Session) -> None:
    """Make .venv with every package, editable, and every tool."""
    session.run(sys.executable, "-m", "venv", ".venv")
    python = Path(".venv", "Scripts" if os.name == "nt" else "bin", "python")
    wanted = (*packages(), *group(*PROJECT["dependency-groups"]))
    session.run(str(python), "-m", "pip", "install", "-c", "constraints.txt", *wanted)


def packages() -> list[str]:
    """The arguments that install every package, editable, with all its extras."""
    words: list[str] = []
    for name in PACKAGES:
        folder = Path("packages", name)
        project = nox.project.load_toml(folder / "pyproject.toml")["project"]
        extras = ",".join(project.get("optional-dependencies", ()))
        words += ["-e", f"./{folder.as_posix()}" + (f"[{extras}]" if extras else "")]
    return words


def group(*names: str) -> tuple[str, ...]:
    """The requirements of these groups of the root pyproject.toml."""
    return nox.project.dependency_groups(PROJECT, *names)


def install(session: nox.Session, *requirements: str) -> None:
    """Install under the pins, from the indexes that this machine's pip uses."""
    session.install("-c", "constraints.txt", *requirements, env=uv_settings())


@functools.cache
def uv_settings() -> dict[str, str]:
    """The configuration of pip as environment variables of uv, which does not read it."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listing = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found: dict[str, str] = {}
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        # The listing is sorted: environment variables come first, and override the files.
        found.setdefault(name.rpartition(".")[2], ast.literal_eval(value))
    settings = {
        "UV_FIND_LINKS": ",".join(found.get("find-links", "").split()),
        "UV_DEFAULT_INDEX": found.get("index-url", ""),
        "UV_INDEX": " ".join(found.get("extra-index-url", "").split()),
        "SSL_CERT_FILE": found.get("cert", ""),
        # Like pip: the best version from any index, not from the first that has the package.
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }
    return {name: value for name, value in settings.items() if value}
