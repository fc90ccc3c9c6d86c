"""What the README and the guides show runs as shown, and leads where it says."""

import configparser
import inspect
import json
import pathlib
import re
import shlex
import urllib.parse

import numpy as np
import pytest

import hashnet
from hashnet import cli, images
from hashnet.images import apart, reading
from hashnet.network import export
from hashnet.network.model import HashNetConfig
from hashnet.retrieval.evaluation.evaluate import evaluate
from hashnet.retrieval.extraction.extract import extract
from hashnet.retrieval.index import Index
from hashnet.retrieval.service import server, uploads
from hashnet.train import config
from hashnet.train.config import TrainConfig
from tests import make_cli, make_formats, make_picture
from tests.bench import figures, tables

ROOT = pathlib.Path(__file__).resolve().parents[1]
READMES = {
    name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md")
}
README = READMES["README.md"]
GENERATED = ("docs/cli.md", "docs/formats.md")
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for folder in (".", "docs", "hashnet/presets")
    for path in sorted((ROOT / folder).glob("*.md"))
}


@pytest.fixture
def a_folder_of_photos(photos, tmp_path, monkeypatch):
    """The current folder, with two pets and a thing in `photos/`, and `query.png`, a pet."""
    monkeypatch.chdir(tmp_path)
    for name, pattern in (("pet/cat", "disc"), ("pet/dog", "checks"), ("thing/car", "ramp")):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        images.write(f"photos/{name}.png", images.read(photos / pattern / "0.png"))
    images.write("query.png", images.read(photos / "disc" / "0.png"))


@pytest.mark.thorough
def test_the_ten_lines_of_python_run(a_folder_of_photos, capsys):
    [block] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})
    kept, first, second, nearest = capsys.readouterr().out.splitlines()
    assert kept == "3 images, {'pet': 2, 'thing': 1}"
    assert first == f"pet 0 0.0 {pathlib.Path('photos/pet/cat.png').absolute()}"
    assert second.startswith(("pet", "thing"))
    assert nearest == str(pathlib.Path("photos/pet/cat.png").absolute())


@pytest.mark.thorough
@pytest.mark.parametrize(
    "folders",
    [pytest.param(("", "", ""), marks=pytest.mark.slow), ("one/", "two/", "three/")],
)
def test_the_ten_lines_of_python_run_on_any_folder(folders, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, folder in enumerate(folders):
        (tmp_path / "photos" / folder).mkdir(parents=True, exist_ok=True)
        images.write(f"photos/{folder}{number}.png", images.read(photos / f"ramp/{number}.png"))
    images.write("query.png", images.read(photos / "disc" / "0.png"))
    [block] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})


def test_all_python_of_the_readme_comes_from_the_public_face():
    [block] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert re.findall(r"^(?:import|from) .*$", block, re.M) == ["import hashnet"]
    assert len([line for line in block.splitlines() if line]) == 10


def test_the_page_of_python_names_what_is_public_and_nothing_else():
    named = re.findall(r"^\| `hashnet\.(\w+)` \|", PAGES["docs/python.md"], re.MULTILINE)
    assert sorted([*named, "__version__"]) == sorted(hashnet.__all__)


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def console_lines(text):
    """Every command of the console blocks, without its comment."""
    lines = (line for block in blocks(text, "console") for line in block.splitlines())
    return [line for line in (line.split(" #")[0].strip() for line in lines) if line]


def prose(text):
    return re.sub(r"(?s)^```.*?^```$", "", text, flags=re.M)


def headings(text):
    return re.findall(r"^#+(?= )", prose(text), re.M)


def links(text):
    return re.findall(r"\]\(([^)]+)\)", prose(text))


def inline_code(text):
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(text))]


def anchors(text):
    """What the headings of a page are linked by."""
    titles = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


def test_the_readme_is_short():
    for name in READMES:
        assert (ROOT / name).stat().st_size <= 9_000, name


def test_every_command_that_a_page_shows_is_one():
    known = set(cli.commands(cli.parser()))
    for name, text in PAGES.items():
        code = "\n".join(console_lines(text) + inline_code(text))
        shown = set(re.findall(r"^hashnet ([a-z]+)", code, re.MULTILINE))
        assert shown <= known, f"{name}: {shown - known}"


def test_every_command_is_in_a_guide():
    guides = "\n".join(text for name, text in PAGES.items() if name not in GENERATED)
    shown = set(re.findall(r"\bhashnet (\w+)", "\n".join(inline_code(guides))))
    shown |= set(re.findall(r"^hashnet (\w+)", "\n".join(console_lines(guides)), re.MULTILINE))
    assert set(cli.commands(cli.parser())) <= shown


@pytest.mark.parametrize("name", PAGES)
def test_every_option_of_a_page_is_an_option_of_its_command(name):
    known = cli.commands(cli.parser())
    code = console_lines(PAGES[name]) + inline_code(PAGES[name])
    for command, rest in re.findall(r"^hashnet ([a-z]+)(.*)$", "\n".join(code), re.MULTILINE):
        for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest):
            assert option in known[command]._option_string_actions, f"{command} has no {option}"


@pytest.mark.parametrize(
    "line", sorted({line for text in PAGES.values() for line in console_lines(text)})
)
def test_every_console_line_is_a_command_that_can_be_given(line):
    program, *arguments = shlex.split(line)
    if program == "hashnet":
        assert cli.parser().parse_args(arguments).run
    elif program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif program == "pip":
        assert arguments[0] == "install"
        extras = configparser.ConfigParser()
        extras.read(ROOT / "setup.cfg", encoding="utf-8")
        for extra in re.findall(r"\[(\w+)\]", arguments[1]):
            assert extra in extras["options.extras_require"], extra
    elif program == "python3":
        assert arguments == ["-m", "venv", "env", "&&", ".", "env/bin/activate"]
    elif program == "git":
        assert arguments == ["clone", "ADDRESS", "hashnet", "&&", "cd", "hashnet"]
    elif program == "docker":
        [given] = re.findall(
            r"^docker (?:build -t hashnet \.|compose up -d|(?:compose )?run .* hashnet ?(.*))$",
            line,
        )
        assert not given or cli.parser().parse_args(shlex.split(given)).run
    else:
        assert program == "curl"  # see the test below


def test_every_curl_line_is_a_request_that_the_service_knows(doctest_folder):
    from fastapi.testclient import TestClient

    from hashnet.retrieval.service import app

    client = TestClient(app.create_app(doctest_folder / "pets.index"), "http://127.0.0.1:8000")
    schema = client.get("/openapi.json").json()
    lines = [line for line in console_lines(PAGES["docs/serving.md"]) if line.startswith("curl")]
    assert len(lines) > 8
    for line in lines:
        arguments = shlex.split(line)
        url = urllib.parse.urlsplit(arguments.pop(-1 if "http" in arguments[-1] else 1))
        form = [arguments[i + 1] for i, word in enumerate(arguments) if word == "-F"]
        if "-d" in arguments:
            form += json.loads(arguments[arguments.index("-d") + 1])
        method = "delete" if "DELETE" in arguments else "post" if form else "get"
        # An id may have slashes: of the paths that fit, the longest is meant.
        fitting = {
            path: operations[method]
            for path, operations in schema["paths"].items()
            if method in operations and re.fullmatch(re.sub(r"\{id[^}]*\}", ".+", path), url.path)
        }
        operation = fitting[max(fitting, key=len)]
        taken = {parameter["name"] for parameter in operation.get("parameters", ())}
        if form:
            [content] = operation["requestBody"]["content"].values()
            taken |= set(
                schema["components"]["schemas"][content["schema"]["$ref"].split("/")[-1]][
                    "properties"
                ]
            )
        given = {part.split("=")[0] for part in form} | set(urllib.parse.parse_qs(url.query))
        assert given <= taken, line


def test_every_example_of_the_help_is_a_command_that_can_be_given():
    for sub in cli.commands(cli.parser()).values():
        program, *arguments = shlex.split(sub.epilog.removeprefix("example: "))
        assert program == "hashnet" and cli.parser().parse_args(arguments).run


def test_the_reference_of_commands_is_what_the_parser_says_today():
    page = make_cli.PAGE.read_text(encoding="utf-8")
    assert page == make_cli.reference(cli.parser()), "run: python -m tests.make_cli"


def test_the_reference_names_every_option_and_choice():
    sections = re.split(r"^## hashnet ", make_cli.PAGE.read_text(encoding="utf-8"), flags=re.M)[1:]
    named = {section.split()[0]: section for section in sections}
    commands = cli.commands(cli.parser())
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


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_to_a_file_or_a_heading(name):
    page = ROOT / name
    for link in links(PAGES[name]):
        if re.match(r"https?:", link):
            continue
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if heading:
            assert heading in anchors(target.read_text(encoding="utf-8")), link


def test_the_chinese_readme_has_the_headings_of_the_english_one():
    english, chinese = READMES.values()
    assert headings(chinese) == headings(english)


@pytest.mark.parametrize("language", ["python", "text"])
def test_the_chinese_readme_has_the_blocks_of_the_english_one(language):
    english, chinese = (blocks(text, language) for text in READMES.values())
    assert english and chinese == english


def test_the_chinese_readme_gives_the_commands_of_the_english_one():
    english, chinese = map(console_lines, READMES.values())
    assert english and chinese == english


def test_the_chinese_readme_leads_where_the_english_one_does():
    english, chinese = (set(links(text)) for text in READMES.values())
    assert chinese - {"README.md"} == english - {"README.zh-CN.md"}


def test_each_readme_begins_with_a_link_to_the_other():
    english, chinese = READMES.values()
    assert links(english)[0] == "README.zh-CN.md" and links(chinese)[0] == "README.md"


def defaults(command):
    """dict of a command's arguments to their defaults."""
    sub = cli.commands(cli.parser())[command]
    return {action.dest: action.default for action in sub._actions}


@pytest.mark.parametrize("name", READMES)
def test_the_defaults_that_a_readme_states_are_those_of_the_code(name):
    text, settings = READMES[name], TrainConfig()
    assert f"http://{defaults('serve')['host']}:{defaults('serve')['port']}" in text
    assert settings.backbone == HashNetConfig.backbone == "efficientnet_lite0" and "Lite0" in text
    for status in (cli.DONE, cli.FAILED, cli.WRONG_ARGUMENTS, cli.SKIPPED_SOME):
        [line] = re.findall(r"^(?:Exit status: |退出状态：)(.*)$", text, re.MULTILINE)
        assert str(status) in line


def test_the_table_of_formats_is_that_of_the_code():
    assert PAGES["docs/formats.md"] == make_formats.page()
    assert all(f"| {name} |" in PAGES["docs/formats.md"] for name in images.ALLOWED_FORMATS)


def test_each_promise_names_a_test_that_is_there():
    promises = re.findall(r"`(tests/test_\w+\.py)(?:::(\w+))?`", PAGES["SECURITY.md"])
    assert len(promises) > 10
    for file, name in promises:
        text = (ROOT / file).read_text(encoding="utf-8")
        assert not name or f"def {name}(" in text, f"{file}::{name}"


def test_the_limits_that_the_guides_state_are_those_of_the_code():
    photos = PAGES["docs/your-photos.md"]
    assert f"{images.MAX_PIXELS // 10**6} million pixels" in photos
    assert "`--max-pixels`" in photos and f"{images.jpeg.REDUCTION**2} times" in photos
    assert f"{uploads.MAX_PIXELS // 10**6} million pixels" in photos
    assert f"{images.MAX_BYTES // 2**20} MiB" in photos
    assert f"{images.MAX_SCANS} scans" in photos
    for name in ("docs/serving.md", "docs/your-photos.md", "docs/formats.md", "SECURITY.md"):
        text = " ".join(PAGES[name].split())
        assert f"{apart.PROCESSOR_SECONDS} s of processor time" in text
        assert f"{apart.MEMORY_MB} MB" in text
    for name in ("docs/your-photos.md", "docs/formats.md"):  # which a service does not do
        grown = f"in proportion more of a file of more than {reading.USUAL_BYTES // 2**20} MB"
        assert grown in " ".join(PAGES[name].split())
    assert f"for {server.STOP_SECONDS} s at most" in " ".join(PAGES["docs/serving.md"].split())
    assert f"{export.NEAR_HALF:.4f}" in PAGES["docs/export.md"]
    for word in (*export.SUFFIXES, *export.OUTPUTS):
        assert f"`{word}`" in PAGES["docs/export.md"], word


def test_the_guide_to_training_names_every_recipe():
    for name in config.recipe_names():
        assert f"`{name}`" in PAGES["docs/training.md"], name


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


def test_the_tables_are_those_that_the_results_give():
    page = PAGES["docs/benchmarks.md"]
    assert tables.renewed(page) == page


def figures_of_not_good_at():
    """Each sentence's figures in the order in which it says them, taken from the results."""
    held_out = {
        (row["network"], row["classes"]): row["map_codes"]
        for row in figures.read("held_out")["rows"]
    }
    yield held_out["trained", "trained on"]
    yield held_out["trained", "held out"]
    yield held_out["pretrained", "held out"]
    lite0 = figures.read("backbones")["rows"][0]
    yield lite0["first_is_right"]
    yield lite0["map_features"]
    yield figures.read("train_photos")["map_all"]
    line = figures.read("likeness_line")
    grades = {row["set"]: row["lines"]["grades"] for row in line["rows"]}
    yield grades["clothing10"]["found"]
    yield grades["clothing10"]["precision"]
    yield grades["tinyimagenet_val"]["precision"]
    yield max(row["left_out_any"] for row in grades.values())
    yield next(row["alike"] for row in line["one_class"] if row["class"] == "t-shirt")
    sets = [figures.read(f"local_{name}")["sets"] for name in ("sift", "delf")]
    beer, landmarks = (
        sets[0][name]["methods"] | sets[1][name]["methods"] for name in ("beer_labels", "landmarks")
    )
    yield from (beer[name]["recall_at_1"] for name in ("global", "sift", "delf"))
    yield from (landmarks[name]["map"] for name in ("delf", "sift"))
    categories = figures.read("verify_categories")["sets"]["clothing10"]
    yield from (100 * categories[name]["map_change"] for name in ("delf", "sift"))
    first = {
        (row["set"], row["proposals"], row["regions"]): row["recall_at"]["1"]
        for row in figures.read("regions")["rows"]
    }
    yield first["clothing", "none", 0]
    yield first["clothing", "activation_norm", 8]
    yield first["beer", "none", 0]
    assert round(first["beer", "activation_norm", 8], 2) == round(first["beer", "none", 0], 2)
    codes = {
        (row["set"], row["method"], row.get("bits")): row
        for row in figures.read("label_free_codes")["rows"]
    }
    for name in ("copies, grocery", "grocery, iconic"):
        yield from (codes[name, method, 128]["map"] for method in ("fit", "itq", "pca_sign"))
        yield codes[name, "features", None]["map"]
    yield from (codes["stamps", method, 128]["recall"][1] for method in ("fit", "itq"))
    yield from (figures.read("code_views")[taught]["map"] for taught in ("views", "now"))
    yield figures.read("words_shown")["grocery"]["descriptions"]
    yield min(
        ratio["least"]
        for ratio in figures.read("hamming")["summary"].values()
        if isinstance(ratio, dict)
    )


def test_the_figures_of_what_it_is_not_good_at_are_those_of_the_results():
    text = (ROOT / "docs" / "not-good-at.md").read_text(encoding="utf-8")
    said = re.findall(r"(?<![\w.])-?\d\.\d\d(?!\d)", text)
    assert said == [f"{value:.2f}" for value in figures_of_not_good_at()]
    graf = figures.read("delf")["extractors"]["sift"]["graf 1 to 6"]
    assert f"{graf['right_within_5_px']} matches of SIFT are right" in " ".join(text.split())


def test_the_pictures_of_the_readme_are_quick_to_load():
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README)
    assert pictures
    for name in pictures:
        assert (ROOT / name).stat().st_size < 500_000, name


@pytest.mark.slow
def test_the_picture_shows_what_a_search_finds_and_all_of_it_is_right(
    tmp_path, shared_data, capsys
):
    drawn = make_picture.picture(shared_data / "clothing10", tmp_path)
    labels = re.findall(r"\[(\w+)\]", capsys.readouterr().out)
    wanted = [name.split("/")[0] for name in make_picture.QUERIES]
    assert labels == [label for label in wanted for _ in range(make_picture.HITS)]
    shown = images.read(make_picture.PICTURE).astype(int)
    drawn = images.read(images.to_jpeg(drawn)).astype(int)
    assert shown.shape == drawn.shape
    # Another runtime may move the last digit of a distance.
    assert np.abs(shown - drawn).mean() < 0.5
