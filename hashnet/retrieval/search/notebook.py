"""How a result and an index look in a notebook: HTML that needs nothing besides itself."""

import base64
import html
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from hashnet import images
from hashnet.errors import ImageError
from hashnet.images import sheets
from hashnet.retrieval.store.items import Item

if TYPE_CHECKING:
    from hashnet.images.sheets import Hit

SIDE = 128  # pixels of a thumbnail's longer side
QUALITY = 80
MOST = 24  # images shown, each a few kilobytes

_TILE = "margin:4px;width:136px;font:12px/1.3 sans-serif;overflow-wrap:anywhere"
_FRAME = f"position:relative;display:inline-block;max-width:{SIDE}px"
_MISSING = f"width:{SIDE}px;height:64px;background:#8882;display:grid;place-items:center"
_BOX = "position:absolute;box-sizing:border-box;border:2px solid #1e6edc"

Region = tuple[int, int, int, int]


def of_result(query: str, source: images.Source | None, hits: "Sequence[Hit]") -> str:
    """A query, and the hits beside it with label, scores and thumbnail.

    Args:
        query: str. What the query is called.
        source: the query's image as `images.Photo` takes it, or None.
        hits: of `Hit`. After `MOST` of them, only their number is shown.

    Returns:
        str of HTML, in which names are escaped and pictures are data URIs.

    Example:
        >>> of_result("<cat>", None, [])
        '...&lt;cat&gt;...'
    """
    tiles = [tile(source, ["query", os.path.basename(query) or query], query)]
    for hit in hits[:MOST]:
        lines = [hit.label or "", os.path.basename(hit.path or hit.id), sheets.scores(hit)]
        tiles.append(tile(hit.path, lines, hit.path or hit.id, hit.region))
    return row_of(tiles, len(hits) - MOST)


def of_index(title: str, items: Sequence[Item], total: int) -> str:
    """What an index is, and some of its images with label and thumbnail.

    Args:
        title: str.
        items: of `items.Item`.
        total: int. Images of the index.

    Returns:
        str of HTML, as from `of_result`.
    """
    tiles = [
        tile(item.path, [item.label or "", os.path.basename(item.path or item.id)], item.id)
        for item in items
    ]
    return f"<div>{_escaped(title)}</div>{row_of(tiles, total - len(items))}"


def tile(
    source: images.Source | None, lines: Iterable[str], title: str, region: Region | None = None
) -> str:
    """One image with lines of text beneath it.

    Args:
        source: as for `images.Photo`, or None where there is no picture.
        lines: of str; empty ones are left out.
        title: str, shown while the pointer rests on the image.
        region: (top, left, bottom, right) in pixels, outlined; or None.

    Returns:
        str of HTML.
    """
    picture = _picture(source, region)
    text = "<br>".join(_escaped(line) for line in lines if line)
    return f'<div style="{_TILE}" title="{_escaped(title)}">{picture}<div>{text}</div></div>'


def row_of(tiles: Iterable[str], more: int) -> str:
    """Tiles in rows, and how many more there would be.

    Args:
        tiles: of str, from `tile`.
        more: int; 0 or less for none.

    Returns:
        str of HTML.
    """
    end = f'<div style="{_TILE}">and {more} more</div>' if more > 0 else ""
    return f'<div style="display:flex;flex-wrap:wrap">{"".join(tiles)}{end}</div>'


def thumbnail(source: images.Source, side: int = SIDE) -> bytes:
    """A small JPEG of an image.

    Args:
        source: as for `images.Photo`.
        side: int, pixels. Of the longer side, at most; nothing is enlarged.

    Returns:
        bytes, the whole JPEG file.

    Raises:
        ImageError: the image cannot be read.
    """
    return images.to_jpeg(images.read_within(source, side), QUALITY)


def _picture(source: images.Source | None, region: Region | None) -> str:
    if source is None:
        return f'<div style="{_MISSING}">no picture</div>'
    try:
        content = thumbnail(source)
        height, width = images.size(source) if region else (1, 1)
    except ImageError:
        return f'<div style="{_MISSING}">picture gone</div>'
    data = base64.b64encode(content).decode("ascii")
    box = ""
    if region:
        top, left, bottom, right = region
        box = (
            f'<div style="{_BOX};top:{top / height:.2%};left:{left / width:.2%};'
            f'height:{(bottom - top) / height:.2%};width:{(right - left) / width:.2%}"></div>'
        )
    image = f'<img alt="" style="display:block" src="data:image/jpeg;base64,{data}">'
    return f'<div style="{_FRAME}">{image}{box}</div>'


def _escaped(text: str) -> str:
    # A name may hold half a surrogate pair, which no page can be encoded with.
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"))
