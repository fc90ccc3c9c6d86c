"""What the README shows runs as shown."""

import pathlib
import re

import pytest

from hashnet import cli, images

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def a_folder_of_photos(photos, tmp_path, monkeypatch):
    """The current folder, with `photos/cat.png`, `dog.png` and `car.png` in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name, pattern in (("cat", "disc"), ("dog", "checks"), ("car", "ramp")):
        images.write(f"photos/{name}.png", images.read(photos / pattern / "0.png"))


def test_the_ten_lines_of_python_run(a_folder_of_photos, capsys):
    [block] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})
    first, second = capsys.readouterr().out.splitlines()
    assert first == "cat pet 0 0.0"
    assert second.startswith(("dog pet", "car thing"))


def test_every_command_is_in_the_readme_and_nothing_else_is():
    [action] = [a for a in cli.parser()._actions if getattr(a, "choices", None)]
    shown = set(re.findall(r"^hashnet (\w+)", README, re.MULTILINE))
    shown |= set(re.findall(r"`hashnet (\w+)", README))
    assert shown == set(action.choices)


def test_every_option_in_the_readme_is_an_option_of_its_command():
    [action] = [a for a in cli.parser()._actions if getattr(a, "choices", None)]
    for name, rest in re.findall(r"^hashnet (\w+)(.*)$", README, re.MULTILINE):
        known = action.choices[name]._option_string_actions
        for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest.split("#")[0]):
            assert option in known, f"hashnet {name} has no {option}"


def test_every_link_in_the_readme_leads_to_a_file():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_tables_in_the_readme_are_those_that_the_results_give():
    from tests.bench import tables

    assert tables.renewed(README) == README
