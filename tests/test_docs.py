"""What the README shows runs as shown."""

import configparser
import inspect
import pathlib
import re
import shlex

import numpy as np
import pytest

from hashnet import cli, images
from hashnet.network import backbones, export
from hashnet.network.model import HashNetConfig
from hashnet.retrieval.evaluation.evaluate import evaluate
from hashnet.retrieval.extraction.extract import extract
from hashnet.retrieval.index import Index
from hashnet.train import unsupervised
from hashnet.train.config import TrainConfig
from tests import make_cli
from tests.bench import tables

ROOT = pathlib.Path(__file__).resolve().parents[1]
READMES = {
    name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md")
}
README = READMES["README.md"]


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


def outside_tables(text):
    """`text` without what stands between the marks of the generated tables."""
    begin, end = text.index(tables.BEGIN), text.index(tables.END)
    return text[:begin] + text[end:]


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def console_lines(text):
    """Every command of the console blocks, without its comment."""
    lines = (line for block in blocks(text, "console") for line in block.splitlines())
    return [line for line in (line.split(" #")[0].strip() for line in lines) if line]


def headings(text):
    return re.findall(r"^#+(?= )", re.sub(r"(?s)^```.*?^```$", "", text, flags=re.M), re.M)


def links(text):
    return re.findall(r"\]\(([^)]+)\)", text)


def inline_code(text):
    text = re.sub(r"(?s)^```.*?^```$", "", text, flags=re.M)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def numbers(text):
    """The numbers of the prose; those of code and links are compared as code and links."""
    text = re.sub(r"(?s)^```.*?^```$", "", text, flags=re.M)
    text = re.sub(r"`[^`]+`|\]\([^)]+\)", " ", text)
    return re.findall(r"(?<![A-Za-z\d.])\.?\d+(?:[.,]\d+)*", text)


@pytest.mark.parametrize("name", READMES)
def test_every_command_is_in_the_readme_and_nothing_else_is(name):
    shown = set(re.findall(r"^hashnet (\w+)", READMES[name], re.MULTILINE))
    shown |= set(re.findall(r"`hashnet (\w+)", READMES[name]))
    assert shown == set(make_cli.commands(cli.parser()))


@pytest.mark.parametrize("name", READMES)
def test_every_option_in_the_readme_is_an_option_of_its_command(name):
    known = make_cli.commands(cli.parser())
    code = console_lines(READMES[name]) + inline_code(READMES[name])
    checked = 0
    for command, rest in re.findall(r"^hashnet (\w+)(.*)$", "\n".join(code), re.MULTILINE):
        for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest):
            assert option in known[command]._option_string_actions, f"{command} has no {option}"
            checked += 1
    assert checked


@pytest.mark.parametrize(
    "line", [line for text in READMES.values() for line in console_lines(text)]
)
def test_every_console_line_is_a_command_that_can_be_given(line):
    program, *arguments = shlex.split(line)
    if program == "hashnet":
        assert cli.parser().parse_args(arguments).run
    elif program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    else:
        assert (program, arguments[0]) == ("pip", "install")
        extras = configparser.ConfigParser()
        extras.read(ROOT / "setup.cfg", encoding="utf-8")
        for extra in re.findall(r"\[(\w+)\]", arguments[1]):
            assert extra in extras["options.extras_require"], extra


def test_every_example_of_the_help_is_a_command_that_can_be_given():
    for sub in make_cli.commands(cli.parser()).values():
        program, *arguments = shlex.split(sub.epilog.removeprefix("example: "))
        assert program == "hashnet" and cli.parser().parse_args(arguments).run


def test_the_reference_of_commands_is_what_the_parser_says_today():
    page = make_cli.PAGE.read_text(encoding="utf-8")
    assert page == make_cli.reference(cli.parser()), "run: python -m tests.make_cli"


def test_the_reference_names_every_option_and_choice():
    sections = re.split(r"^## hashnet ", make_cli.PAGE.read_text(encoding="utf-8"), flags=re.M)[1:]
    named = {section.split()[0]: section for section in sections}
    commands = make_cli.commands(cli.parser())
    assert list(named) == list(commands)
    for command, sub in commands.items():
        for action in sub._actions:
            if action.dest in make_cli.SHARED:
                continue
            for option in action.option_strings:
                assert f"`{option}`" in named[command], f"{command} {option}"
            for choice in action.choices or ():
                assert choice in named[command], f"{command} {choice}"
            if action.default not in (None, False, []):
                assert f"`{action.default}`" in named[command], f"{command} {action.dest}"


@pytest.mark.parametrize("name", [*READMES, "docs/scale.md", "docs/cli.md"])
def test_every_link_leads_to_a_file_or_a_heading(name):
    page = ROOT / name
    for link in links(page.read_text(encoding="utf-8")):
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [title.lower().replace(" ", "-") for title in titles], link


def test_the_chinese_readme_has_the_headings_of_the_english_one():
    english, chinese = map(outside_tables, READMES.values())
    assert headings(chinese) == headings(english)


@pytest.mark.parametrize("language", ["python", "text"])
def test_the_chinese_readme_has_the_blocks_of_the_english_one(language):
    english, chinese = (blocks(text, language) for text in READMES.values())
    assert english and chinese == english


def test_the_chinese_readme_gives_the_commands_of_the_english_one():
    english, chinese = map(console_lines, READMES.values())
    assert english and chinese == english


@pytest.mark.parametrize("parts", [links, inline_code, numbers])
def test_the_chinese_readme_says_all_that_the_english_one_does(parts):
    english, chinese = (set(parts(outside_tables(text))) for text in READMES.values())
    assert len(english) > 10
    assert chinese - {"README.md"} == english - {"README.zh-CN.md"}


def test_each_readme_begins_with_a_link_to_the_other():
    english, chinese = READMES.values()
    assert links(english)[0] == "README.zh-CN.md" and links(chinese)[0] == "README.md"


def test_the_figures_of_the_chinese_readme_are_those_of_the_english_one():
    english, chinese = (
        text.split(tables.BEGIN)[1].split(tables.END)[0] for text in READMES.values()
    )
    rows = [line for line in chinese.splitlines() if re.match(r"\| .*\d", line)]
    rows = [row for row in rows if not re.search(r"[\u4e00-\u9fff]", row)]  # heads of tables
    assert len(rows) > 4
    for row in rows:
        assert row in english.splitlines(), f"README.md has another row today: {row}"


def defaults(command):
    """dict of a command's arguments to their defaults."""
    sub = make_cli.commands(cli.parser())[command]
    return {action.dest: action.default for action in sub._actions}


@pytest.mark.parametrize("name", READMES)
def test_the_defaults_and_limits_that_the_readme_states_are_those_of_the_code(name):
    text, config = READMES[name], TrainConfig()
    assert f"http://{defaults('serve')['host']}:{defaults('serve')['port']}" in text
    assert f"bits            {unsupervised.NUM_BITS}\n" in text
    assert f"feature_dim     {backbones.known(config.backbone).feature_dim}\n" in text
    assert f"{export.NEAR_HALF:.4f}" in text
    assert config.backbone == HashNetConfig.backbone == "efficientnet_lite0" and "Lite0" in text
    assert len(images.ALLOWED_FORMATS) == 6 and ("six formats" in text or "六种格式" in text)
    for status in (cli.DONE, cli.FAILED, cli.WRONG_ARGUMENTS, cli.SKIPPED_SOME):
        [line] = re.findall(r"^(?:Exit status: |退出状态：)(.*)$", text, re.MULTILINE)
        assert str(status) in line


def test_a_command_and_the_function_it_calls_have_the_same_defaults():
    for command, option, function, argument in (
        ("extract", "shard", extract, "part"),
        ("extract", "workers", extract, "workers"),
        ("index", "workers", Index.update, "workers"),
        ("index", "prune", Index.update, "prune"),
        ("index", "local", Index.create, "local"),
        ("export", "precision", export.export, "precision"),
        ("evaluate", "encode_database", evaluate, "encode_database"),
    ):
        stated = inspect.signature(function).parameters[argument].default
        assert defaults(command)[option] == stated, f"{command} {option}"


def test_the_tables_in_the_readme_are_those_that_the_results_give():
    assert tables.renewed(README) == README


def test_the_pictures_of_the_readme_are_quick_to_load():
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README)
    assert pictures
    for name in pictures:
        assert (ROOT / name).stat().st_size < 500_000, name


@pytest.mark.slow
def test_the_first_picture_shows_what_a_search_finds(tmp_path):
    pytest.importorskip("cv2", reason='pip install "hashnet[delf]"')
    pytest.importorskip("skimage", reason="the photos are scikit-image's")
    from tests import make_picture

    query, hits, engine = make_picture.search(tmp_path)
    assert len(hits) == 5 and hits[0].id == make_picture.SUBJECT
    confirmed = [hit.inliers >= engine.min_inliers for hit in hits]
    assert confirmed == [True, False, False, False, False]
    drawn = images.to_jpeg(make_picture.picture(query, hits, engine))
    shown, drawn = (images.read(one).astype(int) for one in (make_picture.PICTURE, drawn))
    assert shown.shape == drawn.shape
    # Another runtime may move the last digit of a distance.
    assert np.abs(shown - drawn).mean() < 0.5
