"""What do hostile pictures cost, and what do others get while they come?

    python -m tests.bench.hostile INDEX PHOTO

Files as `tests/hostile_images.py` makes them, each decoded by itself in a process of the limits
that the service sets; then uploads of such files beside searches by PHOTO, and questions for
/healthz.
"""

import argparse
import concurrent.futures
import contextlib
import http.client
import os
import pathlib
import resource
import sys
import threading
import time
import urllib.parse

import numpy as np

from hashnet import images, system
from hashnet.errors import ImageError
from hashnet.images import apart
from hashnet.retrieval.service import uploads
from tests import hostile_images
from tests.bench import figures
from tests.bench.serve import multipart, served

# Of files of each kind that are uploaded.
UPLOADED = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("index")
    parser.add_argument("photo", type=pathlib.Path)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=20, help="hostile uploads a second")
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    content = options.photo.read_bytes()
    with served(options.index) as url:
        quiet = during(url, content, 10, 0)
        flooded = during(url, content, options.seconds, options.rate)
    figures.write(
        "hostile",
        {
            "question": "What do hostile pictures cost, and what do others get while they come?",
            "protocol": f"{options.files} files of {len(hostile_images.KINDS)} kinds, every other "
            "one damaged, each of 32 MiB at most, decoded by itself for a network and whole: "
            "processor time and memory until it is read or refused, beside what the decoders "
            f"themselves take. Then {options.rate:g} such uploads a second, sent from the same "
            "machine whether those before are answered or not, beside a search by a photo twice a "
            "second and a question for /healthz five times. Milliseconds as a client sees them.",
            "seed": 0,
            "files": options.files,
            "kinds": cost(options.files),
            "rate": options.rate,
            "quiet": quiet,
            "flooded": flooded,
        },
    )


def cost(number):
    """Seconds and megabytes that files of each kind took, at most, and how they ended."""
    found = {}
    limits = int(apart.MEMORY_MB * 2**20), apart.PROCESSOR_SECONDS
    for kind, data in hostile_images.files(number):
        basis = in_child(lambda: None, *limits)
        taken = in_child(lambda data=data: decode(data), *limits)
        of_kind = found.setdefault(kind, {"files": 0, "read": 0, "refused": 0, "stopped": 0})
        of_kind["files"] += 1
        of_kind[taken["end"]] += 1
        for name in ("seconds", "megabytes"):
            more = max(0.0, taken[name] - basis[name])
            of_kind[name] = round(max(of_kind.get(name, 0.0), more), 2)
        print(kind, len(data), taken, file=sys.stderr)
    return found


def decode(data):
    photo = images.Photo(data, max_pixels=uploads.MAX_PIXELS)
    if photo.size[0] * photo.size[1] <= uploads.MAX_PIXELS:
        photo.resized((224, 224))
        photo.full()


def in_child(action, memory, seconds):
    """What a process took that did something; all that it is given lies in its memory before."""
    pid = os.fork()
    if not pid:
        end = 1
        with contextlib.suppress(BaseException):
            with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
                file.write("5")  # the peak is that of what follows
            system.limit_memory(memory)
            system.limit_processor_time(seconds)
            try:
                action()
                end = 0
            except (ImageError, MemoryError):
                end = 2
        os._exit(end)
    _, status, usage = os.wait4(pid, 0)
    end = {0: "read", 2: "refused"}.get(os.waitstatus_to_exitcode(status), "stopped")
    return {
        "end": end,
        "seconds": usage.ru_utime + usage.ru_stime,
        "megabytes": usage.ru_maxrss / 1024,
    }


def during(url, photo, seconds, rate):
    """What searches and /healthz take while hostile uploads come, and what these are answered."""
    files = [data for _, data in hostile_images.files(UPLOADED * len(hostile_images.KINDS))]
    bodies, good = [multipart(data) for data in files], multipart(photo)
    statuses, searches, healths = {}, [], []
    until, lock = time.monotonic() + seconds, threading.Lock()

    def ask(*request):
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=60)
        start = time.perf_counter()
        try:
            connection.request(*request)
            answer = connection.getresponse()
            answer.read()
            return answer.status, (time.perf_counter() - start) * 1000
        except OSError:
            return "no answer", (time.perf_counter() - start) * 1000
        finally:
            connection.close()

    def attack(number):
        status, _ = ask("POST", "/api/search", *bodies[number % len(bodies)])
        with lock:
            statuses[str(status)] = statuses.get(str(status), 0) + 1

    def again_and_again(every, into, *request):
        while time.monotonic() < until:
            status, taken = ask(*request)
            into.append(taken if status == 200 else np.inf)
            time.sleep(every)

    with concurrent.futures.ThreadPoolExecutor(200) as pool:
        asking = [
            pool.submit(again_and_again, 0.5, searches, "POST", "/api/search", *good),
            pool.submit(again_and_again, 0.2, healths, "GET", "/healthz"),
        ]
        number, start = 0, time.monotonic()
        while rate and time.monotonic() < until:
            pool.submit(attack, number)
            number += 1
            time.sleep(max(0.0, start + number / rate - time.monotonic()))
        for one in asking:
            one.result()
    return {"search": spread(searches), "health": spread(healths), "uploads": statuses}


def spread(times):
    failed = int(np.isinf(times).sum())
    p50, p95 = np.percentile(times, [50, 95], method="lower")
    return {
        "asked": len(times),
        "failed": failed,
        "p50": None if np.isinf(p50) else round(float(p50), 1),
        "p95": None if np.isinf(p95) else round(float(p95), 1),
    }


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
