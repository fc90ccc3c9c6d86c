"""A system that lacks what Linux has, simulated: `pytest -p tests.elsewhere`.

It takes away what Windows or macOS, a Python or a C library is without: asking for the cores of a
process, `fcntl`, `mallopt`, forking, symbolic links, opening without following them, reading and
writing at a place. Only in the process of pytest itself: commands that tests start see this system.
"""

import ctypes
import errno
import os
import sys

ABSENT = (
    "process_cpu_count",
    "sched_getaffinity",
    "fork",
    "forkpty",
    "register_at_fork",
    "O_NOFOLLOW",
    "O_CLOEXEC",
    "O_DIRECTORY",
    "O_NONBLOCK",
    "mkfifo",
    "pread",
    "pwrite",
)


def _refuse(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, "A required privilege is not held by the client")


class _Library(ctypes.CDLL):
    def __getattr__(self, name: str) -> object:
        if name == "mallopt":
            raise AttributeError(name)
        return super().__getattr__(name)


def take_away() -> None:
    """Make this process one of such a system; before anything of HashNet is imported."""
    assert not any(name.split(".")[0] == "hashnet" for name in sys.modules)
    for name in ABSENT:
        if hasattr(os, name):
            delattr(os, name)
    os.symlink = _refuse
    ctypes.CDLL = _Library
    sys.modules["fcntl"] = None  # what `import` takes for a module that is not there


take_away()
