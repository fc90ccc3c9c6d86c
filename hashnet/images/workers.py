"""Processes that decode, as the one that has pictures decoded sees them; see `apart`.

Each may use so much memory and processor time and no more, and is killed where it goes on. They are
forked by a process that has loaded the decoders and does nothing else, in some milliseconds each.
"""

import atexit
import contextlib
import datetime
import json
import math
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hashnet import system
from hashnet.errors import ImageError
from hashnet.images.exif import Exif
from hashnet.images.formats import TooManyPixelsError

MEMORY_MB = 480  # that a picture may take beside the decoders themselves
PROCESSOR_SECONDS = 3
_WAY_OUT = (
    "Save it again as JPEG or PNG, take a smaller copy of it, or raise --max-pixels of most "
    "commands, with which that grows."
)
_PATIENCE = 600.0  # seconds on the wall, of who has nobody else to answer
_STEP = 0.01  # how often the time of a worker is looked at
_LOWEST = 19  # a priority

COMMAND = struct.Struct("!cI")
HEAD = struct.Struct("!II")
LIMITS = struct.Struct("!QI")
FORK, KILL = b"f", b"k"

# What is asked of a picture: the name of a method of `Photo` and its arguments.
Wish = tuple[Any, ...]
OUT_OF_MEMORY = "memory"  # in place of an error's words
TOLD = ("exif", "description")  # what is no pixels


def are_there() -> bool:
    """Whether a picture can be decoded in another process than this one.

    Returns:
        bool. False in a worker, too.

    Example:
        >>> are_there() == system.has_forks()
        True
    """
    return system.has_forks() and not _Here.is_worker


def be_worker() -> None:
    """Say that this process is one."""
    _Here.is_worker = True


class _Here:
    is_worker = False


def decoded(
    content: bytes,
    name: str | None,
    max_pixels: int,
    wish: Wish,
    *,
    scale: float,
    megabytes: float,
) -> Any:
    """Have a process of its own decode a picture, and wait until it has.

    Args:
        content: bytes of its file.
        name: str or None, that of the file.
        max_pixels: int, as for `Photo`.
        wish: what to decode.
        scale: float, 1 or more. So many times what a picture may take, this one may.
        megabytes: float, what it may need. Where that is more than it may take, and a decoder
            fails at it, that is why: few decoders say so.

    Returns:
        What the wish gives.

    Raises:
        ImageError: the picture is damaged, takes more than it may, or ends its decoder twice; or
            there is no process for it.
    """
    # Its own bytes are there twice for a moment.
    memory = int(MEMORY_MB * 2**20 * scale) + 2 * len(content)
    seconds = math.ceil(PROCESSOR_SECONDS * scale)
    for is_last in (False, True):
        try:
            worker = Worker(memory, seconds)
        except (OSError, EOFError) as error:
            if not is_last:  # what they are forked from has died, and is there again
                continue
            raise ImageError(
                "A picture that takes long is decoded in a process of its own.",
                f"{_named(content, name)}: there is none, {error}",
            ) from error
        began = time.monotonic()
        deadline = began + _PATIENCE * scale
        try:
            worker.send(content, name, max_pixels, [wish], deadline)
            return worker.receive(deadline)[1]
        except ImageError as error:
            if megabytes <= memory / 2**20:
                raise
            reason = "it seems to take more memory, or to be damaged"
            raise refusal(_named(content, name), reason, memory, seconds, _WAY_OUT) from error
        except MemoryError as error:
            reason = "it takes more memory"
            raise refusal(_named(content, name), reason, memory, seconds, _WAY_OUT) from error
        except (OSError, EOFError) as error:
            lasted = time.monotonic() - began
            reason = "it takes longer" if lasted > seconds - 1 else "it ended its decoder"
            if is_last or lasted > seconds - 1:  # a system out of memory ends any process
                raise refusal(_named(content, name), reason, memory, seconds, _WAY_OUT) from error
        finally:
            worker.kill()
    raise AssertionError


def _named(content: bytes, name: str | None) -> str:
    return f"{len(content)} bytes" if name is None else repr(name)


def refusal(
    named: str,
    reason: str,
    memory: int,
    seconds: int,
    way_out: str = "Save it again as JPEG or PNG, or take a smaller copy of it.",
) -> ImageError:
    """The error for a picture that takes more than it may.

    Args:
        named: str, the picture.
        reason: str.
        memory, seconds: int. What it may take.
        way_out: str.

    Returns:
        `ImageError`.
    """
    return ImageError(
        f"A picture is decoded in {seconds} s of processor time and {memory >> 20} MB.",
        f"{named}: {reason}",
        way_out,
    )


class Worker:
    """One process that decodes, as this process sees it.

    Args:
        memory, seconds: int. Bytes and processor time that a picture may take.

    Attributes:
        pictures: int, that it has been given.
        busy: bool. Whether it has been given one that it has not answered.
        spoilt: bool. Whether it is of no more use.
        started: float, when its last picture was sent, by the monotonic clock.
        gave_way: bool. Whether it was killed so that others could go on.
    """

    def __init__(self, memory: int, seconds: int) -> None:
        self._socket, other = socket.socketpair()
        with other:
            self._pid = mother().fork(other, memory, seconds)
        self._ready = select.poll()  # unlike `select` for any number of open files
        self._ready.register(self._socket, select.POLLIN)
        self.pictures, self.busy, self.spoilt, self.gave_way = 0, False, False, False
        self.started = self._seconds_before = 0.0
        self._killed = False

    def send(
        self,
        content: bytes,
        name: str | None,
        max_pixels: int | None,
        wishes: Sequence[Wish],
        deadline: float,
    ) -> None:
        """Give it a picture.

        Args:
            content, name, max_pixels, wishes: as for `decoded`; several wishes.
            deadline: float, by `time.monotonic`.

        Raises:
            OSError: it has ended, or the time is over.
        """
        self.pictures, self.busy = self.pictures + 1, True
        self.started, self._seconds_before = time.monotonic(), system.processor_seconds(self._pid)
        asked = json.dumps([name, max_pixels, list(wishes)]).encode()
        self._socket.settimeout(max(0.01, deadline - time.monotonic()))
        self._socket.sendall(HEAD.pack(len(asked), len(content)) + asked)
        self._socket.sendall(content)

    def seconds(self) -> float:
        """float, processor time taken for this picture."""
        return system.processor_seconds(self._pid) - self._seconds_before

    def answers(self, may_go_on: Callable[[float], bool], deadline: float) -> bool:
        """Whether there is an answer, or no time any more, before it has to make way for others."""
        while time.monotonic() < deadline and not self._ready.poll(1000 * _STEP):
            if not may_go_on(self.seconds()):
                return False
        return True

    def receive(self, deadline: float) -> list[Any]:
        """What it answers.

        Args:
            deadline: float, by `time.monotonic`.

        Returns:
            list: (height, width) of the picture, and what each wish gave.

        Raises:
            ImageError: it could not be decoded; its cause is a `TooManyPixelsError` where that
                is why.
            MemoryError: it takes more memory than it may.
            OSError, EOFError: the process has ended, or the time is over.
        """
        self._socket.settimeout(max(0.01, deadline - time.monotonic()))
        length, _ = HEAD.unpack(received(self._socket, HEAD.size))
        told = json.loads(bytes(received(self._socket, length)))
        self.spoilt |= told["spoilt"]
        if told["error"] is not None:
            self.busy = False
            if told["error"] == OUT_OF_MEMORY:
                raise MemoryError
            cause = told["too_large"]
            raise ImageError(told["error"]) from (cause and TooManyPixelsError(cause))
        answers: list[Any] = [tuple(told["size"])]
        for kind, value in told["answers"]:
            if kind in TOLD:
                answers.append(_exif_from(value) if kind == "exif" else value)
                continue
            pixels = np.empty(value, np.uint8)
            fill(self._socket, pixels.data.cast("B"))
            answers.append(pixels)
        self.busy = False
        return answers

    def lower_priority(self) -> None:
        """Let all others come first, from now on."""
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self._pid, _LOWEST)

    def __del__(self) -> None:
        self._socket.close()  # which an idle one ends with

    def kill(self) -> None:
        """End it, whatever it does."""
        if not self._killed:
            self._killed = True
            mother().kill(self._pid)
            # Who waits for an answer is told at once.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


def received(connection: socket.socket, length: int) -> bytearray:
    """So many bytes of a connection.

    Raises:
        EOFError: it ends before.
    """
    data = bytearray(length)
    fill(connection, memoryview(data))
    return data


def fill(connection: socket.socket, view: memoryview) -> None:
    """Fill some memory with what a connection brings; see `received`."""
    while view:
        count = connection.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]


def exif_to(exif: Exif) -> list[Any]:
    """Exif as it is sent."""
    return [exif.taken and exif.taken.isoformat(), *exif[1:]]


def _exif_from(value: list[Any]) -> Exif:
    taken, *rest = value
    return Exif(taken and datetime.datetime.fromisoformat(taken), *rest)


# The process that workers are forked from, as this process sees it


class _Mother:
    """The process that forks workers, and kills them without ever mistaking one for another."""

    def __init__(self) -> None:
        self._control, other = socket.socketpair()
        self._lock, self._is_lost = threading.Lock(), False
        code = "import sys; sys.path[:] = sys.argv[2:]; from hashnet.images import apart; "
        code += "apart.be_mother(int(sys.argv[1]))"
        # One thread and one heap each: both would take addresses, which is what is limited.
        single = dict.fromkeys(("MALLOC_ARENA_MAX", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, str(other.fileno()), *map(os.path.abspath, sys.path)],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # What libraries say of a picture there is said again in the answer, or nothing.
                stderr=subprocess.DEVNULL,
                env=os.environ | single,
                start_new_session=True,  # Ctrl-C is for who asked
            )

    def fork(self, connection: socket.socket, memory: int, seconds: int) -> int:
        with self._lock:
            limits = LIMITS.pack(memory, seconds)
            message = COMMAND.pack(FORK, len(limits)) + limits
            try:
                socket.send_fds(self._control, [message], [connection.fileno()])
                return COMMAND.unpack(received(self._control, COMMAND.size))[1]
            except (OSError, EOFError):
                self._is_lost = True
                raise

    def kill(self, pid: int) -> None:
        with self._lock, contextlib.suppress(OSError, EOFError):
            self._control.sendall(COMMAND.pack(KILL, pid))
            received(self._control, COMMAND.size)

    def is_alive(self) -> bool:
        return self._process.poll() is None and not self._is_lost

    def close(self) -> None:
        self._control.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)


def mother() -> _Mother:
    """One for all that this process decodes; it ends with it."""
    with _one_at_a_time:
        if not _mothers or not _mothers[-1].is_alive():
            _mothers.append(_Mother())
            atexit.register(_mothers[-1].close)
        return _mothers[-1]


_mothers: list[_Mother] = []
_one_at_a_time = threading.Lock()


@system.after_fork
def _have_none() -> None:
    """A forked child has one of its own, if it decodes at all."""
    global _one_at_a_time
    _one_at_a_time = threading.Lock()
    _mothers.clear()
