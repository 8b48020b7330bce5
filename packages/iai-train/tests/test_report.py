import itertools
import json
import math
from io import StringIO
from pathlib import Path

import attrs
import pytest
import torch
from example_rows import row
from iai_train import Row, RunInfo, clouds, figure, read_metrics, table, write_metrics
from rich.console import Console

RUN = RunInfo(example="digits", preset="smoke", seed=0, device="cpu", wall_seconds=1.5)


def shown(rows: list[Row], **options: object) -> list[list[str]]:
    made = table(rows, metric="error", **options)
    return [[str(column.header), *map(str, column.cells)] for column in made.columns]


def test_metrics_are_tidy_json_and_come_back(tmp_path: Path) -> None:
    rows = [row(), row(value=math.inf, stderr=math.nan, step=2), row(seed=None, step=3)]
    path = write_metrics(tmp_path / "new", RUN, rows)
    assert path == tmp_path / "new" / "metrics.json"
    content = json.loads(path.read_text())
    assert content["run"] == attrs.asdict(RUN)
    assert content["rows"][0] == attrs.asdict(rows[0])
    assert content["rows"][1]["value"] is content["rows"][1]["stderr"] is None
    run, back = read_metrics(path)
    assert run == RUN
    assert back[0] == rows[0]
    assert math.isnan(back[1].value)
    assert back[2].seed is None


def test_metrics_that_cannot_be_written_are_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written to: File exists"):
        write_metrics(tmp_path / "file", RUN, [row()])


def test_versions_name_python_and_torch() -> None:
    assert {"python", "torch"} <= RUN.versions.keys()


def test_a_table_has_a_line_a_method_and_a_column_a_step() -> None:
    rows = [
        row(method="a", step=0, examples=0.0, value=1.23456, stderr=0.0123),
        row(method="a", step=2, examples=32.0, value=0.5, stderr=math.nan),
        row(method="b", step=2, examples=32.0, value=123456.0, stderr=2345.0),
        row(method="c", step=2, metric="accuracy"),
    ]
    assert shown(rows) == [
        ["method", "a", "b"],
        ["0", "1.235\n±0.012", ""],
        ["2", "0.5", "1.23e+05\n±2e+03"],
    ]
    assert [column[0] for column in shown(rows, by="examples")] == ["method", "0", "32"]


def test_a_table_has_a_section_a_split() -> None:
    rows = [row(method="a"), row(method="b"), row(method="a", split="far", step=2)]
    assert shown(rows) == [
        ["method", "[bold]split: in[/bold]", "a", "b", "[bold]split: far[/bold]", "a"],
        ["1", "", "1.00\n±0.10", "1.00\n±0.10", "", ""],
        ["2", "", "", "", "", "1.00\n±0.10"],
    ]


def test_a_table_of_seven_steps_fits_a_terminal() -> None:
    steps = [row(method="parametric, both", step=step, value=0.12345) for step in range(7)]
    console = Console(width=80, file=StringIO())
    console.print(table([attrs.evolve(each, stderr=0.0012) for each in steps], metric="error"))
    told = console.file.getvalue()
    assert told.count("0.1235") == told.count("±0.0012") == 7
    assert "parametric, both" in told
    assert "…" not in told


def test_a_table_averages_seeds() -> None:
    assert shown([row(1.0), row(3.0, seed=1)])[1] == ["1", "2.0\n±1.0"]


@pytest.mark.parametrize("make", [table, figure])
def test_no_row_to_show_is_refused(tmp_path: Path, make: object) -> None:
    where = () if make is table else (tmp_path / "figure.png",)
    with pytest.raises(ValueError, match="There must be rows of `accuracy`"):
        make([row()], *where, metric="accuracy")


def curves() -> list[Row]:
    return [
        row(
            method=method,
            split=split,
            step=step,
            examples=16.0 * step,
            value=scale * (2 if split == "far" else 1) / (1 + step),
            stderr=0.1 * scale / (1 + step),
        )
        for method, scale in (("parametric", 2.0), ("oracle", 1.0), ("implicit", 3.0))
        for split in ("in", "far")
        for step in (0, 1, 2, 5, 10)
    ]


@pytest.mark.parametrize("scale", ["log", "linear"])
def test_a_figure_is_a_picture(tmp_path: Path, scale: str) -> None:
    path = tmp_path / "new" / "figure.png"
    figure(curves(), path, metric="error", scale=scale)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in path.parent.iterdir()] == ["figure.png"]


def test_a_figure_can_be_a_drawing_whose_words_are_what_was_asked(tmp_path: Path) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none"}):
        figure(curves(), tmp_path / "figure.svg", metric="excess_error".removeprefix("excess_"))
    words = (tmp_path / "figure.svg").read_text()
    for word in ("parametric", "implicit", "oracle", "split: in", "split: far", "examples seen"):
        assert word in words
    for ticks in ("16", "32", "80", "160"):
        assert f">{ticks}<" in words


def test_a_figure_by_steps_tells_apart_what_read_the_same_examples(tmp_path: Path) -> None:
    import matplotlib as mpl

    rows = [attrs.evolve(row, examples=10.0 if row.step else 0.0) for row in curves()]
    path = tmp_path / "figure.svg"
    for by, label, told_apart in (("step", "steps", True), ("examples", "examples seen", False)):
        with mpl.rc_context({"svg.fonttype": "none"}):
            figure(rows, path, metric="error", by=by)
        words = path.read_text()
        assert f">{label}<" in words
        assert (">2<" in words) is told_apart


def test_a_figure_survives_what_diverged_or_fell_below_zero(tmp_path: Path) -> None:
    rows = [
        row(step=1, examples=16.0, value=math.inf, stderr=math.nan),
        row(step=2, examples=32.0, value=0.1, stderr=0.5),
        row(step=3, examples=48.0, value=-0.1, stderr=0.01),
    ]
    figure(rows, tmp_path / "figure.png", metric="error")
    assert (tmp_path / "figure.png").exists()


@pytest.mark.parametrize(("num_splits", "lines", "named"), [(4, 1, 4), (5, 2, 3), (8, 2, 4)])
def test_panels_are_at_most_four_across_and_the_lowest_name_their_ticks(
    tmp_path: Path, num_splits: int, lines: int, named: int
) -> None:
    import matplotlib as mpl

    rows = [row(split=f"kind {index}", step=1, examples=16.0) for index in range(num_splits)]
    with mpl.rc_context({"svg.fonttype": "none"}):
        figure(rows, tmp_path / "figure.svg", metric="error")
    words = (tmp_path / "figure.svg").read_text()
    assert sum(f">split: kind {index}<" in words for index in range(num_splits)) == num_splits
    assert words.count(">examples seen<") == words.count(">16<") == named
    assert words.count(">error<") == lines


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Draws a figure and returns its canvas."""

    def draw(rows: list[Row], **options: object):
        canvases = []
        monkeypatch.setattr(
            "matplotlib.figure.Figure.savefig", lambda canvas, *_, **how: canvases.append(canvas)
        )
        figure(rows, tmp_path / "figure.png", metric="error", **options)
        return canvases[0]

    return draw


def test_a_panel_has_a_curve_a_method_of_its_colour(drawn) -> None:
    first, far = drawn(curves(), by="step").axes
    lines = {line.get_label(): line for line in far.get_lines()}
    assert list(lines) == ["parametric", "implicit", "oracle"]
    assert list(lines["implicit"].get_xdata()) == [0, 1, 2, 5, 10]
    assert lines["implicit"].get_ydata() == pytest.approx([6 / (1 + n) for n in (0, 1, 2, 5, 10)])
    assert lines["oracle"].get_color() == "black"
    colours = {line.get_color() for line in lines.values()}
    assert len(colours) == 3
    assert {line.get_color() for line in first.get_lines()} == colours
    assert [label.get_text() for label in far.get_xticklabels()] == ["0", "1", "2", "5", "10"]
    first, _ = drawn(curves()).axes
    assert first.get_lines()[0].get_xdata()[0] == 16, "step 0 has seen no example"


def test_a_method_that_diverges_leaves_the_picture(drawn) -> None:
    def top(rows: list[Row], **options: object) -> float:
        (panel,) = drawn(rows, by="step", **options).axes
        return panel.get_ylim()[1]

    calm = [row(method="a", step=step, value=4.0 / step) for step in (1, 2, 3)]
    wild = [row(method="b", step=step, value=3.0**step) for step in (1, 2, 9)]
    assert top([*calm, *wild]) == 40
    assert top([*calm, *wild], scale="linear") > 3.0**9
    assert top(calm) < 10


def test_a_legend_names_each_curve_once(drawn) -> None:
    (legend,) = drawn(curves()).legends
    assert [text.get_text() for text in legend.get_texts()] == ["parametric", "implicit", "oracle"]


def test_in_one_panel_each_curve_is_named_at_its_end_a_line_apart(drawn) -> None:
    rows = [
        row(value, method=f"m{value}", step=step) for value in (1.0, 1.001, 9.0) for step in (1, 2)
    ]
    canvas = drawn(rows, by="step", title="What it shows")
    (panel,) = canvas.axes
    assert (canvas.get_suptitle(), canvas.legends) == ("What it shows", [])
    names = sorted(panel.texts, key=lambda text: -text.xy[1])
    assert [text.get_text() for text in names] == ["m9.0", "m1.001", "m1.0"]
    heights = [text.xy[1] for text in names]
    assert all(upper - lower > 0.06 for upper, lower in itertools.pairwise(heights))
    assert min(heights) >= 0
    colours = {line.get_label(): line.get_color() for line in panel.get_lines()}
    assert all(text.get_color() == colours[text.get_text()] for text in names)


def test_the_ending_names_the_format(tmp_path: Path) -> None:
    figure(curves(), str(tmp_path / "figure.pdf"), metric="error")
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")


def test_clouds_have_a_line_a_task_and_a_panel_a_title(tmp_path: Path) -> None:
    import matplotlib as mpl

    points = {"8 read": torch.randn(5, 2), "held back": torch.full((5, 2), 2.0)}
    with mpl.rc_context({"svg.fonttype": "none"}):
        clouds([("in", points), ("unseen", points)], tmp_path / "samples.svg")
    words = (tmp_path / "samples.svg").read_text()
    assert words.count(">in<") == words.count(">unseen<") == words.count(">8 read<") == 1
    assert words.count("PathCollection") == 4


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[" * 10**5,
        "[]",
        "3",
        "{}",
        '{"run": 1, "rows": []}',
        '{"run": {}, "rows": [{}]}',
        "\ud800",
    ],
)
def test_a_file_of_something_else_is_no_record(tmp_path: Path, content: str) -> None:
    path = tmp_path / "metrics.json"
    path.write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(ValueError, match=f"`{path}` is no record of `write_metrics`: "):
        read_metrics(path)
