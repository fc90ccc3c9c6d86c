"""What an index withstands: kills, full disks, damage, strangers' files, read-only places.

Kills and full disks come at every single call to the system, SQLite's own included: a small C
library between Python and the system counts the calls and strikes at the n-th. Where there is no
C compiler, Python's own calls are counted instead, and SQLite's are left alone.
"""

import contextlib
import ctypes
import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
import random
import select
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
import traceback
import zlib

import numpy as np
import pytest

from hashnet.errors import StoreError
from hashnet.images import Exif
from hashnet.local.codebook import Codebook
from hashnet.retrieval.store.folder import catalogue
from hashnet.retrieval.store.folder import writer as writer_module
from hashnet.retrieval.store.folder.lookups import FAN_OUT
from hashnet.retrieval.store.folder.store import Store, check
from hashnet.retrieval.store.items import Item, StoredFeatures
from hashnet.retrieval.store.roots import Roots
from hashnet.retrieval.store.texts import Line, Texts
from tests import needs

FEATURE_DIM = 3
DESCRIPTOR_DIM = 4
NAMES = (
    "codebooks",
    "codes",
    "descriptors",
    "exif",
    "features",
    "files",
    "items",
    "lookups",
    "regions",
    "spans",
    "text",
    "texts",
    "words",
    "yx",
)
REGIONS = 2


def batch(ids, version=0):
    """Arguments for `Writer.add`; all that belongs to an image tells its id and version."""
    seeds = [zlib.crc32(f"{id} {version}".encode()) % 1000 for id in ids]
    regions = [
        np.array([[seed, n, seed + 9, n + 1] for n in range(seed % (REGIONS + 1))], int)
        for seed in seeds
    ]
    regions = [of_image.reshape(-1, 4) for of_image in regions]
    rows = [
        seed + 3 * n
        for seed, boxes in zip(seeds, regions, strict=True)
        for n in range(len(boxes) + 1)
    ]
    return (
        [item_of(id, seed, version) for id, seed in zip(ids, seeds, strict=True)],
        np.array([[row % 256, row // 256] for row in rows], np.uint8).reshape(-1, 2),
        np.array([[row, version, 0.5] for row in rows], np.float32).reshape(-1, FEATURE_DIM),
        [local_of(seed) for seed in seeds],
        regions,
    )


def item_of(id, seed, version):
    taken = datetime.datetime(2000, 1, 1 + version, second=seed % 60)  # noqa: DTZ001
    exif = Exif(taken, seed / 8, -seed / 9, f"camera {version}") if seed % 2 else None
    line = Line(f"read {seed}", (seed, 0, seed + 1, 5), 0.5)
    texts = Texts(f"caption {version}", None, f"inside {seed}", (line,)) if seed % 3 else None
    known = (version, version, seed, seed + 1, seed.to_bytes(16, "big"), exif, texts)
    return Item(id, f"/root/{id}", f"label {version}", *known)


def local_of(seed):
    """0 to 3 local features."""
    numbers = np.arange(seed, seed + seed % 4)
    descriptors = np.stack([numbers + place for place in range(DESCRIPTOR_DIM)], axis=1)
    yx = np.stack([numbers * 2, numbers / 8], axis=1).astype(np.float32)
    return StoredFeatures(yx, descriptors.astype(np.float16))


def new_store(folder):
    source = pathlib.Path(__file__).with_name("fixtures.py")
    return Store.create(
        folder,
        num_bits=12,
        feature_dim=FEATURE_DIM,
        fingerprint="f",
        encoder_files={"hashnet.json": source, "inner/model.onnx": source},
        extractor="sift",
        descriptor_dim=DESCRIPTOR_DIM,
        regions_per_image=REGIONS,
        exif=True,
        ocr="reader",
    )


def contents(folder):
    """Every image, in order, with all that belongs to it; plain values."""
    with Store.open(folder).snapshot() as snapshot:
        live = (
            np.ones(snapshot.num_rows, bool)
            if snapshot.live_images is None
            else snapshot.live_images
        )
        rows = np.flatnonzero(live)
        items = snapshot.items(rows)
        assert snapshot.rows([item.id for item in items]).tolist() == rows.tolist()
        assert list(snapshot.items_in_order()) == items
        seconds = [item.exif.taken for item in items if item.exif]
        assert len(snapshot.rows_taken(None, None)) == len(seconds)
        assert set(rows[[item.size == 0 for item in items]]) == set(snapshot.rows_of_sizes([0]))
        codes, names = snapshot.labels()
        assert [names[code] for code in codes[rows]] == [item.label for item in items]
        kept = np.ones(snapshot.num_rows, bool) if snapshot.live is None else snapshot.live
        kept = np.flatnonzero(kept)
        _compare_signatures(snapshot, kept)
        of_image = [kept[snapshot.owners[kept] == row] for row in rows]
        assert sum(map(len, of_image)) == len(kept)
        for item, all_rows in zip(items, of_image, strict=True):
            assert snapshot.items(all_rows) == [item] * len(all_rows)
            assert all(len(local.yx) == 0 for local in snapshot.local_features(all_rows[1:]))
        return plainly(
            items,
            snapshot.codes[kept],
            snapshot.features(kept),
            snapshot.local_features(rows),
            [np.array(snapshot.regions(all_rows[1:]), int) for all_rows in of_image],
        )


def _compare_signatures(snapshot, rows):
    """That the local pool holds of each row what its local features say, and of no other."""
    if (codebook := snapshot.codebook) is None:
        return
    lists = snapshot.word_lists(np.arange(codebook.num_words, dtype=np.uint32))
    assert [one.first_row for one in lists] + [snapshot.num_rows] == [0] + [
        one.end_row for one in lists
    ]
    for row, local in zip(rows.tolist(), snapshot.local_features(rows), strict=True):
        [one] = [one for one in lists if one.first_row <= row < one.end_row]
        [(words, signatures)] = one.of_rows([row])
        wanted = codebook.signatures(local.descriptors)
        assert words.tolist() == wanted[0].tolist()
        assert signatures.tolist() == wanted[1].tolist()


def codebook_of(seed):
    """Words among what `local_of` gives."""
    numbers = np.arange(1000)[:, None] + np.arange(DESCRIPTOR_DIM)
    return Codebook.fit(numbers.astype(np.float16), seed=seed)


def everything(folder):
    store = Store.open(folder)
    encoder = (store.encoder_folder / "hashnet.json").read_bytes()
    with store.snapshot() as snapshot:
        codebook = snapshot.codebook and zlib.crc32(snapshot.codebook.to_bytes())
        return contents(folder), snapshot.roots.all, store.fingerprint, encoder, codebook


def plainly(items, codes, features, local, regions):
    rows = iter(zip(codes.tolist(), features.tolist(), strict=True))
    return [
        (
            item.id,
            item.path,
            item.size,
            [next(rows) for _ in range(len(boxes) + 1)],
            boxes.tolist(),
            (one.yx.tolist(), one.descriptors.tolist()),
        )
        for item, one, boxes in zip(items, local, regions, strict=True)
    ]


def expected(ids, version=0):
    return plainly(*batch(ids, version))


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def quick(tmp_path):
    """A folder in memory where there is one: thousands of syncs to a disk take minutes."""
    memory = pathlib.Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield pathlib.Path(folder)


@pytest.fixture
def folder(quick):
    """An index of two segments, with a deleted row."""
    prepare(quick / "index")
    return quick / "index"


# ---------------------------------------------------------------- a fault at every call

STRIKER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/types.h>
#include <unistd.h>

static long calls, strike_at;
static int how; /* 0 kill before, 1 kill in the middle or after, 2 full disk once, 3 from now on */

void arm(long at, int mode) { calls = 0; strike_at = at; how = mode; }
long count(void) { return calls; }

static int strikes(void) {
    if (!strike_at) return 0;
    calls++;
    if (how == 3) return calls >= strike_at;
    return calls == strike_at;
}
static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define WRITES(name, parameters, whole, half)                          \
    ssize_t name parameters {                                          \
        REAL(name);                                                    \
        if (strikes()) {                                               \
            if (how == 0) die();                                       \
            if (how == 1) { half; die(); }                             \
            errno = ENOSPC;                                            \
            return -1;                                                 \
        }                                                              \
        return whole;                                                  \
    }
/* A full disk still syncs, renames, removes and shortens; a bad one does not (how == 2). */
#define CHANGES(name, parameters, whole)                               \
    int name parameters {                                              \
        REAL(name);                                                    \
        if (strikes() && how != 3) {                                   \
            if (how == 0) die();                                       \
            if (how == 1) { (void)!whole; die(); }                     \
            errno = EIO;                                               \
            return -1;                                                 \
        }                                                              \
        return whole;                                                  \
    }

WRITES(write, (int f, const void *b, size_t n), real(f, b, n), (void)!real(f, b, n / 2))
WRITES(pwrite, (int f, const void *b, size_t n, off_t o), real(f, b, n, o),
       (void)!real(f, b, n / 2, o))
WRITES(pwrite64, (int f, const void *b, size_t n, off64_t o), real(f, b, n, o),
       (void)!real(f, b, n / 2, o))
CHANGES(fsync, (int f), real(f))
CHANGES(fdatasync, (int f), real(f))
CHANGES(ftruncate, (int f, off_t n), real(f, n))
CHANGES(ftruncate64, (int f, off64_t n), real(f, n))
CHANGES(rename, (const char *a, const char *b), real(a, b))
CHANGES(unlink, (const char *a), real(a))
CHANGES(mkdir, (const char *a, mode_t m), real(a, m))
"""
KILL_BEFORE, KILL_WITHIN, FAIL_ONCE, DISK_FULL = range(4)


def _python_striker():
    """The same for Python's own calls only."""
    state = {"calls": 0, "at": 0, "how": 0}

    def watch(name, is_write):
        real = getattr(os, name)

        def watched(*arguments, **options):
            state["calls"] += 1
            how, over = state["how"], state["calls"] > state["at"]
            if not state["at"] or state["calls"] < state["at"] or (over and how != DISK_FULL):
                return real(*arguments, **options)
            if how == KILL_WITHIN and is_write:
                real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2], *arguments[2:])
            elif how == KILL_WITHIN or (how == DISK_FULL and not is_write):
                result = real(*arguments, **options)
                if how == DISK_FULL:
                    return result
            if how in (KILL_BEFORE, KILL_WITHIN):
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(28, "No space left on device")

        setattr(os, name, watched)

    for name in ("write", "pwrite"):
        watch(name, True)
    for name in ("fsync", "ftruncate", "rename", "replace", "unlink", "mkdir"):
        watch(name, False)

    class Striker:
        @staticmethod
        def arm(at, how):
            state.update(calls=0, at=at, how=how)

        @staticmethod
        def count():
            return state["calls"]

    return Striker


OLD = [f"old {number}" for number in range(6)]


def prepare(folder):
    with new_store(folder).writer() as writer:
        writer.add(*batch(OLD[:3]))
        writer.set_codebook(codebook_of(0))
        writer.add(*batch(OLD[3:]))
        writer.remove(OLD[1:2])


def _add(writer):
    writer.add(*batch(["new", OLD[0], OLD[4]], version=1))


def _remove(writer):
    writer.remove(OLD[2:5])


def _update(writer):
    writer.update([Item(id, label="updated") for id in OLD[3:]])


def _compact(writer):
    writer.compact()


def _copy(writer):
    # Done twice, it is what it is once: so it may be tried again after a fault.
    items = [Item("new", "/root/new", "copied"), Item(OLD[4], label="copied")]
    writer.copy(items, [OLD[5], OLD[2]], OLD[:1])


def _move(writer):
    writer.set_roots(Roots([("root", "/elsewhere"), ("more", "/more")]))


def _recode(writer):
    other = pathlib.Path(__file__)
    files = {"hashnet.json": other, "inner/model.onnx": other.with_name("fixtures.py")}
    writer.recode(files, "g", lambda features: np.full((len(features), 2), 7, np.uint8))


def _set_codebook(writer):
    writer.set_codebook(codebook_of(1))


CHANGES = {
    "add": _add,
    "remove": _remove,
    "update": _update,
    "copy": _copy,
    "move": _move,
    "compact": _compact,
    "recode": _recode,
    "codebook": _set_codebook,
}


def _change_index(folder, name):
    """In the struck child. Exit status: 0 done, 3 done at the second try, 4 refused."""
    refused = False
    try:
        writer = Store.open(folder).writer()
    except StoreError:
        refused = True
        writer = Store.open(folder).writer()
    with writer:
        try:
            CHANGES[name](writer)
        except StoreError:
            refused = True
            try:
                CHANGES[name](writer)  # the same writer goes on, if the disk lets it
            except StoreError:
                return 4
    return 3 if refused else 0


def _create_index(folder, name):
    try:
        new_store(folder)
    except StoreError:
        return 4
    return 0


def _strike_everywhere(striker, top, name, how):
    """Let `how` happen at the first, second, third... call; list what was wrong after it."""
    base, work, problems = top / "base", top / "work", []
    act = _create_index if name == "create" else _change_index
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir()
    prepare(base)
    before = everything(base)
    shutil.copytree(base, work)
    if name == "create":
        new_store(top / "new")
        before, after = None, everything(top / "new")
        shutil.rmtree(top / "new")
    else:
        assert _change_index(work, name) == 0
        after = everything(work)
    for at in range(1, 1000):
        shutil.rmtree(work)
        if name != "create":
            shutil.copytree(base, work)
        child = os.fork()
        if child == 0:
            status = 5
            try:
                striker.arm(at, how)
                status = act(work, name)
                if status == 0 and striker.count() >= at:
                    status = 3  # it was struck, and withstood
            except StoreError:
                status = 4
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        try:
            _judge(work, name, how, status, before, after)
        except Exception as error:
            problems.append(f"{name}, {how} at call {at}, status {status}: {error!r}")
            traceback.print_exc()
        if status == 0:
            return at, problems
    return at, [*problems, "it never ended"]


def _judge(work, name, how, status, before, after):
    assert status in (0, 3, 4, -signal.SIGKILL), "an error outside the family"
    if how == FAIL_ONCE and name != "create":
        assert status != 4, "the writer did not recover by itself"
    found = everything(work) if work.exists() or name != "create" else None
    assert found in (before, after), f"between: {found}"
    if status in (0, 3):
        assert found == after, "reported as done and not there"
    if work.exists():
        assert [p for p in check(work) if "catalogue.sha256" not in p] == []
    # The next one cleans up and can do everything.
    if name == "create":
        if not work.exists():
            new_store(work)
        new_store(work.parent / "another")
        shutil.rmtree(work.parent / "another")
        leftovers = [path for path in work.parent.iterdir() if path.name not in ("base", "work")]
        # Killed before it took its lock, a creation leaves an empty folder or one with a lock.
        assert all(files_of(path) == [] for path in leftovers), leftovers
        for path in leftovers:
            shutil.rmtree(path)
        return
    with Store.open(work).writer():
        pass
    (generation,) = {int(path.name.split(".")[0]) for path in (work / "segments").iterdir()}
    assert files_of(work) == [
        "catalogue.sha256",
        "catalogue.sqlite",
        "encoder/hashnet.json",
        "encoder/inner/model.onnx",
        "lock",
        *(f"segments/{generation:06d}.{name}" for name in NAMES),
    ]
    assert everything(work) == found
    with Store.open(work).writer() as writer:
        CHANGES[name](writer)
    assert sorted(contents(work)) == sorted(after[0])
    assert check(work) == []


def _drive(library, top, scenarios):
    """In the process where the C library lies between; prints what happened as JSON."""
    striker = ctypes.CDLL(library) if library else _python_striker()
    results = {}
    for name, how in scenarios:
        results[f"{name} {how}"] = _strike_everywhere(striker, pathlib.Path(top), name, how)
    print(json.dumps(results))


@pytest.fixture(scope="module")
def striker(tmp_path_factory):
    """The C library, or "" where it cannot be built."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        return ""
    folder = tmp_path_factory.mktemp("striker")
    (folder / "striker.c").write_text(STRIKER)
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", "striker.so", "striker.c", "-ldl"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return str(folder / "striker.so")


SOON = [
    ("create", FAIL_ONCE),
    ("add", KILL_WITHIN),
    ("add", DISK_FULL),
    ("compact", KILL_BEFORE),
    ("copy", KILL_WITHIN),
    ("codebook", KILL_WITHIN),
]


@pytest.mark.fast("create-2")
@pytest.mark.parametrize(
    ("name", "how"),
    [
        pytest.param(name, how, marks=[] if (name, how) in SOON else [pytest.mark.slow])
        for name in ("create", *CHANGES)
        for how in (KILL_BEFORE, KILL_WITHIN, FAIL_ONCE, DISK_FULL)
    ],
)
def test_a_fault_at_any_call_leaves_the_index_before_or_after(striker, quick, name, how):
    environment = dict(os.environ) | ({"LD_PRELOAD": striker} if striker else {})
    root = pathlib.Path(__file__).parents[1]
    environment["PYTHONPATH"] = str(root)
    command = [sys.executable, __file__, striker, quick / "top", json.dumps([[name, how]])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ((calls, problems),) = json.loads(done.stdout.splitlines()[-1]).values()
    assert problems == [], done.stderr
    assert calls > (12 if striker else 3)  # the faults did happen


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names files through /proc")
def test_what_is_counted_in_is_durable_before(folder, monkeypatch):
    """A power loss cannot be made here, so the order of the calls is looked at."""
    events, real_sync, real_commit = [], os.fsync, writer_module.change_catalogue

    def sync(file):
        real_sync(file)
        events.append(pathlib.Path(os.readlink(f"/proc/self/fd/{file}")).name)

    def commit(*arguments):
        real_commit(*arguments)
        events.append("commit")

    real_unlink = os.unlink
    with Store.open(folder).writer() as writer:
        monkeypatch.setattr(os, "fsync", sync)
        monkeypatch.setattr(os, "unlink", lambda p: (real_unlink(p), events.append("unlink")))
        monkeypatch.setattr(writer_module, "change_catalogue", commit)
        writer.add(*batch(["new"]))
        assert sorted(events[:-1]) == [f"000001.{name}" for name in NAMES]
        assert events[-1] == "commit"
        events.clear()
        writer.compact()
        at = events.index("commit")
        assert set(events[:at]) == {"segments", *(f"000002.{name}" for name in NAMES)}
        assert set(events[at + 1 :]) == {"unlink"}
        monkeypatch.undo()


# ---------------------------------------------------------------- kills at random moments


def _work_until_killed(folder, seed, told):
    chance = random.Random(seed)
    with Store.open(folder).writer() as writer:
        for step in range(10_000):
            _random_change(writer, chance, step)
            os.write(told, b".")


def _random_change(writer, chance, step):
    names = [f"n{chance.randrange(40)}" for _ in range(chance.randrange(1, 8))]
    names = list(dict.fromkeys(names))
    verb = chance.choice(["add", "add", "add", "remove", "compact"])
    if verb == "add":
        writer.add(*batch(names, step))
    elif verb == "remove":
        writer.remove(names)
    else:
        writer.compact()


class _Model:
    """The index as a dictionary, with the methods of a writer."""

    def __init__(self, rows):
        self.rows = {row[0]: row for row in rows}

    def add(self, *columns):
        for row in plainly(*columns):
            self.rows.pop(row[0], None)
            self.rows[row[0]] = row

    def remove(self, ids):
        for id in ids:
            self.rows.pop(id, None)

    def compact(self):
        pass


def _soak(folder, kills):
    with new_store(folder).writer() as writer:
        writer.set_codebook(codebook_of(0))
    total = 0
    for seed in range(kills):
        before = contents(folder)
        reading, writing = os.pipe()
        child = needs.fork()
        if child == 0:
            try:
                _work_until_killed(folder, seed, writing)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(writing)
        select.select([reading], [], [], 10)  # begin the clock at its first commit
        time.sleep(random.Random(seed).uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        told = 0
        while content := os.read(reading, 65536):
            told += len(content)
        os.close(reading)
        model, chance = _Model(before), random.Random(seed)
        for step in range(told):
            _random_change(model, chance, step)
        committed = list(model.rows.values())
        _random_change(model, chance, told)
        one_more = list(model.rows.values())
        assert contents(folder) in (committed, one_more), f"kill {seed} after {told} commits"
        assert [p for p in check(folder) if "catalogue.sha256" not in p] == []
        total += told
    with Store.open(folder).writer():
        pass
    assert check(folder) == []
    return total


@pytest.mark.thorough
def test_ten_kills_at_random_moments_lose_nothing(quick):
    assert _soak(quick / "index", kills=10) >= 10


@pytest.mark.slow
def test_two_hundred_kills_at_random_moments_lose_nothing(quick):
    assert _soak(quick / "index", kills=200) >= 200


# ---------------------------------------------------------------- damage


def use(folder):
    """All that a search needs, every returned row verified; StoreError where it is damaged."""
    return contents(folder)


def _flip(path, at, bit):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ (1 << bit)]))


def _flip_bytes(folder, step):
    wanted = use(folder)
    chance, count = random.Random(0), 0
    for name in files_of(folder):
        path = folder / name
        size = path.stat().st_size
        stride = max(1, step // 400) if size <= 400 else step
        for at in range(chance.randrange(stride) if size > 400 else 0, size, stride):
            bit = chance.randrange(8)
            _flip(path, at, bit)
            problems = check(folder)
            assert problems, f"bit {bit} of byte {at} of {name} was not found"
            named = [name, "catalogue.sqlite"] if name == "catalogue.sha256" else [name]
            assert any(n in p for p in problems for n in named), (name, at, bit, problems)
            with contextlib.suppress(StoreError):
                assert use(folder) == wanted, f"bit {bit} of byte {at} of {name}: a wrong answer"
            _flip(path, at, bit)
            for stray in ("catalogue.sqlite-wal", "catalogue.sqlite-shm"):
                (folder / stray).unlink(missing_ok=True)
            count += 1
    assert check(folder) == [] and use(folder) == wanted
    return count


@pytest.mark.parametrize(
    ("step", "least"), [(9000, 12), pytest.param(797, 70, marks=pytest.mark.thorough)]
)
def test_a_flipped_byte_is_found_and_named_and_never_gives_a_wrong_answer(folder, step, least):
    assert _flip_bytes(folder, step) > least


@pytest.mark.parametrize("others", [True, False])
def test_an_index_that_was_moved_under_its_writer_is_found_out_before_anything_is_written(
    folder, others
):
    away = folder.with_name("away")
    writer = Store.open(folder).writer()
    os.rename(folder, away)
    if others:
        shutil.copytree(away, folder)
    before = files_of(away), others and files_of(folder)
    for change in (
        lambda: writer.add(*batch(["more"])),
        writer.compact,
        lambda: writer.remove([OLD[0]]),
    ):
        with pytest.raises(StoreError, match="in its place|closed writer"):
            change()
    writer.close()
    assert (files_of(away), others and files_of(folder)) == before
    assert others or not folder.exists()
    assert check(away) == []


def test_a_catalogue_of_another_index_takes_no_commit(folder, tmp_path):
    """Where it is put there between the look at its place and the commit."""
    new_store(tmp_path / "other")
    [known, other] = [catalogue.read_catalogue(one) for one in (folder, tmp_path / "other")]
    same = dataclasses.replace(known, commits=other.commits)
    before = (tmp_path / "other/catalogue.sqlite").read_bytes()
    with pytest.raises(StoreError, match="another index's"):
        catalogue.change_catalogue(tmp_path / "other/catalogue.sqlite", same, same)
    assert (tmp_path / "other/catalogue.sqlite").read_bytes() == before


CHANGES_THAT_COPY = {
    "compact": lambda writer: writer.compact(),
    "update": lambda writer: writer.update([Item(OLD[0], label="new")]),
}


@pytest.mark.parametrize("change", CHANGES_THAT_COPY)
@pytest.mark.parametrize("array", NAMES)
def test_damage_is_never_copied_under_a_new_checksum(folder, array, change):
    if (change, array) == ("compact", "lookups"):
        pytest.skip("a compaction makes them anew, of the items")
    if (change, array) == ("update", "codebooks"):
        pytest.skip("an update copies signatures, and no codebook")
    _flip(folder / f"segments/000001.{array}", 1, 3)
    before = files_of(folder)
    with Store.open(folder).writer() as writer:
        with pytest.raises(StoreError, match="segments/000001"):
            CHANGES_THAT_COPY[change](writer)
    assert files_of(folder) == before
    assert f"000001.{array}" in " ".join(check(folder))


def test_a_compaction_makes_damaged_lookups_anew(folder):
    wanted = use(folder)
    _flip(folder / "segments/000001.lookups", 1, 3)
    assert "000001.lookups" in " ".join(check(folder))
    with Store.open(folder).writer() as writer:
        writer.compact()
    assert check(folder) == [] and use(folder) == wanted


@pytest.mark.parametrize("array", ["items", "text"])
def test_damage_is_not_taken_into_a_run_of_several_commits(quick, array):
    folder = quick / "index"
    with new_store(folder).writer() as writer:
        for number in range(FAN_OUT - 1):
            writer.add(*batch([f"{number}"]))
        _flip(folder / f"segments/000001.{array}", 0, 3)
        with pytest.raises(StoreError, match=f"segments/000001.{array}"):
            writer.add(*batch(["more"]))
        with pytest.raises(StoreError, match=f"segments/000001.{array}"):
            writer.add(*batch(["more"]))
    assert f"000001.{array}" in " ".join(check(folder))
    assert Store.open(folder).snapshot().num_items == FAN_OUT - 1


@pytest.mark.parametrize("ask", ["sizes", "labels", "rows"])
@pytest.mark.parametrize("array", ["items", "text"])
def test_ids_and_labels_are_not_read_from_damaged_items(folder, array, ask):
    _flip(folder / f"segments/000001.{array}", 0, 3)
    with Store.open(folder).snapshot() as snapshot:
        with pytest.raises(StoreError, match=f"000001.{array}"):
            {
                "rows": lambda: snapshot.rows([OLD[0]]),
                "sizes": lambda: snapshot.rows_of_sizes([0]),
                "labels": snapshot.labels,
            }[ask]()


@pytest.mark.slow
def test_every_flipped_byte_is_found_and_named(folder):
    assert _flip_bytes(folder, step=1) > 12000


FILES = [
    "catalogue.sqlite",
    "encoder/hashnet.json",
    "encoder/inner/model.onnx",
    *(f"segments/000001.{name}" for name in NAMES),
]


@pytest.mark.parametrize("length", ["0", pytest.param("half", marks=pytest.mark.thorough), "-1"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_cut_off_is_refused_by_name(folder, name, length):
    size = (folder / name).stat().st_size
    os.truncate(folder / name, {"0": 0, "half": size // 2, "-1": size - 1}[length])
    with pytest.raises(StoreError, match=name):
        use(folder)
    with pytest.raises(StoreError, match=name), Store.open(folder).writer():
        pass
    assert any(name in problem for problem in check(folder))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "instead",
    [
        "nothing",
        "pipe",
        *(pytest.param(one, marks=pytest.mark.thorough) for one in ("link", "folder")),
    ],
)
def test_a_file_that_is_missing_or_no_plain_file_is_refused_by_name(folder, name, instead):
    (folder / name).rename(folder.parent / "away")
    if instead == "link":
        needs.link(folder / name, folder.parent / "away")
    elif instead == "folder":
        (folder / name).mkdir()
    elif instead == "pipe":
        needs.pipe(folder / name)
    with pytest.raises(StoreError, match=name):
        use(folder)
    assert any(name in problem for problem in check(folder))


def test_a_folder_that_is_a_link_is_refused(folder):
    (folder / "segments").rename(folder.parent / "away")
    needs.link(folder / "segments", folder.parent / "away")
    with pytest.raises(StoreError, match="segments"):
        use(folder)


def test_without_the_digest_or_the_lock_an_index_opens(folder):
    (folder / "catalogue.sha256").unlink()
    (folder / "lock").unlink()
    wanted = use(folder)
    assert "catalogue.sha256" in " ".join(check(folder))
    with Store.open(folder).writer():
        pass
    assert check(folder) == [] and use(folder) == wanted


def test_stray_files_are_ignored_and_ours_are_removed_by_the_next_writer(folder):
    wanted = use(folder)
    ours = [
        "segments/000002.codes",
        "segments/000007.yx",
        "catalogue.sha256.new",
        ".catalogue.sha256.hashnet-0",
    ]
    others = ["segments/notes.txt", "segments/000001.codes.bak", "readme", "encoder/more"]
    for name in ours + others:
        (folder / name).write_bytes(b"stray")
    before = files_of(folder)
    assert use(folder) == wanted and check(folder) == []
    assert files_of(folder) == before
    with Store.open(folder).writer() as writer:
        writer.compact()
    assert use(folder) == wanted and check(folder) == []
    left = files_of(folder)
    assert all(name in left for name in others)
    assert not any(name in left for name in ours[1:]) and "segments/000001.codes" not in left


def test_bytes_that_no_commit_counts_are_ignored_and_cut_off_by_the_next_writer(folder):
    wanted = use(folder)
    sizes = {name: (folder / name).stat().st_size for name in FILES[3:]}
    for name in sizes:
        with open(folder / name, "ab") as file:
            file.write(b"half a row")
    assert use(folder) == wanted and check(folder) == []
    with Store.open(folder).writer():
        pass
    assert sizes == {name: (folder / name).stat().st_size for name in sizes}


def test_an_older_catalogue_beside_a_newer_digest_is_found(folder):
    old = (folder / "catalogue.sqlite").read_bytes()
    with Store.open(folder).writer() as writer:
        writer.add(*batch(["late"]))
    (folder / "catalogue.sqlite").write_bytes(old)
    assert "there was a commit 5" in " ".join(check(folder))


# ---------------------------------------------------------------- strangers' files


def _forge(folder, table, **change):
    """Change a record of the catalogue and give it a checksum that fits."""
    connection = sqlite3.connect(folder / "catalogue.sqlite")
    connection.row_factory = sqlite3.Row
    record = dict(connection.execute(f"SELECT * FROM {table} LIMIT 1").fetchone()) | change
    plain = [v.hex() if isinstance(v, bytes) else v for k, v in record.items() if k != "seal"]
    record["seal"] = zlib.crc32(json.dumps(plain).encode())
    marks = ", ".join("?" * len(record))
    connection.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", tuple(record.values()))
    connection.commit()
    connection.close()


def _arrays(**count):
    wanted = dict.fromkeys(NAMES, ROWS) | {"text": 60} | count
    for name in ("codebooks", "lookups", "words"):
        del wanted[name]
    return json.dumps({name: [number, "0" * 64] for name, number in wanted.items()})


def _codebook(**change):
    """The record of a codebook, one field of which is another."""
    content = codebook_of(0).to_bytes()
    fields = {
        "num_words": codebook_of(0).num_words,
        "num_bits": 32,
        "start": 0,
        "num_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    return json.dumps([*(fields | change).values()])


HUGE = 2**60
ROWS = len(batch([f"old {number}" for number in range(3)])[1])  # of the first segment


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("segments", {"num_rows": HUGE, "arrays": _arrays(codes=HUGE, features=HUGE, items=HUGE)}),
        ("segments", {"arrays": _arrays(text=HUGE)}),
        ("segments", {"arrays": _arrays(yx=HUGE, descriptors=HUGE)}),
        ("segments", {"arrays": _arrays(yx=2)}),
        ("segments", {"arrays": _arrays(spans=2)}),
        ("segments", {"arrays": _arrays(regions=2)}),
        ("segments", {"arrays": _arrays(regions=HUGE)}),
        ("facts", {"regions_per_image": 0}),
        ("facts", {"regions_per_image": HUGE}),
        ("facts", {"regions_per_image": "2"}),
        ("facts", {"regions_per_image": None}),
        ("facts", {"descriptor_dim": HUGE}),
        ("facts", {"descriptor_dim": 0}),
        ("facts", {"descriptor_dim": "4"}),
        ("facts", {"extractor": None}),
        ("facts", {"extractor": 7}),
        ("segments", {"arrays": _arrays(text=2**80)}),
        ("segments", {"arrays": _arrays(codes=HUGE)}),
        ("segments", {"arrays": _arrays(text=-1)}),
        ("segments", {"arrays": "[]"}),
        ("segments", {"arrays": "[" * 100_000}),
        ("segments", {"arrays": '{"codes": 1}'}),
        ("segments", {"num_rows": "three"}),
        ("segments", {"deleted": b"\xff" * 100}),
        ("segments", {"deleted": 7}),
        ("facts", {"feature_dim": HUGE}),
        ("facts", {"feature_dim": 2**62}),
        ("facts", {"num_bits": 10**6}),
        ("facts", {"num_bits": "12"}),
        ("facts", {"feature_dtype": "object"}),
        ("facts", {"feature_dtype": "O"}),
        ("facts", {"generation": "../../etc/passwd"}),
        ("facts", {"generation": None}),
        ("facts", {"num_rows": HUGE}),
        ("facts", {"num_segments": HUGE}),
        ("facts", {"encoder": '{"../../../etc/passwd": [1, ""]}'}),
        ("facts", {"encoder": '{"/etc/passwd": [1, ""]}'}),
        ("facts", {"encoder": '{"a\\u0000b": [1, ""]}'}),
        ("facts", {"encoder": "[1]"}),
        ("facts", {"identity": ""}),
        ("facts", {"identity": None}),
        ("facts", {"roots": "null"}),
        ("facts", {"roots": '[["a/b", "/x"]]'}),
        ("facts", {"roots": '[["a", "/x"], ["a", "/y"]]'}),
        ("facts", {"roots": '[["a"]]'}),
        ("facts", {"roots": "7"}),
        ("facts", {"roots": None}),
        ("facts", {"exif": 0}),
        ("facts", {"exif": 7}),
        ("facts", {"ocr": 7}),
        ("facts", {"ocr": ""}),
        ("segments", {"arrays": _arrays(texts=2)}),
        ("segments", {"arrays": _arrays(files=2)}),
        ("segments", {"arrays": _arrays(exif=HUGE)}),
        ("facts", {"num_runs": HUGE}),
        ("facts", {"num_runs": None}),
        ("runs", {"num_rows": HUGE}),
        ("runs", {"num_rows": "3"}),
        ("runs", {"num_images": HUGE, "num_rows": HUGE}),
        ("runs", {"num_images": 0}),
        ("runs", {"num_labelled": HUGE}),
        ("runs", {"num_labels": -1}),
        ("runs", {"start": HUGE}),
        ("runs", {"start": -1}),
        ("runs", {"start": None}),
        ("runs", {"checksums": b""}),
        ("runs", {"checksums": None}),
        ("runs", {"checksums": 7}),
        ("facts", {"codebook": None}),
        ("facts", {"codebook": "null"}),
        ("facts", {"codebook": "[]"}),
        ("facts", {"codebook": _codebook(num_words=HUGE)}),
        ("facts", {"codebook": _codebook(num_bits=8)}),
        ("facts", {"codebook": _codebook(num_bits=64)}),
        ("facts", {"codebook": _codebook(start=HUGE)}),
        ("facts", {"codebook": _codebook(start=-1)}),
        ("facts", {"codebook": _codebook(num_bytes=0)}),
        ("facts", {"codebook": _codebook(num_bytes="9")}),
        ("facts", {"codebook": _codebook(sha256=None)}),
        ("facts", {"num_word_runs": HUGE}),
        ("facts", {"num_word_runs": None}),
        ("word_runs", {"num_rows": HUGE}),
        ("word_runs", {"num_rows": 0}),
        ("word_runs", {"num_rows": "3"}),
        ("word_runs", {"num_words": HUGE}),
        ("word_runs", {"num_words": -1}),
        ("word_runs", {"num_signatures": HUGE}),
        ("word_runs", {"num_signatures": 2**62}),
        ("word_runs", {"start": HUGE}),
        ("word_runs", {"start": 4}),
        ("word_runs", {"start": -8}),
        ("word_runs", {"crc": None}),
    ],
)
def test_a_forged_catalogue_is_refused_before_anything_is_allocated(folder, table, change):
    _forge(folder, table, **change)
    with pytest.raises(StoreError):
        use(folder)
    with pytest.raises(StoreError), Store.open(folder).writer():
        pass
    assert check(folder) != []


@pytest.mark.parametrize(
    "change",
    [
        "facts SET fingerprint = 'g'",
        "facts SET num_bits = 11",
        "facts SET extractor = 'delf'",
        "facts SET commits = commits + 1",
        "segments SET deleted = x'20' WHERE number = 1",
        "segments SET deleted = NULL",
        "segments SET deleted = x'20' WHERE number = 2",
        "segments SET changed = 7",
        "runs SET start = start + 1",
        "runs SET checksums = zeroblob(4)",
        "facts SET codebook = 'null'",
        "word_runs SET crc = crc + 1",
    ],
)
def test_a_changed_record_of_the_catalogue_is_refused(folder, change):
    connection = sqlite3.connect(folder / "catalogue.sqlite", isolation_level=None)
    connection.execute(f"UPDATE {change}")
    connection.close()
    with pytest.raises(StoreError, match="catalogue.sqlite"):
        Store.open(folder)


def test_the_forger_of_these_tests_does_forge(folder):
    wanted = use(folder)
    _forge(folder, "facts", fingerprint="forged")
    assert Store.open(folder).fingerprint == "forged" and use(folder) == wanted


def test_an_empty_index_that_claims_endless_features_is_harmless(tmp_path):
    new_store(tmp_path / "index")
    _forge(tmp_path / "index", "facts", feature_dim=HUGE)
    with contextlib.suppress(StoreError):
        assert Store.open(tmp_path / "index").feature_dim == HUGE


@pytest.mark.parametrize("name", FILES[3:])
def test_an_array_of_python_objects_is_refused_and_its_code_does_not_run(folder, name):
    sentinel = folder.parent / "it ran"

    class Trap:
        def __reduce__(self):
            return pathlib.Path.touch, (sentinel,)

    np.save(folder.parent / "trap.npy", np.array([Trap()] * 50, object), allow_pickle=True)
    (folder / name).write_bytes((folder.parent / "trap.npy").read_bytes())
    with pytest.raises(StoreError, match=name):
        use(folder)
    assert any(name in problem for problem in check(folder))
    assert not sentinel.exists()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON facts BEGIN DELETE FROM segments; END",
        "CREATE VIEW more AS SELECT load_extension('x')",
        "CREATE TABLE more (x)",
        "DROP TABLE segments",
        "DELETE FROM facts",
        "DELETE FROM segments WHERE number = 1",
        "DELETE FROM segments WHERE number = 2",
        "DELETE FROM runs",
        "DELETE FROM runs WHERE number = 2",
        "DELETE FROM word_runs",
        "DELETE FROM word_runs WHERE number = 2",
        "DROP INDEX segments_changed",
        "PRAGMA journal_mode = WAL",
        "PRAGMA application_id = 5",
        "PRAGMA user_version = 0",
        "PRAGMA user_version = 1",
    ],
)
def test_other_tables_than_ours_are_refused(folder, statement):
    connection = sqlite3.connect(folder / "catalogue.sqlite", isolation_level=None)
    connection.execute(statement)
    connection.close()
    with pytest.raises(StoreError, match="catalogue.sqlite"):
        use(folder)
    assert "catalogue.sqlite" in " ".join(check(folder))


def test_a_newer_format_is_refused_with_the_way_to_read_it(folder):
    connection = sqlite3.connect(folder / "catalogue.sqlite")
    connection.execute("PRAGMA user_version = 8")
    connection.close()
    with pytest.raises(StoreError, match="format 7 or older.*format version 8.*Upgrade HashNet"):
        Store.open(folder)


def test_a_journal_that_would_delete_a_file_elsewhere_is_refused(folder):
    victim = folder.parent / "victim"
    victim.write_bytes(b"precious")
    _leave_a_journal(folder)
    name = os.fsencode(victim)
    with open(folder / "catalogue.sqlite-journal", "ab") as journal:
        journal.write((2**30 // 4096 + 1).to_bytes(4, "big") + name + len(name).to_bytes(4, "big"))
        journal.write(sum(name).to_bytes(4, "big") + bytes.fromhex("d9d505f920a163d7"))
    with pytest.raises(StoreError, match="catalogue.sqlite"):
        use(folder)
    assert victim.read_bytes() == b"precious"


# ---------------------------------------------------------------- places that are read-only


def _leave_a_journal(folder):
    """Die in the middle of a transaction whose pages are partly in the file already."""
    child = needs.fork()
    if child == 0:
        connection = sqlite3.connect(folder / "catalogue.sqlite", isolation_level=None)
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE facts SET commits = 77, fingerprint = zeroblob(9000)")
        connection.execute("UPDATE segments SET deleted = zeroblob(9000)")
        os._exit(0)
    os.waitpid(child, 0)
    assert (folder / "catalogue.sqlite-journal").stat().st_size > 512


def test_the_transaction_of_a_killed_writer_is_undone_by_the_next_reader(folder):
    wanted = use(folder)
    _leave_a_journal(folder)
    assert use(folder) == wanted and check(folder) == []
    assert not (folder / "catalogue.sqlite-journal").exists()


@pytest.fixture
def open_place():
    """A folder that other users can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        yield pathlib.Path(place)


def _as_nobody(folder, work):
    """Run `work(folder)` in a child that may read the index and write nothing there."""
    for path in [folder, *folder.rglob("*")]:
        os.chmod(path, stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH | (0o111 * path.is_dir()))
    child = needs.fork()
    if child == 0:
        status = 1
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            assert not os.access(folder, os.W_OK)
            work(folder)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for path in [folder, *folder.rglob("*")]:
        os.chmod(path, 0o755)
    assert status == 0


@pytest.mark.parametrize("killed", [False, True])
def test_an_index_that_may_only_be_read_is_searched_as_ever(open_place, killed):
    folder = open_place / "index"
    prepare(folder)
    wanted = use(folder)
    if killed:
        _leave_a_journal(folder)

    def work(folder):
        assert use(folder) == wanted and check(folder) == []
        with pytest.raises(StoreError, match="can still be searched"):
            Store.open(folder).writer()

    _as_nobody(folder, work)
    assert (folder / "catalogue.sqlite-journal").exists() == killed


def test_a_place_where_nothing_may_be_made_is_refused(open_place):
    def work(folder):
        with pytest.raises(StoreError, match="leave to write"):
            new_store(folder / "index")

    _as_nobody(open_place, work)


def test_searching_changes_no_byte_of_an_index(folder):
    def state():
        return {name: (folder / name).read_bytes() for name in files_of(folder)}

    before = state()
    use(folder)
    check(folder)
    assert state() == before


def test_an_interrupted_build_that_goes_on_gives_the_same_bytes(tmp_path):
    whole, resumed = new_store(tmp_path / "whole"), new_store(tmp_path / "resumed")
    parts = [[f"{start + number}" for number in range(4)] for start in range(0, 20, 4)]
    with whole.writer() as writer:
        for part in parts:
            writer.add(*batch(part))
    with resumed.writer() as writer:
        for part in parts[:3]:
            writer.add(*batch(part))
    for name in FILES[3:]:  # killed while the fourth was appended
        with open(resumed.folder / name, "ab") as file:
            file.write(b"part of a row")
    with resumed.writer() as writer:
        done = {item.id for item in resumed.snapshot().items_in_order()}
        for part in parts:
            if not done.issuperset(part):
                writer.add(*batch(part))
    for name in FILES[3:]:
        assert (whole.folder / name).read_bytes() == (resumed.folder / name).read_bytes()


if __name__ == "__main__":
    _drive(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
