"""Write docs/formats.md, the table of formats, from the code that reads them:

python -m tests.make_formats
"""

import pathlib

from hashnet import images
from hashnet.images.formats import FORMATS
from hashnet.images.jpeg import REDUCTION
from hashnet.images.reading import USUAL_BYTES
from hashnet.images.workers import MEMORY_MB, PROCESSOR_SECONDS

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
        f"\nRefused are pictures of more than {images.MAX_PIXELS // 10**6} million pixels "
        "(`--max-pixels` sets another limit),\n"
        f"files of more than {images.MAX_BYTES // 2**20} MiB and progressive JPEG of more than "
        f"{images.MAX_SCANS} scans. Photos in JPEG, unless they\nare progressive, and in JPEG 2000 "
        "are decoded at 1/2, 1/4 or 1/8 of their sides where that is enough,\nand may then be "
        f"{REDUCTION**2} times as large. What takes more than {PROCESSOR_SECONDS} s of "
        f"processor time or {MEMORY_MB} MB to decode,\nin proportion more of a file of more than "
        f"{USUAL_BYTES // 2**20} MB, is refused as well, but on Windows: few of less\nthan 30 "
        "million pixels do, and more are read with a higher `--max-pixels`. Of video nothing is\n"
        "read: the lightest package that decodes it brings 68 MB of codecs.\n"
    )
    return HEAD + "".join(rows) + limits


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
