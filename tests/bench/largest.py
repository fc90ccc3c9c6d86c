"""What do the largest and slowest pictures cost that a folder can hold, until read or refused?

    python -m tests.bench.largest [FOLDER]

Files as `tests/largest_images.py` makes them; in FOLDER they are kept for the next time.
"""

import argparse
import json
import os
import pathlib
import re
import resource
import sys
import tempfile
import time

from hashnet import images
from hashnet.errors import ImageError
from hashnet.images import formats, workers
from tests import largest_images
from tests.bench import figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=pathlib.Path)
    parser.add_argument("--only", default="", help="kinds whose names begin so")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or pathlib.Path(temporary)
        for kind, maker in largest_images.KINDS.items():
            if kind.startswith(options.only):
                rows.append({"kind": kind, **of_kind(folder, kind, maker)})
                print(rows[-1], file=sys.stderr)
    if options.only:
        return
    figures.write(
        "largest",
        {
            "question": "What do the largest and slowest pictures cost until read or refused?",
            "protocol": "One file of 32 MiB and 65 million pixels at most of each of the slowest "
            "kinds of each format, read as from a folder: squashed for a network, and whole. "
            "Processor time here and in the process that it was decoded in, if any, and the most "
            "memory of each beside what the decoders take, the file included here; of one that "
            "was killed, what it may take.",
            "seed": 0,
            "rows": rows,
        },
    )


def of_kind(folder, kind, maker):
    path = folder / (re.sub(r"\W+", "_", kind) + (".tga" if kind.startswith("TGA") else ".x"))
    if not path.exists():
        path.write_bytes(maker())
    row = {"megabytes": round(path.stat().st_size / 2**20, 1)}
    for name, ask in (("squashed", lambda photo: photo.resized((224, 224))), ("whole", full)):
        row[name] = in_child(path, ask)
    return row


def full(photo):
    return photo.full()


def in_child(path, ask):
    """What reading a picture took in a process of its own, and in the one that it started."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(writing, json.dumps(taken(path, ask)).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        told = json.loads(file.read())
    os.waitpid(pid, 0)
    return told


def taken(path, ask):
    formats.load_plugins()
    apart, real = [0.0, 0.0], workers.Worker.kill

    def kill(worker):
        seconds, memory = worker.seconds(), peak(worker._pid)
        most = workers.PROCESSOR_SECONDS, workers.MEMORY_MB
        is_dead = memory == 0
        apart[0] += most[0] if is_dead else seconds
        apart[1] = max(apart[1], most[1] if is_dead else memory - base)
        real(worker)

    workers.Worker.kill = kill
    if workers.are_there():  # what a process takes that has decoded nothing
        worker = workers.Worker(2**30, 9)
        time.sleep(0.1)
        base = peak(worker._pid)
        real(worker)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is that of what follows
    before, began, end = peak("self"), time.process_time(), "read"
    try:
        ask(images.Photo(path))
    except ImageError as error:
        known = ("it takes longer", "it takes more memory", "it seems to take more memory")
        known += ("more pixels than the limit",)
        end = next((one for one in known if one in str(error)), str(error))
    here = time.process_time() - began, peak("self") - before
    return {
        "end": end,
        "seconds": round(here[0] + apart[0], 2),
        "megabytes": round(here[1]),
        "megabytes_apart": round(apart[1]),
    }


def peak(pid):
    """The most memory that a process has had, megabytes; 0 of one that has ended."""
    try:
        said = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+)", said)
    return int(found[1]) / 1024 if found else 0


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
