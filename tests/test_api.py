"""What a Python user types: `import hashnet`, an index as a mapping, a result as a sequence."""

import ast
import io
import json
import os
import pathlib
import pickle
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import hashnet
from hashnet import images
from hashnet.errors import (
    ArgumentError,
    ImageError,
    ShapeError,
    StoreError,
    UnknownIdError,
    UnknownNameError,
)
from hashnet.retrieval.search import notebook
from hashnet.retrieval.store.items import Item

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def place(photos, bundle_folder, tmp_path_factory):
    """Where an index of the photos is, which no test of this file changes."""
    place = tmp_path_factory.mktemp("api") / "photos.index"
    hashnet.Index.of_photos(place, photos, bundle=bundle_folder, label_from_folder=True)
    return place


@pytest.fixture(scope="module")
def index(place):
    return hashnet.open(place)


@pytest.fixture
def own(place, tmp_path):
    """A copy of the index that a test may change."""
    return hashnet.open(shutil.copytree(place, tmp_path / "own.index"))


def in_another_process(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- import hashnet ---------------------------------------------------------------------------


def test_all_is_what_is_public():
    assert list(hashnet.__all__) == sorted(hashnet.__all__)
    namespace = {}
    exec("from hashnet import *", namespace)
    del namespace["__builtins__"]
    assert set(namespace) == set(hashnet.__all__)
    rooms = {path.stem for path in (ROOT / "hashnet").iterdir()} | {"annotations"}
    library = {"importlib", "Any", "TYPE_CHECKING"}
    shown = {name for name in dir(hashnet) if not name.startswith("_")}
    assert shown - rooms - library == set(hashnet.__all__) - {"__version__", "train"}


def test_the_page_of_the_api_lists_what_is_public():
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `hashnet\.(\w+)`", page, re.M)
    assert len(listed) == len(set(listed))
    assert set(listed) == set(hashnet.__all__) - {"__version__"}


def test_type_checkers_see_the_same_names():
    tree = ast.parse((ROOT / "hashnet" / "__init__.py").read_text(encoding="utf-8"))
    [checked] = [node for node in tree.body if isinstance(node, ast.If)]
    names = set()
    for node in checked.body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.AnnAssign):
            names.add(node.target.id)
    assert names >= set(hashnet.__all__) - {"__version__"}


def test_the_import_is_quick_and_loads_no_library():
    code = (
        "import sys, time; start = time.process_time(); import hashnet;"
        "print(time.process_time() - start);"
        "print(sorted({'numpy', 'PIL', 'keras', 'tensorflow', 'onnxruntime'} & set(sys.modules)))"
    )
    seconds, loaded = in_another_process(code).split("\n")[:2]
    assert float(seconds) < 0.1
    assert loaded == "[]"


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        hashnet.serach  # noqa: B018


def test_python_m_hashnet_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "hashnet", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"hashnet {hashnet.__version__}\n"


# --- Queries of every kind --------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked(photos):
    return photos / "disc/0.png"


def kinds(path):
    """The same picture in every form that a query may have."""
    pixels = images.read(path)
    opaque = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    return {
        "str": str(path),
        "Path": path,
        "bytes": path.read_bytes(),
        "bytearray": bytearray(path.read_bytes()),
        "memoryview": memoryview(path.read_bytes()),
        "file": io.BytesIO(path.read_bytes()),
        "PIL": Image.open(io.BytesIO(path.read_bytes())),
        "RGB": pixels,
        "RGBA": opaque,
        "float32": (pixels / 255).astype(np.float32),
        "float64": pixels / 255,
    }


def answer(result):
    fields = result.to_dict()
    del fields["milliseconds"], fields["query"]
    return fields


def test_every_kind_of_query_gives_the_same_answer(index, asked):
    wanted = answer(index.search(asked, k=4))
    assert [hit["label"] for hit in wanted["hits"]] == ["disc"] * 4
    for name, query in kinds(asked).items():
        assert answer(index.search(query, k=4)) == wanted, name


def test_every_kind_of_grey_query_gives_the_same_answer(index, asked):
    grey = images.read(asked)[..., 0]
    wanted = answer(index.search(grey[..., None].repeat(3, axis=2)))
    for query in (grey, grey[..., None], grey / 255, Image.fromarray(grey)):
        assert answer(index.search(query)) == wanted


def test_several_queries_give_a_list_of_the_single_answers(index, photos):
    paths = sorted(photos.rglob("1.png"))
    single = [answer(index.search(path, k=3)) for path in paths]
    pixels = np.stack([images.read(path) for path in paths])
    for several in (paths, tuple(map(str, paths)), iter(paths), pixels, list(pixels)):
        results = index.search(several, k=3)
        assert isinstance(results, list)
        assert [answer(result) for result in results] == single
    assert index.search([]) == []


def test_an_image_of_the_index_is_asked_for_by_its_id(own, photos):
    pixels = images.read(photos / "disc/1.png")
    own.add([pixels], ids=["mine"], labels=["disc"])
    result = own.search("mine", k=2)
    assert result.query == "mine" and result[0].path == str(photos / "disc/1.png")
    [_, mine] = own.search(pixels, k=2)
    same = own.search([own["mine"], mine], k=2)
    assert mine.id == "mine" and [answer(one) for one in same] == [answer(result)] * 2


def test_a_str_is_a_file_where_there_is_one_and_an_id_elsewhere(
    empty, photos, tmp_path, monkeypatch
):
    folder, index = shutil.copytree(photos / "disc", tmp_path / "disc"), empty
    index.add(folder)
    monkeypatch.chdir(tmp_path)
    id = "disc/0.png"
    assert index.search(id)[0].id == id  # the file finds itself
    assert index.search(index[id])[0].id != id  # an image of the index is left out
    os.remove(id)
    assert answer(index.search(id)) == answer(index.search(index[id]))


def test_what_is_neither_a_file_nor_an_id_is_refused_with_both_named(index):
    with pytest.raises(UnknownIdError, match=r"'cat\.jpg', which is neither a file here nor an id"):
        index.search("cat.jpg")
    with pytest.raises(UnknownIdError, match="'never'"):
        index.search(next(iter(index)), right=["never"])


@pytest.mark.parametrize(
    ("query", "name"),
    [
        (None, "NoneType"),
        (7, "int"),
        ({"path": "cat.jpg"}, "dict"),
        (object(), "object"),
        (np.zeros(9), "shape"),
        (np.zeros((4, 4, 7), np.uint8), "shape"),
        (np.zeros((4, 4), "U1"), "U1"),
        (np.full((4, 4), 7.5), "0"),
        (io.StringIO("text"), "StringIO"),
        (b"no image", "8 bytes"),
    ],
)
def test_what_cannot_be_taken_is_refused_by_name(index, query, name):
    with pytest.raises((ImageError, ArgumentError, ShapeError), match=re.escape(name)):
        index.search(query)


def test_a_folder_is_no_query(index, photos):
    with pytest.raises(ImageError, match="folder"):
        index.search(photos)


def test_a_broken_one_of_several_says_which(index, asked):
    with pytest.raises(ImageError) as caught:
        index.search([asked, b"no image"])
    assert caught.value.__notes__ == ["in query 1 of several, counted from 0"]


def test_fields_of_the_query_are_taken(index, asked):
    result = index.search(asked, k=3, labels="ramp", histogram=True)
    assert {hit.label for hit in result} == {"ramp"} and sum(result.histogram) == 6
    with pytest.raises(ArgumentError, match="k"):
        index.search(asked, k=0)
    with pytest.raises(ArgumentError, match="colour"):
        index.search(asked, colour="red")


# --- An index is a mapping of ids to items ----------------------------------------------------


def test_an_index_is_a_mapping(index, photos):
    ids = sorted(path.relative_to(photos.parent).as_posix() for path in photos.rglob("*.png"))
    assert len(index) == 24
    assert sorted(index) == sorted(index.keys()) == ids
    assert ids[0] in index and "never" not in index and 7 not in index
    item = index[ids[0]]
    path = str(photos.parent / ids[0])
    status = os.stat(path)
    known = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
    assert item == Item(ids[0], path, "checks", *known, images.content_hash(path))
    assert dict(index.items()) == {id: index[id] for id in ids}
    assert list(index.values()) == [index[id] for id in index]
    assert index.labels == {"checks": 6, "disc": 6, "ramp": 6, "stripes": 6}


def test_an_id_that_is_not_there_is_a_key_error_that_reads_well(index):
    with pytest.raises(KeyError) as caught:
        index["never"]
    assert isinstance(caught.value, hashnet.HashnetError)
    assert str(caught.value).startswith("An image is named by the id")
    with pytest.raises(UnknownIdError, match="'a', 'b'"):
        index.codes(["a", next(iter(index)), "b"])
    with pytest.raises(ArgumentError, match="7"):
        index[7]
    with pytest.raises(ArgumentError, match="several str"):
        index.codes(next(iter(index)))


def test_codes_and_features_come_as_arrays_by_id(index, bundle_folder):
    ids = list(index)
    encoded = hashnet.Encoder.open(bundle_folder).encode([index[id].path for id in ids])
    np.testing.assert_array_equal(index.codes(), encoded.codes)
    np.testing.assert_array_equal(index.codes(ids[::-1]), encoded.codes[::-1])
    np.testing.assert_array_equal(index.features(ids[3:5]), encoded.features[3:5].astype("f2"))
    features = index.features()
    assert features.dtype == np.float32 and features.shape == (24, index.encoder.config.feature_dim)
    assert index.codes([]).shape == (0, 4)


def test_an_index_reads_well(index, place):
    assert repr(index) == f"<Index {place}: 24 images, 32 bits>"
    page = index._repr_html_()
    assert page.count("data:image/jpeg;base64,") == 24 and "24 images, 32 bits" in page


def test_an_index_that_is_gone_still_has_a_repr(own):
    shutil.rmtree(own.store.folder)
    assert "no index" in repr(own).lower() or "missing" in repr(own).lower() or "index" in repr(own)


def test_an_index_is_pickled_by_its_place(index, asked):
    again = pickle.loads(pickle.dumps(index))
    assert type(again) is hashnet.Index
    assert answer(again.search(asked)) == answer(index.search(asked))
    assert len(pickle.dumps(index)) < 1000


def test_a_pickled_index_keeps_its_threads(place):
    one = pickle.loads(pickle.dumps(hashnet.open(place, num_threads=1)))
    assert one.encoder.num_threads == 1 and one.engine.num_threads == 1


def test_a_runtime_is_taken_to_the_encoder_or_refused(place, bundle_folder, tmp_path):
    for runtime in ("openvino", "onnxruntime"):
        pytest.importorskip(runtime)
        assert hashnet.open(place, runtime=runtime).encoder.runtime == runtime
        made = hashnet.Index.create(
            tmp_path / runtime, bundle_folder, runtime=runtime, num_threads=1
        )
        assert (made.encoder.runtime, made.encoder.num_threads) == (runtime, 1)
        again = pickle.loads(pickle.dumps(made))
        assert (again.encoder.runtime, again.encoder.num_threads) == (runtime, 1)
    with pytest.raises(UnknownNameError, match="no such"):
        hashnet.Index.create(tmp_path / "none", bundle_folder, runtime="no such")


def test_a_with_block_closes(place, asked):
    with hashnet.open(place) as index:
        assert len(index.search(asked)) == 10
    with pytest.raises(StoreError, match="was closed"):
        index.search(asked)
    with pytest.raises(StoreError, match="was closed"):
        len(index)


# --- It sees what is committed ----------------------------------------------------------------


def test_an_index_sees_what_it_adds_and_removes(own, asked):
    pixels = np.full((64, 64, 3), 17, np.uint8)
    assert own.search(pixels, k=1)[0].id != "dark"
    own.add(pixels, ids="dark", labels="night")
    assert own.search(pixels, k=1)[0].id == "dark"
    assert len(own) == 25 and own["dark"].label == "night" and "night" in own.labels
    assert own.remove("dark") == ["dark"]
    assert "dark" not in own and own.search(pixels, k=1)[0].id != "dark"


def test_an_index_sees_what_other_processes_commit(own):
    pixels = np.full((64, 64, 3), 17, np.uint8)
    assert len(own) == 24 and own.search(pixels, k=1)[0].id != "dark"
    code = (
        "import sys, numpy as np, hashnet;"
        "index = hashnet.open(sys.argv[1]);"
        "index.add(np.full((64, 64, 3), 17, np.uint8), ids='dark')"
    )
    in_another_process(code, own.store.folder)
    assert len(own) == 25 and own.search(pixels, k=1)[0].id == "dark"
    engine = own.engine
    assert own.engine is engine  # and nothing is done again as long as nothing is committed
    with own.store.writer() as writer:
        writer.compact()
    assert own.engine is not engine and own.search(pixels, k=1)[0].id == "dark"


def test_an_index_becomes_the_one_that_is_made_in_its_place(own, bundle_folder, photos):
    assert len(own) == 24
    shutil.rmtree(own.store.folder)
    other = hashnet.Index.create(own.store.folder, bundle_folder)
    other.add(photos / "disc")
    assert len(own) == 6 and len(own.search(photos / "ramp/0.png")) == 6


# --- Filling ----------------------------------------------------------------------------------


@pytest.fixture
def empty(bundle_folder, tmp_path):
    return hashnet.Index.create(tmp_path / "new.index", bundle_folder)


def test_paths_alone_suffice(empty, photos):
    seen = []
    report = empty.add(photos / "disc", progress=lambda *numbers: seen.append(numbers))
    assert (report.added, empty.report) == (6, report) and seen[-1] == (6, 6)
    assert empty.add([str(photos / "disc"), photos / "ramp/0.png"]).unchanged == 6
    assert set(empty) == {f"disc/{number}.png" for number in range(6)} | {"ramp/0.png"}
    # What `hashnet index` would do, it has done: nothing is encoded again.
    assert empty.update(photos / "disc").unchanged == 6


def test_files_are_labelled_one_by_one(empty, photos, monkeypatch):
    monkeypatch.chdir(photos / "disc")
    seen = []
    given = {"labels": ["round", None], "progress": lambda *numbers: seen.append(numbers)}
    assert empty.add(["0.png", "1.png"], **given).added == 2 and seen[-1] == (2, 2)
    assert empty["disc/0.png"].label == "round"
    assert empty["disc/1.png"].label is None
    assert empty.add("0.png", labels="circle").unchanged == 1
    assert empty.labels == {"circle": 1}
    with pytest.raises(ArgumentError, match="1 labels for 2 paths"):
        empty.add(["0.png", "1.png"], labels=["round"])
    with pytest.raises(ArgumentError, match="1 of them folders"):
        empty.add([photos], labels=["round"])


def test_images_that_are_no_files_need_ids(empty, photos):
    pixels = images.read(photos / "disc/0.png")
    with pytest.raises(ArgumentError, match="ndarray without ids"):
        empty.add([pixels])
    seen = []
    batch = np.stack([pixels, pixels // 2])
    empty.add(batch, ids=["a", "b"], progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (2, 2) and list(empty) == ["a", "b"]
    empty.add(Image.fromarray(pixels), ids="c", labels="round")
    assert [len(empty.codes([id]).ravel()) for id in empty] == [4, 4, 4]
    np.testing.assert_array_equal(*empty.codes(["a", "c"]))


def test_skipped_photos_are_a_warning(photos, bundle_folder, tmp_path):
    folder = shutil.copytree(photos / "disc", tmp_path / "disc")
    (folder / "bad.png").write_bytes(b"bad")
    with pytest.warns(
        hashnet.errors.SkippedWarning, match=r"^1 image was skipped.*bad\.png"
    ) as said:
        index = hashnet.Index.of_photos(tmp_path / "i", folder, bundle=bundle_folder)
    assert len(index) == 6 and len(index.report.problems) == 1
    assert ".." not in str(said[0].message)


def test_of_photos_follows_its_photos(photos, bundle_folder, tmp_path):
    folder = shutil.copytree(photos / "disc", tmp_path / "disc")
    stages = []
    make = hashnet.Index.of_photos
    index = make(
        tmp_path / "i",
        [folder],
        bundle=bundle_folder,
        progress=lambda *step: stages.append(step),
    )
    assert stages[-1] == ("encoding", 6, 6) and index.report.added == 6
    os.remove(folder / "0.png")
    assert make(tmp_path / "i", folder, prune=True).report.removed == ["disc/0.png"]
    with pytest.raises(hashnet.HashnetError, match="keeps its code length.*bits 8 for 32 bits"):
        make(tmp_path / "i", folder, bits=8)
    with pytest.raises(ArgumentError, match="bits is an integer, 1 or more.*bits=0"):
        make(tmp_path / "i", folder, bits=0)
    with pytest.raises(hashnet.HashnetError, match="keeps its fields.*exif True"):
        make(tmp_path / "i", folder, exif=True)
    with pytest.raises(ArgumentError, match="bundle and bits"):
        make(tmp_path / "j", folder, bundle=bundle_folder, bits=8)
    with pytest.raises(ArgumentError, match="Name files or folders"):
        make(tmp_path / "j", bundle=bundle_folder)


@pytest.mark.thorough
def test_copies_come_in_groups(own, photos):
    own.add(photos / "disc/0.png", ids="copy")
    groups = [{group.keep.id, *(one.id for one in group.copies)} for group in own.duplicates()]
    assert any({"copy", f"{photos.name}/disc/0.png"} <= group for group in groups)


# --- A result is a sequence of hits -----------------------------------------------------------


def test_a_result_is_a_sequence_of_hits(index, asked):
    result = index.search(asked, k=4)
    assert len(result) == 4 and list(result) == list(result.hits)
    assert result[0] == result.hits[0] and result[1:3] == result.hits[1:3]
    assert result[-1] in result and next(reversed(result)) == result[-1]
    with pytest.raises(IndexError):
        result[4]
    lines = repr(result).splitlines()
    assert len(lines) == 5 and lines[1].split()[:2] == ["1", "0"] and "[disc]" in lines[1]


def test_the_same_search_twice_gives_equal_results(index, asked):
    assert index.search(asked) == index.search(asked) != index.search(asked, k=2)


def test_a_search_takes_a_query_or_its_fields(index, asked):
    query = hashnet.Query(k=2, labels="ramp")
    assert index.search(asked, query) == index.search(asked, k=2, labels="ramp")
    assert [len(result) for result in index.search([asked, asked], query)] == [2, 2]
    with pytest.raises(ArgumentError, match="a Query or its fields.*k"):
        index.search(asked, query, k=3)
    with pytest.raises(ArgumentError, match=r"top_k.*Known ones: k, threshold, .*verify_top"):
        index.search(asked, top_k=3)
    with pytest.raises(ArgumentError, match=r"is a Query.*5.*k=5"):
        index.search(asked, 5)


def test_a_long_result_prints_its_first_hits(index, asked):
    assert repr(index.search(asked, k=20)).splitlines()[-1].strip() == "and 10 more"


def test_a_result_as_a_dict_is_what_the_command_prints(asked, run, place):
    index = hashnet.open(place, runtime="soonest")  # the command's
    printed = json.loads(run("search", place, asked, "--json", "-k", 3)[1])
    given = json.loads(json.dumps(index.search(str(asked), k=3).to_dict()))
    del printed["milliseconds"], given["milliseconds"]
    assert given == printed


def test_a_result_as_a_table(index, asked):
    pytest.importorskip("pandas")
    result = index.search(asked, k=3)
    table = result.to_pandas()
    assert list(table.columns) == list(hashnet.Hit._fields) and len(table) == 3
    assert table["id"].tolist() == [hit.id for hit in result]
    assert len(index.search(asked, ids=[]).to_pandas()) == 0


def test_without_pandas_a_command_that_installs_it_is_named(index, asked, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(hashnet.HashnetError, match='pip install "pandas"'):
        index.search(asked).to_pandas()


def test_a_notebook_shows_query_and_hits(index, asked):
    page = index.search(asked, k=3)._repr_html_()
    assert page.count("data:image/jpeg;base64,") == 4
    assert len(page) < 4 * 20_000
    for name in ("bytes", "file", "PIL", "RGB"):
        query = kinds(asked)[name]
        assert index.search(query, k=3)._repr_html_().count("data:image/jpeg;base64,") == 4
    assert index.search(next(iter(index)), k=1)._repr_html_().count("base64,") == 2


def test_what_a_notebook_shows_is_bounded(own, asked):
    own.add([images.read(asked)] * 30, ids=[f"copy {number}" for number in range(30)])
    page = own.search(asked, k=54)._repr_html_()
    assert page.count("<div") < 200 and "and 30 more" in page


@pytest.mark.parametrize("evil", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'])
def test_names_are_escaped_in_a_notebook(own, asked, evil):
    own.add(images.read(asked), ids=evil, labels=evil)
    page = own.search(asked, k=2, labels=evil)._repr_html_() + own._repr_html_()
    page += own.search(evil, k=1)._repr_html_()
    assert evil not in page and "<script" not in page and "<img src" not in page
    assert "&lt;" in page


def test_half_a_character_in_a_name_does_not_break_a_notebook():
    hit = hashnet.Hit("caf\udce9", "/photos/caf\udce9.jpg", None, 0, 0.0)
    result = hashnet.SearchResult("q", 1, 1, {}, (hit,))
    result._repr_html_().encode("utf-8")
    assert "picture gone" in result._repr_html_()


def test_a_region_is_outlined_where_it_lies(asked):
    height, width = images.size(asked)
    hit = hashnet.Hit("a", str(asked), None, 0, 0.0, None, (0, width // 2, height, width))
    page = notebook.of_result("q", None, [hit])
    assert "top:0.00%;left:50.00%;height:100.00%;width:50.00%" in page


def test_a_result_is_pickled_with_a_small_picture_of_its_query(index, asked):
    whole = np.zeros((2000, 3000, 3), np.uint8)
    for query in (asked, str(asked), whole, io.BytesIO(asked.read_bytes())):
        result = index.search(query, k=2)
        content = pickle.dumps(result)
        again = pickle.loads(content)
        assert again == result and len(content) < 20_000
        assert again._repr_html_().count("base64,") == 3


# --- Training ---------------------------------------------------------------------------------


def test_train_is_a_package_and_a_function():
    import hashnet.train.config

    assert hashnet.train.config.TrainConfig().num_bits == 48
    assert callable(hashnet.train) and "bits" in hashnet.train.__call__.__doc__
    code = "import hashnet.train.config, hashnet; print(callable(hashnet.train))"
    assert in_another_process(code) == "True\n"


def test_a_training_does_not_replace_a_bundle_unless_told_to(bundle_folder, photos, tmp_path):
    bundle = shutil.copytree(bundle_folder, tmp_path / "my.bundle")
    before = (bundle / "hashnet.json").read_bytes()
    with pytest.raises(ArgumentError, match="overwrite=True"):
        hashnet.train(photos, bundle)
    assert (bundle / "hashnet.json").read_bytes() == before
    with pytest.raises(hashnet.HashnetError, match="Known ones"):
        hashnet.train(photos, bundle, epoch=3)
    with pytest.raises(ArgumentError, match="bits and num_bits"):
        hashnet.train(photos, bundle, bits=8, num_bits=8)


# --- Evaluating -------------------------------------------------------------------------------


def test_evaluate_takes_a_place_or_an_index(index, place, photos):
    by_place = hashnet.evaluate(place, photos, baselines={})
    by_index = hashnet.evaluate(index, [photos], baselines={})
    assert len(repr(by_index)) < 200 and len(repr(by_index).splitlines()) == 2
    assert repr(by_index).startswith("24 queries, 24 images in the database\nmAP: coarse ")
    assert by_place.to_dict()["map_all"] == by_index.to_dict()["map_all"]
    wider = hashnet.evaluate(index, photos, baselines={}, threshold=33).to_dict()
    assert wider["coarse_to_fine"]["pool"]["mean"] == 23  # all but the query itself


def test_who_opened_an_index_writes_into_no_other_that_was_made_in_its_place(
    tmp_path, photos, bundle_folder
):
    place, [first, second] = tmp_path / "i", sorted(photos.rglob("*.png"))[:2]
    old = hashnet.Index.create(place, bundle_folder)
    old.add([first], ids=["old"])
    store = old.store
    shutil.rmtree(place)
    new = hashnet.Index.create(place, bundle_folder)
    new.add([first], ids=["new"])
    with pytest.raises(StoreError, match="written by those who opened it"), store.writer():
        pass
    old.add([second], ids=["later"])  # an index follows what is in its place
    assert old.store.made == new.store.made
    assert sorted(new) == sorted(hashnet.open(place)) == ["later", "new"]
    assert old.remove("new") == ["new"] and old.info()["images"] == 1
