"""What is released: one version, a light import, and a wheel that works away from its source."""

import email
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
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


def test_the_changelog_begins_with_this_version_and_a_citation_names_none():
    """The version is raised in one place; what else would tell it must follow or be silent."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (\S+), (unreleased|\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    assert len(sections) == len(re.findall("^## ", changelog, re.MULTILINE))
    assert sections[0][0] == hashnet.__version__
    assert all(date != "unreleased" for _, date in sections[1:])
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert not re.search("^version:", citation, re.MULTILINE)


def test_the_workflow_is_one_and_its_pythons_are_those_of_setup_cfg():
    pytest.importorskip("check_jsonschema")
    yaml = pytest.importorskip("yaml")
    file = ROOT / ".github" / "workflows" / "tests.yml"
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    run = subprocess.run([*check, "vendor.github-workflows", file], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    jobs = yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"]
    pythons = jobs["fast"]["strategy"]["matrix"]["python"]
    assert f"python_requires = >={pythons[0]}" in (ROOT / "setup.cfg").read_text(encoding="utf-8")
    assert all(isinstance(python, str) for python in pythons)  # 3.10 as a number is 3.1
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for step in (step for job in jobs.values() for step in job["steps"]):
        for target in re.findall(r"^make (\w+)", step.get("run", "")):
            assert f"\n{target}:" in makefile, target


def test_every_preset_has_its_model_card():
    presets = sorted((ROOT / "hashnet").glob("*/presets/*.npz"))
    cards = [path.with_suffix(".md").read_text(encoding="utf-8") for path in presets]
    assert presets
    for card in cards:
        assert all(f"**{word}**" in card for word in ("What", "How", "Limits", "Licence"))


def test_importing_the_packages_imports_nothing_but_some_of_the_standard_library():
    # A clock would say it too, but not on every machine.
    code = "import sys; before = set(sys.modules); import {}; print(*set(sys.modules) - before)"
    for room in ("hashnet", "hashnet.train", "hashnet.retrieval"):
        run = subprocess.run(
            [sys.executable, "-c", code.format(room)], capture_output=True, text=True, cwd=ROOT
        )
        loaded = {
            name for name in run.stdout.split() if name.split(".")[0] not in sys.stdlib_module_names
        }
        assert loaded == {"hashnet", "hashnet.version", room}, run.stderr


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


# --- What is built and installed, each from a checkout of its own ---------------------------------


def built_from(folder, *, links_are_links=True):
    """The source archive and the wheel of a checkout in `folder`, as `make dist` builds them."""
    if importlib.util.find_spec("build") is None:
        pytest.skip("the package `build` is not installed")
    checkout = checked_out(folder / "checkout", links_are_links=links_are_links)
    run = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", folder / "dist"],
        cwd=checkout,
        capture_output=True,
        text=True,
    )
    skip_without_network(run)
    assert run.returncode == 0, run.stdout + run.stderr
    [archive] = (folder / "dist").glob("hashnet-*.tar.gz")
    [wheel] = (folder / "dist").glob("hashnet-*.whl")
    return archive, wheel


def checked_out(folder, *, links_are_links):
    """What Git keeps, copied; where a system has no links, Git writes them as files of text."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if names.returncode:
        pytest.skip("this is no checkout of Git")
    for name in filter(None, names.stdout.split("\0")):
        source, target = ROOT / name, folder / name
        if not os.path.lexists(source):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink() and not links_are_links:
            target.write_text(os.readlink(source), encoding="utf-8")
        else:
            shutil.copyfile(source, target, follow_symlinks=False)
    return folder


def skip_without_network(run):
    if run.returncode and "Failed to establish a new connection" in run.stdout + run.stderr:
        pytest.skip("building fetches setuptools, and there is no network")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return built_from(tmp_path_factory.mktemp("built"))


@pytest.mark.slow
def test_the_wheel_is_small_and_holds_all_data_and_nothing_beside_the_package(built):
    archive, wheel = built
    assert wheel.name.startswith(f"hashnet-{hashnet.__version__}-py3-none-any")
    assert wheel.stat().st_size < MOST_BYTES
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        [top_level] = [name for name in names if name.endswith("/top_level.txt")]
        assert file.read(top_level).split() == [b"hashnet"]
    assert names >= DATA
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"hashnet"}
    with tarfile.open(archive) as file:
        kept = {pathlib.PurePath(member.name).parts[1:2] for member in file}
    assert ("hashnet",) in kept and not kept & {("train",), ("retrieval",)}


@pytest.mark.slow
def test_what_is_built_is_taken_by_an_index_of_packages(built):
    pytest.importorskip("twine")
    run = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *built], capture_output=True, text=True
    )
    assert run.returncode == 0 and run.stdout.count("PASSED") == 2, run.stdout
    with zipfile.ZipFile(built[1]) as file:
        [name] = [name for name in file.namelist() if name.endswith("dist-info/METADATA")]
        about = email.message_from_bytes(file.read(name))
    assert about["License-Expression"] == "MIT" and about["Requires-Python"] == ">=3.11"
    for field in ("Summary", "Author", "Keywords", "Description-Content-Type", "License-File"):
        assert about[field], field
    # There is no address of the project yet, and none is made up.
    assert about["Project-URL"] is None and about["Home-page"] is None


@pytest.mark.slow
def test_the_citation_is_one(tmp_path):
    """In an environment of its own: what reads citations asks for an old jsonschema."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=os.name == "posix")
    paths = sysconfig.get_paths(vars={"base": str(tmp_path / "venv")})
    python = pathlib.Path(paths["scripts"]) / pathlib.Path(sys.executable).name
    install = ("-m", "pip", "--python", python, "install", "--quiet", "cffconvert==2.0.0")
    run = away(sys.executable, tmp_path, *install)
    skip_without_network(run)
    assert run.returncode == 0, run.stderr
    check = (python.with_name("cffconvert"), "--validate", "--infile")
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    for title, valid in (("title: HashNet\n", True), ("", False)):
        file = tmp_path / "CITATION.cff"
        file.write_text(text.replace("title: HashNet\n", title), encoding="utf-8")
        run = subprocess.run([*check, file], capture_output=True, text=True, cwd=tmp_path)
        assert (run.returncode == 0) == valid, run.stdout + run.stderr


@pytest.mark.slow
def test_a_checkout_whose_links_are_files_of_text_builds_the_same_wheel(built, tmp_path):
    """So Git checks out on a system, or a disk, without links."""
    contents = []
    for wheel in (built[1], built_from(tmp_path, links_are_links=False)[1]):
        with zipfile.ZipFile(wheel) as file:
            contents.append({name: file.read(name) for name in file.namelist()})
    assert contents[0] == contents[1]


@pytest.fixture(scope="module", params=["wheel", "sdist", "editable"])
def clean(request, tmp_path_factory):
    """The Python of a new environment with HashNet, and this one's libraries behind it."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=False, symlinks=os.name == "posix")
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    python = pathlib.Path(paths["scripts"]) / pathlib.Path(sys.executable).name
    if request.param == "editable":
        # As on a system without links: it is the harder case.
        what = ["--editable", checked_out(folder / "checkout", links_are_links=False)]
    else:
        archive, wheel = request.getfixturevalue("built")
        what = [wheel] if request.param == "wheel" else [archive]
    install = ("-m", "pip", "--python", python, "install", "--no-deps", *what)
    run = away(sys.executable, folder, *install)
    skip_without_network(run)
    assert run.returncode == 0, run.stderr
    # A path in a .pth file is searched last, and .pth files there, such as that of an editable
    # install, are not read: only libraries come from it.
    libraries = pathlib.Path(paths["purelib"]) / "libraries.pth"
    libraries.write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    return python


@pytest.fixture
def desk(tmp_path):
    """A user's own folder, whose files have the names that the repository's folders have."""
    for name in ("train.py", "retrieval.py", "tests/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('this file is the user's own')\n")
    return tmp_path


def away(python, folder, *arguments):
    """Run Python away from the source tree, without what this process was told by its caller."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run([python, *arguments], cwd=folder, env=env, capture_output=True, text=True)


@pytest.mark.slow
def test_what_is_installed_finds_its_data_and_takes_no_name_beside_its_own(clean, desk):
    code = """
import importlib.metadata, os, hashnet, hashnet.train, hashnet.retrieval.service
from hashnet.samples import fashion_mnist
from hashnet.train.config import from_recipe, recipe_names
assert fashion_mnist()["test_images"].shape == (500, 28, 28)
assert all(from_recipe(name) for name in recipe_names()) and "photos" in recipe_names()
top_level = importlib.metadata.distribution("hashnet").read_text("top_level.txt")
print(hashnet.train.__file__, *top_level.split(), sep="\\n")
"""
    run = away(clean, desk, "-c", code)
    assert run.returncode == 0, run.stderr
    file, *top_level = run.stdout.splitlines()
    assert top_level == ["hashnet"]
    assert pathlib.Path(file).is_relative_to(clean.parents[1])


@pytest.mark.slow
def test_what_is_installed_indexes_and_searches(clean, desk, photos, bundle_folder):
    run = away(clean, desk, "-m", "hashnet", "index", "i", photos, "--bundle", bundle_folder)
    assert run.returncode == 0, run.stderr
    images.write(desk / "query.png", images.read(photos / "disc" / "3.png"))
    run = away(clean.with_name("hashnet"), desk, "search", "i", "query.png", "--json", "-k", "3")
    assert run.returncode == 0, run.stderr
    hits = json.loads(run.stdout)["hits"]
    assert hits[0]["path"] == str(photos / "disc" / "3.png") and hits[0]["bits_apart"] == 0
    assert {pathlib.Path(hit["path"]).parent.name for hit in hits} == {"disc"}


@pytest.mark.slow
@pytest.mark.parametrize("clean", ["wheel"], indirect=True)
def test_a_network_is_fitted_by_what_is_installed(clean, desk, photos):
    run = away(clean, desk, "-m", "hashnet", "index", "i", photos)
    assert run.returncode == 0 and run.stdout.startswith("24 added"), run.stderr
