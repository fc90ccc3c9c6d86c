"""Notebooks read well, use what is public, define nothing, and run on what comes along."""

import ast
import builtins
import re
import sys

import pytest

from tests.lazily import Lazily
from tests.notebooks import NOTEBOOKS, ROOT, run

jupytext = Lazily("jupytext")
ROOMS = ("hashnet", "train", "retrieval")
# What `pip install "hashnet[notebooks]"` brings, beside the standard library.
OTHERS = {"IPython", "cv2", "matplotlib", "numpy"}

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind):
    """Sources of the cells of one kind: "code" or "markdown"."""
    return [cell.source for cell in jupytext.read(path).cells if cell.cell_type == kind]


def tree(path):
    return ast.parse("\n".join(cells(path, "code")), str(path))


def test_there_are_these_notebooks():
    assert {path.stem for path in NOTEBOOKS} == {
        "quickstart",
        "looking_at_codes",
        "train_on_your_photos",
        "delf_matches",
        "where_it_fails",
    }


@each_notebook
def test_a_notebook_survives_jupyter_as_it_is(path):
    config = jupytext.config.load_jupytext_config(str(path))
    written = jupytext.writes(jupytext.read(path, config=config), fmt="py:percent", config=config)
    assert written == path.read_text(encoding="utf-8")


@each_notebook
def test_a_notebook_begins_with_a_title_and_tells_what_it_does(path):
    first, *rest = jupytext.read(path).cells
    title, *prose = first.source.splitlines()
    assert first.cell_type == "markdown"
    assert re.fullmatch(r"# \S.*", title)
    assert len(" ".join(prose).split()) >= 25
    assert sum(cell.cell_type == "markdown" for cell in rest) >= 4
    assert not any(re.match("# ", source) for source in cells(path, "markdown")[1:])


@each_notebook
def test_no_code_cell_is_empty_and_every_one_compiles(path):
    for source in cells(path, "code"):
        assert source.strip()
        compile(source, str(path), "exec")


@each_notebook
def test_a_notebook_defines_nothing(path):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    assert [node.lineno for node in ast.walk(tree(path)) if isinstance(node, kinds)] == []


@each_notebook
def test_a_notebook_uses_only_public_names_that_there_are(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for name in node.names:
                check_module(name.name)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            check_module(node.module)
            for name in node.names:
                assert not name.name.startswith("_"), name.name
                assert is_there(node.module, name.name), f"{node.module} has no {name.name}"
        elif isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_"), node.attr


def check_module(module):
    assert not any(part.startswith("_") for part in module.split("."))
    first = module.split(".")[0]
    assert first in {*ROOMS, *OTHERS, *sys.stdlib_module_names}, f"{module} is in no extra"


def is_there(module, name):
    """Whether a module of ours has a name of its own, or a module of that name; by its source."""
    if module.split(".")[0] not in ROOMS:
        return True
    place = ROOT.joinpath(*module.split("."))
    if place.joinpath(f"{name}.py").is_file() or place.joinpath(name, "__init__.py").is_file():
        return True
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    own = ast.parse(file.read_text(encoding="utf-8")).body
    targets = [one for node in own if isinstance(node, ast.Assign) for one in node.targets]
    names = {node.name for node in own if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return name in names | {one.id for one in targets if isinstance(one, ast.Name)}


@each_notebook
def test_no_figure_is_typed_into_the_prose(path):
    for source in cells(path, "markdown"):
        said = re.sub(r"`[^`]*`", "", source)  # settings may have figures, answers not
        assert re.findall(r"\d[.,]\d|\d ?%|\.\d", said) == []


@each_notebook
def test_a_notebook_needs_nothing_from_elsewhere(path):
    source = path.read_text(encoding="utf-8")
    assert re.findall(r"https?:|/work/|/home/|shared/data", source) == []
    called = {node.id for node in ast.walk(tree(path)) if isinstance(node, ast.Name)}
    assert not called & {"eval", "exec", "__import__", "get_ipython"} & set(dir(builtins))


@pytest.mark.slow
@each_notebook
def test_a_notebook_runs_from_top_to_bottom_and_shows_pictures(path, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    here = tmp_path / "here"
    for folder in (here, tmp_path / "scratch"):
        folder.mkdir()
    outputs = [one for cell in run(path, here).cells for one in cell.get("outputs", [])]
    shown = [one.get("data", {}) for one in outputs]
    assert any("image/png" in data or "<img" in data.get("text/html", "") for data in shown)
    assert any(one.output_type == "stream" for one in outputs)
    assert list(here.iterdir()) == []
