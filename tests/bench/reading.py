"""What does it take to look at every file of a folder, and to read very large photos?

Run from the root of the repository, on any one photo:

    python -m tests.bench.reading PHOTO [--files 10000]

- `find`: seconds that `images.find` takes for so many files on a local disk: a quarter each of JPEG
  under its own suffix, JPEG without a suffix, films and notes; of all but the first the content is
  looked at.
- `large`: PHOTO enlarged to so many megapixels, saved as JPEG, and read at 224 x 224 pixels in a
  process of its own: seconds, and MiB by which its memory grows at most.

Writes tests/bench/results/reading.json.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from PIL import Image

from hashnet import images
from tests.bench import figures

REPEATS = 5
KINDS = (".jpg", "", ".mov", ".txt")
# Width and height of a Pixel 8 Pro's own photos, of two sensors of Samsung, and of a scan.
SIZES = {50: (8160, 6144), 108: (12000, 9000), 200: (16320, 12240), 1024: (32000, 32000)}
READ = """
import json, pathlib, re, sys, time
import numpy as np
from hashnet import images

def most():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) / 1024

images.read_resized(images.to_jpeg(np.zeros((64, 64, 3), np.uint8)), (8, 8))
before, start = most(), time.perf_counter()
images.read_resized(sys.argv[1], (224, 224))
print(json.dumps([time.perf_counter() - start, most() - before]))
"""


def listing(folder, photo, number):
    """Seconds for each of `REPEATS` listings of so many files."""
    small = images.to_jpeg(images.read_within(photo, 160))
    contents = {".jpg": small, "": small, ".mov": bytes(len(small)), ".txt": b"words " * 1000}
    for place in range(number):
        suffix = KINDS[place % len(KINDS)]
        (folder / f"{place}{suffix}").write_bytes(contents[suffix])
    seconds = []
    for _ in range(REPEATS + 1):  # the first is not counted
        start = time.perf_counter()
        found, problems, passed_over = images.find([folder])
        seconds.append(time.perf_counter() - start)
        assert len(found) == sum(passed_over.values()) == number // 2 and not problems
    return seconds[1:]


def large(folder, photo):
    """A row for each size."""
    rows = []
    with Image.open(photo) as opened:
        whole = opened.convert("RGB")
    for megapixels, size in SIZES.items():
        path = folder / "large.jpg"
        whole.resize(size).save(path, quality=75)
        runs = []
        for _ in range(3):
            command = [sys.executable, "-c", READ, str(path)]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            runs.append(json.loads(run.stdout))
        seconds, grown = (statistics.median(column) for column in zip(*runs, strict=True))
        rows.append(
            {
                "megapixels": megapixels,
                "mebibytes_of_file": round(path.stat().st_size / 2**20, 1),
                "seconds": round(seconds, 3),
                "mebibytes_grown": round(grown),
            }
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photo", type=pathlib.Path)
    parser.add_argument("--files", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch) / "many"
        folder.mkdir()
        seconds = listing(folder, arguments.photo, arguments.files)
        rows = large(pathlib.Path(scratch), arguments.photo)
    report = {
        "find": {
            "files": arguments.files,
            "repeats": REPEATS,
            "seconds": round(statistics.median(seconds), 3),
            "spread": [round(min(seconds), 3), round(max(seconds), 3)],
        },
        "large": rows,
    }
    figures.write("reading", report)


if __name__ == "__main__":
    main()
