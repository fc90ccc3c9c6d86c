"""Write docs/formats.md, the table of formats, from the code that reads them:

python -m tests.make_formats
"""

import pathlib

from hashnet import images
from hashnet.images.formats import FORMATS

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "formats.md"
HEAD = """# Formats

Written by `python -m tests.make_formats` from the code; do not edit.

A file is told by its content, whatever its name: without a suffix, with a wrong one, a JPEG file
named `.HEIC`. In a folder a file is taken if its name ends as one of these or if its content begins
as one of these; all others are counted by suffix ("passed over: 12 .mov, 3 .pdf"). What is taken
and cannot be read is named with its reason.

| format | names mostly end in | read by | |
|---|---|---|---|
"""


def page() -> str:
    """The page as the code has it now."""
    rows = [
        f"| {one.name} | {' '.join(f'`{suffix}`' for suffix in one.suffixes)} | {one.reader} "
        f"| {one.note} |\n"
        for one in FORMATS
    ]
    limits = (
        f"\nRefused are files of more than {images.MAX_BYTES // 2**20} MiB and progressive JPEG of "
        f"more than {images.MAX_SCANS} scans.\n"
    )
    return HEAD + "".join(rows) + limits


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
