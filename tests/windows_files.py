"""How Windows treats files that are open or mapped, simulated for the process of a test.

Such a file, and a folder with one in it, can be neither replaced, renamed nor removed; and nothing
is renamed to a name that is taken. What SQLite does below Python does not see these rules.
"""

import errno
import functools
import os
import stat


def in_use(path):
    """Whether this process has a file open or mapped, or one below a folder."""
    path = os.path.realpath(path)
    return any(used == path or used.startswith(f"{path}/") for used in _open_files())


def _open_files():
    for number in os.listdir("/proc/self/fd"):
        try:
            status = os.stat(f"/proc/self/fd/{number}")
            if stat.S_ISREG(status.st_mode):
                yield os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
    with open("/proc/self/maps") as maps:
        for line in maps:
            *_, name = line.rstrip("\n").split(maxsplit=5)
            if name.startswith("/"):
                yield name


def _refuse_if_in_use(path):
    if in_use(path):
        error = PermissionError(errno.EACCES, "The file is being used by another process", path)
        error.winerror = 32
        raise error


def _removing(real, path, *, dir_fd=None):
    whole = path if dir_fd is None else os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path)
    _refuse_if_in_use(whole)
    real(path, dir_fd=dir_fd)


def _renaming(real, source, target):
    for path in (source, target):
        _refuse_if_in_use(path)
    if real is _RENAME and os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, "Cannot create a file when it exists", target)
    real(source, target)


def _cutting(real, descriptor, size):
    name = os.readlink(f"/proc/self/fd/{descriptor}")
    with open("/proc/self/maps") as maps:
        if any(line.rstrip("\n").endswith(f" {name}") for line in maps):
            raise OSError(errno.EINVAL, "The operation has a user-mapped section open")
    real(descriptor, size)


_RENAME = os.rename
RULES = {
    "unlink": _removing,
    "remove": _removing,
    "rmdir": _removing,
    "rename": _renaming,
    "replace": _renaming,
    "ftruncate": _cutting,
}


def install(monkeypatch):
    """Let these rules hold until the test ends."""
    for name, rule in RULES.items():
        monkeypatch.setattr(os, name, functools.partial(rule, getattr(os, name)))
