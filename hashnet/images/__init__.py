"""From files to pixels and back: finding, reading, resizing and writing pictures.

No other package touches Pillow. Whatever the bytes of a file, the answer is an image, uint8 RGB
`(height, width, 3)` and upright, or an `ImageError` that names the file and says why.

A file is judged by its content, never by its name. Only the formats of `ALLOWED_FORMATS` are
tried, each by its own decoder; the header's size is checked before a pixel is decoded, and what the
file is made of (segments, scans, chunks, blocks, boxes, directories) is counted before a decoder
walks through it; what may take long all the same is decoded in a process of its own, which ends
where it does; only the first page, or the first frame that shows something, is. Colours of
another profile (ICC) become sRGB. All functions may run in many threads at once.
"""

from hashnet.images.captions import text
from hashnet.images.exclusion import (
    DEFAULT_EXCLUDES,
    HIDDEN,
    IGNORE_FILE,
    Exclusion,
    Scope,
    matcher,
)
from hashnet.images.exif import Exif
from hashnet.images.finding import (
    Found,
    Listing,
    Problem,
    distinct,
    find,
    passed_over_in_words,
)
from hashnet.images.formats import ALLOWED_FORMATS, SUFFIXES
from hashnet.images.jpeg import MAX_SCANS
from hashnet.images.reading import (
    MAX_PIXELS,
    Photo,
    Source,
    is_one,
    read,
    read_resized,
    read_within,
    set_max_pixels,
    size,
)
from hashnet.images.resizing import resize
from hashnet.images.sidecars import Sidecars
from hashnet.images.sources import CONTENT_BYTES, MAX_BYTES, content_hash
from hashnet.images.writing import check_target, to_jpeg, to_png, write

__all__ = [
    "ALLOWED_FORMATS",
    "CONTENT_BYTES",
    "DEFAULT_EXCLUDES",
    "HIDDEN",
    "IGNORE_FILE",
    "MAX_BYTES",
    "MAX_PIXELS",
    "MAX_SCANS",
    "SUFFIXES",
    "Exclusion",
    "Exif",
    "Found",
    "Listing",
    "Photo",
    "Problem",
    "Scope",
    "Sidecars",
    "Source",
    "check_target",
    "content_hash",
    "distinct",
    "find",
    "is_one",
    "matcher",
    "passed_over_in_words",
    "read",
    "read_resized",
    "read_within",
    "resize",
    "set_max_pixels",
    "size",
    "text",
    "to_jpeg",
    "to_png",
    "write",
]
