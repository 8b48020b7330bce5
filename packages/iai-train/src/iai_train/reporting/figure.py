"""Rows as curves, and samples as clouds of points."""

import io
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxtyping import Float
from torch import Tensor

from iai_train.files import make_folder, write_atomically
from iai_train.row import Row, over_seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
_MARKERS = "os^Dv<>"
_ORACLE = "oracle"  # the method that is the best possible
_BLACK = {"color": "black", "ls": "--", "marker": "*", "lw": 1.2, "zorder": 3}
_MOST_TICKS = 9
_MOST_ACROSS = 4  # panels
_LINE = 0.065  # height of a line of text, as a share of a panel
_LEAST_RATIO = 1.5  # of two neighbouring ticks that both have a name


def figure(
    rows: Iterable[Row],
    path: str | Path,
    *,
    metric: str,
    scale: Literal["log", "linear"] = "log",
    by: Literal["examples", "step"] = "examples",
    title: str = "",
) -> None:
    """Draws one metric against the examples seen, or the steps: a panel a split, a curve a method.

    Bands are one standard error; several seeds are averaged. The method "oracle" is dashed and
    black. The axis of examples is logarithmic, and step 0, which has seen none, is left out; the
    axis of steps is linear up to step 1 and logarithmic from there, and has step 0. A method has
    the same colour in every panel; its name stands at the end of its curve where there is one
    panel, and else in one legend. On a log scale, a method that diverges leaves the picture, which
    ends at ten times the largest value at its left edge.

    Args:
        rows: Rows of any metrics and splits.
        path: The file; its ending names the format, png or pdf for two.
        metric: The metric to draw.
        scale: Scale of the y axis: "log" suits errors, "linear" an accuracy.
        by: What is on the x axis; steps where the same examples are read again and again.
        title: What the picture shows, in a sentence.

    Raises:
        ValueError: There is no row of this metric to draw.
        OSError: The file could not be written.
    """
    # Imported here: it is slow, and a training run does not need it.
    from matplotlib.figure import Figure

    shown = [row for row in over_seeds(rows) if row.metric == metric]
    shown = [row for row in shown if by == "step" or row.examples > 0]
    if not shown:
        raise ValueError(f"There must be rows of `{metric}` with examples; got none.")
    splits = list(dict.fromkeys(row.split for row in shown))
    num_lines = math.ceil(len(splits) / _MOST_ACROSS)
    across = math.ceil(len(splits) / num_lines)
    size = (6.4, 3.8) if len(splits) == 1 else (2.2 + 3.3 * across, 3.0 * num_lines)
    canvas = Figure(figsize=size, layout="constrained")
    lines = textwrap.fill(title, int(11 * size[0]))
    canvas.suptitle(lines, fontsize="large", x=0.01, ha="left")
    grid = canvas.subplots(num_lines, across, sharex=True, sharey=True, squeeze=False)
    for index, (panel, split) in enumerate(zip(grid.flat, splits, strict=False)):
        _draw_curves(panel, shown, split, scale, by)
        panel.set_title(f"split: {split}" if len(splits) > 1 else "", fontsize="medium")
        lowest = index + across >= len(splits)  # no panel is below it
        panel.tick_params(labelbottom=lowest)
        if lowest:
            panel.set_xlabel("examples seen" if by == "examples" else "steps")
        if index % across == 0:
            panel.set_ylabel(metric.replace("_", " "))
    for panel in grid.flat[len(splits) :]:
        panel.remove()
    if len(splits) == 1:
        _name_curves(canvas, canvas.axes[0])
    else:
        handles = {
            label: handle
            for panel in canvas.axes
            for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
        }
        canvas.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False)
    _write(canvas, path)


def clouds(
    lines: Sequence[tuple[str, Mapping[str, Float[Tensor, "n 2"]]]], path: str | Path
) -> None:
    """Draws samples in the plane: a line of panels for each task, the last of them in black.

    Args:
        lines: The label of each line, and the points of each of its panels by the panel's title.
            All lines have panels of the same titles. The last panel is of true samples: its extent
            is that of the line.
        path: The file; its ending names the format.

    Raises:
        OSError: The file could not be written.
    """
    from matplotlib.figure import Figure

    titles = list(lines[0][1])
    canvas = Figure(figsize=(1.6 * len(titles), 1.6 * len(lines)), layout="constrained")
    grid = canvas.subplots(len(lines), len(titles), squeeze=False)
    for panels, (label, points) in zip(grid, lines, strict=True):
        limit = 1.2 * points[titles[-1]].abs().max().item()
        for panel, title in zip(panels, titles, strict=True):
            colour = "black" if title == titles[-1] else _COLOURS[0]
            panel.scatter(*points[title].cpu().T, s=2, alpha=0.5, linewidths=0, color=colour)
            panel.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
            panel.set(xticks=[], yticks=[])
        panels[0].set_ylabel(label)
    for panel, title in zip(grid[0], titles, strict=True):
        panel.set_title(title, fontsize=9)
    _write(canvas, path)


def _draw_curves(
    panel: "Axes", shown: list[Row], split: str, scale: str, by: Literal["examples", "step"]
) -> None:
    """A curve for each method on a split; colours, limits and ticks are those of all rows."""
    panel.set(xscale="log" if by == "examples" else "symlog", yscale=scale)
    methods = dict.fromkeys(row.method for row in shown if row.method != _ORACLE)
    for index, method in enumerate([*methods, _ORACLE]):
        curve = [row for row in shown if (row.method, row.split) == (method, split)]
        if scale == "log":
            curve = [row for row in curve if row.value > 0]
        if not curve:
            continue
        curve.sort(key=lambda row: getattr(row, by))
        style = _BLACK if method == _ORACLE else _style(index)
        x, y = [getattr(row, by) for row in curve], [row.value for row in curve]
        panel.plot(x, y, label=method, **style)
        upper = [row.value + row.stderr for row in curve]
        lower = [row.value - row.stderr for row in curve]
        if scale == "log":  # a band that reaches below zero would vanish whole
            lower = [max(low, value / 10) for low, value in zip(lower, y, strict=True)]
        panel.fill_between(x, lower, upper, color=style["color"], alpha=0.2, linewidth=0)
    edge = min(getattr(row, by) for row in shown)
    top = 10 * max(row.value for row in shown if getattr(row, by) == edge)
    if scale == "log" and any(math.inf > row.value > top for row in shown):
        panel.set_ylim(top=top)
    ticks = sorted({float(getattr(row, by)) for row in shown})
    if len(ticks) <= _MOST_TICKS:  # the very numbers that were measured
        panel.set_xticks(ticks, _names(ticks), fontsize="small")
        panel.xaxis.minorticks_off()
    panel.grid(which="major", alpha=0.25, linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)


def _name_curves(canvas: "Figure", panel: "Axes") -> None:
    """Writes each method's name at the right end of its curve, at least a line apart."""
    canvas.draw_without_rendering()  # which sets the scales
    low, high = panel.get_ylim()
    to_axes: Any = panel.transScale + panel.transLimits
    ends = []
    for curve in panel.get_lines():
        points: Any = curve.get_xydata()
        x, y = points[-1]
        ends.append((float(to_axes.transform((x, min(max(y, low), high)))[1]), curve))
    ends.sort(key=lambda end: end[0], reverse=True)
    heights = list[float]()
    for height, _ in ends:
        heights.append(min([height, *[last - _LINE for last in heights[-1:]]]))
    lift = max(0.0, -min(heights))  # of names that would stand below the axis
    for height, (_, curve) in zip(heights, ends, strict=True):
        panel.annotate(
            str(curve.get_label()),
            (1.02, height + lift),
            xycoords="axes fraction",
            color=curve.get_color(),
            fontsize="small",
            va="center",
            annotation_clip=False,
        )


def _write(canvas: "Figure", path: str | Path) -> None:
    """Writes a figure; the file is whole or as it was before."""
    path, content = Path(path), io.BytesIO()
    canvas.savefig(content, format=path.suffix.removeprefix(".") or "png", dpi=200)
    make_folder(path.parent)
    write_atomically(path, content.getvalue())


def _style(index: int) -> dict[str, Any]:
    turn = index % len(_COLOURS)
    line = {"ls": "-" if index < len(_COLOURS) else "-.", "lw": 1.3, "ms": 3.5}
    return {"color": _COLOURS[turn], "marker": _MARKERS[turn], **line}


def _names(ticks: list[float]) -> list[str]:
    """The ticks' numbers; an empty name where two would touch."""
    names, last = [], -1.0
    for tick in ticks:
        fits = tick >= _LEAST_RATIO * last
        names.append(f"{tick:g}" if fits else "")
        last = tick if fits else last
    return names
