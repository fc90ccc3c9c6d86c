"""The plan of the code: no import climbs, no circle of files, and each secret has one file."""

import ast
import pathlib
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "hashnet"
# Who may see whom: networks and codes know nothing of training and retrieval, and these two do
# not see each other. The roof may reach into all rooms.
FLOORS = tomllib.loads((ROOT / "tests" / "floors.toml").read_text(encoding="utf-8"))


def files():
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in files()}


def imports(path):
    """Dotted names of what a file imports, at its top or within its functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relative to itself"
            yield from (
                inner if (inner := f"{node.module}.{alias.name}") in MODULES else node.module
                for alias in node.names
            )
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and ast.unparse(node.func) == "extras.load"
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.args[0].value


@pytest.fixture(scope="module")
def all_imports():
    """dict of the name of each module to the set of what it imports."""
    return {name: set(imports(path)) for name, path in MODULES.items()}


@pytest.fixture(scope="module")
def graph(all_imports):
    """The same, of our own modules only."""
    return {name: {one for one in all_imports[name] if one in MODULES} - {name} for name in MODULES}


def floor_of(module):
    """Number of the first floor, from the ground, that names a module or a package it is in."""
    for number, rooms in enumerate(FLOORS["floors"]):
        if any(module == room or module.startswith(f"{room}.") for room in rooms):
            return number
    raise AssertionError(f"{module} stands on no floor of tests/floors.toml")


@pytest.mark.parametrize("module", MODULES)
def test_no_import_climbs(module, graph):
    climbing = {seen for seen in graph[module] if floor_of(seen) > floor_of(module)}
    assert not climbing


def test_training_and_retrieval_do_not_see_each_other(graph):
    crossing = [
        (name, seen)
        for name, all_seen in graph.items()
        for seen in all_seen
        if {".".join(one.split(".")[:2]) for one in (name, seen)}
        == {"hashnet.train", "hashnet.retrieval"}
    ]
    assert not crossing


def test_files_import_each_other_in_no_circle(graph):
    left = dict(graph)
    while free := [name for name, seen in left.items() if not seen & set(left)]:
        for name in free:
            del left[name]
    assert not left


@pytest.mark.parametrize("package", FLOORS["keepers"])
def test_a_secret_has_one_keeper(package, all_imports):
    users = {
        name
        for name, imported in all_imports.items()
        if any(seen.split(".")[0] == package for seen in imported)
    }
    keeper = FLOORS["keepers"][package]
    assert users and all(user == keeper or user.startswith(f"{keeper}.") for user in users)


# Files that hold subclasses of other libraries' classes or compiled kernels: imported by the
# functions of other files, when they build, train or scan, or by who wants nothing else.
LAZY = FLOORS["lazy"]


def test_importing_loads_no_network_library_but_in_the_files_known_for_it():
    assert set(LAZY) <= set(MODULES)
    modules = [name for name in MODULES if name not in LAZY and "samples" not in name]
    heavy = {"tensorflow", "keras", "jax", "numba", "matplotlib", "cv2", "faiss", "sklearn"}
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {modules}]; "
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.strip() == "[]", run.stderr
