"""Extraction to Parquet: the same files whoever works on them, finished after a kill, and an index
made of them answers as one made of the images."""

import hashlib
import importlib.util
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from hashnet import cli, images
from hashnet.encode.encoder import Encoder
from hashnet.errors import (
    ArgumentError,
    BundleError,
    FingerprintError,
    HashnetError,
    StoreError,
)
from hashnet.network import bundle
from hashnet.retrieval.extraction import parquet, sources
from hashnet.retrieval.extraction.extract import extract
from hashnet.retrieval.extraction.parquet import Extraction
from hashnet.retrieval.index import Index
from hashnet.retrieval.ingest import Ingest
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.finders import finder_of
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.store.items import Item

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

NUM_BITS = 12
TABLES = itertools.count()


@pytest.fixture(scope="module")
def tiny(stub_bundles):
    return stub_bundles[0]


@pytest.fixture(scope="module")
def six(tiny, photos, tmp_path_factory):
    """An extraction of six photos, which `out` may be a copy of."""
    folder = tmp_path_factory.mktemp("six") / "out"
    extract([photos / "disc"], folder, tiny)
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def files(folder):
    """dict of name to content of every file of an extraction."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def contents(index):
    """Every live item with its code and feature."""
    with index.store.snapshot() as snapshot:
        rows = finder_of(snapshot).rows()
        codes, features = snapshot.codes[rows], snapshot.features(rows)
        return {
            item.id: (item, code.tobytes(), feature.tobytes())
            for item, code, feature in zip(snapshot.items(rows), codes, features, strict=True)
        }


def shard(out, number=0, suffix="parquet"):
    return out / "shards" / f"{number:06d}.{suffix}"


def forge(out, content, number=0, **record):
    """Put other bytes in the place of a shard, with a checksum that fits."""
    shard(out, number).write_bytes(content)
    known = json.loads(shard(out, number, "json").read_text())
    known |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), **record}
    shard(out, number, "json").write_text(json.dumps(known))


def rewritten(out, change, **options):
    """The bytes of the first shard with another table in it."""
    sink = pa.BufferOutputStream()
    pq.write_table(change(pq.read_table(shard(out))), sink, **{"compression": "none", **options})
    return sink.getvalue().to_pybytes()


def read_all(out):
    return list(Extraction.open(out).batches())


# --- What is written --------------------------------------------------------------------------


def test_rows_are_the_images_by_id_with_the_encoders_codes_and_features(tiny, photos, out):
    report = extract([photos], out, tiny, label_from_folder=True, shard_rows=10)
    assert (report.extracted, report.kept, report.problems) == (24, 0, [])
    batches = read_all(out)
    assert [len(batch) for batch in batches] == [10, 10, 4]
    items = [item for batch in batches for item in batch.items]
    paths = sorted(str(path) for path in photos.rglob("*.png"))
    assert [item.id for item in items] == [item.path for item in items] == paths
    assert [item.label for item in items] == [path.split("/")[-2] for path in paths]
    status = os.stat(paths[7])
    assert (items[7].size, items[7].mtime_ns) == (status.st_size, status.st_mtime_ns)
    encoded = Encoder.open(tiny).encode(paths)
    np.testing.assert_array_equal(np.concatenate([b.codes for b in batches]), encoded.codes)
    features = np.concatenate([batch.features for batch in batches])
    assert features.dtype == np.float16
    np.testing.assert_allclose(features, encoded.features, atol=1e-3)


def test_any_program_that_reads_parquet_reads_the_shards(tiny, photos, out):
    extract([photos], out, tiny, shard_rows=10, feature_dtype="float32")
    table = pq.read_table(shard(out, 1))
    assert table.schema.field("code").type == pa.binary(2)
    assert table.schema.field("feature").type.list_size == 8
    assert table.schema.field("feature").type.value_type == pa.float32()
    facts = json.loads(table.schema.metadata[b"hashnet"])
    assert facts["fingerprint"] == bundle.load(tiny).fingerprint
    assert (facts["num_bits"], facts["shard"]) == (NUM_BITS, 1)


def test_files_do_not_depend_on_workers_parts_or_order(tiny, photos, tmp_path):
    expected = None
    for workers in (1, 2, 5):
        out = tmp_path / f"workers {workers}"
        extract([photos], out, tiny, shard_rows=5, workers=workers)
        expected = expected or files(out)
        assert files(out) == expected
    out = tmp_path / "parts"
    parts = [(3, 3), (1, 3), (2, 3)]
    reports = [extract([photos], out, tiny, shard_rows=5, part=part) for part in parts]
    assert [report.extracted for report in reports] == [5, 10, 9]
    assert files(out) == expected
    names = sorted(photos.iterdir(), reverse=True)
    extract([*names, photos], tmp_path / "order", tiny, shard_rows=5)
    assert files(tmp_path / "order") == expected


@pytest.mark.thorough
def test_two_processes_may_begin_at_once(tiny, photos, out):
    code = (
        "import sys; from hashnet.network import backbones; from tests.stub_backbone import STUB\n"
        "backbones.BACKBONES['stub'] = STUB\n"
        "from hashnet.retrieval.extraction.extract import extract; part = int(sys.argv[4]), 3\n"
        "extract([sys.argv[1]], *sys.argv[2:4], part=part, shard_rows=5)\n"
    )
    arguments = [sys.executable, "-c", code, photos, out, tiny]
    children = [subprocess.Popen([*arguments, str(part)]) for part in (1, 2, 3)]
    assert [child.wait() for child in children] == [0, 0, 0]
    assert sum(map(len, read_all(out))) == 24
    assert not [name for name in files(out) if ".hashnet-" in name]


# --- Resuming ---------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("num_shards", [1, 4])
def test_a_killed_run_is_finished_by_the_next_and_ends_the_same(
    tiny, photos, out, tmp_path, num_shards
):
    code = (
        "import sys, time; from hashnet.network import backbones\n"
        "from tests.stub_backbone import STUB\n"
        "backbones.BACKBONES['stub'] = STUB\n"
        "from hashnet.encode.encoder import Encoder; pixels = Encoder._pixels\n"
        "Encoder._pixels = lambda *a: time.sleep(0.02) or pixels(*a)\n"
        "from hashnet.retrieval.extraction.extract import extract\n"
        "extract([sys.argv[1]], *sys.argv[2:], shard_rows=3)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, photos, out, tiny])
    while not shard(out, num_shards - 1, "json").exists():
        assert child.poll() is None
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    with pytest.raises(StoreError, match="not finished.*again"):
        Extraction.open(out).num_images  # noqa: B018
    before = files(out)
    report = extract([photos], out, tiny, shard_rows=3)
    assert report.kept >= 3 * num_shards and report.extracted + report.kept == 24
    extract([photos], tmp_path / "whole", tiny, shard_rows=3)
    after = files(out)
    assert after == files(tmp_path / "whole")
    assert all(after[name] == content for name, content in before.items() if name in after)


@pytest.mark.slow
def test_killed_again_and_again_at_any_moment_it_ends_the_same(tiny, photos, out, tmp_path):
    code = (
        "import sys, time; from hashnet.network import backbones\n"
        "from tests.stub_backbone import STUB\n"
        "backbones.BACKBONES['stub'] = STUB\n"
        "from hashnet.encode.encoder import Encoder; pixels = Encoder._pixels\n"
        "Encoder._pixels = lambda *a: time.sleep(0.02) or pixels(*a)\n"
        "from hashnet.retrieval.extraction.extract import extract; print('begins', flush=True)\n"
        "extract([sys.argv[1]], *sys.argv[2:], shard_rows=2)\n"
    )
    rng, kills = np.random.default_rng(0), 0
    while True:
        command = [sys.executable, "-c", code, photos, out, tiny]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        child.stdout.readline()
        try:
            child.wait(rng.uniform(0, 1.5 + kills / 4))  # on a busy machine a shard takes longer
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            kills += 1
            assert kills < 100
        child.communicate()
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL
    extract([photos], tmp_path / "whole", tiny, shard_rows=2)
    assert kills and files(out) == files(tmp_path / "whole")


class Killed(BaseException):
    """Stands for a kill between two steps."""


@pytest.mark.fast("1", "4")
@pytest.mark.parametrize("step", range(8))
def test_killed_between_any_two_steps_a_shard_is_there_or_not(
    tiny, photos, out, tmp_path, monkeypatch, step
):
    folder = shutil.copytree(photos / "disc", tmp_path / "disc")
    extract([folder], out, tiny)
    images.write(folder / "3.png", images.read(photos / "ramp/0.png"))
    steps = iter(range(step + 1))

    def killing(call):
        def wrapped(*args, **kwargs):
            if next(steps, None) == step:
                raise Killed
            return call(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patch:
        for name in ("replace", "unlink", "fsync"):
            patch.setattr(parquet.os, name, killing(getattr(os, name)))
        with pytest.raises(Killed):
            extract([folder], out, tiny)
    extract([folder], out, tiny)
    extract([folder], tmp_path / "fresh", tiny)
    assert files(out) == files(tmp_path / "fresh")


def test_what_is_finished_is_not_read_again(tiny, photos, out, monkeypatch):
    extract([photos], out, tiny, shard_rows=10)
    before = files(out)
    monkeypatch.setattr(Encoder, "_pixels", lambda *_: pytest.fail("something was read"))
    report = extract([photos], out, tiny, shard_rows=10)
    assert (report.extracted, report.kept) == (0, 24) and files(out) == before


def test_changed_and_damaged_shards_are_made_again_and_no_others(tiny, photos, out, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "photos")
    extract([folder], out, tiny, shard_rows=6)
    content = bytearray(shard(out, 1).read_bytes())
    content[100] ^= 1
    shard(out, 1).write_bytes(content)
    os.remove(shard(out, 2, "json"))
    os.utime(folder / "checks/0.png", ns=(1, 1))
    with pytest.raises(StoreError, match="000001"):
        read_all(out)
    report = extract([folder], out, tiny, shard_rows=6)
    assert (report.extracted, report.kept) == (18, 6)
    assert sum(map(len, read_all(out))) == 24
    shutil.rmtree(folder / "disc")
    report = extract([folder], out, tiny, shard_rows=6)
    assert (report.extracted, report.kept) == (12, 6)
    extract([folder], tmp_path / "fresh", tiny, shard_rows=6)
    assert files(out) == files(tmp_path / "fresh")


def test_broken_images_are_named_recorded_and_left_out(tiny, photos, out, tmp_path):
    folder = shutil.copytree(photos / "disc", tmp_path / "disc")
    (folder / "2.png").write_bytes(b"bad")
    (folder / "9.png").write_bytes((folder / "1.png").read_bytes()[:300])
    for _ in range(2):  # the second time they are known
        report = extract([folder], out, tiny, shard_rows=3)
        assert [os.path.basename(problem.path) for problem in report.problems] == ["2.png", "9.png"]
    assert [len(batch) for batch in read_all(out)] == [2, 3, 0]
    assert Extraction.open(out).problems(0)[0].path == str(folder / "2.png")


def test_an_extraction_keeps_its_network_dtype_and_size(stub_bundles, photos, out):
    extract([photos], out, stub_bundles[0], shard_rows=10)
    before = files(out)
    with pytest.raises(FingerprintError, match="fingerprint"):
        extract([photos], out, stub_bundles[1], shard_rows=10)
    with pytest.raises(FingerprintError, match="feature_dtype"):
        extract([photos], out, stub_bundles[0], shard_rows=10, feature_dtype="float32")
    with pytest.raises(FingerprintError, match="shard_rows"):
        extract([photos], out, stub_bundles[0])
    assert files(out) == before


def test_a_place_that_is_taken_is_left_alone(tiny, photos, out, tmp_path):
    out.mkdir()
    (out / "letter.txt").write_text("dear")
    with pytest.raises(StoreError, match="folder of its own"):
        extract([photos], out, tiny)
    with pytest.raises(BundleError):
        extract([photos], tmp_path / "new", tmp_path / "no bundle")
    with pytest.raises(HashnetError, match="at least one image.*nowhere"):
        extract([tmp_path / "nowhere"], tmp_path / "new", tiny)
    for wrong in [{"part": (0, 2)}, {"part": (3, 2)}, {"shard_rows": 0}, {"feature_dtype": "int8"}]:
        with pytest.raises(ArgumentError):
            extract([photos], tmp_path / "new", tiny, **wrong)
    assert os.listdir(out) == ["letter.txt"] and not (tmp_path / "new").exists()


# --- Where images come from -------------------------------------------------------------------


def test_lists_and_uris_name_the_same_images_as_folders(tiny, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    (tmp_path / "list.txt").write_text(f"disc\r\n\n{photos}/ramp/0.png\nfile://{photos}/checks\n")
    (photos / "checks" / ".hidden.png").write_bytes(b"")
    (photos / "checks" / "notes.md").write_bytes(b"")
    items, problems, _ = sources.listed([tmp_path / "list.txt"], label_from_folder=True)
    os.remove(photos / "checks" / ".hidden.png")
    os.remove(photos / "checks" / "notes.md")
    expected = [f"{photos}/disc/{n}.png" for n in range(6)] + [f"{photos}/ramp/0.png"]
    expected += [f"file://{photos}/checks/{n}.png" for n in range(6)]
    assert [item.id for item in items] == sorted(expected) and problems == []
    extract([f"file://{photos}"], tmp_path / "uri", tiny, label_from_folder=True)
    extract([photos], tmp_path / "local", tiny, label_from_folder=True)
    [uri], [local] = read_all(tmp_path / "uri"), read_all(tmp_path / "local")
    assert [i.label for i in uri.items] == [i.label for i in local.items]
    assert [(i.size, i.mtime_ns) for i in uri.items] == [(i.size, i.mtime_ns) for i in local.items]
    np.testing.assert_array_equal(uri.features, local.features)


def test_objects_that_cannot_be_read_are_named(tiny, photos, out, tmp_path):
    folder = shutil.copytree(photos / "disc", tmp_path / "a disc")
    (folder / "bad.png").write_bytes(b"bad")
    report = extract([f"file://{folder}", f"file://{tmp_path}/no.png"], out, tiny)
    assert report.extracted == 6
    assert {problem.path for problem in report.problems} == {
        f"file://{folder}/bad.png",
        f"file://{tmp_path}/no.png",
    }
    with pytest.raises(HashnetError, match="pyarrow knows"):
        extract(["gopher://a/b"], out, tiny)


def test_a_name_that_is_no_text_is_named(tiny, photos, out, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    shutil.copy(photos / "disc/0.png", os.fsencode(folder) + b"/\xff.png")
    shutil.copy(photos / "disc/0.png", folder / "caf\u00e9\n.png")
    report = extract([folder], out, tiny)
    assert report.extracted == 1 and "UTF-8" in report.problems[0].reason
    assert read_all(out)[0].items[0].path == str(folder / "caf\u00e9\n.png")


# --- Into an index ----------------------------------------------------------------------------


@pytest.fixture
def index(tiny, tmp_path):
    return Index.create(tmp_path / "photos.index", tiny)


@pytest.fixture(params=["folder", pytest.param("chdb", marks=pytest.mark.thorough)])
def any_index(request, tiny):
    if request.param == "folder":
        return request.getfixturevalue("index")
    folder = request.getfixturevalue("chdb_folder")
    return Index.create(f"chdb://{folder}/extract/t{next(TABLES)}", tiny)


def test_an_index_of_parquet_answers_as_one_of_images(tiny, photos, out, any_index, tmp_path):
    index = any_index
    extract([photos], out, tiny, label_from_folder=True, shard_rows=7)
    assert index.add_parquet(out).added == 24
    direct = Index.create(tmp_path / "direct.index", tiny)
    direct.update([photos], label_from_folder=True)
    mine, theirs = contents(index), contents(direct)

    def known(held):  # an extraction keeps less of a file
        return {id: (item[:5], code) for id, (item, code, _) in held.items()}

    assert known(mine) == known(theirs)
    one, other = Engine(index), Engine(direct)
    for path in sorted(photos.rglob("*.png")):
        for options in ({"k": 24}, {"threshold": 3}, {"pool": 5}, {"labels": "disc"}):
            ours, expected = (
                one.search(path, Query(**options)),
                other.search(path, Query(**options)),
            )
            assert (ours.threshold, ours.pool) == (expected.threshold, expected.pool)
            near = {hit.id: hit for hit in expected.hits}
            assert {hit.id for hit in ours.hits} == set(near)
            for hit in ours.hits:
                assert hit.bits_apart == near[hit.id].bits_apart
                assert hit.distance == pytest.approx(near[hit.id].distance, abs=2e-3)
            distances = [hit.distance for hit in ours.hits]
            assert distances == sorted(distances)


def test_loading_twice_and_indexing_the_images_later_changes_nothing(
    tiny, photos, out, any_index, monkeypatch
):
    index = any_index
    extract([photos], out, tiny, label_from_folder=True, shard_rows=7)
    index.add_parquet(out)
    before, rows = contents(index), index.info()["rows"]
    report = index.add_parquet(out)
    assert (report.added, report.changed, report.unchanged) == (0, 0, 24)
    monkeypatch.setattr(Encoder, "_pixels", lambda *_: pytest.fail("something was read"))
    assert index.update([photos], label_from_folder=True).unchanged == 24
    assert contents(index) == before and index.info()["rows"] == rows


def test_a_rehash_keeps_of_files_what_an_extraction_does_not(
    tiny, photos, out, index, tmp_path, monkeypatch
):
    folder = shutil.copytree(photos, tmp_path / "photos")
    extract([folder], out, tiny)
    index.add_parquet(out)
    assert index.update([folder], rehash=True).unchanged == 24
    rows = index.info()["rows"]
    assert index.update([folder], rehash=True).unchanged == 24
    assert index.info()["rows"] == rows  # nothing more is known of them now
    monkeypatch.setattr(Encoder, "_pixels", lambda *_: pytest.fail("something was encoded"))
    (folder / "disc").rename(folder / "round")
    assert index.update([folder]).moved == 6


def test_changed_files_and_labels_are_followed(tiny, photos, out, any_index, tmp_path):
    index = any_index
    folder = shutil.copytree(photos, tmp_path / "photos")
    extract([folder], out, tiny)
    index.add_parquet(out)
    images.write(folder / "disc/0.png", images.read(folder / "ramp/0.png"))
    os.utime(folder / "disc/0.png", ns=(1, 1))
    shutil.copy(folder / "disc/1.png", folder / "disc/new.png")
    extract([folder], out, tiny, label_from_folder=True)
    report = index.add_parquet(out)
    assert (report.added, report.changed, report.unchanged) == (1, 1, 23)
    held = contents(index)
    assert held["photos/disc/0.png"][1] == held["photos/ramp/0.png"][1]
    assert {item.label for item, _, _ in held.values()} == {"checks", "disc", "ramp", "stripes"}
    # An extraction without labels takes none away.
    extract([folder], out, tiny)
    assert index.add_parquet(out).unchanged == 25
    assert contents(index) == held


def test_images_without_a_time_are_compared_by_what_they_became(tiny, out, any_index):
    index = any_index

    def write(features, *version):
        shutil.rmtree(out, ignore_errors=True)
        items = [Item("a", "s3://b/a", None, *version), Item("b", "s3://b/b", None, *version)]
        extraction = Extraction.begin(out, tiny, items)
        extraction.write(0, items, np.zeros((2, 2), np.uint8), features, [])

    features = np.eye(8, dtype=np.float32)[:2]
    write(features)
    assert index.add_parquet(out).added == 2
    assert index.add_parquet(out).unchanged == 2
    write(features[::-1])
    assert index.add_parquet(out).changed == 2
    # Of one size and time they are the same files, and are not compared.
    write(features, 1000, 10**18)
    assert index.add_parquet(out).changed == 2
    write(features[::-1], 1000, 10**18)
    assert index.add_parquet(out).unchanged == 2
    np.testing.assert_array_equal(index.features(["a", "b"]), features)


def test_a_killed_loading_is_finished_by_the_next(tiny, photos, out, any_index, monkeypatch):
    index = any_index
    extract([photos], out, tiny, shard_rows=5)
    store_rows, calls = Ingest._store_rows, iter(range(2))

    def killing(*args):
        if next(calls, None) is None:
            raise Killed
        return store_rows(*args)

    monkeypatch.setattr(Ingest, "_store_rows", killing)
    with pytest.raises(Killed):
        index.add_parquet(out)
    monkeypatch.undo()
    index = Index.open(index.store.folder)
    report = index.add_parquet(out)
    assert (report.added, report.unchanged) == (14, 10)
    assert len(index) == 24 == index.info()["rows"]


def test_an_index_takes_codes_of_its_own_encoder_only(stub_bundles, photos, out, tmp_path):
    extract([photos], out, stub_bundles[0])
    other = Index.create(tmp_path / "other.index", stub_bundles[1])
    with pytest.raises(FingerprintError, match="own encoder"):
        other.add_parquet(out)
    wide = Index.create(tmp_path / "wide.index", stub_bundles[0], feature_dtype="float32")
    with pytest.raises(ArgumentError, match="float32"):
        wide.add_parquet(out)
    shutil.rmtree(out)
    extract([photos], out, stub_bundles[0], feature_dtype="float32")
    assert wide.add_parquet(out).added == 24
    narrow = Index.create(tmp_path / "narrow.index", stub_bundles[0])
    assert narrow.add_parquet(out).added == 24


# --- Damage and malice ------------------------------------------------------------------------


def refused(out, index):
    """What is said when an index is given the extraction, of which nothing must remain."""
    with pytest.raises(HashnetError) as refusal:
        index.add_parquet(out)
    assert len(index) == 0
    return str(refusal.value)


def test_every_damaged_byte_is_seen(six, out, index):
    shutil.copytree(six, out)
    content = shard(out).read_bytes()
    for place in range(0, len(content), 97):
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        shard(out).write_bytes(damaged)
        assert "differs from its checksum" in refused(out, index)
    for length in (0, 4, len(content) // 2, len(content) - 1):
        shard(out).write_bytes(content[:length])
        assert "bytes that were written" in refused(out, index)
    os.remove(shard(out))
    assert "No such file" in refused(out, index)
    shard(out).write_bytes(content)
    assert index.add_parquet(out).added == 6


def test_damage_under_a_checksum_that_fits_is_an_error_and_no_crash(six, out, index):
    shutil.copytree(six, out)
    content = shard(out).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 3):
            damaged[place] = rng.integers(0, 256)
        forge(out, bytes(damaged))
        try:
            [batch] = Extraction.open(out).batches()
        except HashnetError:
            continue
        assert batch.codes.shape == (6, 2) and batch.features.shape == (6, 8)
    for length in (0, 4, 11, len(content) // 2, len(content) - 1):
        forge(out, content[:length])
        assert "not readable" in refused(out, index)


@pytest.mark.parametrize("step", [17, pytest.param(1, marks=pytest.mark.thorough)])
def test_no_byte_of_a_footer_that_is_another_crashes(six, out, index, step):
    """pyarrow ends the process where it is asked for a compression that it does not know."""
    shutil.copytree(six, out)
    content = shard(out).read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    compressed = 0
    for place in range(len(content) - 8 - length, len(content), step):
        damaged = bytearray(content)
        damaged[place] ^= 0x54
        forge(out, bytes(damaged))
        try:
            [batch] = Extraction.open(out).batches()
        except HashnetError as error:
            compressed += "it is compressed" in str(error)
        else:
            assert batch.codes.shape == (6, 2) and batch.features.shape == (6, 8)
    assert step > 1 or compressed >= 7  # a byte of each column, at least


def replaced(name, values, type=None):
    def change(table):
        place = table.schema.names.index(name)
        field = table.schema.field(name)
        column = pa.array(values, type or field.type)
        return table.set_column(place, pa.field(name, column.type, field.nullable), column)

    return change


SIX = [f"/{number}" for number in range(6)]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda table: table.drop_columns("code"), "its columns are"),
        (lambda table: table.append_column("more", pa.array(SIX)), "its columns are"),
        (replaced("code", [b"123"] * 6, pa.binary(3)), "its columns are"),
        (replaced("code", [b"12"] * 6, pa.binary()), "its columns are"),
        (replaced("code", [b"\0\xff"] * 6), "Bits beyond the last one"),
        (
            replaced("feature", [[np.float16(0)] * 9] * 6, pa.list_(pa.float16(), 9)),
            "its columns are",
        ),
        (replaced("feature", [[0.0] * 8] * 6, pa.list_(pa.float64(), 8)), "its columns are"),
        (replaced("size", SIX, pa.string()), "its columns are"),
        (replaced("id", SIX[::-1]), "do not ascend"),
        (replaced("id", [SIX[0]] * 6), "do not ascend"),
        (replaced("label", ["x" * 100_000] * 6), "letters"),
        (lambda table: table.slice(0, 5), "5 rows instead of 6"),
        (lambda table: table.replace_schema_metadata({}), "None"),
        (lambda table: table.replace_schema_metadata({"hashnet": "[]"}), "None"),
        (lambda table: table.replace_schema_metadata({"hashnet": "{"}), "not readable"),
        (lambda table: table.replace_schema_metadata({"hashnet": "[" * 99_999}), "not readable"),
        (
            lambda table: table.replace_schema_metadata({"hashnet": '{"fingerprint": "f"}'}),
            "of f",
        ),
    ],
)
def test_hostile_shards_are_refused(six, out, index, change, what):
    shutil.copytree(six, out)
    forge(out, rewritten(out, change))
    assert what in refused(out, index)


def test_features_that_are_no_numbers_are_refused(six, out, index):
    shutil.copytree(six, out)

    def change(table):
        field = table.schema.field("feature")
        values = pa.array(np.full(48, np.nan, np.float16))
        column = pa.FixedSizeListArray.from_arrays(values, type=field.type)
        return table.set_column(table.schema.names.index("feature"), field, column)

    forge(out, rewritten(out, change))
    assert "NaN" in refused(out, index)


def test_compressed_shards_are_refused_unread(six, out, index):
    shutil.copytree(six, out)
    forge(out, rewritten(out, replaced("label", ["x" * 1_000_000] * 6), compression="zstd"))
    assert "compressed" in refused(out, index)


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 99},
        {"fingerprint": 7},
        {"feature_dtype": "object"},
        {"shard_rows": 10**9},
        {"shard_rows": True},
        {"listings": "000"},
        {"listings": [7]},
    ],
)
def test_hostile_manifests_are_refused(six, out, index, change):
    shutil.copytree(six, out)
    manifest = json.loads((out / "extraction.json").read_text())
    (out / "extraction.json").write_text(json.dumps(manifest | change))
    assert "Received" in refused(out, index)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": -1},
        {"rows": 10**9},
        {"rows": 5},
        {"bytes": 1e300},
        {"sha256": None},
        {"problems": [["a"]]},
        {"problems": 3},
        {"listing": "0"},
    ],
)
def test_hostile_records_are_refused(six, out, index, change):
    shutil.copytree(six, out)
    forge(out, shard(out).read_bytes(), **change)
    assert "000000" in refused(out, index)


def test_an_extraction_with_anothers_encoder_is_refused(stub_bundles, six, out, index):
    shutil.copytree(six, out)
    shutil.rmtree(out / "encoder")
    assert "hashnet.json" in refused(out, index)
    shutil.copytree(stub_bundles[1], out / "encoder")
    assert "carries the encoder" in refused(out, index)
    for text in ("", "[]", "{", '{"format_version": "x"}', "[" * 100_000):
        (out / "extraction.json").write_text(text)
        assert "whole" in refused(out, index)


# --- The command line -------------------------------------------------------------------------


def test_extract_then_index_from_parquet(run, tiny, photos, out, tmp_path):
    options = ["--bundle", tiny, "--label-from", "folder"]
    for part in ("1/2", "2/2"):
        status, text, _ = run("extract", photos, out, *options, "--shard", part, "--workers", 2)
        assert status == cli.DONE
    assert text == "0 extracted, 0 kept, 0 skipped\n"  # one shard holds all: part 2 is empty
    assert run("extract", photos, out, *options)[1] == "0 extracted, 24 kept, 0 skipped\n"
    index = tmp_path / "i"
    assert run("index", index, "--from-parquet", out) == (
        cli.DONE,
        "24 added, 0 changed, 0 unchanged\n",
        "",
    )
    assert run("index", index, "--from-parquet", out, "--bundle", tiny)[1].startswith("0 added")
    assert run("index", index, photos)[1].startswith("0 added, 0 changed, 24 unchanged")
    assert run("index", index, "--label-from", "folder", photos)[0] == cli.DONE


def test_unreadable_images_end_with_status_3(run, tiny, photos, out, tmp_path):
    folder = shutil.copytree(photos / "disc", tmp_path / "disc")
    (folder / "bad.png").write_bytes(b"bad")
    status, text, err = run("extract", folder, out, "--bundle", tiny)
    assert status == cli.SKIPPED_SOME and text == "6 extracted, 0 kept, 1 skipped\n"
    assert "bad.png" in err


def test_wrong_ways_to_index_parquet_leave_no_index(run, stub_bundles, photos, out, tmp_path):
    index = tmp_path / "i"
    status, _, err = run("index", index, "--from-parquet", out)
    assert status == cli.FAILED and "hashnet extract" in err
    run("extract", photos, out, "--bundle", stub_bundles[0])
    assert run("index", index)[0] == cli.WRONG_ARGUMENTS
    status, _, err = run("index", index, photos, "--from-parquet", out, "--prune")
    assert status == cli.WRONG_ARGUMENTS and "photos, prune" in err
    status, _, err = run("index", index, "--from-parquet", out, "--precision", "int8")
    assert status == cli.WRONG_ARGUMENTS and "precision" in err
    status, _, err = run("index", index, "--from-parquet", out, "--bundle", stub_bundles[1])
    assert status == cli.FAILED and "bundle" in err
    os.remove(shard(out, 0, "json"))
    status, _, err = run("index", index, "--from-parquet", out)
    assert status == cli.FAILED and "hashnet extract" in err
    assert not index.exists()
    for wrong in ("0/2", "3/2", "1", "a/b"):
        with pytest.raises(SystemExit) as stop:
            cli.main(["extract", "a", "b", "--bundle", "c", "--shard", wrong])
        assert stop.value.code == cli.WRONG_ARGUMENTS


# --- Ray --------------------------------------------------------------------------------------

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed"
)


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_actors_of_ray_write_the_same_files(bundle_folder, photos, tmp_path, workers):
    folder = shutil.copytree(photos, tmp_path / "photos")
    (folder / "disc/bad.png").write_bytes(b"bad")
    counts = []
    report = extract(
        [folder],
        tmp_path / "ray",
        bundle_folder,
        ray="local",
        workers=workers,
        shard_rows=7,
        progress=lambda done, total: counts.append((done, total)),
    )
    assert (report.extracted, len(report.problems)) == (24, 1) and counts[-1] == (25, 25)
    extract([folder], tmp_path / "plain", bundle_folder, shard_rows=7)
    assert files(tmp_path / "ray") == files(tmp_path / "plain")
    os.remove(shard(tmp_path / "ray", 0, "json"))
    again = extract(
        [folder], tmp_path / "ray", bundle_folder, ray="local", workers=workers, shard_rows=7
    )
    assert again.extracted == 7
    assert files(tmp_path / "ray") == files(tmp_path / "plain")


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_without_ray_the_way_out_is_named(tiny, photos, out):
    with pytest.raises(HashnetError, match=r"pip install .*ray\[data\]"):
        extract([photos], out, tiny, ray="local")
