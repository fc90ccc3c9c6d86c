"""`hashnet index --watch`: an index in step with its folders, through floods, renames, restarts."""

import os
import pathlib
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from hashnet import cli, system
from hashnet.errors import HashnetError, LockedError
from hashnet.retrieval import watching as watching_module
from hashnet.retrieval.index import Index

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture
def folder(photos, tmp_path):
    return shutil.copytree(photos / "disc", tmp_path / "photos" / "disc").parent


class Watching:
    """`hashnet index --watch` in a process of its own."""

    def __init__(self, *arguments):
        command = [sys.executable, "-m", "hashnet", "index", *map(str, arguments), "--watch"]
        # A process that a shell began with & ignores Ctrl-C, and so would its children.
        ignored = signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self.process = subprocess.Popen(
                command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        finally:
            signal.signal(signal.SIGINT, ignored)
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line.strip())

    def until(self, text):
        """The lines up to one that holds a text, which is the last of them."""
        seen = []
        deadline = time.monotonic() + 60
        while not (seen and text in seen[-1]):
            try:
                seen.append(self.lines.get(timeout=deadline - time.monotonic()))
            except (queue.Empty, ValueError):
                raise AssertionError(f"no {text!r} in {seen}") from None
        return seen

    def end(self, with_signal):
        self.process.send_signal(with_signal)
        return self.process.wait(30)


@pytest.fixture
def watching(tmp_path, folder, bundle_folder):
    """Makes a `Watching` of the folder; what still runs at the end is killed."""
    pytest.importorskip("watchfiles", reason='pip install "watchfiles>=1.0"')
    made = []

    def make(*options):
        made.append(Watching(tmp_path / "i", folder, *options))
        return made[-1]

    Index.create(tmp_path / "i", bundle_folder)
    yield make
    for one in made:
        one.process.kill()
        one.process.wait()
        one.process.stdout.close()


def held(tmp_path, folder):
    with Index.open(tmp_path / "i") as index:
        return {os.path.relpath(item.path, folder).replace(os.sep, "/") for item in index.values()}


@pytest.mark.thorough
def test_what_comes_goes_and_changes_its_name_is_followed(watching, folder, tmp_path):
    process = watching()
    assert "6 added, 0 changed, 0 unchanged, 0 removed, 0 skipped" in process.until("watching")
    shutil.copy(folder / "disc/0.png", folder / "new.png")
    counts = "added, 0 changed, 0 renamed, 0 removed, 0 skipped"
    assert process.until("added")[-1].endswith(f"1 {counts}")
    (folder / "disc").rename(folder / "discs")
    counts = "0 added, 0 changed, 6 renamed, 0 removed, 0 skipped"
    assert process.until("added")[-1].endswith(counts)
    shutil.copy(folder / "new.png", folder / "discs/later.png")  # in a folder of another name
    process.until("1 added")
    os.remove(folder / "new.png")
    process.until("0 added, 0 changed, 0 renamed, 1 removed")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    assert "broken.png" in process.until("0 removed, 1 skipped")[-2]
    assert held(tmp_path, folder) == {f"discs/{name}.png" for name in (*range(6), "later")}
    assert process.end(signal.SIGINT) == cli.DONE
    # What changes meanwhile is found at the start.
    os.remove(folder / "discs/later.png")
    process = watching()
    assert "0 added, 0 changed, 6 unchanged, 1 removed, 1 skipped" in process.until("watching")
    assert process.end(signal.SIGTERM) == cli.DONE
    assert "watching has ended" in process.until("ended")[-1]


@pytest.mark.thorough
def test_a_flood_is_taken_in_batches_and_wholly(watching, folder, tmp_path):
    process = watching()
    process.until("watching")
    content = (folder / "disc/0.png").read_bytes()
    for part in range(30):
        (folder / f"flood{part}" / "deep").mkdir(parents=True)
        for number in range(10):
            (folder / f"flood{part}" / "deep" / f"{number}.png").write_bytes(content)
    number, batches = 0, 0
    while number < 300:
        number += int(process.until("added")[-1].split()[1])
        batches += 1
    assert number == 300 and batches < 30
    assert len(held(tmp_path, folder)) == 306


@pytest.mark.thorough
def test_a_root_that_goes_and_comes_back_loses_nothing(watching, folder, tmp_path):
    process = watching()
    process.until("watching")
    folder.rename(tmp_path / "away")
    (tmp_path / "photos").mkdir()
    assert process.until("away")[-1].startswith("away: 6 images in ")
    (tmp_path / "photos").rmdir()
    (tmp_path / "away").rename(folder)
    shutil.copy(folder / "disc/0.png", folder / "new.png")
    process.until("1 added")
    assert len(held(tmp_path, folder)) == 7
    assert process.end(signal.SIGTERM) == cli.DONE


def test_watching_asks_for_its_library_before_there_is_an_index(run, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    status, _, err = run("index", tmp_path / "j", folder, "--watch")
    assert status == cli.FAILED and 'pip install "watchfiles>=1.0"' in err
    assert not (tmp_path / "j").exists()
    assert run("index", tmp_path / "j", "--from-parquet", "x", "--watch")[0] == cli.WRONG_ARGUMENTS


# What is done with what is told, whoever tells it


class Told:
    """Stands for watchfiles: tells what a test says, and what it was asked to watch."""

    class Change:
        added, modified, deleted = range(1, 4)

    def __init__(self, *batches):
        self.batches, self.asked = list(batches), []

    def watch(self, *paths, **_):
        self.asked.append(paths)
        while self.batches:
            batch = self.batches.pop(0)
            if callable(batch):
                batch = batch()
            if isinstance(batch, Exception):
                raise batch
            yield batch
        raise RuntimeError("end")


@pytest.fixture
def told(monkeypatch):
    def tell(*batches):
        monkeypatch.setattr(watching_module, "TICK_SECONDS", 0.01)
        made = Told(*batches)
        monkeypatch.setitem(sys.modules, "watchfiles", made)
        return made

    return tell


@pytest.fixture
def index(tmp_path, bundle_folder):
    return Index.create(tmp_path / "i", bundle_folder)


def counts(report):
    return report.added, report.changed, len(report.removed)


def test_the_first_look_comes_when_changes_are_told(index, folder, told):
    told(set())
    assert counts(next(watching_module.watch(index, folder))) == (6, 0, 0)


def test_nothing_is_looked_at_while_nothing_is_told_but_now_and_then(index, folder, told):
    looks = []
    update = index.update
    index.update = lambda *given, **options: looks.append(1) or update(*given, **options)
    mine = {(Told.Change.modified, str(index.store.folder / "catalogue"))}

    def late():
        watching_module.LOOK_SECONDS, kept = -1.0, watching_module.LOOK_SECONDS
        return kept and set()

    often = watching_module.LOOK_SECONDS
    try:
        told(set(), set(), mine, late)
        with pytest.raises(RuntimeError, match="end"):
            list(watching_module.watch(index, folder))
    finally:
        watching_module.LOOK_SECONDS = often
    assert len(looks) == 2


def test_what_is_seen_to_go_is_dropped_however_much_it_is(index, folder, told):
    def lose(*names):
        def losing():
            for name in names:
                os.remove(folder / "disc" / name)
            return {(Told.Change.deleted, str(folder / "disc" / names[0]))}

        return losing

    def lose_unseen():
        lose("3.png", "4.png")()
        return {(Told.Change.modified, str(folder / "disc"))}

    told(set(), lose("0.png", "1.png", "2.png"), lose_unseen)
    reports = list(zip(range(3), watching_module.watch(index, folder), strict=False))
    assert [counts(report) for _, report in reports] == [(6, 0, 0), (0, 0, 3), (0, 0, 0)]
    assert len(reports[-1][1].prunable) == 2 and len(index) == 3


def test_a_disk_that_goes_while_it_is_watched_keeps_its_images(index, folder, told, monkeypatch):
    there = {str(folder / "disc")}
    monkeypatch.setattr(system, "mounts", lambda: frozenset(there))

    def unmount():
        shutil.move(folder / "disc", folder.parent / "elsewhere")
        (folder / "other").mkdir()
        (folder / "other" / "words.txt").write_text("words")
        there.clear()
        return {(Told.Change.deleted, str(folder / "disc"))}

    made = told(set(), unmount, {(Told.Change.added, str(folder / "disc"))})
    reports = watching_module.watch(index, folder)
    assert counts(next(reports)) == (6, 0, 0)
    assert len(next(reports).prunable) == 6 and len(index) == 6
    shutil.move(folder.parent / "elsewhere", folder / "disc")
    assert next(reports).prunable == [] and len(made.asked) == 2  # watched anew


def test_another_writer_is_waited_for(index, folder, told):
    update, tries = index.update, []

    def locked_once(*given, **options):
        tries.append(1)
        if len(tries) == 1:
            raise LockedError("One writes at a time.")
        return update(*given, **options)

    index.update = locked_once
    told(set(), set())
    assert counts(next(watching_module.watch(index, folder))) == (6, 0, 0) and len(tries) == 2


def test_a_root_may_come_later_and_go_between_two_looks(index, folder, told, tmp_path):
    made = told(FileNotFoundError("gone"), set())
    reports = watching_module.watch(index, [tmp_path / "later", folder])
    assert counts(next(reports)) == (6, 0, 0)
    assert made.asked == [(str(folder),)]
    assert next(iter(watching_module._told(made, [str(tmp_path / "later")]))) == set()


def test_a_system_that_watches_no_more_folders_says_so(index, folder, told):
    told(OSError("OS file watch limit reached."))
    with pytest.raises(
        HashnetError, match=r"only so many folders.*limit reached.*max_user_watches"
    ):
        next(watching_module.watch(index, folder))
