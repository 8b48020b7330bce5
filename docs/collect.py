"""Puts the runs of one example with several seeds into docs/results: `collect.py RUN [RUN ...]`.

Each RUN is a folder with a metrics.json. It copies the records, and samples.png of the first run if
there is one. The figure and the tables show means over seeds, with the standard error over seeds.
"""

import argparse
import shutil
from pathlib import Path

from iai_train import Row, figure, over_seeds, read_metrics

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Copies the records, draws the figure and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--title", default="", help="what the figure shows, in a sentence")
    parser.add_argument("--into", type=Path, default=RESULTS, help="folder of the records")
    given = parser.parse_args()
    paths = [run / "metrics.json" for run in given.runs]
    read = [read_metrics(path) for path in paths]
    names = {(run.example, run.preset, run.device) for run, _ in read}
    if len(names) > 1:
        parser.error(f"the runs must be of one example, preset and device; got {sorted(names)}")
    ((example, preset, device),) = names
    out = given.into / f"{example}-{preset}"
    out.mkdir(parents=True, exist_ok=True)
    for (run, _), path in zip(read, paths, strict=True):
        shutil.copyfile(path, out / f"seed-{run.seed}.json")
    samples = paths[0].with_name("samples.png")
    if samples.exists():
        shutil.copyfile(samples, out / "samples.png")
    rows = [row for _, rows in read for row in rows]
    metric = rows[0].metric
    measured = [(row.method, row.split, row.examples) for row in read[0][1] if row.metric == metric]
    read_again = len(set(measured)) < len(measured)  # more steps than examples to read
    figure(
        rows,
        out / "figure.png",
        metric=metric,
        scale="linear" if metric in ("accuracy", "order error") else "log",
        by="step" if read_again else "examples",
        title=given.title,
    )
    minutes = ", ".join(f"{run.wall_seconds / 60:.1f}" for run, _ in read)
    seeds = ", ".join(str(run.seed) for run, _ in read)
    first = read[0][0]
    made_of = ", ".join(f"{name} {which}" for name, which in (first.versions | first.data).items())
    text = [f"Seeds {seeds}; {minutes} minutes on {device}; {made_of}.", ""]
    for metric in dict.fromkeys(row.metric for row in rows):
        chosen = [row for row in rows if row.metric == metric]
        for split in dict.fromkeys(row.split for row in chosen):
            text += table([row for row in chosen if row.split == split], f"{metric}, {split}")
    (out / "tables.md").write_text("\n".join(text))


def table(rows: list[Row], title: str) -> list[str]:
    """A Markdown table with a row per method and a column per step."""
    rows = over_seeds(rows)
    steps = sorted({row.step for row in rows})
    lines = [f"**{title}**", "", "| step | " + " | ".join(map(str, steps)) + " |"]
    lines.append("|---" * (len(steps) + 1) + "|")
    for method in dict.fromkeys(row.method for row in rows):
        measured = {row.step: row for row in rows if row.method == method}
        cells = [cell(measured[step]) if step in measured else "" for step in steps]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def cell(row: Row) -> str:
    """The mean over seeds and its standard error."""
    if row.stderr != row.stderr:
        return f"{row.value:.3g}"
    return f"{row.value:.3g} ± {row.stderr:.1g}"


if __name__ == "__main__":
    main()
