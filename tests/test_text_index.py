"""What texts are looked up by: whole and of this state of the index, or as if it were not there."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from hashnet.cli import main
from hashnet.retrieval.index import Index
from hashnet.retrieval.search.finders import finder_of
from hashnet.retrieval.store.documents import CAPTION, NAME
from hashnet.retrieval.store.folder import text_index
from hashnet.retrieval.store.folder.text_index import TextIndex
from hashnet.retrieval.words import lookup

STATES = [(2, "1-aa"), (5, "1-bb")]
DOCUMENTS = [(4 * row, f" text of row {row} ") for row in range(5)]


def documents(row):
    return [one for one in DOCUMENTS if one[0] >= 4 * row]


def kept(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def few(monkeypatch):
    """However few rows, they are written."""
    monkeypatch.setattr(text_index, "_FEWEST_ROWS", 1)


@pytest.fixture
def index(bundle_folder, tmp_path, few):
    """One image, "walrus", in an index that keeps what texts are looked up by."""
    index = Index.create(tmp_path / "photos.index", bundle_folder)
    add(index, "walrus")
    return index


def add(index, *ids):
    index.add([np.zeros((9, 9, 3), np.uint8)] * len(ids), ids=list(ids))


def file_of(index):
    [path] = index.store.folder.glob("texts-*")
    return path


def found(folder, word="walrus"):
    return [hit.id for hit in Index.open(folder).search_text(word)]


def read_from_rows(monkeypatch):
    """The rows from which texts are read from now on."""
    rows = []

    def read(snapshot, row):
        rows.append(row)
        return documents_of(snapshot, row)

    documents_of = lookup._documents
    monkeypatch.setattr(lookup, "_documents", read)
    return rows


def test_no_flipped_byte_is_believed(few, tmp_path):
    text_index.settle(tmp_path, STATES, documents)
    [path] = tmp_path.iterdir()
    content = path.read_bytes()
    assert TextIndex.open(tmp_path, STATES).having("row").tolist() == [0, 4, 8, 12, 16]
    places = [*range(0, len(content), 97), *range(len(content) - 40, len(content))]
    for time, place in enumerate(places):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        os.utime(path, (time, time))
        assert TextIndex.open(tmp_path, STATES) is None
        [problem] = text_index.check(tmp_path, STATES, documents)
        assert path.name in problem and "checksum" in problem
    for damaged in (b"", content[:-1], content[:40], content + b"\0"):
        path.write_bytes(damaged)
        assert TextIndex.open(tmp_path, STATES) is None
    text_index.settle(tmp_path, STATES, documents)
    assert path.read_bytes() == content and not text_index.check(tmp_path, STATES, documents)


def test_a_file_is_read_as_a_whole_once(few, tmp_path, monkeypatch):
    text_index.settle(tmp_path, STATES, documents)
    read = []
    digest = text_index._digest
    monkeypatch.setattr(text_index, "_digest", lambda *a: read.append(a[1]) or digest(*a))
    for _ in range(3):
        TextIndex.open(tmp_path, STATES).close()
    assert read == ["texts-1-bb.sqlite"]


def test_only_what_is_of_the_first_rows_is_taken(few, tmp_path):
    text_index.settle(tmp_path, STATES[:1], lambda row: documents(row)[:2])
    assert TextIndex.open(tmp_path, STATES).end_row == 2
    for others in ([], [(2, "1-cc")], [(2, "1-cc"), (5, "1-bb")], [(1, "1-a"), (5, "1-aaa")]):
        assert TextIndex.open(tmp_path, others) is None
    # A file says itself which state it is of, whatever it is called.
    shutil.copy(tmp_path / "texts-1-aa.sqlite", tmp_path / "texts-1-cc.sqlite")
    assert TextIndex.open(tmp_path, [(2, "1-cc")]) is None
    # What is behind is written to a copy; what is of no state goes.
    text_index.settle(tmp_path, STATES, lambda row: documents(row)[-3 if row == 2 else 9 :])
    assert kept(tmp_path) == ["texts-1-bb.sqlite"]
    assert not text_index.check(tmp_path, STATES, documents)


def test_few_rows_are_left_to_who_searches(tmp_path):
    def covered(end_row):
        states = [(one, str(one)) for one in (999, 1000, 1999, 2000, 64000, 65999, 66000)]
        states = [one for one in states if one[0] <= end_row]
        text_index.settle(tmp_path, states, lambda row: [(4 * row, " a text ")])
        return kept(tmp_path)

    assert covered(999) == []
    assert covered(1000) == ["texts-1000.sqlite"]
    (inode,) = {path.stat().st_ino for path in tmp_path.iterdir()}
    assert covered(1999) == ["texts-1000.sqlite"]
    assert (tmp_path / "texts-1000.sqlite").stat().st_ino == inode
    assert covered(2000) == ["texts-2000.sqlite"]
    assert covered(64000) == covered(65999) == ["texts-64000.sqlite"]
    assert covered(66000) == ["texts-66000.sqlite"]


@pytest.mark.thorough
def test_searches_beside_a_long_settle_do_not_wait(few, tmp_path):
    text_index.settle(tmp_path, STATES, documents)
    before, answers = TextIndex.open(tmp_path, STATES), []

    def many(row):
        # Of more pages than SQLite keeps in memory: it writes some before the end.
        random = np.random.default_rng(0)
        for number in range(row, row + 10_000):
            yield 4 * number, "".join(map(chr, random.integers(97, 123, 200)))
        answers.append(before.having("ext").tolist())
        with contextlib.closing(TextIndex.open(tmp_path, STATES)) as beside:
            answers.append(beside.having("row").tolist())

    text_index.settle(tmp_path, [*STATES, (10_005, "1-cc")], many)
    assert answers == [[0, 4, 8, 12, 16]] * 2
    assert before.having("tex").tolist() == [0, 4, 8, 12, 16]  # of a file that is gone
    assert kept(tmp_path) == ["texts-1-cc.sqlite"]


def test_a_killed_settle_leaves_what_was_there(few, tmp_path):
    text_index.settle(tmp_path, STATES, documents)
    code = """if True:
        import os, pathlib, sys
        from hashnet.retrieval.store.folder import text_index
        text_index._FEWEST_ROWS = 1
        states = [(2, "1-aa"), (5, "1-bb"), (9, "1-cc")]
        text_index.settle(pathlib.Path(sys.argv[1]), states, lambda row: os._exit(9))
    """
    assert subprocess.run([sys.executable, "-c", code, tmp_path]).returncode == 9
    assert len(kept(tmp_path)) > 1
    assert TextIndex.open(tmp_path, [*STATES, (9, "1-cc")]).end_row == 5
    assert not text_index.check(tmp_path, STATES, documents)
    text_index.settle(tmp_path, STATES, documents)
    assert kept(tmp_path) == ["texts-1-bb.sqlite"]


def test_a_refusing_disk_loses_nothing(index, monkeypatch):
    folder = index.store.folder
    before = file_of(index)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(text_index.system, "replace", refuse)
    add(index, "seal")
    assert file_of(index) == before and found(folder, "seal") == ["seal"]
    assert not [name for name in os.listdir(folder) if name.startswith(".")]


@pytest.mark.parametrize("content", [b"", b"no database", None])
def test_what_is_missing_or_damaged_is_read_from_the_rows(index, content, capsys):
    path, folder = file_of(index), index.store.folder
    path.unlink() if content is None else path.write_bytes(content)
    assert found(folder) == ["walrus"]
    assert main(["check", str(folder)]) == (content is not None)
    said = capsys.readouterr().out
    assert content is None or (path.name in said and "`hashnet index` makes it anew" in said)
    add(index, "other")
    assert file_of(index) != path and main(["check", str(folder)]) == 0
    assert found(folder) == ["walrus"]


def test_what_is_of_another_state_is_not_believed(index, tmp_path, monkeypatch, capsys):
    folder = index.store.folder
    shutil.copytree(folder, tmp_path / "backup")
    add(index, "whale")
    newer = file_of(index)
    # A backup without the file of its own state, to which other images were added since.
    backup = tmp_path / "backup"
    diverged = Index.open(backup)
    shutil.copy(newer, backup)
    rows = read_from_rows(monkeypatch)
    assert found(backup) == ["walrus"] and found(backup, "whale") == []
    assert rows == []  # of its own file
    for path in backup.glob("texts-*"):
        if path.name != newer.name:
            path.unlink()
    assert found(backup) == ["walrus"] and found(backup, "whale") == [] and set(rows) == {0}
    monkeypatch.setattr(text_index, "_FEWEST_ROWS", 1000)
    add(diverged, "seal")
    shutil.copy(newer, backup)
    assert found(backup, "seal") == ["seal"] and found(backup, "whale") == []
    assert main(["check", str(backup)]) == 1
    said = capsys.readouterr().out
    assert newer.name in said and "another state" in said
    add(diverged, "orca")
    assert main(["check", str(backup)]) == 0


def test_an_older_snapshot_reads_what_a_newer_one_keeps(index, monkeypatch):
    rows = read_from_rows(monkeypatch)
    with index.store.snapshot() as older:
        add(index, "whale", "walrus calf")
        rows.clear()
        known = lookup.Lookup(older, finder_of(older))
        assert rows == []
        assert known.find("walrus", NAME)[0].tolist() == [0]
        assert known.find("whale", NAME)[0].tolist() == []
        assert "whale" not in known.suggest("wale", NAME, 9)
        assert known.has_kind(NAME) and not known.has_kind(CAPTION)
        # Of one that has been compacted since, whose rows are others, nothing is believed.
        index.remove("walrus")
        with index.store.writer() as writer:
            writer.compact()
        lookup.settle(index.store.snapshot())
        assert lookup.Lookup(older, finder_of(older)).find("walrus", NAME)[0].tolist() == [0]
        assert 0 in rows


def test_deletions_leave_the_file_as_it_is(index):
    add(index, "seal")
    path = file_of(index)
    index.remove("walrus")
    assert file_of(index) == path and found(index.store.folder) == []
    assert main(["check", str(index.store.folder)]) == 0


def test_check_compares_the_texts(few, tmp_path):
    text_index.settle(tmp_path, STATES, documents)
    other = [(number, text.replace("3", "4")) for number, text in DOCUMENTS]
    [problem] = text_index.check(tmp_path, STATES, lambda row: other)
    assert "other texts" in problem


def test_tables_of_others_are_not_asked(few, tmp_path):
    text_index.settle(tmp_path, STATES, documents)
    [path] = tmp_path.iterdir()
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE VIEW documents AS SELECT 1 AS number, 'x' AS text")
        connection.commit()
    with open(path, "r+b") as file:
        file.write(text_index._digest(file, path.name, path.stat().st_size))
    assert TextIndex.open(tmp_path, STATES) is None
    [problem] = text_index.check(tmp_path, STATES, documents)
    assert "other tables" in problem
