"""Where benchmarks put what they measured, with what it takes to measure it again."""

import importlib.metadata
import json
import os
import pathlib
import platform
import re
import subprocess
import sys

FOLDER = pathlib.Path(__file__).parent / "results"
PACKAGES = ("numpy", "keras", "tensorflow", "onnxruntime", "openvino", "numba", "faiss-cpu", "chdb")


def write(name, report):
    """Write `report` as `results/NAME.json`, with commit, machine, versions and command."""
    path = FOLDER / f"{name}.json"
    facts = {
        "command": " ".join(["python", "-m", f"tests.bench.{_script()}", *portable(sys.argv[1:])]),
        "commit": _git("rev-parse", "HEAD"),
        "machine": {"processor": _processor(), "cores": len(os.sched_getaffinity(0))},
        "versions": {"python": platform.python_version(), **_versions()},
    }
    path.write_text(json.dumps({**facts, **report}, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}", file=sys.stderr)


def read(name):
    """What `write` wrote."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def _script():
    return pathlib.Path(sys.argv[0]).stem


def portable(arguments):
    """Arguments of a command with no more of an absolute path than tells data sets apart."""
    return [re.sub(r"(?<![^\s:,=])/[^\s:,=]+", _tail, argument) for argument in arguments]


def _tail(path):
    parts = path[0].strip("/").split("/")
    return "/".join(parts[1:][-2:] or parts)


def _git(*arguments):
    run = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=FOLDER)
    return run.stdout.strip()


def _processor():
    """Its name, which virtual machines cut short, and the widest vectors that it computes with."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    said = dict(line.split(":", 1) for line in lines if ":" in line)
    said = {name.strip(): value.strip() for name, value in said.items()}
    flags = said.get("flags", "").split()
    vectors = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else ""
    return ", ".join(filter(None, (said.get("model name", platform.processor()), vectors)))


def _versions():
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed
