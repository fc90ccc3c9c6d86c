"""What differs from one operating system, file system or C library to the next.

No other file asks which of them it runs on: what is not there is done another way here, or left
out where it is a courtesy only.
"""

import contextlib
import errno
import os
import pathlib
import re
import secrets
import shutil
import socket
import stat
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

StrPath = str | os.PathLike[str]

_BINARY: int = getattr(os, "O_BINARY", 0)  # Windows alone would translate ends of lines
_NO_LINK: int = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT: int = getattr(os, "O_NONBLOCK", 0)
# What Windows says of a file that somebody has open or mapped, or of a folder with such a file.
_IN_USE = (5, 32, 33, 1224)
_IN_USE_SECONDS = 2.0  # virus scanners and backups let go sooner
# What file systems say to those who ask for what they do not have.
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
_HOLDER = "holder"  # the file with the name of who holds a lock
_GUARD_SECONDS = 10.0


# Processors and memory


def cores() -> int:
    """The cores that this process may use.

    Returns:
        int, 1 or more.

    Example:
        >>> cores() >= 1
        True
    """
    if hasattr(os, "process_cpu_count"):  # since Python 3.13
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # not on macOS, nor on Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def after_fork(forget: Callable[[], object]) -> None:
    """Have something done in every child that this process forks, where processes fork.

    Args:
        forget: function without arguments.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forget)


def keep_freed_memory() -> bool:
    """Let this process keep the memory it frees, for its next allocation.

    Every step of a training frees gigabytes and asks for them again. The C library of most Linux
    systems gives large blocks back to the kernel each time, which then clears every page anew:
    on a virtual machine that took half of the time.

    Returns:
        bool. Whether the C library knows how; nothing changes where it does not.

    Example:
        >>> keep_freed_memory() in (True, False)
        True
    """
    if sys.platform != "linux":
        return False
    try:
        import ctypes

        mallopt = ctypes.CDLL(None).mallopt
    except (ImportError, OSError, AttributeError):
        return False
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # Names of the settings in malloc.h.
    settings = ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 64 << 20))
    done = [mallopt(name, value) for name, value in settings]
    return all(done)


def has_forks() -> bool:
    """Whether processes fork, and hand each other what they have opened.

    Returns:
        bool. Not so on Windows.

    Example:
        >>> has_forks() in (True, False)
        True
    """
    return hasattr(os, "fork") and hasattr(socket, "send_fds")


def limit_memory(more: int) -> bool:
    """Let this process take so much more memory than it has, and leave no core behind.

    Args:
        more: int, bytes of addresses.

    Returns:
        bool. False where nothing is limited: the system does not say how many there are.
    """
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open("/proc/self/statm", "rb") as file:
            pages = int(file.read().split()[0])
    except OSError:  # not on Linux
        return False
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return True


def peak_memory() -> int:
    """The most memory that this process has had at a time; not on Windows.

    Returns:
        int, bytes.

    Example:
        >>> peak_memory() > 2**20
        True
    """
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def limit_processor_time(seconds: int) -> None:
    """Have this process ended by SIGXCPU when it has taken so much more processor time, or a second
    less.

    Args:
        seconds: int, 1 or more.
    """
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + seconds, most))


def processor_seconds(pid: int) -> float:
    """The processor time that another process has taken.

    Args:
        pid: int, its number.

    Returns:
        float, seconds. Those of the clock on the wall where the system has no such clock.

    Example:
        >>> processor_seconds(os.getpid()) >= 0
        True
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # it has ended
            return time.clock_gettime(~pid << 3 | 2)  # as clock_getcpuclockid(3) makes it
    return time.monotonic()


# Streams and sockets


@contextlib.contextmanager
def without_stderr() -> Iterator[None]:
    """Drop what is written to stderr, from below Python, too; one thread at a time asks for it."""
    with _stderr:
        if sys.stderr is not None:  # None: a program without a terminal
            sys.stderr.flush()
        try:
            kept = os.dup(2)
        except OSError:  # closed, as for programs without a terminal on Windows
            yield
            return
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(kept, 2)
                os.close(kept)


# Two threads would otherwise keep, and put back, what the other has put in its place.
_stderr = threading.RLock()


def take_address(listening: socket.socket) -> None:
    """Let a socket have an address that a service which has ended used a moment ago.

    Args:
        listening: socket.socket, before it is bound.
    """
    # On Windows SO_REUSEADDR would share the address with a service that still runs.
    alone = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR if alone is None else alone, 1)


# Files


def open_file(path: StrPath, flags: int = os.O_RDONLY) -> int:
    """Open a file as bytes, and no symbolic link in its place; children do not inherit it.

    Args:
        path: str or path-like.
        flags: int, for `os.open`.

    Returns:
        int, a descriptor, which the caller closes.

    Raises:
        OSError: there is no such file, a link, or no leave to open it.
    """
    if not _NO_LINK and os.path.islink(path):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
    return os.open(path, flags | _BINARY | _NO_LINK, 0o666)


def open_without_waiting(path: StrPath) -> int:
    """Open for reading whatever a path leads to, a pipe without a writer included.

    Args:
        path: str or path-like.

    Returns:
        int, a descriptor, which the caller closes.

    Raises:
        OSError: nothing is there, or there is no leave to open it.
    """
    return os.open(path, os.O_RDONLY | _BINARY | _NO_WAIT)


def read_at(descriptor: int, count: int, offset: int) -> bytes:
    """Read at a place of an open file.

    Args:
        descriptor: int, of the file, for this thread alone.
        count: int, bytes at most.
        offset: int, bytes from the beginning of the file.

    Returns:
        bytes, fewer at the end of the file.
    """
    if hasattr(os, "pread"):  # not on Windows
        return os.pread(descriptor, count, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, count)


def write_at(descriptor: int, content: Any, offset: int) -> None:
    """Write at a place of an open file, all of it.

    Args:
        descriptor: int, of the file, for this thread alone.
        content: bytes, or anything else with a buffer.
        offset: int, bytes from the beginning of the file.
    """
    content = memoryview(content)
    while content:
        if hasattr(os, "pwrite"):  # not on Windows
            written = os.pwrite(descriptor, content, offset)
        else:
            os.lseek(descriptor, offset, os.SEEK_SET)
            written = os.write(descriptor, content)
        content, offset = content[written:], offset + written


def fsync(path: StrPath) -> None:
    """Wait until a file, or the names in a folder, are on the disk.

    Args:
        path: str or path-like. Of a folder, Windows and some shares have nothing to wait for.

    Raises:
        OSError: the disk refuses.
    """
    is_folder = os.path.isdir(path)
    if os.name == "nt" and is_folder:
        return
    # What is open for reading only Windows does not flush.
    descriptor = os.open(path, os.O_RDWR | _BINARY if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (is_folder and error.errno in (*_UNSUPPORTED, errno.EINVAL)):
            raise
    finally:
        os.close(descriptor)


def replace(source: StrPath, target: StrPath) -> None:
    """Rename a file, also to a name that another has until now.

    Args:
        source, target: str or path-like, in one file system.

    Raises:
        OSError: the system refuses; on Windows also where somebody has one of them open for long.
    """
    _patiently(lambda: os.replace(source, target))


def move_folder(source: StrPath, target: StrPath) -> None:
    """Rename a folder to a name where nothing is, or an empty folder.

    Args:
        source, target: str or path-like, in one file system.

    Raises:
        OSError: the system refuses; on Windows also where somebody has a file in it open for long.
    """

    def move() -> None:
        try:
            os.rename(source, target)
        except FileExistsError:  # Windows puts nothing in the place of an empty folder
            os.rmdir(target)
            os.rename(source, target)

    _patiently(move)


def remove_unless_in_use(path: StrPath) -> bool:
    """Remove a file that may be gone, or may be open or mapped where that keeps it.

    Args:
        path: str or path-like.

    Returns:
        bool. False where it is in use, as only Windows says; who comes later can remove it.

    Raises:
        OSError: the system refuses for another reason.
    """
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        if not _is_in_use(error):
            raise
        return False
    return True


def cut(descriptor: int, size: int) -> None:
    """Shorten a file that is open for writing, unless Windows keeps its end for who has it mapped.

    Args:
        descriptor: int, of the file.
        size: int, bytes.

    Raises:
        OSError: the disk refuses.
    """
    try:
        os.ftruncate(descriptor, size)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def is_linked_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder leads elsewhere: a symbolic link, or a junction of Windows.

    Args:
        entry: `os.DirEntry`.

    Returns:
        bool.
    """
    if entry.is_symlink():
        return True
    mount_point = getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", None)
    if os.name != "nt" or mount_point is None:
        return False
    return getattr(entry.stat(follow_symlinks=False), "st_reparse_tag", 0) == mount_point


def unmounted(path: StrPath) -> str | None:
    """The place on the way to a path where a disk or share belongs that is not there now.

    Asked of paths where nothing is. The system says so of what stands in its table of mounts, and
    desktops put a folder of its own for each disk into one that they keep for this.

    Args:
        path: str or path-like.

    Returns:
        str, the path or a folder above it; None where nothing says so.

    Example:
        >>> unmounted("/media/me/usb/cat.png"), unmounted("/home/me/cat.png")
        ('/media/me/usb', None)
    """
    places = [pathlib.PurePath(os.path.abspath(path))]
    places += places[0].parents
    table = _mount_table()
    for place in places:
        if str(place) in table and not os.path.ismount(place):
            return str(place)
    for place in places:
        if _MOUNTED_BY_DESKTOPS.fullmatch(place.as_posix()) and not os.path.lexists(place):
            return str(place)
    return None


# A volume in the folder for them, and on Linux in that of a user.
_MOUNTED_BY_DESKTOPS = re.compile(
    r"/Volumes/[^/]+|/mnt/[^/]+|(/run)?/media/[^/]+/[^/]+|/media/[^/]+|/run/user/\d+/gvfs/[^/]+"
)


def mounts() -> frozenset[str]:
    """Where something is mounted now, as far as the system keeps a list of it.

    Returns:
        frozenset of str, paths; empty where there is no such list.

    Example:
        >>> mounts() <= mounts() | {"/"}
        True
    """
    return _mount_table("/proc/self/mounts")


def _mount_table(path: str = "/etc/fstab") -> frozenset[str]:
    """Where the system mounts what, whether it does at the moment or not."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            rows = [line.split() for line in file if not line.lstrip().startswith("#")]
    except OSError:  # not on Linux
        return frozenset()
    # A blank in a name is written as \040.
    names = (re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), row[1]) for row in rows if row[1:])
    return frozenset(name.rstrip("/") or "/" for name in names if name.startswith("/"))


def file_uri(path: StrPath) -> str:
    """The URI of a file, as SQLite reads it.

    Args:
        path: str or path-like, of any characters; on Windows with a drive or a share.

    Returns:
        str.

    Example:
        >>> file_uri("/photos of 2020/a?b")
        'file:///photos%20of%202020/a%3Fb'
    """
    name = pathlib.PurePath(os.path.abspath(path)).as_posix()
    name = name if name.startswith("/") else f"/{name}"  # C:/photos
    return f"file://{urllib.parse.quote(os.fsencode(name))}"


def _is_in_use(error: OSError) -> bool:
    return getattr(error, "winerror", None) in _IN_USE


def _patiently(action: Callable[[], None]) -> None:
    deadline = time.monotonic() + _IN_USE_SECONDS
    while True:
        try:
            return action()
        except OSError as error:
            if not _is_in_use(error) or time.monotonic() >= deadline:
                raise
        time.sleep(0.02)


# Locks


def has_record_locks(path: StrPath) -> bool:
    """Whether databases can lock parts of files where a file lies.

    Args:
        path: str or path-like, a file that is no database.

    Returns:
        bool. True also where the file cannot be opened, and it cannot be told.
    """
    try:
        import fcntl
    except ImportError:  # Windows, which always can
        return True
    try:
        device = os.stat(path).st_dev
        if device not in _record_locks:
            descriptor = open_file(path)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            finally:
                os.close(descriptor)
            _record_locks[device] = True
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            return True
        _record_locks[device] = False
    return _record_locks[device]


_record_locks: dict[int, bool] = {}  # by device


class FileLock:
    """A lock that one process at a time holds, and the system gives back when its holder dies.

    It is a lock of the system on a file. Where the file system has none, a folder beside the file
    stands for it (`NAME.owner`), which only one can move there, with the holder's name in it. Left
    behind by one that was killed it counts for nothing on the machine on which that one ran, and
    has to be deleted by hand elsewhere.

    Args:
        path: str or path-like. The file, made if there is none; no symbolic link is followed.

    Raises:
        OSError: the file cannot be opened for writing.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     mine, other = (FileLock(os.path.join(folder, "lock")) for _ in range(2))
        ...     mine.take(), other.take(), other.holder().startswith(f"process {os.getpid()} on ")
        ...     mine.release()
        ...     other.take()
        ...     other.release()
        (True, False, True)
        True
    """

    def __init__(self, path: StrPath) -> None:
        self._path = os.fspath(path)
        self._owner_folder = f"{self._path}.owner"
        self._guard = f"{self._path}.guard"
        self._owns = False  # that folder
        self._descriptor: int | None = open_file(path, os.O_RDWR | os.O_CREAT)

    def take(self) -> bool:
        """Take the lock if nobody has it.

        Returns:
            bool. Whether it could be had.

        Raises:
            OSError: nothing can be written where there are no locks.
        """
        has_locks, locked = self._take_of_system()
        if has_locks and not locked:
            return False
        # A thread must not see another's folder before it is known to be this process's.
        with _owners:
            if self._stands_for_another() or not (has_locks or self._take_owner_folder()):
                return False
        # Who holds it is a courtesy; a full disk must not forbid to remove images.
        with contextlib.suppress(OSError):
            self._sign(_myself())
        return True

    def is_in_place(self) -> bool:
        """Whether the path still leads to the file that is locked.

        Returns:
            bool. False where its folder was moved, and perhaps another put there.
        """
        if self._descriptor is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.stat(self._path))
        except OSError:
            return False

    def holder(self) -> str:
        """Who holds the lock, in words.

        Returns:
            str: its process, machine, time and command, and how to free the lock where no system
            does.
        """
        with contextlib.suppress(OSError):
            owner = _read(os.path.join(self._owner_folder, _HOLDER))
            return f"{owner} (if that is dead, delete {self._owner_folder})"
        with contextlib.suppress(OSError):  # Windows locks what is written in the file, too
            return _read(self._path) or "a process that starts"
        return "another process"

    def release(self) -> None:
        """Give the lock back; twice is fine."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                self._sign("")
            self._remove_owner_folder()
        self.forget()

    def forget(self) -> None:
        """Close the file; in a forked child, which shares its parent's lock, that leaves it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor, self._owns = None, False

    def _sign(self, text: str) -> None:
        assert self._descriptor is not None
        os.ftruncate(self._descriptor, 0)
        write_at(self._descriptor, text.encode("utf-8", "replace"), 0)

    def _take_of_system(self) -> tuple[bool, bool]:
        """Whether there are locks, and whether this one could be had."""
        try:
            import portalocker
        except ImportError:  # no module of Python's for it on this system
            return False, False
        assert self._descriptor is not None
        flags = portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING
        try:
            portalocker.lock(self._descriptor, flags)
        except portalocker.AlreadyLocked:
            return True, False
        except portalocker.LockException as error:
            if isinstance(error.__cause__, OSError):
                if error.__cause__.errno in _UNSUPPORTED:
                    return False, False
                raise error.__cause__ from None
            raise OSError(str(error)) from error
        return True, True

    def _stands_for_another(self) -> bool:
        """Whether another holds the folder that stands for a lock; a dead one's is removed."""
        holder = os.path.join(self._owner_folder, _HOLDER)
        try:
            owner = _read(holder)
        except OSError:
            return False
        if _may_live(owner, self._owner_folder) or not self._enter():
            return True
        # One at a time: the dead one's may be gone, and another's be in its place.
        with contextlib.suppress(OSError):
            if _read(holder) == owner:
                os.rename(self._owner_folder, self._beside())
        with contextlib.suppress(OSError):
            os.rmdir(self._guard)
        return False

    def _enter(self) -> bool:
        """Whether this process may remove a dead one's folder, which takes it a moment."""
        try:
            os.mkdir(self._guard)
        except FileExistsError:
            with contextlib.suppress(OSError):
                if time.time() - os.stat(self._guard).st_mtime > _GUARD_SECONDS:
                    os.rmdir(self._guard)  # of one that was killed just then
            return False
        return True

    def _take_owner_folder(self) -> bool:
        """Whether the folder that stands for a lock could be had; no name moves onto another's."""
        beside = self._beside()
        os.mkdir(beside)
        try:
            with open(os.path.join(beside, _HOLDER), "x", encoding="utf-8") as file:
                file.write(_myself())
            os.rename(beside, self._owner_folder)
        except (FileExistsError, FileNotFoundError, PermissionError):
            return False
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            return False
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        _held_here.add(self._owner_folder)
        self._owns = True
        return True

    def _remove_owner_folder(self) -> None:
        """Remove the folder that stands for a lock, at once, and what killed processes left."""
        if self._owns:
            _held_here.discard(self._owner_folder)
            try:
                os.rename(self._owner_folder, self._beside())
            except OSError:
                shutil.rmtree(self._owner_folder, ignore_errors=True)
        place, name = os.path.split(self._owner_folder)
        with contextlib.suppress(OSError):
            for left in os.listdir(place):
                if left.startswith(f"{name}-"):
                    shutil.rmtree(os.path.join(place, left), ignore_errors=True)

    def _beside(self) -> str:
        return f"{self._owner_folder}-{secrets.token_hex(4)}"


# Folders that stand for a lock of this process.
_held_here: set[str] = set()
_owners = threading.Lock()


@after_fork
def _own_nothing() -> None:
    """A child holds none of its parent's locks, and waits for none of its threads."""
    global _owners
    _held_here.clear()
    _owners = threading.Lock()


def _myself() -> str:
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    command = " ".join(sys.argv)[:500]
    return f"process {os.getpid()} on {socket.gethostname()} since {since}: {command}"


def _read(path: str) -> str:
    descriptor = open_file(path)
    try:
        return os.read(descriptor, 4096).decode("utf-8", "replace").strip()
    finally:
        os.close(descriptor)


def _may_live(owner: str, folder: str) -> bool:
    """Whether the process whose name is in a folder that stands for a lock may be alive."""
    named = re.match(r"process (\d+) on (\S+) since ", owner)
    if named is None or named[2] != socket.gethostname() or os.name == "nt":
        return True  # its life cannot be asked for
    if int(named[1]) == os.getpid():
        return folder in _held_here
    try:
        os.kill(int(named[1]), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
