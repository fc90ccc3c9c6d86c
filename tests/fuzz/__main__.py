"""Fuzz for some time: see `tests/fuzz/__init__.py`."""

import argparse
import hashlib
import importlib.util
import pathlib
import random
import subprocess
import sys
import time

from tests.fuzz import TARGETS, judged, mutated

FOUND = pathlib.Path("build/fuzz")


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=3600, help="in all (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guided", action="store_true", help="by coverage, with atheris")
    options = parser.parse_args()
    names = options.targets or list(TARGETS)
    if unknown := sorted({*names} - {*TARGETS}):
        parser.error(f"no such target: {', '.join(unknown)}")
    each = options.seconds / len(names)
    if options.guided and importlib.util.find_spec("atheris") is None:
        parser.error("pip install atheris")
    if options.guided and len(names) > 1:  # it ends the process of each
        command = [sys.executable, "-m", "tests.fuzz", "--guided", "--seconds", str(each)]
        statuses = [subprocess.run([*command, name], check=False).returncode for name in names]
        return max(statuses)
    if options.guided:
        return guided(names[0], each)
    return max([unguided(name, each, options.seed) for name in names])


def unguided(name, seconds, seed):
    """Change good inputs at random, until one is a find or the time is over."""
    target, rng, number, read = TARGETS[name], random.Random(f"{name} {seed}"), 0, 0
    corpus, end = target.corpus(), time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutated(rng, corpus)
        try:
            read += judged(target, data)
        except Exception as error:
            print(f"{name}: {error!r} by {kept(name, data)}", file=sys.stderr)
            return 1
        number += 1
    print(f"{name}: {number} inputs, {read} read, the others refused by name")
    return 0


def kept(name, data):
    """Where an input is kept that was a find."""
    FOUND.mkdir(parents=True, exist_ok=True)
    path = FOUND / f"{name}-{hashlib.sha256(data).hexdigest()[:16]}"
    path.write_bytes(data)
    return path


def guided(name, seconds):
    """Have atheris change them, which keeps what reaches new lines of HashNet."""
    import atheris

    target = TARGETS[name]
    folder = FOUND / "corpus" / name
    folder.mkdir(parents=True, exist_ok=True)
    for data in target.corpus():
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    with atheris.instrument_imports(include=["hashnet"]):
        for data in target.corpus():
            judged(target, data)  # loads what it needs
    arguments = [f"-max_total_time={int(seconds)}", "-max_len=65536", f"-artifact_prefix={FOUND}/"]
    atheris.Setup([sys.argv[0], *arguments, str(folder)], lambda data: judged(target, data))
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
