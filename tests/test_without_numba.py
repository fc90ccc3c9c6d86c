"""Where Numba is not installed, everything that searches gives the same answers."""

import importlib
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
QUICK = ("test_feedback.py",)
MORE = ("test_engine.py", "test_engine_regions.py")
THOROUGH = (
    "test_hamming.py",
    "test_rerank.py",
    "test_verify.py",
    "test_engine_verify.py",
    "test_contracts.py",
    "test_sharded.py",
    "test_local_pool.py",
    "test_index_regions.py",
)


def test_collecting_the_plugin_leaves_numba_to_the_other_tests():
    importlib.import_module("tests.without_numba")
    assert sys.modules.get("numba", ...) is not None


@pytest.mark.thorough
@pytest.mark.parametrize(
    "files",
    [
        QUICK,
        pytest.param(MORE, marks=pytest.mark.thorough),
        pytest.param(THOROUGH, marks=pytest.mark.slow),
    ],
)
def test_the_tests_of_searching_pass_without_numba(files):
    arguments = ["-q", "-p", "tests.without_numba", "-p", "no:cacheprovider", "-m", "not slow"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, *(f"tests/{name}" for name in files)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert run.returncode == 0 and " passed" in run.stdout, run.stdout + run.stderr
