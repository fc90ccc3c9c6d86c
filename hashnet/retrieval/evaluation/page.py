"""What pages of figures and pictures are made of, in a folder that is there whole or not at all.

A page runs no script and asks no other machine for anything. All text in it is escaped; names from
file systems never become names of files here.
"""

import html
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from hashnet import extras, files, images
from hashnet.errors import ArgumentError, HashnetError, ImageError
from hashnet.escapes import printable

REPORT, PAGE, PLOTS, PICTURES = "report.json", "index.html", "plots", "pictures"

THUMBNAIL = 128
PROBLEMS_SHOWN = 200


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
    folder: str | os.PathLike[str], figures: Any, fill: Callable[[pathlib.Path], Iterable[str]]
) -> None:
    """Write a report folder, in place of the report that may be there.

    Args:
        folder: path of the report.
        figures: what JSON can hold, for `report.json`.
        fill: function of the folder while it is made, which puts plots and pictures there and
            gives the parts of the page.

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
            text = json.dumps(figures, indent=1, ensure_ascii=True)
            (beside / REPORT).write_text(text + "\n", encoding="ascii")
            page = "".join(fill(beside))
            (beside / PAGE).write_text(page, encoding="utf-8")
    except OSError as error:
        raise HashnetError(
            "A report is written where there is room and leave to write.",
            f"{folder}: {error.strerror or error}",
            "Name another folder, or free some space.",
        ) from error


def save_plot(folder: pathlib.Path, name: str, figure: Any) -> str:
    """Put a plot into a report, and nothing into it of who made it, and when.

    Args:
        folder: pathlib.Path of the report.
        name: str.
        figure: from `figure`.

    Returns:
        str, its file, relative to the page.
    """
    figure.savefig(folder / PLOTS / f"{name}.png", metadata={"Software": None})
    return f"{PLOTS}/{name}.png"


def plot(file: str, caption: str) -> str:
    """A plot on the page.

    Args:
        file: str, as from `save_plot`.
        caption: str.

    Returns:
        str, HTML.
    """
    return (
        f'<figure><img src="{escaped(file)}" alt="{escaped(caption)}">'
        f"<figcaption>{escaped(caption)}</figcaption></figure>\n"
    )


def figure(*, wide: bool = False) -> Any:
    """An empty figure of matplotlib.

    Args:
        wide: bool. For two plots beside each other.

    Returns:
        `matplotlib.figure.Figure`.
    """
    # Not pyplot, which would keep figures and choose a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(9 if wide else 6, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(made)
    return made


def plain(text: str) -> str:
    """Text for a plot, where matplotlib would read dollars as mathematics.

    Args:
        text: str.

    Returns:
        str.
    """
    return printable(text).replace("$", r"\$")


_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" \
content="script-src 'none'; object-src 'none'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width">
<title>HashNet: %s</title>
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
<h1>%s</h1>
"""


END = "</body>\n</html>\n"


def head(title: str) -> str:
    """The beginning of a page.

    Args:
        title: str.

    Returns:
        str, HTML.
    """
    before, between, after = _HEAD.split("%s")
    return f"{before}{escaped(title.lower())}{between}{escaped(title)}{after}"


def table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """A table.

    Args:
        names: of the columns.
        rows: of cells, as many as there are names; or a name and one reason for all others.

    Yields:
        str, HTML.
    """
    yield "<table>\n<tr>" + "".join(f"<th>{escaped(name)}</th>" for name in names) + "</tr>\n"
    for cells in rows:
        first, *others = (escaped(cell) for cell in cells)
        if len(cells) < len(names):
            rest = f'<td class="why" colspan="{len(names) - 1}">{others[0]}</td>'
        else:
            rest = "".join(f"<td>{cell}</td>" for cell in others)
        yield f"<tr><td>{first}</td>{rest}</tr>\n"
    yield "</table>\n"


def problems(found: Sequence[images.Problem]) -> Iterator[str]:
    """The part of a page that names inputs which could not be used; nothing where there is none.

    Args:
        found: list of `images.Problem`.

    Yields:
        Parts of the page.
    """
    if found:
        named = found[:PROBLEMS_SHOWN]
        yield f"<h2>Problems</h2>\n<p>{len(found)}, of which {len(named)} are shown.</p>\n"
        yield from table(["what", "why"], [[one.path, one.reason] for one in named])


def picture(kind: str, file: str | None, caption: str) -> str:
    """A picture with its caption.

    Args:
        kind: `"query"`, `"right"` or `"wrong"`.
        file: str or None, as from `Thumbnails.of`.
        caption: str.

    Returns:
        str, HTML.
    """
    if file is None:
        shown_as = '<span class="none">no picture</span>'
    else:
        shown_as = f'<img src="{escaped(file)}" alt="">'
    return (
        f'<figure class="{kind}">{shown_as}<figcaption>{escaped(caption)}</figcaption></figure>\n'
    )


class Thumbnails:
    """Writes each picture once, under a number; pixels only, nothing else of the file.

    Args:
        folder: pathlib.Path of the report.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._names: dict[str | None, str | None] = {}

    def of(self, path: str | None) -> str | None:
        """The thumbnail of a picture.

        Args:
            path: str or None.

        Returns:
            str, its name, relative to the page; None where there is no picture.
        """
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


def escaped(value: object) -> str:
    """Text for a page, which is no HTML.

    Args:
        value: anything.

    Returns:
        str.
    """
    return html.escape(printable(str(value)), quote=True)
