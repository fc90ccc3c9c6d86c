"""Reading the text in pictures: boxes, strips, letters; and what an index keeps of them."""

import importlib.util
import time

import numpy as np
import pytest

from hashnet import images
from hashnet.errors import StoreError, WeightsError
from hashnet.network.runtimes import TensorSpec
from hashnet.ocr import detection, reader, recognition
from hashnet.ocr.reader import Reader, ReadLine
from hashnet.retrieval.index import Index

LETTERS = ["a", "b", " "]


def test_components_are_what_touches():
    rng = np.random.default_rng(5)
    for share in (0.1, 0.4, 0.6, 0.9):
        mask = rng.random((23, 31)) < share
        left = {tuple(place) for place in np.argwhere(mask).tolist()}
        parts = []
        while left:
            todo, part = [left.pop()], set()
            while todo:
                row, column = todo.pop()
                part.add((row, column))
                near = {(row + y, column + x) for y in (-1, 0, 1) for x in (-1, 0, 1)} & left
                left -= near
                todo += near
            parts.append(part)
        found = [
            {(row, column) for row, start, end in runs.tolist() for column in range(start, end)}
            for runs in detection.components(mask)
        ]
        assert sorted(map(sorted, found)) == sorted(map(sorted, parts))
    assert detection.components(np.zeros((3, 3), bool)) == []


@pytest.mark.parametrize("degrees", [0, 20, -20, 44, 90])
def test_a_box_is_around_its_line_and_read_from_the_left(degrees):
    rows, columns = np.mgrid[:200, :200] - 99.5
    angle = np.radians(degrees)
    along = columns * np.cos(angle) + rows * np.sin(angle)
    across = -columns * np.sin(angle) + rows * np.cos(angle)
    likelihood = ((abs(along) < 60) & (abs(across) < 12)).astype(np.float32)
    [box] = detection.boxes_of(likelihood, 9)
    more = 1.6 * 120 * 24 / (2 * 144)
    sides = np.linalg.norm(box[1] - box[0]), np.linalg.norm(box[3] - box[0])
    assert sorted(sides) == pytest.approx([24 + 2 * more, 120 + 2 * more], rel=0.06)
    assert box.mean(axis=0) == pytest.approx([100, 100], abs=1)
    if degrees != 90:
        step = (box[1] - box[0]) / sides[0]
        assert step == pytest.approx([np.sin(angle), np.cos(angle)], abs=0.05)


def specked():
    """A map of as many specks as have a size, and the same with a line among them."""
    map = np.zeros((reader.SHORT_SIDE, reader.LONG_SIDE), np.float32)
    for row in range(4):
        for column in range(4):
            map[row::6, column::6] = 1
    lined = map.copy()
    lined[300:340, 100:700] = 1
    return map, lined


@pytest.mark.thorough
def test_very_many_specks_take_no_time_and_hide_no_line():
    specks, lined = specked()
    before = time.process_time()
    boxes = detection.boxes_of(specks, 32)
    found = detection.boxes_of(lined, 32)
    assert time.process_time() - before < 2
    assert len(boxes) == 32 and detection.sides_of(found[0])[0] > 600
    assert detection.components(np.random.default_rng(0).random(specks.shape) > 0.5) == []


def test_specks_and_unlikely_lines_are_none_and_the_largest_come_first():
    likelihood = np.zeros((100, 100), np.float32)
    likelihood[2:4, 2:4] = 1  # a speck
    likelihood[10:20, 10:50] = 0.5  # not sure
    likelihood[30:40, 10:50] = 0.9
    likelihood[60:80, 10:90] = 0.7
    boxes = detection.boxes_of(likelihood, 9)
    assert [round(float(box[0][0])) > 40 for box in boxes] == [True, False]
    assert len(detection.boxes_of(likelihood, 1)) == 1
    assert detection.boxes_of(np.zeros((9, 9), np.float32), 9) == []


def test_a_strip_is_what_is_in_the_box():
    picture = np.zeros((96, 200, 3), np.uint8)
    picture[20:68, 40:136] = np.linspace(0, 255, 96).astype(np.uint8)[None, :, None]
    picture[20:68, 40:136, 0] = 255  # red
    box = np.array([[20, 40], [20, 136], [68, 136], [68, 40]], float)
    strip = recognition.strip_of([picture], box)
    assert strip.shape == (1, 3, 48, 96) and strip.dtype == np.float32
    wanted = picture[20:68, 40:136, ::-1].transpose(2, 0, 1) / 127.5 - 1  # blue first
    np.testing.assert_allclose(strip[0], wanted, atol=1e-5)
    assert recognition.readings(box)[0] is box
    upright = np.rot90(picture)  # the line runs upwards
    turned = np.array([[200 - 136, 20], [200 - 136, 68], [200 - 40, 68], [200 - 40, 20]], float)
    _, upwards = recognition.readings(turned)
    np.testing.assert_allclose(recognition.strip_of([upright], upwards), strip, atol=1e-5)


class Network:
    """A network of tests: one input, one output, and what it makes of it."""

    name = "tests"

    def __init__(self, made):
        self.inputs = {"x": TensorSpec("float32", (3, None, None))}
        self.outputs = {"y": TensorSpec("float32", (None, None))}
        self._made = made

    def run(self, outputs, inputs):
        assert outputs == ["y"]
        return [self._made(inputs["x"])]


def letters_of(strip):
    """Names "a" for dark steps and "b" for bright ones."""
    steps = strip[0, :, 24].mean(axis=0).reshape(-1, 8).mean(axis=1)
    scores = np.zeros((1, len(steps), len(LETTERS) + 1), np.float32)
    scores[0, np.arange(len(steps)), np.where(steps < 0, 1, 2)] = 0.75
    return scores


@pytest.fixture
def stub():
    """A reader that takes bright pixels for text."""
    return Reader(
        Network(lambda pixels: (pixels.mean(axis=1, keepdims=True) > -0.5).astype(np.float32)),
        Network(letters_of),
        LETTERS,
    )


def picture(*boxes, shape=(300, 400)):
    image = np.zeros((*shape, 3), np.uint8)
    for top, left, bottom, right in boxes:
        image[top:bottom, left:right] = 255
    return image


def test_lines_are_read_from_the_top_in_pixels_of_the_picture(stub):
    image = picture((200, 50, 240, 350), (40, 30, 80, 200))
    lines = stub.read(image)
    assert [line.text[0] for line in lines] == ["a", "a"]  # a dark margin comes first
    for line, (top, left, bottom, right) in zip(
        lines, [(40, 30, 80, 200), (200, 50, 240, 350)], strict=True
    ):
        assert line.region[0] < top < bottom < line.region[2]
        assert line.region[1] < left < right < line.region[3]
        assert line.confidence == 0.75
    assert stub.read(picture()) == []
    for shape in ((1, 1), (5, 2000), (2000, 5)):
        stub.read(picture(shape=shape))  # whatever its shape


@pytest.fixture
def open_stub(stub, monkeypatch):
    monkeypatch.setattr(reader, "require", lambda: None)
    monkeypatch.setattr(Reader, "open", classmethod(lambda cls: stub))


def test_an_index_keeps_what_it_reads_and_finds_it(open_stub, bundle_folder, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    images.write(folder / "with.png", picture((40, 30, 80, 200)))
    images.write(folder / "without.png", picture())
    index = Index.create(tmp_path / "i", bundle_folder, ocr=True)
    assert index.update([folder]).added == 2 and index.info()["ocr"] == "pp-ocrv4"
    [line] = index["photos/with.png"].texts.lines
    assert line.text == "aba" and index["photos/without.png"].texts.lines == ()
    [hit] = index.search_text("aba")
    assert (hit.id, hit.ways, hit.region) == ("photos/with.png", ("ocr",), line.region)
    assert index.update([folder]).unchanged == 2
    (folder / "with.png").rename(folder / "moved.png")
    assert index.update([folder]).moved == 1
    assert index["photos/moved.png"].texts.lines == (line,)
    images.write(folder / "moved.png", picture((100, 30, 140, 200)))
    index.update([folder])
    assert index["photos/moved.png"].texts.lines[0].region != line.region
    assert index.add([picture((40, 30, 80, 200))], ids=["pixels"]).added == 1
    assert index["pixels"].texts.lines == (line,)


def test_the_command_reads_and_draws_where_the_words_are(open_stub, run, bundle_folder, tmp_path):
    folder, place = tmp_path / "photos", tmp_path / "i"
    folder.mkdir()
    images.write(folder / "with.png", picture((40, 30, 80, 200)))
    status, _, err = run("index", place, folder, "--bundle", bundle_folder, "--ocr")
    assert status == 0, err
    _, out, _ = run("search", place, "--text", "aba")
    assert "ocr" in out and "  at " in out
    run("search", place, "--text", "aba", "--picture", tmp_path / "hits.png")
    green = (images.read(tmp_path / "hits.png") == (40, 200, 60)).all(axis=2)
    assert green.any()
    assert run("index", tmp_path / "j", folder, "--bundle", bundle_folder)[0] == 0
    status, _, err = run("index", tmp_path / "j", folder, "--ocr")
    assert status == 1 and "an index that reads none" in err


@pytest.mark.thorough
def test_of_photos_reads_what_it_fits_to(open_stub, tmp_path):
    import hashnet

    images.write(tmp_path / "with.png", picture((40, 30, 80, 200)))
    images.write(tmp_path / "without.png", picture())
    files = [tmp_path / "with.png", tmp_path / "without.png"]
    stages = []
    index = hashnet.Index.of_photos(
        tmp_path / "i", files, bits=16, ocr=True, progress=lambda *told: stages.append(told)
    )
    assert stages[-1] == ("encoding and reading text", 2, 2)
    assert [len(item.texts.lines) for item in index.values()] == [1, 0]


def test_without_the_package_nothing_is_made_and_the_way_is_told(
    bundle_folder, tmp_path, monkeypatch
):
    reader._content.cache_clear()
    monkeypatch.setattr(reader.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match='pip install --no-deps "rapidocr-onnxruntime>=1.4.4"'):
        Index.create(tmp_path / "i", bundle_folder, ocr=True)
    assert not (tmp_path / "i").exists()


def test_files_of_another_version_are_refused(tmp_path, monkeypatch):
    reader._content.cache_clear()
    (tmp_path / "models").mkdir()
    for name in reader._FILES:
        (tmp_path / "models" / name).write_bytes(b"another network")
    spec = importlib.util.spec_from_loader("rapidocr_onnxruntime", None, is_package=True)
    spec.submodule_search_locations[:] = [str(tmp_path)]
    monkeypatch.setattr(reader.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(WeightsError, match="another version"):
        reader.require()


def test_an_index_of_another_reader_is_not_added_to(bundle_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "NAME", "another")
    monkeypatch.setattr(reader, "require", lambda: None)
    index = Index.create(tmp_path / "i", bundle_folder, ocr=True)
    monkeypatch.setattr(reader, "NAME", "pp-ocrv4")
    with pytest.raises(StoreError, match="an index with another"):
        index.add([picture()], ids=["a"])


def test_the_networks_read_what_is_drawn():
    if importlib.util.find_spec("rapidocr_onnxruntime") is None:
        pytest.skip("rapidocr-onnxruntime is not installed")
    reader._content.cache_clear()
    image = np.full((200, 500), 255, np.uint8)
    for top, line in ((30, "HELLO WORLD"), (120, "Pale Ale 42")):
        drawn = images.text(line, 60)
        image[top : top + 60, 40 : 40 + drawn.shape[1]] -= drawn
    image = np.repeat(image[..., None], 3, axis=2)
    lines = Reader.open().read(image)
    assert ["".join(line.text.split()) for line in lines] == ["HELLOWORLD", "PaleAle42"]
    assert all(isinstance(line, ReadLine) and line.confidence > 0.9 for line in lines)
    assert lines[0].region[0] < 60 < lines[0].region[2]
    for turns in (1, 3):
        turned = Reader.open().read(np.ascontiguousarray(np.rot90(image, turns)))
        texts = sorted("".join(line.text.split()) for line in turned)
        assert texts == ["HELLOWORLD", "PaleAle42"]
