"""The command line of an example: a preset, and any setting over it."""

import argparse
from collections.abc import Mapping, Sequence
from typing import TypeVar

import tyro

SettingsT = TypeVar("SettingsT")


def parse(
    presets: Mapping[str, SettingsT], description: str, argv: Sequence[str] | None = None
) -> tuple[str, SettingsT]:
    """Reads `--preset NAME` and any setting, in any order.

    Settings are an attrs record, whose fields may be records again (`--fit.iterations 100`).
    `--help` shows the docstring of each field, or the comment behind it. A value is refused that
    the field's type does not allow (`Literal["a", "b"]`), or that a validator or
    `__attrs_post_init__` answers with `ValueError`.

    Args:
        presets: Settings by name, all of one class; the first is the default.
        description: What the program does.
        argv: The arguments; None is the program's own.

    Returns:
        The preset's name and its settings, changed as the arguments say.

    Raises:
        SystemExit: `--help` was asked for (0), or an argument is wrong (2), after a message.

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
    # No abbreviations, so that tyro is given `--pre` and reports it.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", choices=tuple(presets), default=default)
    known, rest = parser.parse_known_args(argv)
    settings = tyro.cli(
        type(presets[default]),
        prog=parser.prog,
        default=presets[known.preset],
        args=rest,
        description=(
            f"{description}\n\nStart from --preset {'|'.join(presets)} (here: {known.preset}; "
            f"without it: {default}) and change any setting below, whose default is the preset's."
        ),
        config=(tyro.conf.AvoidSubcommands,),
    )
    return known.preset, settings
