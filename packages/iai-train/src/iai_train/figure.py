"""Rows as curves."""

import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from iai_train.files import make_folder, write_atomically
from iai_train.row import Row, over_seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, which colour-blind readers tell apart; the oracle has black.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
_MARKERS = "os^Dv<>"
_MOST_TICKS = 9
_MOST_ACROSS = 4  # panels
_ROOM = 1.5  # ratio of two neighbours that are both named


def figure(
    rows: Iterable[Row],
    path: Path,
    *,
    metric: str,
    scale: Literal["log", "linear"] = "log",
    by: Literal["examples", "step"] = "examples",
    oracle: str = "oracle",
) -> None:
    """Draw one metric against the examples seen, or the steps: a panel a split, a curve a method.

    The x axis is logarithmic, so step 0, which has seen nothing, is left out. Bands are one
    standard error; several seeds are averaged. The oracle is dashed and black.

    Args:
        rows: Rows of any metrics and splits.
        path: Where to; its ending names the format, png or pdf for two.
        metric: The metric to draw.
        scale: Scale of the y axis: "log" suits errors, "linear" an accuracy.
        by: What is on the x axis; steps where the same examples are read again and again.
        oracle: Name of the method that is the best possible.

    Raises:
        ValueError: No row of this metric has seen an example.
        OSError: The file could not be written.
    """
    # Imported here: it is slow, and a training run does not need it.
    from matplotlib.figure import Figure

    shown = [row for row in over_seeds(rows) if row.metric == metric and row.examples > 0]
    if not shown:
        raise ValueError(f"There must be rows of `{metric}` with examples; got none.")
    splits = list(dict.fromkeys(row.split for row in shown))
    methods = sorted(dict.fromkeys(row.method for row in shown), key=lambda name: name == oracle)
    lines = math.ceil(len(splits) / _MOST_ACROSS)
    across = math.ceil(len(splits) / lines)
    canvas = Figure(figsize=(2.2 + 3.3 * across, 3.0 * lines), layout="constrained")
    grid = canvas.subplots(lines, across, sharex=True, sharey=True, squeeze=False)
    panels = list(grid.flat[: len(splits)])
    for place, (panel, split) in enumerate(zip(panels, splits, strict=True)):
        for index, method in enumerate(methods):
            curve = [row for row in shown if row.split == split and row.method == method]
            style = _style(index, is_oracle=method == oracle)
            curve.sort(key=lambda row: getattr(row, by))
            _draw(panel, [float(getattr(row, by)) for row in curve], curve, method, style, scale)
        ticks = sorted({float(getattr(row, by)) for row in shown})
        _dress(panel, f"split: {split}" if len(splits) > 1 else "", scale, ticks)
        if place + across >= len(splits):  # none below it
            panel.set_xlabel("examples seen" if by == "examples" else "steps")
            panel.tick_params(labelbottom=True)
        if place % across == 0:
            panel.set_ylabel(metric.replace("_", " "))
    for panel in grid.flat[len(splits) :]:
        panel.remove()
    handles = {
        label: handle
        for panel in panels
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    canvas.legend(
        [handles[method] for method in methods], methods, loc="outside right center", frameon=False
    )
    content = io.BytesIO()
    canvas.savefig(content, format=path.suffix.removeprefix(".") or "png", dpi=200)
    make_folder(path.parent)
    write_atomically(path, content.getvalue())


def _style(index: int, *, is_oracle: bool) -> dict[str, object]:
    if is_oracle:
        return {"color": "black", "linestyle": "--", "linewidth": 1.2, "zorder": 3}
    turn = index % len(_COLOURS)
    line = "-" if index < len(_COLOURS) else "-."
    return {
        "color": _COLOURS[turn],
        "linestyle": line,
        "marker": _MARKERS[turn],
        "markersize": 3.5,
        "linewidth": 1.3,
    }


def _draw(
    panel: "Axes",
    x: list[float],
    curve: list[Row],
    label: str,
    style: dict[str, object],
    scale: str,
) -> None:
    if not curve:
        return
    panel.plot(x, [row.value for row in curve], label=label, **style)  # type: ignore[arg-type]
    lower = [row.value - row.stderr for row in curve]
    if scale == "log":  # a band that reaches below zero would vanish whole
        lower = [max(low, row.value / 10) for low, row in zip(lower, curve, strict=True)]
    upper = [row.value + row.stderr for row in curve]
    panel.fill_between(x, lower, upper, color=style["color"], alpha=0.2, linewidth=0)


def _dress(panel: "Axes", title: str, scale: str, ticks: list[float]) -> None:
    panel.set_xscale("log")
    panel.set_yscale(scale)
    if len(ticks) <= _MOST_TICKS:  # the very numbers that were measured, named where they have room
        panel.set_xticks(ticks, _names_with_room(ticks), fontsize="small")
        panel.xaxis.minorticks_off()
    panel.set_title(title, fontsize="medium")
    panel.grid(which="major", alpha=0.25, linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)


def _names_with_room(ticks: list[float]) -> list[str]:
    names, last = [], 0.0
    for tick in ticks:
        fits = tick >= _ROOM * last
        names.append(f"{tick:g}" if fits else "")
        last = tick if fits else last
    return names
