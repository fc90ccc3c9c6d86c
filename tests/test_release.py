"""What is released: one version, a light import, and a wheel that works away from its source."""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

import hashnet
from hashnet import images

ROOT = pathlib.Path(__file__).resolve().parents[1]
ROOMS = ("hashnet",)
MOST_BYTES = 5_000_000

# Files that the packages read while they run, and what tells type checkers that there are types.
DATA = {
    path.relative_to(ROOT).as_posix()
    for room in ROOMS
    for path in (ROOT / room).rglob("*")
    if path.is_file() and path.suffix != ".py" and path.parent.name != "__pycache__"
}


def test_the_version_stands_in_one_place():
    settings = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    assert "version = attr: hashnet.version.__version__" in settings
    assert re.fullmatch(r"\d+\.\d+\.\d+", hashnet.__version__)
    others = [
        path
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if f'"{hashnet.__version__}"' in path.read_text(encoding="utf-8")
    ]
    assert others == [ROOT / "hashnet" / "version.py"]


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md", "docs/models.md"])
def test_links_and_make_targets_of_a_page_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", text, re.MULTILINE):
        assert f"\n{target}:" in makefile, target


def test_every_preset_has_its_model_card():
    presets = sorted((ROOT / "hashnet").glob("*/presets/*.npz"))
    cards = [path.with_suffix(".md").read_text(encoding="utf-8") for path in presets]
    assert presets
    for card in cards:
        assert all(f"**{word}**" in card for word in ("What", "How", "Limits", "Licence"))


def test_importing_the_packages_imports_nothing_else():
    # A clock would say it too, but not on every machine: bare Python has all that is loaded.
    code = "import sys; before = set(sys.modules); import {}; print(*set(sys.modules) - before)"
    for room in ("hashnet", "hashnet.train", "hashnet.retrieval"):
        run = subprocess.run(
            [sys.executable, "-c", code.format(room)], capture_output=True, text=True, cwd=ROOT
        )
        assert set(run.stdout.split()) == {"hashnet", "hashnet.version", room}, run.stderr


def test_searching_imports_neither_a_network_library_nor_one_that_only_few_need():
    code = (
        "import sys, hashnet.retrieval.search.engine, hashnet.retrieval.index, "
        "hashnet.encode.encoder; print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    loaded = {name.split(".")[0] for name in run.stdout.split()}
    assert "numpy" in loaded, run.stderr
    unwanted = "cv2 h5py jax keras matplotlib numba onnx onnxruntime openvino pandas pyarrow scipy"
    assert not loaded & {*unwanted.split(), "tensorflow"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built as `make dist` builds it."""
    if importlib.util.find_spec("build") is None:
        pytest.skip("the package `build` is not installed")
    folder = tmp_path_factory.mktemp("dist")
    run = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if run.returncode and "Failed to establish a new connection" in run.stdout + run.stderr:
        pytest.skip("building fetches setuptools, and there is no network")
    assert run.returncode == 0, run.stdout + run.stderr
    assert len(list(folder.glob("hashnet-*.tar.gz"))) == 1
    [built] = folder.glob("hashnet-*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_is_small_and_holds_all_data_and_no_tests(wheel):
    assert wheel.name.startswith(f"hashnet-{hashnet.__version__}-py3-none-any")
    assert wheel.stat().st_size < MOST_BYTES
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert names >= DATA
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == set(ROOMS)


@pytest.fixture(scope="module")
def clean(wheel, tmp_path_factory):
    """The Python of a new environment with the wheel, and this one's libraries behind it."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=False, symlinks=os.name == "posix")
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    python = pathlib.Path(paths["scripts"]) / pathlib.Path(sys.executable).name
    install = ("-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    run = away(sys.executable, folder, *install)
    assert run.returncode == 0, run.stderr
    # A path in a .pth file is searched last, and .pth files there, such as that of an editable
    # install, are not read: only libraries come from it.
    libraries = pathlib.Path(paths["purelib"]) / "libraries.pth"
    libraries.write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    return python


def away(python, folder, *arguments):
    """Run Python away from the source tree, without what this process was told by its caller."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run([python, *arguments], cwd=folder, env=env, capture_output=True, text=True)


@pytest.mark.slow
def test_the_installed_wheel_finds_its_data(clean, tmp_path):
    code = """
import pathlib, hashnet, hashnet.retrieval.service, train
from hashnet.samples import fashion_mnist
from hashnet.train.config import from_recipe, recipe_names
assert fashion_mnist()["test_images"].shape == (500, 28, 28)
assert all(from_recipe(name) for name in recipe_names()) and "photos" in recipe_names()
print(hashnet.__file__)
"""
    run = away(clean, tmp_path, "-c", code)
    assert run.returncode == 0, run.stderr
    assert pathlib.Path(run.stdout.strip()).is_relative_to(clean.parents[1])


@pytest.mark.slow
def test_the_installed_wheel_indexes_and_searches(clean, photos, tmp_path):
    command = ("-c", "import sys; from hashnet.cli import main; sys.exit(main())")
    run = away(clean, tmp_path, *command, "index", "photos.index", str(photos))
    assert run.returncode == 0, run.stderr
    query = tmp_path / "query.png"
    images.write(query, images.read(photos / "disc" / "3.png"))
    run = away(clean, tmp_path, *command, "search", "photos.index", str(query), "--json", "-k", "3")
    assert run.returncode == 0, run.stderr
    hits = json.loads(run.stdout)["hits"]
    assert hits[0]["path"] == str(photos / "disc" / "3.png") and hits[0]["bits_apart"] == 0
    assert {pathlib.Path(hit["path"]).parent.name for hit in hits} == {"disc"}
