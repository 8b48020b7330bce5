"""The command line of an example: a preset, and any setting over it."""

import argparse
from collections.abc import Mapping, Sequence
from typing import TypeVar

import tyro

ConfigT = TypeVar("ConfigT")


def parse(
    presets: Mapping[str, ConfigT],
    description: str,
    argv: Sequence[str] | None = None,
) -> tuple[str, ConfigT]:
    """Read `--preset NAME` and any setting of the configuration, in any order.

    Args:
        presets: Configurations by name, all of one attrs class; the first is the default. A field
            may be an attrs record too (`--fit.iterations 100`). `--help` shows the docstring of
            each field, or the comment behind it.
        description: What the program does.
        argv: The arguments; None is the program's own.

    Returns:
        The preset's name and its configuration with the settings changed.

    Raises:
        SystemExit: `--help` was asked for (0), or an argument is wrong (2), after saying so.

    >>> import attrs
    >>> @attrs.frozen
    ... class Config:
    ...     width: int
    >>> presets = {"smoke": Config(8), "cpu": Config(64)}
    >>> parse(presets, "Train.", ["--width", "32", "--preset", "cpu"])
    ('cpu', Config(width=32))
    >>> parse(presets, "Train.", [])
    ('smoke', Config(width=8))
    """
    default = next(iter(presets))
    # No abbreviations: `--pre` is not this parser's, and the other one shall say so.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", choices=tuple(presets), default=default)
    found, rest = parser.parse_known_args(argv)
    names = "|".join(presets)
    text = (
        f"{description}\n\nStart from --preset {names} (here: {found.preset}; without it: "
        f"{default}) and change any setting below, whose default is the preset's."
    )
    settings = tyro.cli(
        type(presets[default]),
        prog=parser.prog,
        default=presets[found.preset],
        args=rest,
        description=text,
        config=(tyro.conf.AvoidSubcommands,),
    )
    return found.preset, settings
