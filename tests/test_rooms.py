"""The rooms look one way: hashnet <- train, hashnet <- retrieval, and each secret has one file."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
ROOMS = {"hashnet", "train", "retrieval"}
MAY_SEE = {
    "hashnet": {"hashnet"},
    "train": {"train", "hashnet"},
    "retrieval": {"retrieval", "hashnet"},
}
THE_DOOR = "hashnet/cli.py"


def files():
    return sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relative to itself"
            yield node.module


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_what_it_may_see(path):
    place = path.relative_to(ROOT).as_posix()
    seen = {name.split(".")[0] for name in imports(path)} & ROOMS
    if place != THE_DOOR:
        assert seen <= MAY_SEE[place.split("/")[0]]


@pytest.mark.parametrize(
    ("package", "keeper"),
    [
        ("PIL", "hashnet/images.py"),
        ("clickhouse_connect", "retrieval/clickhouse.py"),
        ("sqlite3", "retrieval/catalogue.py"),
    ],
)
def test_a_secret_has_one_keeper(package, keeper):
    users = {
        path.relative_to(ROOT).as_posix()
        for path in files()
        if any(name.split(".")[0] == package for name in imports(path))
    }
    assert users == {keeper}


# Files that hold subclasses of Keras's classes or compiled kernels: imported by the functions
# of other files, when they build, train or scan.
LAZY = {
    "retrieval/kernels.py": "numba",
    "train/batches.py": "keras",
    "train/callbacks.py": "keras",
    "train/losses.py": "keras",
    "train/merged.py": "keras",
    "train/network.py": "keras",
    "train/pooling.py": "keras",
    "train/state.py": "keras",
}


def test_importing_loads_no_network_library_but_in_the_files_known_for_it():
    places = [path.relative_to(ROOT) for path in files() if path.name != "__init__.py"]
    modules = [
        ".".join(place.with_suffix("").parts)
        for place in places
        if place.as_posix() not in LAZY and "samples" not in place.parts
    ]
    heavy = {"tensorflow", "keras", "jax", "numba", "matplotlib", "cv2", "faiss"}
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {modules}]; "
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.strip() == "[]", run.stderr
