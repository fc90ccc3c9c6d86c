"""Other systems, mounts and homes, simulated: what Windows, macOS or a share lacks is taken away.

That all else works without it, too, the other tests say when run with `-p tests.elsewhere`.
"""

import ctypes
import errno
import io
import json
import ntpath
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import types

import numpy as np
import pytest

from hashnet import cli, files, images, system
from hashnet.errors import LockedError, StoreError
from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item
from tests import windows_files

ROOT = pathlib.Path(__file__).resolve().parents[1]
NAMES = ["猫", "chat été", "кот's & co", "a'b #1%2?;", "bad\udcff"]


def new_store(folder):
    return Store.create(folder, num_bits=8, feature_dim=2, fingerprint="f")


def add(writer, *ids):
    codes, features = np.ones((len(ids), 1), "u1"), np.ones((len(ids), 2), "f4")
    return writer.add([Item(id) for id in ids], codes, features)


def ids_of(folder):
    with Store.open(folder).snapshot() as snapshot:
        return snapshot.ids()


def generations(folder):
    return {path.name.split(".")[0] for path in (folder / "segments").iterdir()}


# Cores, memory, forks


@pytest.mark.parametrize(
    ("asked", "answer", "expected"),
    [
        ("process_cpu_count", lambda: 3, 3),
        ("process_cpu_count", lambda: None, 1),
        ("sched_getaffinity", lambda _: {4, 7}, 2),
        ("cpu_count", lambda: 5, 5),
        ("cpu_count", lambda: None, 1),
    ],
)
def test_cores_are_counted_the_closest_way_there_is(monkeypatch, asked, answer, expected):
    for name in ("process_cpu_count", "sched_getaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(os, asked, answer, raising=False)
    assert system.cores() == expected


def test_without_forks_or_mallopt_nothing_is_asked_of_them(monkeypatch):
    monkeypatch.delattr(os, "register_at_fork", raising=False)
    system.after_fork(lambda: None)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: types.SimpleNamespace())
    assert system.keep_freed_memory() is False
    monkeypatch.setitem(sys.modules, "ctypes", None)
    assert system.keep_freed_memory() is False
    monkeypatch.setattr(sys, "platform", "win32")
    assert system.keep_freed_memory() is False


def test_a_program_without_stderr_can_be_kept_silent():
    code = (
        "import os, sys; os.close(2); sys.stderr = None; from hashnet import system\n"
        "with system.without_stderr(): print('done')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, check=True)
    assert done.stdout == b"done\n"


def test_stderr_comes_back_whichever_thread_ends_first(capfd):
    inside, leave = threading.Event(), threading.Event()

    def first():
        with system.without_stderr():
            inside.set()
            leave.wait(10)

    def second():
        inside.wait(10)
        threading.Timer(0.1, leave.set).start()
        with system.without_stderr():
            os.write(2, b"dropped")

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(2, b"kept")
    assert capfd.readouterr().err == "kept"


def test_where_reusing_an_address_would_share_it_it_is_had_alone(monkeypatch):
    asked = []
    listening = types.SimpleNamespace(setsockopt=lambda *given: asked.append(given))
    system.take_address(listening)
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", -5, raising=False)
    system.take_address(listening)
    assert [option for _, option, _ in asked] == [socket.SO_REUSEADDR, -5]


# Files


def test_a_link_is_not_opened_where_the_system_cannot_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(system, "_NO_LINK", 0)
    monkeypatch.setattr(os.path, "islink", lambda path: os.fspath(path).endswith("link"))
    (tmp_path / "file").write_bytes(b"")
    os.close(system.open_file(tmp_path / "file"))
    with pytest.raises(OSError, match="link"):
        system.open_file(tmp_path / "link")


def test_places_of_a_file_are_read_and_written_without_calls_for_it(tmp_path, monkeypatch):
    for name in ("pread", "pwrite"):
        monkeypatch.delattr(os, name, raising=False)
    descriptor = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    system.write_at(descriptor, b"abcdef", 0)
    system.write_at(descriptor, b"XY", 2)
    assert system.read_at(descriptor, 3, 1) == b"bXY"
    assert system.read_at(descriptor, 9, 5) == b"f"
    os.close(descriptor)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_share_that_syncs_no_folders_is_written_to(tmp_path, monkeypatch, number):
    def fsync(descriptor):
        if os.path.isdir(os.readlink(f"/proc/self/fd/{descriptor}")):
            raise OSError(number, "not here")

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("names files through /proc")
    monkeypatch.setattr(os, "fsync", fsync)
    with new_store(tmp_path / "index").writer() as writer:
        add(writer, "a")
    assert ids_of(tmp_path / "index") == ["a"]


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        (r"C:\my photos\a#b", "file:///C%3A/my%20photos/a%23b"),
        (r"\\server\share\猫", "file:////server/share/%E7%8C%AB"),
    ],
)
def test_a_path_of_windows_has_a_uri(monkeypatch, path, uri):
    paths = types.SimpleNamespace(
        **{**vars(os), "path": ntpath, "fsencode": lambda text: text.encode()}
    )
    monkeypatch.setattr(system, "os", paths)
    monkeypatch.setattr(system, "pathlib", types.SimpleNamespace(PurePath=pathlib.PureWindowsPath))
    assert system.file_uri(path) == uri


def test_no_name_that_we_give_is_one_that_a_system_refuses(tmp_path, bundle_folder):
    from hashnet.retrieval.extraction import extract
    from hashnet.retrieval.index import Index

    photos = tmp_path / "photos"
    photos.mkdir()
    images.write(photos / "a.png", np.zeros((8, 8, 3), "u1"))
    index = Index.create(tmp_path / "index", bundle_folder)
    index.update([photos])
    extract.extract([photos], tmp_path / "extraction", bundle_folder)
    made = {part for path in tmp_path.rglob("*") for part in path.relative_to(tmp_path).parts}
    made |= {files.hidden_beside(pathlib.Path("猫" * 85)).name}
    refused = re.compile(r'[<>:"|?*\\\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.I)
    assert len(made) > 20
    assert [name for name in made if refused.search(name)] == []
    assert all(len(os.fsencode(name)) <= 255 for name in made)
    assert len({name.lower() for name in made}) == len(made)


# Windows: what is open or mapped stays


@pytest.fixture
def windows(monkeypatch):
    if not os.path.exists("/proc/self/maps"):
        pytest.skip("looks at /proc for what is open")
    monkeypatch.setattr(system, "_IN_USE_SECONDS", 0.2)
    windows_files.install(monkeypatch)


def test_simulated_windows_refuses_what_windows_refuses(windows, tmp_path):
    (tmp_path / "f").mkdir()
    path = tmp_path / "f" / "a"
    path.write_bytes(b"content")
    mapped = np.memmap(path)
    for refused in (
        lambda: path.unlink(),
        lambda: os.replace(tmp_path / "f", tmp_path / "g"),
        lambda: os.rename(path, tmp_path / "b"),
        lambda: shutil.rmtree(tmp_path / "f"),
    ):
        with pytest.raises(PermissionError):
            refused()
    del mapped
    shutil.rmtree(tmp_path / "f")


def test_an_index_is_made_in_an_empty_folder_where_nothing_is_renamed_onto_one(windows, tmp_path):
    (tmp_path / "index").mkdir()
    new_store(tmp_path / "index")
    assert os.listdir(tmp_path) == ["index"] and ids_of(tmp_path / "index") == []


def test_an_index_is_compacted_under_its_readers_and_cleared_by_a_later_writer(windows, tmp_path):
    folder = tmp_path / "index"
    store = new_store(folder)
    with store.writer() as writer:
        add(writer, "a", "b")
        add(writer, "c")
    reader = store.snapshot()
    with store.writer() as writer:
        writer.remove(["b"])
        writer.compact()
        assert add(writer, "d") == 1
    assert generations(folder) == {"000001", "000002"}
    assert reader.ids() == ["a", "b", "c"] and ids_of(folder) == ["a", "c", "d"]
    del reader
    with store.writer():
        assert generations(folder) == {"000002"}
    assert store.check() == []


def test_a_compaction_that_nobody_reads_beside_leaves_nothing(windows, tmp_path):
    with new_store(tmp_path / "index").writer() as writer:
        add(writer, "a", "b")
        writer.update([Item("a", label="seen")])  # what it has read it has mapped
        writer.compact()
        assert generations(tmp_path / "index") == {"000002"}


def test_what_a_killed_writer_left_behind_a_mapped_file_is_written_over(windows, tmp_path):
    store = new_store(tmp_path / "index")
    with store.writer() as writer:
        add(writer, "a")
    codes = tmp_path / "index" / "segments" / "000001.codes"
    with store.snapshot(), open(codes, "ab") as file:
        file.write(b"half")
        file.flush()
        mapped = store.snapshot()
        with store.writer() as writer:
            assert add(writer, "b") == 1
    assert mapped.ids() == ["a"] and ids_of(tmp_path / "index") == ["a", "b"]


def test_a_file_that_is_open_for_a_moment_is_replaced_and_for_long_named(windows, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    reading = open(path, "rb")  # noqa: SIM115 it is closed by the timer
    threading.Timer(0.05, reading.close).start()
    with files.whole_file(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    with open(path, "rb"), pytest.raises(PermissionError, match="used by another"):
        with files.whole_file(path) as file:
            file.write(b"newer")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["a"]


def test_a_folder_with_an_open_file_is_replaced_later_and_stays_whole(windows, tmp_path):
    folder = tmp_path / "f"
    with files.whole_folder(folder) as beside:
        (beside / "a").write_bytes(b"old")
    with open(folder / "a", "rb"), pytest.raises(PermissionError):
        with files.whole_folder(folder) as beside:
            (beside / "a").write_bytes(b"new")
    assert (folder / "a").read_bytes() == b"old" and os.listdir(tmp_path) == ["f"]
    with files.whole_folder(folder) as beside:
        (beside / "a").write_bytes(b"new")
    assert (folder / "a").read_bytes() == b"new" and os.listdir(tmp_path) == ["f"]


def test_an_index_is_kept_up_to_date_and_searched_under_the_rules_of_windows(
    windows, run, bundle_folder, photos, tmp_path
):
    folder = shutil.copytree(photos / "disc", tmp_path / "disc")
    index = tmp_path / "i"
    assert run("index", index, folder, "--bundle", bundle_folder)[0] == cli.DONE
    (folder / "0.png").unlink()
    assert run("index", index, folder, "--prune")[1].startswith("0 added, 0 changed, 5 unchanged")
    assert run("compact", index)[0] == cli.DONE
    assert run("search", index, folder / "1.png", "--picture", tmp_path / "p.png")[0] == cli.DONE
    assert generations(index) == {"000002"}
    assert run("check", index)[0] == cli.DONE


# Locks


@pytest.fixture
def no_locks(monkeypatch):
    """No lock is to be had: of the system's module for them nothing is there."""
    monkeypatch.setitem(sys.modules, "portalocker", None)


def test_a_writer_of_another_version_and_ours_exclude_each_other(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    pytest.importorskip("portalocker")
    store = new_store(tmp_path / "index")
    with open(tmp_path / "index" / "lock", "r+b") as older:
        fcntl.flock(older, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(LockedError):
            store.writer()
    with store.writer(), open(tmp_path / "index" / "lock", "r+b") as older:
        with pytest.raises(BlockingIOError):
            fcntl.flock(older, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_mount_without_locks_has_one_writer_too(tmp_path, monkeypatch, number):
    portalocker = pytest.importorskip("portalocker")

    def lock(*_):
        try:
            raise OSError(number, os.strerror(number))
        except OSError as error:
            raise portalocker.LockException(error) from error

    monkeypatch.setattr(portalocker, "lock", lock)
    store = new_store(tmp_path / "index")
    with store.writer() as writer:
        add(writer, "a")
        with pytest.raises(LockedError, match=f"process {os.getpid()} on .*lock.owner"):
            store.writer()
    with store.writer():
        pass
    assert not (tmp_path / "index" / "lock.owner").exists()


def test_a_disk_that_fails_to_lock_is_no_mount_without_locks(tmp_path, monkeypatch):
    portalocker = pytest.importorskip("portalocker")

    def lock(*_):
        try:
            raise OSError(errno.EIO, "Input/output error")
        except OSError as error:
            raise portalocker.LockException(error) from error

    store = new_store(tmp_path / "index")
    monkeypatch.setattr(portalocker, "lock", lock)
    with pytest.raises(StoreError, match="Input/output error"):
        store.writer()


def owned(folder, process, machine):
    owner = folder / "lock.owner"
    owner.mkdir()
    (owner / "holder").write_text(f"process {process} on {machine} since 2020: hashnet index")


def test_without_locks_a_dead_writer_counts_for_nothing(tmp_path, no_locks):
    store = new_store(tmp_path / "index")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    # The second: another container of this name had a process of our number.
    for process in (dead.pid, os.getpid()):
        owned(store.folder, process, socket.gethostname())
        with store.writer():
            with pytest.raises(LockedError):
                store.writer()
    assert sorted(path.name for path in store.folder.glob("lock*")) == ["lock"]


def test_without_locks_one_who_was_killed_while_it_removed_a_dead_one_is_waited_for(
    tmp_path, no_locks, monkeypatch
):
    store = new_store(tmp_path / "index")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    owned(store.folder, dead.pid, socket.gethostname())
    (store.folder / "lock.guard").mkdir()
    with pytest.raises(LockedError):
        store.writer()
    monkeypatch.setattr(system, "_GUARD_SECONDS", 0.1)
    with store.writer(wait_seconds=10):
        pass
    assert sorted(path.name for path in store.folder.glob("lock*")) == ["lock"]


def test_without_locks_one_who_may_live_is_respected_and_named(tmp_path, no_locks):
    store = new_store(tmp_path / "index")
    owned(store.folder, 7, "elsewhere")
    with pytest.raises(LockedError, match="process 7 on elsewhere .*delete .*lock.owner"):
        store.writer()
    shutil.rmtree(store.folder / "lock.owner")
    owned(store.folder, os.getppid(), socket.gethostname())
    with pytest.raises(LockedError, match=f"process {os.getppid()} on"):
        store.writer()
    assert ids_of(store.folder) == []  # reading asks for nothing


def test_one_without_locks_excludes_one_with_them(tmp_path):
    pytest.importorskip("portalocker")
    store = new_store(tmp_path / "index")
    owned(store.folder, 7, "elsewhere")
    with pytest.raises(LockedError, match="process 7 on elsewhere"):
        store.writer()


def test_without_locks_one_of_many_who_find_a_dead_writer_has_the_lock(tmp_path, no_locks):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for _ in range(50):
        owned(tmp_path, dead.pid, socket.gethostname())
        locks = [system.FileLock(tmp_path / "lock") for _ in range(8)]
        begin, taken = threading.Barrier(8), []

        def take(lock, begin=begin, taken=taken):
            begin.wait()
            if lock.take():
                taken.append(lock)

        threads = [threading.Thread(target=take, args=(lock,)) for lock in locks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(taken) <= 1  # none where all met at once; they ask again
        for lock in locks:
            (lock.release if lock in taken else lock.forget)()


@pytest.mark.parametrize(
    ("number", "has"),
    [(None, True), (errno.EAGAIN, True), (errno.ENOLCK, False), (errno.ENOSYS, False)],
)
def test_whether_a_database_can_lock_is_asked_of_another_file(tmp_path, monkeypatch, number, has):
    fcntl = pytest.importorskip("fcntl")

    def lockf(*_):
        if number is not None:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(system, "_record_locks", {})
    monkeypatch.setattr(fcntl, "lockf", lockf)
    assert system.has_record_locks(tmp_path / "nowhere") is True
    (tmp_path / "lock").touch()
    assert system.has_record_locks(tmp_path / "lock") is has


NO_LOCKS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
int flock(int file, int how) { errno = ENOLCK; return -1; }
#define WITHOUT(name)                                                              \
    int name(int file, int command, ...) {                                         \
        va_list rest; va_start(rest, command); void *given = va_arg(rest, void *); \
        va_end(rest);                                                              \
        if (command == F_SETLK || command == F_SETLKW || command == F_GETLK) {     \
            errno = ENOLCK; return -1; }                                           \
        return ((int (*)(int, int, void *))dlsym(RTLD_NEXT, #name))(file, command, given); }
WITHOUT(fcntl)
WITHOUT(fcntl64)
"""


@pytest.fixture(scope="module")
def mount_without_locks(tmp_path_factory):
    """The environment of a command for which no file can be locked, by SQLite neither."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("a C compiler and Linux are needed to stand in for the file system")
    folder = tmp_path_factory.mktemp("locks")
    (folder / "no.c").write_text(NO_LOCKS)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", folder / "no.so", folder / "no.c", "-ldl"], check=True
    )
    # Scratch of processes that do lock looks like what dead ones left there.
    (folder / "tmp").mkdir()
    return {**os.environ, "LD_PRELOAD": str(folder / "no.so"), "TMPDIR": str(folder / "tmp")}


def hashnet(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "hashnet", *map(os.fspath, arguments)],
        capture_output=True,
        cwd=ROOT,
        timeout=100,
        **options,
    )


@pytest.mark.thorough
def test_an_index_on_a_mount_without_locks_is_made_changed_and_searched(
    mount_without_locks, bundle_folder, photos, tmp_path
):
    index, env = tmp_path / "i", mount_without_locks
    for command, words in (
        (("index", index, photos / "disc", "--bundle", bundle_folder), b"6 added"),
        (("index", index, photos), b"18 added"),
        (("search", index, photos / "disc/0.png", "-k", "1"), b"0 bits"),
        (("check", index), b""),
    ):
        done = hashnet(*command, env=env)
        assert (done.returncode, done.stderr) == (0, b"") and words in done.stdout
    assert len(ids_of(index)) == 24


KILLED = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1] + "?vfs=unix-none", uri=True, isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE facts SET commits = 77, fingerprint = zeroblob(9000)")
connection.execute("UPDATE segments SET deleted = zeroblob(9000)")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.thorough
def test_without_locks_the_transaction_of_a_killed_writer_is_undone(
    mount_without_locks, photos, bundle_folder, tmp_path
):
    index, env = tmp_path / "i", mount_without_locks
    hashnet("index", index, photos / "disc", "--bundle", bundle_folder, env=env)
    uri = system.file_uri(index / "catalogue.sqlite")
    dead = subprocess.run([sys.executable, "-c", KILLED, uri], env=env)
    assert dead.returncode == -signal.SIGKILL
    assert (index / "catalogue.sqlite-journal").stat().st_size > 512
    # Who reads leaves it, as its writer may live where there are no locks.
    done = hashnet("list", index, env=env)
    assert done.returncode == 0 and done.stdout.count(b"\n") == 6
    assert (index / "catalogue.sqlite-journal").exists()
    done = hashnet("index", index, photos, env=env)
    assert done.returncode == 0 and b"18 added" in done.stdout
    assert not (index / "catalogue.sqlite-journal").exists()
    assert Store.open(index).check() == [] and len(ids_of(index)) == 24


# Homes, disks, terminals


@pytest.fixture(scope="module")
def odd_photos(tmp_path_factory):
    """Photos whose names are of all kinds, and an index of them."""
    from hashnet.retrieval.index import Index

    top = tmp_path_factory.mktemp("каталог 猫 é")
    (top / "my photos").mkdir()
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    for name in NAMES:
        try:
            (top / "my photos" / f"{name}.png").write_bytes(images.to_png(image))
        except OSError:  # not on macOS, whose names are Unicode
            continue
    Index.create(top / "фото.index", ROOT / "tests" / "golden" / "bundle_v1").update(
        [top / "my photos"]
    )
    return top


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8", "gbk"])
@pytest.mark.parametrize(
    "command",
    [
        "search INDEX PHOTOS -k 2",
        "search INDEX PHOTOS --json",
        "list INDEX",
        "list INDEX --json",
        "info INDEX",
        "info INDEX --json",
        "duplicates INDEX",
        "check INDEX",
        "index INDEX PHOTOS",
        "remove INDEX 猫",
        "search INDEX 狗.png",
        "search 狗.index PHOTOS",
    ],
)
def test_names_of_any_language_are_written_to_any_terminal(
    odd_photos, monkeypatch, encoding, command
):
    places = {"INDEX": odd_photos / "фото.index", "PHOTOS": odd_photos / "my photos"}
    streams = [io.TextIOWrapper(io.BytesIO(), encoding, errors=e) for e in ("strict", "strict")]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    status = cli.main([str(places.get(word, word)) for word in command.split()])
    for stream in streams:
        stream.flush()
    out, err = (stream.buffer.getvalue().decode(encoding) for stream in streams)
    failing = "狗" in command or command.startswith("remove")
    assert status == (cli.FAILED if failing else cli.DONE)
    assert len(err.splitlines()) == failing
    if "--json" in command:
        assert all(isinstance(json.loads(line), dict) for line in out.splitlines())
    if command == "list INDEX":
        assert len(out.splitlines()) == len(os.listdir(odd_photos / "my photos"))


def test_a_picture_goes_to_a_name_of_any_language(odd_photos, run, tmp_path):
    target = tmp_path / "结果 été.png"
    status, _, err = run(
        "search", odd_photos / "фото.index", odd_photos / "my photos", "--picture", target
    )
    assert status == cli.DONE and "结果 été.png" in err and images.read(target).ndim == 3


class _FullDisk(io.RawIOBase):
    def writable(self):
        return True

    def write(self, _):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("command", ["list INDEX", "search INDEX PHOTOS --json", "info INDEX"])
def test_an_answer_that_finds_no_room_is_one_line(odd_photos, monkeypatch, capsys, command):
    places = {"INDEX": odd_photos / "фото.index", "PHOTOS": odd_photos / "my photos"}
    full = io.TextIOWrapper(io.BufferedWriter(_FullDisk()), "utf-8")
    monkeypatch.setattr(sys, "stdout", full)
    status = cli.main([str(places.get(word, word)) for word in command.split()])
    lines = capsys.readouterr().err.splitlines()
    assert status == cli.FAILED
    assert len(lines) == 1 and "Received: [Errno 28] No space left on device." in lines[0]
    monkeypatch.undo()
    with pytest.raises(OSError, match="No space"):
        full.close()


@pytest.mark.fast("search INDEX PHOTOS")
@pytest.mark.parametrize("command", ["index INDEX PHOTOS", "search INDEX PHOTOS", "info INDEX"])
def test_a_home_that_cannot_be_written_to_changes_nothing(odd_photos, tmp_path, command):
    home = tmp_path / "home"
    home.write_bytes(b"no folder, so nothing can be made in it, whoever the user is")
    index = shutil.copytree(odd_photos / "фото.index", tmp_path / "i")
    places = {"INDEX": index, "PHOTOS": odd_photos / "my photos"}
    env = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    env |= {"NUMBA_CACHE_DIR": str(home / "numba"), "MPLCONFIGDIR": str(home / "matplotlib")}
    done = hashnet(*(places.get(word, word) for word in command.split()), env=env)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_disk_that_is_full_or_read_only_is_one_line(odd_photos, run, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    bundle = ROOT / "tests" / "golden" / "bundle_v1"
    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", refuse)
        made = run("index", tmp_path / "new", odd_photos / "my photos", "--bundle", bundle)
    with monkeypatch.context() as patch:
        patch.setattr(system.FileLock, "__init__", refuse)
        changed = run("index", odd_photos / "фото.index", odd_photos / "my photos")
    with monkeypatch.context() as patch:
        patch.setattr(files, "whole_file", refuse)
        drawn = run(
            "search",
            odd_photos / "фото.index",
            odd_photos / "my photos",
            "--picture",
            tmp_path / "p.png",
        )
    for status, _, err in (made, changed, drawn):
        assert status == cli.FAILED
        assert len(err.splitlines()) == 1 and "Read-only file system" in err
    assert not (tmp_path / "new").exists()
