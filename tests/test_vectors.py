"""Indexes of vectors alone: made, searched and refused."""

import json
import pathlib
import pickle
import time

import numpy as np
import pytest
from starlette.testclient import TestClient

import hashnet
from hashnet import cli, codes
from hashnet.errors import ArgumentError, FingerprintError, HashnetError, ShapeError
from hashnet.network import bundle, own_backbones
from hashnet.retrieval.index import Index
from hashnet.retrieval.vectors import Vectors


@pytest.fixture(scope="module")
def world():
    """Three clusters of 40 vectors in 24 dimensions, and the cluster of each."""
    rng = np.random.default_rng(5)
    cluster = np.repeat([0, 1, 2], 40)
    vectors = rng.normal(0, 0.3, (120, 24))
    vectors[np.arange(120), cluster] += 3
    return vectors.astype(np.float32), [f"kind{one}" for one in cluster]


@pytest.fixture(scope="module")
def place(world, tmp_path_factory):
    vectors, labels = world
    place = tmp_path_factory.mktemp("vectors") / "v.index"
    hashnet.Index.of_vectors(place, vectors, labels=labels, bits=16)
    return place


def written(folder, vectors, labels=None, name="v.npy"):
    path = pathlib.Path(folder) / name
    np.save(path, vectors)
    if labels:
        path.with_suffix(".labels.txt").write_text("\n".join(label or "" for label in labels))
    return path


def test_the_nearest_by_angle_are_found_whatever_the_lengths(place, world):
    vectors, _ = world
    index = hashnet.open(place)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = np.argsort(-(units @ units[50]), kind="stable")[:5]
    for scale in (1, 1000, 1e-3):
        result = index.search(vectors[50] * np.float32(scale), k=5, rank_by="feature", pool=120)
        assert [int(hit.id) for hit in result] == expected.tolist()
    assert result.milliseconds["encode"] > 0
    by_id = index.search("50", k=4, rank_by="feature", pool=120)
    assert [int(hit.id) for hit in by_id] == expected[1:].tolist()
    several = index.search([vectors[0], vectors[119]], k=1)
    assert [result[0].id for result in several] == ["0", "119"]
    assert {hit.label for hit in index.search(vectors[0], k=9, labels="kind2")} == {"kind2"}
    assert index.labels == dict.fromkeys(["kind0", "kind1", "kind2"], 40)


def test_codes_do_not_depend_on_neighbours_nor_on_threads(place, world):
    vectors, _ = world
    held = Index.open(place).codes()
    for threads in (1, 2):
        encoder = Index.open(place, num_threads=threads).encoder
        together, _ = encoder.encode_vectors(vectors)
        singly = [encoder.encode_vectors(one[None])[0][0] for one in vectors]
        assert (together == held).all() and (np.stack(singly) == held).all()
    assert 0.3 < codes.unpack(held, 16).mean() < 0.7


def test_the_same_vectors_make_the_same_index(world, tmp_path):
    vectors, labels = world
    one, other = (
        hashnet.Index.of_vectors(tmp_path / name, vectors, labels=labels, bits=16)
        for name in ("one", "other")
    )
    assert one.encoder.fingerprint == other.encoder.fingerprint
    assert (one.codes() == other.codes()).all()


def test_a_second_run_adds_and_changes_what_is_new(world, tmp_path):
    vectors, labels = world
    place = tmp_path / "i"
    path = written(tmp_path, vectors[:100], labels[:100])
    assert hashnet.Index.of_vectors(place, path, bits=16).report.added == 100
    assert hashnet.Index.of_vectors(place, path).report.unchanged == 100
    more = hashnet.Index.of_vectors(place, vectors[99:101], ids=["5", "new"], paths=["a.png", None])
    assert (more.report.added, more.report.changed) == (1, 1)
    assert more["5"].path == str(pathlib.Path.cwd() / "a.png")
    assert more["5"].label is None
    for asked in ({"bits": 32}, {"backbone": "resnet50"}):
        with pytest.raises(FingerprintError, match="keeps its"):
            hashnet.Index.of_vectors(place, vectors, **asked)


def test_a_photo_is_refused_by_name(place, photos):
    picture = photos / "disc/0.png"
    index = hashnet.open(place)
    for ask in (
        lambda: index.search(picture),
        lambda: index.search(np.zeros((40, 40, 3), np.uint8)),
        lambda: index.add(picture),
        lambda: index.add([picture], ids=["x"]),
        lambda: hashnet.Index.of_photos(place, photos),
    ):
        with pytest.raises(ArgumentError, match=r"encodes no picture.*--backbone"):
            ask()


def test_pictures_are_queries_where_the_network_is_named(bundle_folder, photos, tmp_path):
    of_photos = Index.create(tmp_path / "photos.index", bundle_folder)
    of_photos.update(photos)
    ids = list(of_photos)
    features = of_photos.features()
    index = hashnet.Index.of_vectors(tmp_path / "v", features, ids=ids, bundle=bundle_folder)
    picture = photos / "disc/3.png"
    assert index.search(picture, k=1)[0].id.endswith("disc/3.png")
    assert (index.codes(ids) == of_photos.codes(ids)).mean() > 0.99
    with pytest.raises(ShapeError, match="gives 64 numbers"):
        hashnet.Index.of_vectors(tmp_path / "w", features[:, :9], bundle=bundle_folder)
    assert not (tmp_path / "w").exists()


def test_what_vectors_must_be(world, tmp_path):
    vectors, _ = world
    bad = {
        "NaN": (np.where(np.arange(24) == 3, np.nan, vectors), {}),
        "infinite": (np.where(np.arange(24) == 3, np.inf, vectors), {}),
        "zeros": (vectors * 0, {}),
        "none": (vectors[:0], {}),
        "integers": (np.ones((3, 4), int), {}),
        "one": (vectors[0], {}),
        "repeated": (vectors, {"ids": ["a"] * 120}),
        "too few ids": (vectors, {"ids": ["a"]}),
        "too many labels": (vectors, {"labels": ["a"] * 121}),
        "numbers for ids": (vectors, {"ids": list(range(120))}),
    }
    for name, (array, options) in bad.items():
        with pytest.raises((ArgumentError, ShapeError)):
            hashnet.Index.of_vectors(tmp_path / "i", array, **options)
            pytest.fail(name)
        assert not list(tmp_path.iterdir()), name


def test_a_later_bad_block_changes_nothing(place, world, monkeypatch):
    from hashnet.retrieval import vectors as module

    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 16)
    vectors = world[0].copy()
    vectors[100, 7] = np.nan
    index = hashnet.open(place)
    with pytest.raises(ArgumentError, match=r"from vector 96 on.*vector 4"):
        index.add_vectors(vectors, ids=[f"new{row}" for row in range(120)])
    assert len(index) == 120
    with pytest.raises(ShapeError, match="features of this index have 24"):
        index.add_vectors(vectors[:, :7])


class Trap:
    def __reduce__(self):
        return (pathlib.Path.touch, (pathlib.Path("sprung"),))


def hostile_files(folder, vectors):
    """Files that are no arrays of vectors, by what is wrong."""
    whole = written(folder, vectors).read_bytes()
    header = np.lib.format.magic(2, 0) + (1 << 30).to_bytes(4, "little") + b"{" * 20_000
    objects = np.empty((2, 2), object)
    objects[:] = Trap()
    np.save(folder / "objects.npy", objects, allow_pickle=True)
    return {
        "cut": whole[:-10],
        "longer": whole + b"0",
        "empty": b"",
        "text": b"hello",
        "header": header,
        "objects": (folder / "objects.npy").read_bytes(),
        "pickle": pickle.dumps(Trap()),
        "shape": whole.replace(b"(120, 24)", b"(999, 24)"),
        "code": whole.replace(b"'descr'", b"f('d') "),
    }


def test_hostile_files_are_refused(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in hostile_files(tmp_path, world[0]).items():
        path = tmp_path / "bad.npy"
        path.write_bytes(content)
        with pytest.raises(ArgumentError, match=r"float16 or float32 from numpy.save"):
            hashnet.Index.of_vectors(tmp_path / "i", path)
            pytest.fail(name)
        assert not (tmp_path / "i").exists() and not (tmp_path / "sprung").exists()
    for array in (world[0].astype(np.float64), np.asfortranarray(world[0]), world[0][0]):
        with pytest.raises(ArgumentError):
            Vectors.of(written(tmp_path, array, name="other.npy"))
    with pytest.raises(ArgumentError, match="no file"):
        Vectors.of("nothing.npy")
    with pytest.raises(ArgumentError, match="ends in"):
        Vectors.of("nothing.bin")
    with pytest.raises(ArgumentError, match="one line a vector"):
        Vectors.of(written(tmp_path, world[0], ["a", "b"]))


def test_parquet_holds_ids_labels_and_paths(world, tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    vectors, labels = world
    ids, paths = [f"id{row}" for row in range(120)], ["s3://photos/x.png"] * 120
    names = {"id": ids, "label": labels, "path": paths}
    flat = pa.array(vectors.ravel())
    lists = {
        "fixed": pa.FixedSizeListArray.from_arrays(flat, 24),
        "list": pa.array([one.tolist() for one in vectors], pa.list_(pa.float32())),
        "half": pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype("f2").ravel()), 24),
    }
    for kind, column in lists.items():
        path = tmp_path / f"{kind}.parquet"
        pq.write_table(pa.table({**names, "vector": column}), path, row_group_size=50)
        found = Vectors.of(path)
        assert found.items[7][:3] == ("id7", paths[7], labels[7])
        read = found.at(np.array([0, 7, 119]))
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        assert np.allclose(read, units[[0, 7, 119]], atol=1e-3)
    index = hashnet.Index.of_vectors(tmp_path / "i", tmp_path / "fixed.parquet", bits=16)
    assert index.search("id7", k=1)[0].label == labels[7]
    ragged = [[1.0, 2.0], [1.0]]
    bad = {
        "ragged": {"id": ["a", "b"], "vector": pa.array(ragged, pa.list_(pa.float32()))},
        "gap": {"id": ["a"], "vector": pa.array([[1.0, None]], pa.list_(pa.float32()))},
        "missing": {"id": ["a"], "vector": pa.array([None], pa.list_(pa.float32()))},
        "no ids": {"vector": lists["fixed"]},
        "an id is missing": {"id": pa.array(["a", None]), "vector": lists["fixed"][:2]},
        "texts": {"id": ["a"], "vector": ["b"]},
        "empty": {"id": pa.array([], pa.string()), "vector": lists["fixed"][:0]},
    }
    for name, columns in bad.items():
        pq.write_table(pa.table(columns), tmp_path / "bad.parquet")
        with pytest.raises(ArgumentError):
            Vectors.of(tmp_path / "bad.parquet")
            pytest.fail(name)
    (tmp_path / "bad.parquet").write_bytes((tmp_path / "fixed.parquet").read_bytes()[:500])
    with pytest.raises(ArgumentError, match="Parquet"):
        Vectors.of(tmp_path / "bad.parquet")


def test_a_parquet_file_that_packs_far_more_than_it_has_is_refused(tmp_path):
    """Long words and vectors that are all the same take a few bytes a row."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    rows, options = 20_000, {"compression": "zstd", "store_schema": False}
    ids = pa.array([str(row) for row in range(rows)])
    ones = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(4 * rows, "f4")), 4)

    def repeated(word):
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, "i4")), pa.array([word]))

    path = tmp_path / "packed.parquet"
    before = time.process_time()
    pq.write_table(
        pa.table({"id": ids, "vector": ones, "label": repeated("x" * 2**17)}), path, **options
    )
    with pytest.raises(ArgumentError, match="a word of more than 65536 letters"):
        Vectors.of(path)
    pq.write_table(
        pa.table({"id": ids, "vector": ones, "path": repeated("x" * 2**15)}), path, **options
    )
    items = Vectors.of(path).items  # each has the same word, not a copy of it
    assert len(items[0].path) > 2**15 and path.stat().st_size < 2**18
    ends = pa.array([0, 2**22], pa.int32())
    long = pa.ListArray.from_arrays(ends, pa.array(np.ones(2**22, "f4")))
    pq.write_table(pa.table({"id": ids[:1], "vector": long}), path, **options)
    with pytest.raises(ArgumentError, match="vectors of 4194304 numbers"):
        Vectors.of(path)
    assert time.process_time() - before < 5


def test_a_text_beside_an_array_is_read_up_to_a_bound(world, tmp_path):
    path = written(tmp_path, world[0], name="few.npy")
    with open(tmp_path / "few.ids.txt", "wb") as file:
        file.truncate(2**34)
    with pytest.raises(ArgumentError, match="bytes at most"):
        Vectors.of(path)


def test_duplicates_refit_and_evaluation(world, tmp_path):
    vectors, labels = world
    index = hashnet.Index.of_vectors(tmp_path / "i", vectors, labels=labels, bits=16)
    index.add_vectors(vectors[[3, 4]] * 2, ids=["copy3", "copy4"])
    groups = [{group.keep.id, *(one.id for one in group.copies)} for group in index.duplicates()]
    assert {"3", "copy3"} in groups and {"4", "copy4"} in groups
    assert index.refit() == 122 and len(index) == 122 and index.info()["fitted_to"] == 122
    index.remove(["copy3", "copy4"])
    path = written(tmp_path, vectors[::10], labels[::10])
    report = hashnet.evaluate(index, path)
    assert report.queries == 12 and report.to_dict()["map_all"] > 0.9
    # Place 0 is the index's own vector; the others have its ids, but are other vectors.
    assert report.queries_in_the_index == 1
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"1": ["9", "11"]}))
    by_list = hashnet.evaluate(index, path, ground_truth=truth)
    assert by_list.queries == 1


def test_the_commands(world, tmp_path, capsys, photos):
    vectors, labels = world
    place, path = str(tmp_path / "i"), str(written(tmp_path, vectors, labels))
    assert cli.main(["index", place, "--from-vectors", path, "--bits", "16"]) == cli.DONE
    assert "120 added" in capsys.readouterr().out
    queries = str(written(tmp_path, vectors[[2, 50]], name="q.npy"))
    assert cli.main(["search", place, queries, "-k", "1", "--json"]) == cli.DONE
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["query"], one["hits"][0]["id"]) for one in found] == [
        (f"{queries}: 0", "2"),
        (f"{queries}: 1", "50"),
    ]
    assert cli.main(["search", place, "7", "--by-id"]) == cli.DONE
    assert cli.main(["evaluate", place, path, "--json"]) == cli.DONE
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["map_all"] > 0.9
    assert cli.main(["search", place, str(photos / "disc/0.png")]) != cli.DONE
    assert "no picture" in capsys.readouterr().err
    assert cli.main(["index", place, "--from-vectors", path, "--local", "sift"]) != cli.DONE
    assert "--local" in capsys.readouterr().err


def test_the_service_takes_a_list(place, world):
    from hashnet.retrieval.service import app, settings

    vectors, _ = world
    application = app.create_app(place, settings.Settings())
    with TestClient(application, base_url="http://localhost") as client:
        answer = client.post(
            "/api/search/vector", json={"vector": vectors[9].tolist()}, params={"k": 2}
        )
        assert answer.json()["hits"][0]["id"] == "9" and len(answer.json()["hits"]) == 2
        for wrong in ([1.0], [0.0] * 24, [1e200] * 24, [], "x", None):
            answer = client.post("/api/search/vector", json={"vector": wrong})
            assert answer.status_code == 422, wrong
        body = {"vector": vectors[9].tolist(), "k": 2, "treshold": 3}
        answer = client.post("/api/search/vector", json=body)
        assert answer.status_code == 422
        assert "k, treshold" in answer.json()["error"] and "vector" in answer.json()["error"]
        assert client.post("/api/search/vector", json=[1]).status_code == 422
        nan = client.post("/api/search/vector", content=b'{"vector": [NaN]}')
        assert nan.status_code == 422
        assert client.get("/api/search?id=3").json()["hits"]
        picture = client.post("/api/search", files={"image": ("x.png", b"x")})
        assert picture.status_code in (415, 422)


def test_a_bundle_of_vectors_is_not_exported(place, tmp_path):
    from hashnet.network import export

    with pytest.raises(ArgumentError, match="An export takes images"):
        export.export(bundle.load(place), tmp_path / "x.onnx", "onnx")


def test_a_bundle_of_vectors_says_what_it_is(place):
    opened = bundle.load(place)
    assert opened.config.takes_vectors and opened.config.outputs == ("latent", "feature")
    described = json.loads((opened.folder / bundle.DESCRIPTION).read_text())
    assert described["format_version"] == 4
    assert described["network"]["own"] == {"kind": "vectors", "feature_dim": 24}
    for wrong in ({}, {"kind": "x"}, {"kind": "vectors", "feature_dim": "9"}, []):
        with pytest.raises(HashnetError):
            own_backbones.described("x", wrong)
