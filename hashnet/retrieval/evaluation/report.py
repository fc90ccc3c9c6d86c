"""The report folder of an evaluation: figures, plots, and a page that any browser opens.

    report/
      report.json     `EvaluationReport.to_dict`
      index.html      the same for people: protocol, tables, plots, best and worst queries
      plots/*.png
      pictures/*.jpg  thumbnails of queries and hits, numbered

The page runs no script and asks no other machine for anything. All text in it is escaped; names
from file systems never become names of files here. The folder is written beside its place and
then renamed, so it is there whole or not at all.
"""

import html
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hashnet import extras, files, images, metrics
from hashnet.errors import ArgumentError, HashnetError, ImageError
from hashnet.retrieval.evaluation.results import COARSE, FINE, EvaluationReport, Example, Stages

REPORT, PAGE, PLOTS, PICTURES = "report.json", "index.html", "plots", "pictures"

THUMBNAIL = 128
PROBLEMS_SHOWN = 200

# The content of another report's `report.json`.
Others = dict[str, Any]
# Draws one plot into a figure.
Draw = Callable[[Any, EvaluationReport, Mapping[str, Others]], None]


def require_plots() -> None:
    """Refuse before minutes of work what plots would refuse after them.

    Raises:
        HashnetError: matplotlib is not installed.
    """
    rule = "A report has plots, which matplotlib draws."
    extras.load("matplotlib.backends.backend_agg", "plots", rule)


def check_place(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder that a report may not replace, before minutes of work.

    Args:
        folder: path of the report: nothing yet, an empty folder, or a report.

    Raises:
        ArgumentError: something else is there.

    Example:
        >>> check_place("nothing/yet")
    """
    folder = pathlib.Path(folder)
    if not os.path.lexists(folder):
        return
    plain = folder.is_dir() and not folder.is_symlink()
    if not plain or (any(folder.iterdir()) and not (folder / REPORT).is_file()):
        raise ArgumentError(
            "A report replaces only a report or an empty folder.", str(folder), "Give a new name."
        )


def write(
    folder: str | os.PathLike[str],
    report: EvaluationReport,
    *,
    others: Mapping[str, Others] | None = None,
) -> None:
    """Write the report folder, in place of the report that may be there.

    Args:
        folder: path of the report.
        report: what `evaluate.evaluate` returned.
        others: dict of name to the content of another report's `report.json`, such as those of
            other code lengths: more points in the plot of mAP by bits.

    Raises:
        ArgumentError: something that is no report is there.
        HashnetError: matplotlib is not installed, or the disk refuses.
    """
    require_plots()
    check_place(folder)
    try:
        with files.whole_folder(folder) as beside:
            for inner in (beside / PLOTS, beside / PICTURES):
                inner.mkdir(mode=0o755)
            text = json.dumps(report.to_dict(), indent=1, ensure_ascii=True)
            (beside / REPORT).write_text(text + "\n", encoding="ascii")
            plots = _draw_plots(beside, report, others or {})
            page = "".join(_page(report, plots, _Thumbnails(beside)))
            (beside / PAGE).write_text(page, encoding="utf-8")
    except OSError as error:
        raise HashnetError(
            "A report is written where there is room and leave to write.",
            f"{folder}: {error.strerror or error}",
            "Name another folder, or free some space.",
        ) from error


# --- Plots ----------------------------------------------------------------------------------------


def _draw_plots(
    folder: pathlib.Path, report: EvaluationReport, others: Mapping[str, Others]
) -> list[tuple[str, str]]:
    """Draw all plots; list of (file name, caption)."""
    plots: list[tuple[str, str, Draw]] = [
        ("precision_at_k", "Precision among the first k", _precision_at_k),
        ("precision_recall", "Precision and recall, rank by rank", _precision_recall),
        ("bits_apart", "Hamming distances of queries and images", _bits_apart),
        ("bit_balance", "How often each bit is one, and how bits agree", _bit_balance),
    ]
    if sum(len(points) for points in _map_by_bits(report, others).values()) > 1:
        plots.append(("map_by_bits", "mAP by code length", _map_by_bits_plot))
    for name, _, draw in plots:
        figure = _figure(wide=draw is _bit_balance)
        draw(figure, report, others)
        # Without metadata: the file says nothing of who made it, and when.
        figure.savefig(folder / PLOTS / f"{name}.png", metadata={"Software": None})
    return [(f"{PLOTS}/{name}.png", caption) for name, caption, _ in plots]


def _figure(*, wide: bool) -> Any:
    # Not pyplot, which would keep figures and choose a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9 if wide else 6, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _measured(report: EvaluationReport) -> dict[str, metrics.Evaluation]:
    return {name: row.evaluation for name, row in report.rows.items() if row.evaluation}


def _plain(text: str) -> str:
    """Text for a plot, where matplotlib would read dollars as mathematics."""
    return _shown(text).replace("$", r"\$")


def _legend(axes: Any, place: str) -> None:
    # The best place is sought among all bars and points, which takes seconds.
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc=place)


def _precision_at_k(figure: Any, report: EvaluationReport, _: Mapping[str, Others]) -> None:
    axes = figure.subplots()
    ks = [k for k in report.curve_ks if k <= 1000]
    for name, evaluation in _measured(report).items():
        values = [evaluation.precision_at[k] for k in ks]
        axes.plot(ks, values, label=_plain(name), linewidth=_weight(name))
    axes.set(xscale="log", xlabel="k", ylabel="precision at k", ylim=(0, 1.02))
    _legend(axes, "lower left")


def _precision_recall(figure: Any, report: EvaluationReport, _: Mapping[str, Others]) -> None:
    axes = figure.subplots()
    for name, evaluation in _measured(report).items():
        recall = [evaluation.recall_at[k] for k in report.curve_ks]
        precision = [evaluation.precision_at[k] for k in report.curve_ks]
        axes.plot(recall, precision, label=_plain(name), linewidth=_weight(name))
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    _legend(axes, "lower left")


def _weight(name: str) -> float:
    return 2.2 if name in (COARSE, FINE) else 1.0


def _bits_apart(figure: Any, report: EvaluationReport, _: Mapping[str, Others]) -> None:
    axes = figure.subplots()
    evaluation = report.coarse.measured
    assert isinstance(evaluation, metrics.CodeEvaluation)
    right = evaluation.relevant_at_distance
    wrong = evaluation.items_at_distance - right
    apart = np.arange(len(right))
    for counts, name in ((right, "relevant"), (wrong, "not relevant")):
        axes.bar(apart, counts / max(1, counts.sum()), width=1, alpha=0.55, label=name)
    axes.set(xlabel="Hamming distance", ylabel="share of the pairs")
    _legend(axes, "upper right")


def _bit_balance(figure: Any, report: EvaluationReport, _: Mapping[str, Others]) -> None:
    left, right = figure.subplots(1, 2)
    left.bar(np.arange(len(report.bit_share)), report.bit_share, width=1)
    left.axhline(0.5, color="black", linewidth=0.8)
    left.set(xlabel="bit", ylabel="share of ones in the database", ylim=(0, 1))
    picture = right.imshow(report.bit_correlation, cmap="RdBu", vmin=-1, vmax=1)
    right.set(xlabel="bit", ylabel="bit", title="correlation")
    figure.colorbar(picture, ax=right, shrink=0.8)


def _map_by_bits(
    report: EvaluationReport, others: Mapping[str, Others]
) -> dict[str, dict[int, float]]:
    """dict of name to dict of bits to mAP, this report's and those of the others."""
    points = {name: dict(known) for name, known in report.map_by_bits.items() if known}
    for name, other in others.items():
        points.setdefault(name, {})[int(other["bits"])] = float(other["map_all"])
    return points


def _map_by_bits_plot(figure: Any, report: EvaluationReport, others: Mapping[str, Others]) -> None:
    axes = figure.subplots()
    for name, points in _map_by_bits(report, others).items():
        lengths = sorted(points)
        values = [points[bits] for bits in lengths]
        axes.plot(lengths, values, "o-", label=_plain(name), markersize=8 if name == "index" else 4)
    axes.set(xscale="log", xlabel="bits", ylabel="mAP, tie-aware, whole database")
    ticks = sorted({bits for points in _map_by_bits(report, others).values() for bits in points})
    axes.set_xticks(ticks, labels=[str(bits) for bits in ticks])
    axes.minorticks_off()
    _legend(axes, "lower right")


# --- The page -------------------------------------------------------------------------------------

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" \
content="script-src 'none'; object-src 'none'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width">
<title>HashNet: evaluation</title>
<style>
body { font: 15px/1.45 sans-serif; max-width: 1180px; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { padding: .25em .8em; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
td.why { text-align: left; color: #666; }
figure { display: inline-block; margin: 0 1em 1em 0; vertical-align: top; }
figcaption { color: #444; font-size: 13px; overflow-wrap: anywhere; }
.example { border-top: 1px solid #ddd; padding: .6em 0; }
.example figure { width: 132px; margin: 0 .4em 0 0; }
.example img, .none { border: 3px solid #ccc; box-sizing: border-box; }
.query img { border-color: #1e6edc; } .right img { border-color: #2a9d3a; }
.wrong img { border-color: #d03030; }
.none { width: 128px; height: 96px; display: inline-block; color: #888; text-align: center; }
</style>
</head>
<body>
<h1>Evaluation</h1>
"""


def _page(
    report: EvaluationReport, plots: Sequence[tuple[str, str]], thumbnails: "_Thumbnails"
) -> Iterator[str]:
    yield _HEAD
    yield f"<h2>Protocol</h2>\n<p>{_escaped(report.protocol)}</p>\n"
    yield "<h2>Figures</h2>\n"
    yield from _figures_table(report)
    if report.stages:
        yield from _stages_table(report.stages)
    for file, caption in plots:
        yield (
            f'<figure><img src="{_escaped(file)}" alt="{_escaped(caption)}">'
            f"<figcaption>{_escaped(caption)}</figcaption></figure>\n"
        )
    if report.map_by_label:
        yield "<h2>Labels, the hardest first</h2>\n"
        ranked = sorted(report.map_by_label.items(), key=lambda pair: pair[1])
        yield from _table(["label", "mAP of the codes"], [[n, f"{v:.4f}"] for n, v in ranked])
    for title, examples in (("Worst queries", report.worst), ("Best queries", report.best)):
        yield f"<h2>{title}</h2>\n<p>Query in blue; relevant hits in green, others in red.</p>\n"
        for example in examples:
            yield from _example(example, thumbnails)
    if report.problems:
        shown, number = report.problems[:PROBLEMS_SHOWN], len(report.problems)
        yield f"<h2>Problems</h2>\n<p>{number}, of which {len(shown)} are shown.</p>\n"
        yield from _table(["what", "why"], [[one.path, one.reason] for one in shown])
    yield "</body>\n</html>\n"


def _figures_table(report: EvaluationReport) -> Iterator[str]:
    at = report.coarse.measured.at
    names = ["", "bits", "mAP", "worst to best order of ties", f"mAP@{at}", f"@{at} of relevant"]
    names += [f"found at {k}" for k in metrics.FOUND_KS] + ["R-precision", "MAP@R"]
    names += [f"precision at {k}" for k in report.ks] + ["pool", "ms a query"]
    rows: list[Sequence[object]] = []
    for name, row in report.rows.items():
        if row.evaluation is None:
            rows.append([name, f"not measured: {row.not_measured}"])
            continue
        one = row.evaluation
        cells: list[object] = [name, row.bits or "none", f"{one.map_all.expected:.4f}"]
        cells.append(f"{one.map_all.worst:.4f} to {one.map_all.best:.4f}")
        cells += [f"{one.map_at:.4f}", f"{one.map_at_of_relevant:.4f}"]
        cells += [f"{value:.4f}" for value in one.found_at.values()]
        cells += [f"{one.r_precision:.4f}", f"{one.map_at_r:.4f}"]
        cells += [f"{one.precision_at[k]:.4f}" for k in report.ks]
        cells.append(f"{row.pool['mean']:.0f}" if row.pool else one.database)
        spent = row.milliseconds.get("total", row.milliseconds.get("coarse"))
        cells.append("" if spent is None else f"{spent:.2f}")
        rows.append(cells)
    yield from _table(names, rows)


def _stages_table(stages: Stages) -> Iterator[str]:
    yield f"<h2>Stages, {stages.queries} queries</h2>\n"
    rows = [
        [
            name,
            *(f"{figures[key]:.4f}" for key in ("found_at_1", "found_at_5", "map_all")),
            f"{figures['milliseconds']:.2f}",
        ]
        for name, figures in stages.figures.items()
    ]
    yield from _table(["", "R@1", "R@5", "mAP", "ms a query"], rows)


def _table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield "<table>\n<tr>" + "".join(f"<th>{_escaped(name)}</th>" for name in names) + "</tr>\n"
    for cells in rows:
        first, *others = (_escaped(cell) for cell in cells)
        if len(cells) < len(names):
            rest = f'<td class="why" colspan="{len(names) - 1}">{others[0]}</td>'
        else:
            rest = "".join(f"<td>{cell}</td>" for cell in others)
        yield f"<tr><td>{first}</td>{rest}</tr>\n"
    yield "</table>\n"


def _example(example: Example, thumbnails: "_Thumbnails") -> Iterator[str]:
    yield '<div class="example">\n'
    label = "" if example.label is None else f"{example.label}, "
    caption = f"{label}average precision {example.average_precision:.3f}, {example.query}"
    yield _picture("query", thumbnails.of(example.query), caption)
    for hit, right in zip(example.hits, example.relevant, strict=True):
        caption = f"{hit.label or hit.id}, {hit.bits_apart} bits, {hit.distance:.3f}"
        yield _picture("right" if right else "wrong", thumbnails.of(hit.path), caption)
    yield "</div>\n"


def _picture(kind: str, file: str | None, caption: str) -> str:
    if file is None:
        picture = '<span class="none">no picture</span>'
    else:
        picture = f'<img src="{_escaped(file)}" alt="">'
    return (
        f'<figure class="{kind}">{picture}<figcaption>{_escaped(caption)}</figcaption></figure>\n'
    )


class _Thumbnails:
    """Writes each picture once, under a number; pixels only, nothing else of the file."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._names: dict[str | None, str | None] = {}

    def of(self, path: str | None) -> str | None:
        """Name of the thumbnail, relative to the page; None where there is no picture."""
        if path not in self._names:
            self._names[path] = None if path is None else self._write(path)
        return self._names[path]

    def _write(self, path: str) -> str | None:
        try:
            image = images.read(path, min_side=THUMBNAIL)
        except ImageError:
            # A hit's file may have gone since it was indexed.
            return None
        scale = THUMBNAIL / max(image.shape[:2])
        size = tuple(max(1, round(side * scale)) for side in image.shape[:2])
        name = f"{PICTURES}/{len(self._names):04d}.jpg"
        images.write(self._folder / name, images.resize(image, size))
        return name


def _escaped(value: object) -> str:
    return html.escape(_shown(str(value)), quote=True)


def _shown(text: str) -> str:
    """Text that shows what is in it: control characters, odd bytes and turned writing too."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
