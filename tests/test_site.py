"""The site of `make docs`: where its links lead, and what fails its build."""

import importlib.util
import os
import shutil
import subprocess
import sys
import types

import pytest

from tests.lazily import Lazily

make_site = Lazily("tests.make_site")
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason='pip install "hashnet[docs]"'
)


def led(markdown, page, pages):
    files = types.SimpleNamespace(get_file_from_path=lambda path: path if path in pages else None)
    place = types.SimpleNamespace(file=types.SimpleNamespace(src_uri=page))
    return make_site.on_page_markdown(markdown, page=place, files=files)


@pytest.mark.parametrize(
    ("page", "link", "becomes"),
    [
        ("index.md", "[a](docs/training.md)", "[a](training.md)"),
        ("index.md", "![a](docs/search.jpg)", "![a](search.jpg)"),
        ("index.md", "[a](README.zh-CN.md)", "a"),
        ("training.md", "[a](../README.md#numbers)", "[a](index.md#numbers)"),
        ("training.md", "[a](../hashnet/codes.py)", "[a](modules/hashnet.codes.md)"),
        ("training.md", "[a](../tests/floors.toml)", "a"),
        ("training.md", "[a](export.md)", "[a](export.md)"),
        ("training.md", "[a](nowhere.md)", "[a](nowhere.md)"),
        ("training.md", "[a](#below)", "[a](#below)"),
        ("training.md", "[a](https://example.org/b.md)", "[a](https://example.org/b.md)"),
    ],
)
def test_a_link_leads_to_where_its_target_is_in_the_site(page, link, becomes):
    pages = {"index.md", "training.md", "export.md", "search.jpg", "modules/hashnet.codes.md"}
    assert led(link, page, pages) == becomes


def test_every_public_module_has_a_page_and_commands_have_none():
    names = set(make_site.modules().values())
    assert {"hashnet.api", "hashnet.codes", "hashnet.retrieval.search.query"} <= names
    assert not [name for name in names if name.startswith("hashnet.cli")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "text"),
    [
        (None, ""),
        ("docs/training.md", "\n[nowhere](nowhere.md#at-all)\n"),
        ("docs/training.md", "\n[no such heading](export.md#no-such-heading)\n"),
        (
            "hashnet/checks.py",
            '\n\ndef bad():\n    """Do.\n\n    Args:\n        what: int.\n    """\n',
        ),
    ],
)
def test_a_broken_link_or_docstring_fails_the_build(tmp_path, path, text):
    apart = shutil.ignore_patterns(".*", "build", "dist", "mutants", "__pycache__", "*.egg-info")
    shutil.copytree(make_site.ROOT, tmp_path / "copy", symlinks=True, ignore=apart)
    tmp_path /= "copy"
    if path:
        with open(tmp_path / path, "a", encoding="utf-8") as file:
            file.write(text)
    command = [sys.executable, "-m", "mkdocs", "build"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (built.returncode == 0) == (path is None), built.stderr
