"""The report folder: whole, escaped, without a script, and readable offline."""

import html.parser
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from hashnet import images
from hashnet.errors import ArgumentError, HashnetError
from hashnet.retrieval.evaluation import report as reports
from tests.test_evaluate import World, make_random_world

pytest.importorskip("matplotlib")

HOSTILE = "<img src=x onerror=alert(1)>&\"'\u202e\n.png"


class Page(html.parser.HTMLParser):
    """Collects tags with their attributes, and the text between."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A report of a world with real pictures under hostile names, and the folder of it."""
    folder = tmp_path_factory.mktemp("world")
    world = make_random_world(folder)
    rng = np.random.default_rng(0)
    hostile = world.ask(f"ant/{HOSTILE}", world.bits[0], world.features[0])
    for path in [hostile, *world.paths[:30]]:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        image = rng.integers(0, 256, (300, 200, 3), dtype=np.uint8)
        with open(path, "wb") as file:
            file.write(images.to_jpeg(image))
    (folder / "queries" / "$dollar_$").mkdir()
    report = world.evaluate(encode_database=True)
    target = folder / "report"
    reports.write(target, report, others={"$an$other": {"bits": 12, "map_all": 0.5}})
    return report, target


@pytest.fixture
def small(tmp_path):
    """A small report, quickly made."""
    bits = np.eye(2, dtype=bool)
    world = World(tmp_path, ["one", "two"], bits, bits.astype(np.float32))
    world.ask("one/query.png", bits[0], bits[0])
    return world.evaluate()


def test_the_folder_holds_figures_plots_and_a_page(evaluated):
    report, folder = evaluated
    assert sorted(os.listdir(folder)) == ["index.html", "pictures", "plots", "report.json"]
    assert json.loads((folder / "report.json").read_text()) == json.loads(
        json.dumps(report.to_dict())
    )
    names = "bit_balance bits_apart map_by_bits precision_at_k precision_recall".split()
    assert sorted(os.listdir(folder / "plots")) == [f"{name}.png" for name in names]
    for name in names:
        image = images.read(folder / "plots" / f"{name}.png")
        assert image.shape[0] > 300 and image.std() > 5


def test_the_page_says_the_protocol_and_every_row(evaluated):
    report, folder = evaluated
    page = Page((folder / "index.html").read_text("utf-8"))
    assert report.protocol in page.text
    for name, row in report.rows.items():
        assert name in page.text
        assert f"{row.evaluation.map_all.expected:.4f}" in page.text
    for problem in report.problems:
        assert problem.path in page.text


def test_a_hostile_file_name_is_shown_as_text(evaluated):
    _, folder = evaluated
    text = (folder / "index.html").read_text("utf-8")
    page = Page(text)
    # html.parser gives the text back as a browser would show it.
    assert r"<img src=x onerror=alert(1)>&" in page.text
    assert r"\u202e\n.png" in page.text
    assert "\u202e" not in text
    for tag, attributes in page.tags:
        assert tag in "html head meta title style body h1 h2 p table tr th td figure".split() + [
            "img", "figcaption", "div", "span"
        ]  # fmt: skip
        assert not any(name.startswith("on") for name in attributes)
        if tag == "img":
            assert re.fullmatch(r"(plots/\w+\.png|pictures/\d+\.jpg)", attributes["src"])
            assert (folder / attributes["src"]).is_file()


def test_a_page_asks_no_other_machine(evaluated):
    _, folder = evaluated
    assert "//" not in (folder / "index.html").read_text("utf-8").replace("</", "")
    assert "script-src 'none'" in (folder / "index.html").read_text("utf-8")


def test_thumbnails_are_small_and_hold_pixels_only(tmp_path, small):
    """A picture with a place in its EXIF data, and text after its end."""
    path = small.best[0].query
    content = images.to_jpeg(np.full((400, 200, 3), 99, np.uint8))
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0GPS secret"
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    with open(path, "wb") as file:
        file.write(content[:2] + segment + content[2:])
    reports.write(tmp_path / "report", small)
    (picture,) = (tmp_path / "report" / "pictures").iterdir()
    assert images.read(picture).shape == (128, 64, 3)
    assert b"secret" not in picture.read_bytes() and b"Exif" not in picture.read_bytes()


@pytest.mark.thorough
def test_a_picture_that_has_gone_leaves_a_gap(tmp_path, small):
    reports.write(tmp_path / "report", small)
    assert "no picture" in (tmp_path / "report" / "index.html").read_text()


@pytest.mark.thorough
def test_a_report_replaces_a_report_and_nothing_else(tmp_path, small):
    target = tmp_path / "report"
    target.mkdir()
    reports.write(target, small)
    (target / "stray").touch()
    reports.write(target, small)
    assert not (target / "stray").exists()
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter1").touch()
    for place in (other, other / "chapter1"):
        with pytest.raises(ArgumentError, match="only a report"):
            reports.write(place, small)
    assert os.listdir(other) == ["chapter1"]
    assert sorted(os.listdir(tmp_path)) == ["index", "queries", "report", "thesis"]


@pytest.mark.thorough
def test_a_failed_write_leaves_the_old_report(tmp_path, small, monkeypatch):
    target = tmp_path / "report"
    reports.write(target, small)
    before = (target / "report.json").read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reports, "_draw_plots", full)
    with pytest.raises(HashnetError, match="No space left"):
        reports.write(target, small)
    assert (target / "report.json").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["index", "queries", "report"]


def test_without_matplotlib_the_extra_is_named(tmp_path, small):
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from hashnet.retrieval.evaluation import page\n"
        "try: page.require_plots()\n"
        "except ValueError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'pip install "matplotlib' in run.stdout, run.stderr
