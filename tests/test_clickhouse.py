"""What only an index in ClickHouse has: URLs, statements, a server that fails, kills."""

import functools
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest

from hashnet import cli
from hashnet.errors import ArgumentError, BackendError, StoreError
from hashnet.local.codebook import Codebook
from hashnet.retrieval.search.finders import finder_of
from hashnet.retrieval.store.clickhouse import connection as connections
from hashnet.retrieval.store.clickhouse import generations, tables
from hashnet.retrieval.store.clickhouse import store as clickhouse
from hashnet.retrieval.store.clickhouse import writer as writers
from hashnet.retrieval.store.items import Item, StoredFeatures


@pytest.mark.parametrize(
    "url",
    [
        "clickhouse://host/db",
        "clickhouse:///db/table",
        "clickhouse://host:1/a/b/c",
        "clickhouse://host:99999/db/table",
        "clickhouse://me:secret@host:1/db/ta`ble",
        "clickhouse://host:1/db/table;drop",
        "clickhouse://host:1/db/table?x=1",
        "chdb://host/db/table",
        "http://host/db/table",
    ],
)
def test_other_urls_are_refused(url):
    with pytest.raises(ArgumentError) as caught:
        connections.Place(url)
    assert "secret" not in str(caught.value)


def test_a_server_that_is_down_is_named_without_its_password():
    pytest.importorskip("clickhouse_connect", reason='pip install "hashnet[clickhouse]"')
    with pytest.raises(BackendError, match="me@127.0.0.1:1/db/table") as caught:
        clickhouse.Store.open("clickhouse://me:secret@127.0.0.1:1/db/table")
    assert "secret" not in str(caught.value)


def made(url, **options):
    return clickhouse.Store.create(
        url,
        num_bits=16,
        feature_dim=2,
        feature_dtype="float32",
        fingerprint="0123456789",
        encoder_files={},
        **options,
    )


LOCAL = {"extractor": "sift", "descriptor_dim": 4}


def batch(start, num, *, local=False):
    items = [Item(f"i{n}") for n in range(start, start + num)]
    arrays = np.zeros((num, 2), np.uint8), np.ones((num, 2), np.float32)
    if not local:
        return items, *arrays
    return items, *arrays, [local_features(n) for n in range(start, start + num)]


def local_features(number):
    """So many that images differ, at a place that says whose they are."""
    count = number % 3
    return StoredFeatures(
        np.full((count, 2), number, np.float32), np.full((count, 4), 0.5, np.float16)
    )


def test_every_statement_for_a_cluster_is_one_that_clickhouse_reads(chdb_folder):
    client = connections.Place(f"chdb://{chdb_folder}/a/b").client()
    statements = tables.ddl("clickhouse://h/photos/all", num_bits=48, cluster="main")
    for statement in statements:
        assert "CreateQuery" in client.query(f"EXPLAIN AST {statement}").result_rows[0][0]
    text = "".join(statements)
    assert text.count("ReplicatedMergeTree") == 4 and text.count("cityHash64(id))") == 3


# As `ddl` made them before there were local features and regions; tables that are there stay so.
OLD_TABLES = [
    "CREATE DATABASE IF NOT EXISTS `old`",
    "CREATE TABLE `old`.`photos` (row UInt64 CODEC(NONE), kills UInt64, id String, key UInt64 "
    "MATERIALIZED cityHash64(id), path Nullable(String), label LowCardinality(Nullable(String)), "
    "size Nullable(Int64), mtime_ns Nullable(Int64), code FixedString(2) CODEC(NONE), "
    "feature Array(Float32) CODEC(NONE)) ENGINE = MergeTree ORDER BY (kills, code) "
    "SETTINGS index_granularity = 256, non_replicated_deduplication_window = 1000",
    "CREATE TABLE `old`.`photos_encoder` (name String, content String) ENGINE = MergeTree "
    "ORDER BY name SETTINGS non_replicated_deduplication_window = 1000",
]
OLD_FACTS = (
    '{"format_version": 1, "num_bits": 16, "feature_dim": 2, "fingerprint": "0123456789", '
    '"created": "2026-01-02T03:04:05Z"}'
)


@pytest.mark.thorough
def test_tables_of_an_older_version_are_used_as_they_are(chdb_folder, tmp_path):
    url = f"chdb://{chdb_folder}/old/photos"
    tables.execute(url, OLD_TABLES)
    for options in ({}, LOCAL, {"regions_per_image": 2}):
        with pytest.raises(StoreError, match="older version.*clickhouse init"):
            made(url, **options)
    tables.execute(url, [f"INSERT INTO `old`.`photos_encoder` VALUES ('facts', '{OLD_FACTS}')"])
    store = clickhouse.Store.open(url)
    assert (store.format_version, store.extractor, store.regions_per_image) == (1, None, 0)
    with store.writer() as writer:
        writer.add(*batch(0, 9))
        writer.add(*batch(0, 3))
        writer.update([Item("i4", "/moved")])
        assert writer.remove(["i8"]) == ["i8"]
    for _ in range(2):
        snapshot = store.snapshot()
        found = finder_of(snapshot).find(
            np.zeros(2, np.uint8), np.ones(2, np.float32), 9, threshold=1
        )
        assert snapshot.num_items == 8 and found.pool == 8 and found.regions is None
        assert {item.id for item in found.items} == {f"i{n}" for n in range(8)}
        with store.writer() as writer:
            writer.compact()
    assert refit(store, tmp_path) == 8
    again = clickhouse.Store.open(url)
    assert (again.format_version, again.fingerprint) == (1, "fedcba9876")
    assert contents_of(again) == recoded_contents(contents_of(again))
    assert refit(again, tmp_path) == 8


@pytest.mark.fast("[]", "{}")
@pytest.mark.parametrize("facts", ["", "{}", "[]", "[" * 99_999, '{"format_version": "1"}'])
def test_facts_that_are_none_are_an_error_and_no_crash(chdb_folder, facts):
    name = f"facts{zlib.crc32(facts.encode())}"
    url = f"chdb://{chdb_folder}/{name}/photos"
    tables.execute(url, [one.replace("`old`", f"`{name}`") for one in OLD_TABLES])
    tables.execute(url, [f"INSERT INTO `{name}`.`photos_encoder` VALUES ('facts', '{facts}')"])
    with pytest.raises(StoreError, match="as HashNet wrote them"):
        clickhouse.Store.open(url)


def test_local_features_cut_off_in_the_table_are_an_error(chdb_folder):
    url = f"chdb://{chdb_folder}/cut/photos"
    store = made(url, **LOCAL)
    with store.writer() as writer:
        writer.add(*batch(0, 3, local=True))
    tables.execute(
        url,
        ["ALTER TABLE `cut`.`photos_descriptors` UPDATE yx = substring(yx, 1, 8) WHERE id = 'i2'"],
    )
    snapshot = store.snapshot()
    assert len(snapshot.local_features(snapshot.rows(["i0", "i1"]))) == 2
    with pytest.raises(StoreError, match="as HashNet wrote them"):
        snapshot.local_features(snapshot.rows(["i2"]))


def test_a_look_for_changes_reads_no_rows(chdb_folder):
    store = made(f"chdb://{chdb_folder}/looks/photos")
    with store.writer() as writer:
        for start in range(0, 5000, 1000):
            writer.add(*batch(start, 1000))
    asked, connection = [], store._connection
    query = connection._client.query

    def recorded(*arguments, **options):
        asked.append(query(*arguments, **options))
        return asked[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection._client, "query", recorded)
        store.version()
    assert asked and max(int(answer.summary["read_rows"]) for answer in asked) < 1000


@pytest.mark.thorough
def test_long_lists_are_bound_in_values_that_a_server_takes(chdb_folder, monkeypatch):
    store = made(f"chdb://{chdb_folder}/long/photos")
    ids = [f"{n:04}" + "x'\\" * 30 for n in range(3000)]
    items = [Item(id) for id in ids]
    longest, query = [], store._connection._client.query

    def measured(statement, *, parameters, **options):
        longest.append(max(len(str(value)) for value in ["", *parameters.values()]))
        return query(statement, parameters=parameters, **options)

    monkeypatch.setattr(store._connection._client, "query", measured)
    with store.writer() as writer:
        writer.add(items, np.zeros((3000, 2), np.uint8), np.ones((3000, 2), np.float32))
        writer.add(items[:9], np.zeros((9, 2), np.uint8), np.ones((9, 2), np.float32))
    snapshot = store.snapshot()
    rows = snapshot.rows(ids)
    assert (rows >= 0).all() and snapshot.items(np.tile(rows, 9))[-3000:] == items
    finder = finder_of(snapshot)
    allowed = finder.allowed(None, ids[::2])
    found = finder.find(
        np.zeros(2, np.uint8), np.ones(2, np.float32), 9999, threshold=1, allowed=allowed
    )
    assert {item.id for item in found.items} == set(ids[::2]) and found.pool == 1500
    assert 50_000 < max(longest) <= 128 << 10


@pytest.mark.thorough
def test_local_features_without_their_images_are_seen_by_nobody(chdb_folder, monkeypatch):
    store = made(f"chdb://{chdb_folder}/orphans/photos", **LOCAL)
    connection, stop = store._connection, []
    insert = connection.insert

    def killed(table, *arguments):
        if stop and table == connection.table:
            raise KeyboardInterrupt
        insert(table, *arguments)

    def num_stored():
        return int(connection.ask("SELECT count() FROM {descriptors_table}")[0][0])

    monkeypatch.setattr(connection, "insert", killed)
    with store.writer() as writer:
        writer.add(*batch(0, 6, local=True))
        stop.append("now")
        with pytest.raises(KeyboardInterrupt):
            writer.add(*batch(3, 6, local=True))
        assert store.snapshot().num_items == 6 and num_stored() == 12
        stop.clear()
        writer.add(*batch(3, 6, local=True))
        writer.remove(["i0"])
        writer.compact()
    snapshot = store.snapshot()
    ids = [f"i{n}" for n in range(1, 9)]
    assert snapshot.num_items == num_stored() == 8
    for number, local in enumerate(snapshot.local_features(snapshot.rows(ids)), 1):
        wanted = local_features(number)
        np.testing.assert_array_equal(local.yx, wanted.yx)
        np.testing.assert_array_equal(local.descriptors, wanted.descriptors)


def test_the_command_prints_and_runs_them(chdb_folder, capsys):
    url = f"chdb://{chdb_folder}/init/photos"
    assert cli.main(["clickhouse", "init", url, "--bits", "16", "--execute"]) == 0
    assert capsys.readouterr().out.count("CREATE ") == 5
    store = made(url)  # in the tables that are there
    assert store.snapshot().num_items == 0
    assert cli.main(["clickhouse", "init", url, "--bits", "16", "--cluster", "a b"]) == 2


@pytest.mark.thorough
def test_a_search_beyond_a_limit_raises_and_answers_nothing_in_part(chdb_folder, monkeypatch):
    store = made(f"chdb://{chdb_folder}/faults/limits")
    with store.writer() as writer:
        writer.add(*batch(0, 50))
    finder = finder_of(store.snapshot())
    query = np.zeros(2, np.uint8), np.ones(2, np.float32), 5
    assert finder.find(*query, threshold=1).pool == 50
    monkeypatch.setitem(connections.SETTINGS, "max_rows_to_read", 10)
    with pytest.raises(BackendError, match="in part"):
        finder.find(*query, threshold=1)


@pytest.mark.fast("before")
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_insert_whose_answer_is_lost_comes_in_once(chdb_folder, monkeypatch, when):
    store = made(f"chdb://{chdb_folder}/faults/retry_{when}")
    client, calls = store._connection._client, []
    insert = client.insert

    def flaky(*arguments, **options):
        calls.append(when)
        if len(calls) > 1 or when == "after":
            insert(*arguments, **options)
        if len(calls) == 1:
            raise ConnectionResetError("gone")

    monkeypatch.setattr(client, "insert", flaky)
    monkeypatch.setattr(connections, "RETRY_SECONDS", 0.01)
    with store.writer() as writer:
        writer.add(*batch(0, 10))
    snapshot = store.snapshot()
    assert len(calls) == 2 and (snapshot.num_items, snapshot.num_rows) == (10, 10)


def test_a_server_that_stays_away_ends_the_insert(chdb_folder, monkeypatch):
    store = made(f"chdb://{chdb_folder}/faults/away")

    def away(*_, **__):
        raise ConnectionRefusedError("nobody")

    monkeypatch.setattr(store._connection._client, "insert", away)
    monkeypatch.setattr(connections, "RETRY_SECONDS", 0.01)
    with pytest.raises(BackendError, match="nobody"), store.writer() as writer:
        writer.add(*batch(0, 10))
    assert store.snapshot().num_items == 0


LOADER = """
import json, sys
import numpy as np
from hashnet.retrieval.search.finders import finder_of
from hashnet.retrieval.store.clickhouse import generations, tables
from hashnet.retrieval.store.clickhouse import store as clickhouse
from tests.test_clickhouse import LOCAL, batch, local_features, made
url, total, step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def state():
    snapshot = store.snapshot()
    query = np.zeros(2, np.uint8), np.ones(2, np.float32), 10 * total
    found = finder_of(snapshot).find(*query, threshold=99)
    ids = [item.id for item in found.items]
    local = snapshot.local_features(found.rows)
    right = sum((one.yx == local_features(int(id[1:])).yx).all() for id, one in zip(ids, local))
    numbers = [snapshot.num_items, found.pool, len(ids), len(set(ids)), int(right)]
    print(json.dumps(numbers), flush=True)
store = clickhouse.Store.open(url) if clickhouse.Store.is_there(url) else made(url, **LOCAL)
state()
with store.writer() as writer:
    for round in range(2):  # the second replaces what the first has added
        for start in range(0, total, step):
            writer.add(*batch(start, step, local=True))
            print("committed", flush=True)
state()
"""


def killed_and_run_again(url, commits, seconds, total=720, step=120):
    """Kill a loading so long after its n-th commit, and see what is there and what comes of it."""
    command = [sys.executable, "-c", LOADER, url, str(total), str(step)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    first.stdout.readline()
    for _ in range(commits):
        assert first.stdout.readline() == "committed\n"
    time.sleep(seconds)
    first.send_signal(signal.SIGKILL)
    said = first.communicate()[0].splitlines()
    assert first.returncode == -signal.SIGKILL or len(said) == 2 * total // step - commits + 1
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    [found], after = {*json.loads(second.stdout.splitlines()[0])}, second.stdout.splitlines()[-1]
    # A batch is there wholly or not at all, and at least those that were said to be.
    assert found % step == 0 and found >= min(total, (commits + said.count("committed")) * step)
    assert json.loads(after) == [total] * 5


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("commits", "seconds"), [pytest.param(1, 0.005, marks=pytest.mark.slow), (9, 0.02)]
)
def test_killed_while_it_inserts_and_run_again_nothing_is_missing_or_twice(
    tmp_path, commits, seconds, chdb_folder
):
    killed_and_run_again(f"chdb://{tmp_path}/kill/photos", commits, seconds)


@pytest.mark.slow
def test_killed_at_any_moment_and_run_again_nothing_is_missing_or_twice(tmp_path, chdb_folder):
    rng = np.random.default_rng(0)
    for turn in range(15):
        url = f"chdb://{tmp_path}/kill{turn}/photos"
        killed_and_run_again(url, int(rng.integers(0, 12)), rng.uniform(0, 0.1))


@pytest.mark.thorough
def test_what_was_extracted_is_found_as_in_a_folder(
    chdb_folder, bundle_folder, photos, capsys, tmp_path
):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    out, places = str(tmp_path / "out"), [str(tmp_path / "index"), f"chdb://{chdb_folder}/load/all"]
    command = ["extract", str(photos), out, "--bundle", str(bundle_folder), "--label-from=folder"]
    assert cli.main(command) == 0
    queries = [str(photos / name) for name in ("disc/0.png", "ramp/3.png", "checks/5.png")]
    found = []
    for place in places:
        for report in ("24 added", "24 unchanged"):
            capsys.readouterr()
            assert cli.main(["index", place, "--from-parquet", out]) == 0
            assert report in capsys.readouterr().out
        assert cli.main(["search", place, *queries, "-k", "24", "--threshold", "9", "--json"]) == 0
        found.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    for one, other in zip(*found, strict=True):
        assert (one["threshold"], one["pool"]) == (other["threshold"], other["pool"])
        both = [sorted(result["hits"], key=lambda hit: hit["id"]) for result in (one, other)]
        for here, there in zip(*both, strict=True):  # float16 in one, float32 in the other
            assert here.pop("distance") == pytest.approx(there.pop("distance"), abs=5e-3)
            assert here == there


@pytest.mark.thorough
def test_the_commands_take_a_url(chdb_folder, bundle_folder, photos, capsys, tmp_path):
    url, query = f"chdb://{chdb_folder}/commands/photos", str(photos / "disc/0.png")
    assert cli.main(["index", url, str(photos), "--bundle", str(bundle_folder)]) == 0
    assert "24 added" in capsys.readouterr().out
    assert cli.main(["search", url, query, "-k", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hits"][0]["path"] == query
    assert cli.main(["remove", url, query]) == 0
    assert cli.main(["compact", url]) == 0
    capsys.readouterr()
    assert cli.main(["info", url, "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert (info["images"], info["rows"], info["folder"]) == (23, 23, url)
    copy = tmp_path / "copy.png"
    shutil.copy(photos / "disc/1.png", copy)
    assert cli.main(["index", url, str(copy)]) == 0
    capsys.readouterr()
    assert cli.main(["duplicates", url, "--json"]) == 0
    pairs = [json.loads(line)["ids"] for line in capsys.readouterr().out.splitlines()]
    there = {id for pair in pairs for id in pair}
    assert f"{tmp_path.name}/copy.png" in there and f"{photos.name}/disc/0.png" not in there
    # What reads the files of a folder says so, and an index keeps what it was made with.
    refusals = [
        ["check", url],
        ["evaluate", url, str(photos)],
        ["index", url, str(photos), "--local", "sift"],
        ["search", url, query, "--verify"],
        ["export", url, str(tmp_path / "out.onnx"), "--format", "onnx"],
        ["search", f"chdb://{chdb_folder}/commands/none", query],
        ["remove", f"chdb://{chdb_folder}/nowhere/none", query],
    ]
    for arguments in refusals:
        assert cli.main(arguments) in (cli.FAILED, cli.WRONG_ARGUMENTS), arguments
        assert capsys.readouterr().err.startswith("hashnet: "), arguments


# --- Other codes ----------------------------------------------------------------------------------


def signs(features):
    """The codes of another network: a byte for each number of a feature, 255 where above 0."""
    return np.where(features > 0, 255, 0).astype(np.uint8)


def varied(numbers, *, local=False):
    """As `batch`, each image with a feature of its own, and a code that tells nothing of it."""
    numbers = np.asarray(numbers)
    features = np.stack([np.sin(numbers), np.cos(numbers)], axis=1).astype(np.float32)
    items = [Item(f"i{n}", f"/p/{n}", f"label {n % 3}", int(n), None) for n in numbers]
    added = items, np.stack([numbers % 3, numbers % 2], axis=1).astype(np.uint8), features
    return (*added, [local_features(n) for n in numbers]) if local else added


def contents_of(store):
    """dict of id to item, code, feature and local features."""
    snapshot = store.snapshot()
    items = list(snapshot.items_in_order())
    rows = snapshot.rows([item.id for item in items])
    local = snapshot.local_features(rows) if store.extractor else [None] * len(items)
    return {
        item.id: (item, code.tobytes(), feature.tolist(), one and one.yx.tobytes())
        for item, code, feature, one in zip(items, *snapshot.encoded(rows), local, strict=True)
    }


def recoded_contents(contents):
    return {
        id: (item, signs(np.array([feature]))[0].tobytes(), feature, local)
        for id, (item, _, feature, local) in contents.items()
    }


def tables_of(store):
    connection = store._connection
    [names] = connection.ask(
        "SELECT name FROM system.tables WHERE database = {database:String} ORDER BY name",
        database=connection.place.database,
    )
    return [name.decode() for name in names]


def encoder_files(folder, content):
    (folder / "network").write_text(content)
    return {"network": folder / "network"}


def refit(store, folder, fingerprint="fedcba9876"):
    with store.writer() as writer:
        return writer.recode(encoder_files(folder, fingerprint), fingerprint, signs)


@pytest.mark.thorough
def test_other_codes_are_in_a_table_of_their_own_and_all_else_is_as_it_was(
    chdb_folder, monkeypatch, tmp_path
):
    monkeypatch.setattr("hashnet.retrieval.store.clickhouse.writer.BATCH_ROWS", 7)
    url = f"chdb://{chdb_folder}/recoded/photos"
    # Tables of others, whose names begin as those of this index do.
    others = [f"chdb://{chdb_folder}/recoded/photos_{end}" for end in ("local", "g1")]
    for other in others:
        with made(other).writer() as writer:
            writer.add(*varied(range(3)))
    store = made(url, **LOCAL)
    with store.writer() as writer:
        writer.add(*varied(range(40), local=True))
        writer.add(*varied(range(5, 12), local=True))
        writer.remove(["i3", "i30"])
    before = contents_of(store)
    with store.writer() as writer:
        assert writer.recode(encoder_files(tmp_path, "one"), "fedcba9876", signs) == 38
        assert writer.remove(["i39"]) == ["i39"]  # the writer goes on in the new table
        writer.add(*varied([99], local=True))
    new = clickhouse.Store.open(url)
    assert new.fingerprint == "fedcba9876" and new.created == store.created
    wanted = recoded_contents(before)
    del wanted["i39"]
    found = contents_of(new)
    assert {id: one for id, one in found.items() if id != "i99"} == wanted
    assert list(found) == [*wanted, "i99"]
    assert new.entries.startswith("photos-g") and new.num_bytes() > 0
    assert {"photos", f"{new.entries}-old"}.isdisjoint(tables_of(new))
    # Once more, by what the new network's own would be; and the old one's files are gone.
    assert refit(new, tmp_path, "aaaaaaaaaa") == 38
    newest = clickhouse.Store.open(url)
    with newest.writer() as writer:
        assert writer.compact().rows_after == 38
    assert contents_of(newest).keys() == found.keys()
    [names] = newest._connection.ask("SELECT name FROM {encoder_table} WHERE name LIKE '%network'")
    assert names == [b"aaaaaaaaaa/network"]
    assert new.entries not in tables_of(new) and newest.entries in tables_of(new)
    for other in others:
        assert len(contents_of(clickhouse.Store.open(other))) == 3


@pytest.mark.thorough
def test_who_had_the_table_open_is_told_that_it_is_another(chdb_folder, tmp_path):
    url = f"chdb://{chdb_folder}/stale/photos"
    store = made(url)
    with store.writer() as late, late:
        late.add(*varied(range(9)))
        snapshot, version = store.snapshot(), store.version()
        refit(store, tmp_path)
        assert store.version() != version and store.version() == store.reopened().version()
        for use in (
            lambda: snapshot.ids(),
            lambda: late.add(*varied([7])),
            lambda: late.remove(["i7"]),
            late.compact,
        ):
            with pytest.raises(StoreError, match="fitted again since.*open it again"):
                use()
    with pytest.raises(StoreError, match="another one in its place"):
        store.writer()
    assert store.reopened().snapshot().num_items == 9
    version = store.version()
    refit(store.reopened(), tmp_path)  # the same network: another table all the same
    assert store.version() != version


def statements(monkeypatch, act):
    """Have `act(n)` called before the n-th statement that changes something is sent, and after."""
    sent = [0]

    def counted(method):
        def send(self, *arguments, **options):
            act(sent[0], False)
            method(self, *arguments, **options)
            act(sent[0], True)
            sent[0] += 1

        return send

    for name in ("tell", "insert"):
        method = getattr(connections.Connection, name)
        monkeypatch.setattr(connections.Connection, name, counted(method))
    return sent


class Killed(BaseException):
    """What no code catches, at this statement and at all that follow."""


def killed_at(number, done, act):
    """Call `act`, killed before its n-th statement or right after: "killed" or "not killed"."""

    def kill(sent, is_done):
        if sent > number or (sent == number and is_done == done):
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        statements(patch, kill)
        try:
            act()
        except Killed:
            return "killed"
    return "not killed"


@pytest.mark.thorough
@pytest.mark.parametrize("done", [False, True])
def test_a_refit_killed_at_any_statement_leaves_the_old_codes_or_the_new(
    chdb_folder, tmp_path, done
):
    """Killed before the n-th statement is carried out, or right after, for all n."""
    outcomes, number = [], 0
    while outcomes[-1:] != ["not killed, new"]:
        url = f"chdb://{chdb_folder}/killed_{done}/t{number}"
        store = made(url, **LOCAL)
        with store.writer() as writer:
            writer.add(*varied(range(9), local=True))
            writer.remove(["i3"])
        before = contents_of(store)

        outcomes.append(killed_at(number, done, functools.partial(refit, store, tmp_path)))
        now = clickhouse.Store.open(url)
        is_new = now.fingerprint != store.fingerprint
        outcomes[-1:] = [f"{outcomes[-1]}, new"] if is_new else outcomes[-1:]
        assert contents_of(now) == (recoded_contents(before) if is_new else before)
        with now.writer() as writer:
            writer.add(*varied([50], local=True))
        after = contents_of(now)
        assert refit(now, tmp_path, "aaaaaaaaaa") == 9
        newest = clickhouse.Store.open(url)
        assert contents_of(newest) == recoded_contents(after)
        mine = [name for name in tables_of(newest) if re.match(rf"t{number}\b|t{number}_", name)]
        ends = ("_descriptors", "_encoder", "_words")
        assert mine == [newest.entries, *(f"t{number}{end}" for end in ends)]
        number += 1
    assert {"killed", "killed, new"} < {*outcomes} and number > 6


def codebook_of(seed):
    rng = np.random.default_rng(seed)
    return Codebook.fit(rng.normal(size=(20, 4)).astype(np.float16), seed=seed)


def compare_words(store):
    """That what a search finds by words is what the local features say, of the images there are."""
    snapshot = store.snapshot()
    items = list(snapshot.items_in_order())
    rows = snapshot.rows([item.id for item in items]).tolist()
    wanted = set()
    for row, local in zip(rows, snapshot.local_features(rows), strict=True):
        words, signatures = snapshot.codebook.signatures(local.descriptors)
        entries = zip(words.tolist(), signatures.tolist(), strict=True)
        wanted |= {(row, word, signature, len(words)) for word, signature in entries}
    found = snapshot.ask(
        "SELECT row, word, signature, length FROM {words_table} "
        "WHERE codebook = {codebook:UInt64} AND row IN (SELECT row FROM {table} WHERE {image})",
        width=4,
        codebook=snapshot.codebook_number,
    )
    found = list(zip(*found, strict=True))
    assert set(found) == wanted and len(found) == len(wanted) > 3
    return snapshot


@pytest.mark.thorough
def test_a_codebook_whose_setting_was_killed_at_any_statement_is_the_old_one_or_the_new(
    chdb_folder,
):
    for done in (False, True):
        outcomes, number = [], 0
        while outcomes[-1:] != ["not killed, new"]:
            store = made(f"chdb://{chdb_folder}/codebook_{done}/t{number}", **LOCAL)
            with store.writer() as writer:
                writer.set_codebook(codebook_of(0))
                writer.add(*varied(range(9), local=True))
                writer.remove(["i3"])
            old = store.snapshot().codebook.to_bytes()

            setting = functools.partial(store.writer().set_codebook, codebook_of(1))
            outcomes.append(killed_at(number, done, setting))
            now = clickhouse.Store.open(f"chdb://{chdb_folder}/codebook_{done}/t{number}")
            if compare_words(now).codebook.to_bytes() != old:
                outcomes[-1] += ", new"
            with now.writer() as writer:
                writer.add(*varied([50, 4], local=True))
                compare_words(now)
                writer.compact()
                snapshot = compare_words(now)
                # Nothing is left by any other codebook, nor of images that are out.
                [[words]] = snapshot.ask("SELECT count() FROM {words_table}")
                rows = snapshot.rows(snapshot.ids())
                locals_ = snapshot.local_features(rows)
                assert words == sum(
                    len(snapshot.codebook.signatures(one.descriptors)[0]) for one in locals_
                )
                assert writer.set_codebook(codebook_of(2)) == 9
            assert compare_words(now).codebook.num_words == codebook_of(2).num_words
            number += 1
        assert {"killed", "killed, new"} < {*outcomes} and number > 3


@pytest.mark.thorough
def test_a_codebook_that_another_has_set_is_seen_after_opening_again(chdb_folder):
    url = f"chdb://{chdb_folder}/set_by_another/photos"
    store = made(url, **LOCAL)
    with store.writer() as writer:
        writer.add(*varied(range(9), local=True))
        assert store.snapshot().codebook is None
    other, version = clickhouse.Store.open(url), store.version()
    with other.writer() as writer:
        writer.set_codebook(codebook_of(0))
    assert store.version() != version
    snapshot, newer = other.snapshot(), store.reopened()
    compare_words(newer)
    with newer.writer() as writer:
        writer.set_codebook(codebook_of(1))
    fresh = clickhouse.Store.open(url)
    assert fresh.snapshot().codebook.to_bytes() == codebook_of(1).to_bytes()
    assert snapshot.codebook.to_bytes() == codebook_of(0).to_bytes()  # it had it already
    with other.writer() as writer:  # which looks first what it is by now
        writer.add(*varied([30, 31], local=True))
    compare_words(clickhouse.Store.open(url))


def test_a_table_that_keeps_no_local_pool_refuses_a_codebook(chdb_folder):
    store = made(f"chdb://{chdb_folder}/none/photos")
    assert not store.snapshot().keeps_words and store.snapshot().codebook is None
    with store.writer() as writer, pytest.raises(StoreError, match="Make the index anew"):
        writer.set_codebook(codebook_of(0))


@pytest.mark.thorough
def test_what_others_write_meanwhile_is_taken_over(chdb_folder, monkeypatch, tmp_path):
    url = f"chdb://{chdb_folder}/meanwhile/photos"
    store = made(url, **LOCAL)
    other = store.writer()
    other.add(*varied(range(9), local=True))
    written = []

    def write(sent, is_done):
        """Before each statement of the refit one image goes, one changes, and another comes."""
        number = len(written)
        written.append(number)
        if is_done or number >= 2 * 9 or number % 2:
            return
        with pytest.MonkeyPatch.context() as plain:
            for name, method in unpatched.items():
                plain.setattr(connections.Connection, name, method)
            try:
                other.remove([f"i{number // 2}"])
                other.add(*varied([100 + number], local=True))
                told.append(number)
            except StoreError:
                refused.append(number)

    unpatched = {name: getattr(connections.Connection, name) for name in ("tell", "insert")}
    told, refused = [], []
    statements(monkeypatch, write)
    refit(store, tmp_path)
    assert len(told) > 3 and refused and max(told) < min(refused)
    gone = {f"i{number // 2}" for number in told}
    ids = {f"i{n}" for n in range(9)} - gone | {f"i{100 + number}" for number in told}
    found = contents_of(clickhouse.Store.open(url))
    assert found.keys() == ids and found == recoded_contents(found)


@pytest.mark.thorough
@pytest.mark.parametrize("sent_after", [0, 1, 2, 3])
def test_what_came_between_the_commit_and_a_kill_is_taken_over_by_the_next(
    chdb_folder, tmp_path, sent_after
):
    """Killed when the old table was not renamed yet, not read, not dropped."""
    url = f"chdb://{chdb_folder}/between{sent_after}/photos"
    store = made(url)
    other = store.writer()
    other.add(*varied(range(9)))
    committed = []

    def kill(_, is_done):
        if not committed and clickhouse.Store.open(url).fingerprint != store.fingerprint:
            committed.append("now")
            other.remove(["i4"])
            other.add(*varied([20, 5]))
            committed.append("and done")
        elif len(committed) > 1 and not is_done:
            if len(committed) == 2 + sent_after:
                raise Killed
            committed.append("one more")

    with pytest.MonkeyPatch.context() as patch:
        statements(patch, kill)
        with pytest.raises(Killed):
            refit(store, tmp_path)
    assert len(committed) == 2 + sent_after
    refit(clickhouse.Store.open(url), tmp_path, "aaaaaaaaaa")
    newest = clickhouse.Store.open(url)
    found = contents_of(newest)
    assert sorted(found) == sorted(f"i{n}" for n in (0, 1, 2, 3, 5, 6, 7, 8, 20))
    assert found == recoded_contents(found) and newest.snapshot().num_items == 9
    with pytest.raises(StoreError, match="open it again"):
        other.add(*varied([30]))
    assert len([name for name in tables_of(newest) if name.startswith("photos")]) == 4


@pytest.mark.thorough
def test_of_two_refits_at_one_time_one_is_told_that_it_has_lost(chdb_folder, tmp_path):
    """The second begins and ends before the n-th statement of the first, for all n."""
    outcomes, number = [], 0
    while outcomes[-1:] != ["no second"]:
        url = f"chdb://{chdb_folder}/two/t{number}"
        store = made(url)
        with store.writer() as writer:
            writer.add(*varied(range(9)))
        wanted = recoded_contents(contents_of(store))
        ended = []

        def second(sent, is_done, number=number, url=url, ended=ended):
            if sent == number and not is_done and not ended:
                ended.append("second")
                refit(clickhouse.Store.open(url), tmp_path, "bbbbbbbbbb")

        with pytest.MonkeyPatch.context() as patch:
            statements(patch, second)
            try:
                refit(store, tmp_path, "aaaaaaaaaa")
                outcomes.append("both" if ended else "no second")
            except BackendError:
                raise
            except StoreError as error:
                outcomes.append(str(error))
        newest = clickhouse.Store.open(url)
        assert newest.fingerprint == ("bbbbbbbbbb" if ended else "aaaaaaaaaa")
        assert contents_of(newest) == wanted
        assert [name for name in tables_of(newest) if name.startswith(f"t{number}-")] == [
            newest.entries
        ]
        number += 1
    lost = [outcome for outcome in outcomes if outcome not in ("both", "no second")]
    assert len(lost) > 3 and all("again" in one for one in lost)


@pytest.mark.fast("after")
@pytest.mark.parametrize("began", ["before", "after"])
def test_of_two_refits_that_are_done_at_one_time_one_counts(
    chdb_folder, monkeypatch, tmp_path, began
):
    url = f"chdb://{chdb_folder}/race_{began}/photos"
    store = made(url)
    with store.writer() as writer:
        writer.add(*varied(range(9)))
    wanted, follow_with = recoded_contents(contents_of(store)), clickhouse.Store.follow_with

    def second(self, *arguments):
        with monkeypatch.context() as patch:
            patch.setattr(clickhouse.Store, "follow_with", follow_with)
            # As if it had not come so far as to drop what the first fills.
            patch.setattr(generations, "drop_before", lambda *_, **__: None)
            if began == "before":
                patch.setattr(clickhouse.Store, "next_entries", lambda _: "photos-g5")
            refit(self, tmp_path, "bbbbbbbbbb")
        return follow_with(self, *arguments)

    monkeypatch.setattr(clickhouse.Store, "follow_with", second)
    with pytest.raises(StoreError, match="again by one at a time"):
        refit(store, tmp_path, "aaaaaaaaaa")
    newest = clickhouse.Store.open(url)
    assert newest.fingerprint == "bbbbbbbbbb" and contents_of(newest) == wanted
    later = {name for name in tables_of(newest) if re.fullmatch(r"photos-g\d+", name)}
    assert later == {newest.entries} and (newest.entries == "photos-g5") == (began == "before")


def test_the_statements_of_a_refit_on_a_cluster(chdb_folder, monkeypatch, tmp_path):
    url = f"chdb://{chdb_folder}/sharded/photos"
    store = made(url)
    with store.writer() as writer:
        writer.add(*varied(range(9)))
    told, tell = [], connections.Connection.tell
    store._connection.tell("CREATE TABLE sharded.photos_local AS sharded.photos")

    def alone(self, statement, **parameters):
        """Have every statement read, and done as on one machine."""
        explained = self._client.query(f"EXPLAIN AST {statement}", parameters=parameters)
        assert explained.result_rows
        told.append(re.sub(r"-g\d+", "-g", statement))
        if "ReplicatedMergeTree" in statement:
            return
        if "Distributed" in statement:
            [statement] = tables.entries_ddl(
                "sharded", re.findall(r"`(photos-g\d+)`", statement)[0], num_bits=16, cluster=None
            )
        tell(self, statement.replace(" ON CLUSTER `main`", ""), **parameters)

    monkeypatch.setattr(connections.Connection, "tell", alone)
    monkeypatch.setattr(writers.Writer, "_cluster", lambda _: "main")
    refit(store, tmp_path)
    found = contents_of(clickhouse.Store.open(url))
    assert len(found) == 9 and found == recoded_contents(found)
    assert tables_of(store)[0].startswith("photos-g") and "photos_local" not in tables_of(store)
    made_local, made_whole, *rest, _ = told
    assert "`sharded`.`photos-g_local` ON CLUSTER `main` (row" in made_local
    assert "'/clickhouse/tables/{shard}/sharded/photos-g'" in made_local
    assert made_whole.endswith("Distributed('main', 'sharded', 'photos-g_local', cityHash64(id))")
    end = " ON CLUSTER `main` SYNC SETTINGS max_table_size_to_drop = 0"
    assert rest == [
        "RENAME TABLE `sharded`.`photos` TO `sharded`.`photos-g-old` ON CLUSTER `main`",
        f"DROP TABLE IF EXISTS `sharded`.`photos-g-old`{end}",
        f"DROP TABLE IF EXISTS `sharded`.`photos_local`{end}",
    ]


def test_the_command_makes_the_tables_that_an_index_has(chdb_folder, tmp_path, capsys):
    url = f"chdb://{chdb_folder}/again/photos"
    refit(made(url), tmp_path)
    store = clickhouse.Store.open(url)
    there = tables_of(store)
    assert cli.main(["clickhouse", "init", url, "--bits", "16", "--execute"]) == 0
    assert f"`{store.entries}`" in capsys.readouterr().out and tables_of(store) == there


def test_a_look_for_changes_changes_nothing(chdb_folder):
    url = f"chdb://{chdb_folder}/looked/photos"
    store, other = made(url), clickhouse.Store.open(url)
    before, version = store.roots, store.version()
    with other.writer() as writer:
        writer.set_roots(writer.roots.with_folders(["/photos"], lambda _: False))
    assert store.version() != version and store.roots == before != other.roots
    assert store.reopened().roots == other.roots


@pytest.mark.fast("photos`")
@pytest.mark.parametrize("entries", ["photos`", "other", "photos-g", "photos-g1-old", 7])
def test_facts_that_name_another_table_are_refused(chdb_folder, entries):
    url = f"chdb://{chdb_folder}/forged{zlib.crc32(str(entries).encode())}/photos"
    store = made(url)
    facts = json.dumps({**store._facts, "entries": entries}).encode()
    store._insert_record(store._connection, f"facts/{1:020}", facts)
    with pytest.raises(StoreError, match="as HashNet wrote them"):
        clickhouse.Store.open(url)
