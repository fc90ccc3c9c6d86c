"""Decoding in processes of their own, which can be stopped: for pictures that strangers send.

A decoder in C cannot be interrupted, and what it takes of memory is not given a limit within a
process that does other things. So pictures go to workers, each of which may use so much memory and
processor time and no more, and is killed where it goes on; see `workers`.

Who indexes folders decodes in threads of his own process all that cannot take long: to hand pixels
over takes a part of the processor there that is better spent on encoding. See `costs`.

Where processes do not fork (Windows), pictures are decoded here, in the thread that asks: then only
what `hashnet.images` counts before it decodes is a limit.
"""

import contextlib
import functools
import heapq
import itertools
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hashnet import system
from hashnet.errors import HashnetError, ImageError
from hashnet.images.exif import Exif
from hashnet.images.formats import TooManyPixelsError
from hashnet.images.reading import Photo
from hashnet.images.sources import File, Named, content_hash, content_of, name_of, refusals
from hashnet.images.workers import (
    COMMAND,
    FORK,
    HEAD,
    LIMITS,
    MEMORY_MB,
    OUT_OF_MEMORY,
    PROCESSOR_SECONDS,
    TOLD,
    Wish,
    Worker,
    be_worker,
    exif_to,
    received,
    refusal,
)

WALL_SECONDS = 20.0  # where all others want the processor, too
# After so much processor time a picture makes way for others: most have been decoded by then.
SLICE_SECONDS = 0.05
_LEAST_SLICE = 0.015
_LEAST_SHARE = 0.1  # of the time it may take, which it has had if it is said to take longer
_PICTURES_A_WORKER = 200
_WATCH = 0.02  # seconds
_LOW = 0  # a priority below that of who searches

FULL: Wish = ("full",)


def resized(size: int) -> Wish:
    """The wish for a picture squashed to a square, as a network takes it.

    Args:
        size: int, pixels of a side.

    Example:
        >>> resized(224)
        ('resized', 224, 224)
    """
    return "resized", size, size


def within(side: int) -> Wish:
    """The wish for a picture to look at.

    Args:
        side: int, pixels of its longer side at most.

    Example:
        >>> within(256)
        ('within', 256)
    """
    return "within", side


class CrowdedError(HashnetError):
    """A picture that takes long had to make way for others; later it may not have to."""


class _LostError(HashnetError):
    """The process of a picture has ended, sooner than its limit of time would end it."""


class Decoders:
    """Decodes pictures in a few processes.

    Of the pictures that wait, that of the fewest bytes comes next, in one of as many processes as
    there are cores. One that takes longer goes on at the lowest priority, beside as many of its
    kind; if there are more, the one that has taken the most is given up.

    Args:
        processes: int or None. Of each of the two kinds; None for as many as cores.
        memory_mb, processor_seconds, wall_seconds: float. What one picture may take.

    Example:
        >>> from hashnet.images import to_png
        >>> decoders = Decoders(processes=1)
        >>> photo = decoders.photo(to_png(np.zeros((4, 6, 3), dtype="uint8")), FULL)
        >>> photo.size, photo.full().shape
        ((4, 6), (4, 6, 3))
        >>> decoders.close()
    """

    def __init__(
        self,
        processes: int | None = None,
        *,
        memory_mb: float = MEMORY_MB,
        processor_seconds: int = PROCESSOR_SECONDS,
        wall_seconds: float = WALL_SECONDS,
    ) -> None:
        self._processes = processes or system.cores()
        self._limits = (int(memory_mb * 2**20), processor_seconds)
        self._wall_seconds = wall_seconds
        self._turns = _Turns(self._processes)
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._slow: list[Worker] = []
        self._all: set[Worker] = set()
        self._closed = False

    def start(self) -> None:
        """Have what workers are forked from ready before the first picture comes."""
        if system.has_forks():
            with contextlib.suppress(CrowdedError):
                self._give_back(self._taken())

    def photo(self, source: File, *wishes: Wish, max_pixels: int | None = None) -> Photo:
        """A picture, decoded as far as is wished; what else is asked of it is decoded when it is.

        Args:
            source: as for `Photo`, but no pixels.
            *wishes: what to decode at once, `FULL` or as `resized` or `within` gives it.
            max_pixels: as for `Photo`.

        Returns:
            A `Photo`, which gives what it would give if it were decoded here.

        Raises:
            ImageError: as `Photo` and its methods do, or decoding takes more than it may.
            CrowdedError: there was no time for it beside others.
        """
        if not system.has_forks():
            return Photo(source, max_pixels=max_pixels)
        with refusals(name_of(source)):
            content = content_of(source)
        path = source if isinstance(source, str | os.PathLike) else None
        return _Decoded(self, content, path, max_pixels, wishes)

    def ask(
        self,
        content: bytes,
        name: str | None,
        max_pixels: int | None,
        wishes: Sequence[Wish],
    ) -> list[Any]:
        """Have a worker decode a picture.

        Args:
            content: bytes of its file.
            name: str or None, that of the file.
            max_pixels: as for `Photo`.
            wishes: what to decode.

        Returns:
            list: its (height, width), and what each wish gave.

        Raises:
            ImageError, CrowdedError: as for `photo`.
        """
        deadline = time.monotonic() + self._wall_seconds
        try:
            return self._ask_one(content, name, max_pixels, wishes, deadline)
        except _LostError:
            # A system out of memory ends any process, and an idle one may be dead already.
            try:
                return self._ask_one(content, name, max_pixels, wishes, deadline, anew=True)
            except _LostError as lost:
                raise self._refusal(content, "it ended its decoder") from lost

    def _ask_one(
        self,
        content: bytes,
        name: str | None,
        max_pixels: int | None,
        wishes: Sequence[Wish],
        deadline: float,
        *,
        anew: bool = False,
    ) -> list[Any]:
        if not self._turns.take(len(content), max(0.0, deadline - time.monotonic())):
            raise _crowded()
        turn = contextlib.ExitStack()
        turn.callback(self._turns.give)
        with turn:
            worker = self._taken(anew=anew)
            try:
                worker.send(content, name, max_pixels, wishes, deadline)
                if not worker.answers(self._may_go_on, deadline):
                    with self._as_slow(worker):
                        turn.close()
                        worker.lower_priority()
                        return worker.receive(deadline)
                return worker.receive(deadline)
            except MemoryError as error:
                raise self._refusal(content, "it takes more memory") from error
            except (OSError, EOFError) as error:
                raise self._failure(worker, content, error, deadline) from error
            finally:
                self._give_back(worker)

    def _may_go_on(self, seconds: float) -> bool:
        """Whether a picture that has taken so long stays where it is, for the moment."""
        # The more others wait, the sooner it makes way.
        if seconds < max(_LEAST_SLICE, SLICE_SECONDS / (1 + self._turns.waiting / self._processes)):
            return True
        return not self._turns.waiting and len(self._slow) >= self._processes

    def _failure(
        self, worker: "Worker", content: bytes, error: Exception, deadline: float
    ) -> HashnetError:
        if worker.gave_way or self._closed:
            return _crowded()
        _, seconds = self._limits
        if isinstance(error, TimeoutError):
            had_to_wait = worker.started > deadline - self._wall_seconds / 2
            # Its process was stopped, or others had the processor.
            had_none = worker.seconds() < _LEAST_SHARE * min(seconds, self._wall_seconds)
            if had_to_wait or had_none:
                return _crowded()
        # The system ends it within a second of its time; what ends sooner has gone wrong.
        elif time.monotonic() - worker.started <= seconds - 1:
            return _LostError("A decoder has ended before its time.")
        return self._refusal(content, "it takes longer")

    def _refusal(self, content: bytes, reason: str) -> ImageError:
        return refusal(f"{len(content)} bytes", reason, *self._limits)

    def _taken(self, *, anew: bool = False) -> "Worker":
        with self._lock:
            if self._closed:
                raise _crowded()
            if self._idle and not anew:
                return self._idle.pop()
        try:
            worker = Worker(*self._limits)
        except (OSError, EOFError) as error:  # there are too many processes, or no mother
            raise _crowded() from error
        with self._lock:
            self._all.add(worker)
        return worker

    @contextlib.contextmanager
    def _as_slow(self, worker: "Worker") -> Iterator[None]:
        with self._lock:
            self._slow.append(worker)
            worker.spoilt = True  # its priority does not come back
            if len(self._slow) > self._processes:
                most = max(self._slow, key=Worker.seconds)
                self._slow.remove(most)
                most.gave_way = True
                most.kill()
        try:
            yield
        finally:
            with self._lock:
                if worker in self._slow:
                    self._slow.remove(worker)

    def _give_back(self, worker: "Worker") -> None:
        with self._lock:
            is_old = worker.pictures >= _PICTURES_A_WORKER
            if worker.spoilt or worker.busy or is_old or self._closed:
                self._all.discard(worker)
                worker.kill()
            else:
                self._idle.append(worker)

    def close(self) -> None:
        """End all workers; what they were decoding is given up."""
        with self._lock:
            self._closed = True
            for worker in self._all:
                worker.kill()
            self._all.clear()
            self._idle.clear()


class _Turns:
    """So many may go on at once; of those that wait, the smallest is next."""

    def __init__(self, number: int) -> None:
        self._free, self._lock = number, threading.Lock()
        self._queue: list[tuple[int, int, threading.Event]] = []
        self._count = itertools.count()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def take(self, size: int, seconds: float) -> bool:
        """Whether it came to its turn within that time."""
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            mine = size, next(self._count), threading.Event()
            heapq.heappush(self._queue, mine)
        if mine[2].wait(seconds):
            return True
        with self._lock:
            if mine[2].is_set():  # just now
                return True
            self._queue.remove(mine)
            heapq.heapify(self._queue)
        return False

    def give(self) -> None:
        with self._lock:
            if self._queue:
                heapq.heappop(self._queue)[2].set()
            else:
                self._free += 1


def _crowded() -> CrowdedError:
    return CrowdedError(
        "A picture that takes long to decode waits for a time at which few others come."
    )


class _Decoded(Photo):
    """A picture whose pixels come from a worker."""

    def __init__(
        self,
        decoders: Decoders,
        content: bytes,
        path: str | os.PathLike[str] | None,
        max_pixels: int | None,
        wishes: Sequence[Wish],
    ) -> None:
        self.path = None if path is None else os.fsdecode(path)
        self._bytes, self._decoders, self._limit = content, decoders, max_pixels
        size, *answers = decoders.ask(content, self.path, max_pixels, wishes)
        self._height_width = size
        self._known = dict(zip(wishes, answers, strict=True))

    def _asked(self, *wish: Any) -> Any:
        if wish in self._known:
            return self._known[wish]
        return self._decoders.ask(self._bytes, self.path, self._limit, [wish])[1]

    @property
    def size(self) -> tuple[int, int]:
        return self._height_width

    @functools.cached_property
    def content_hash(self) -> bytes:
        return content_hash(self._bytes)

    @functools.cached_property
    def exif(self) -> Exif:
        exif: Exif = self._asked("exif")
        return exif

    @functools.cached_property
    def description(self) -> str | None:
        description: str | None = self._asked("description")
        return description

    def full(self) -> np.ndarray:
        return self._pixels("full")

    def resized(self, size: tuple[int, int]) -> np.ndarray:
        return self._pixels("resized", *size)

    def at_least(self, min_side: int) -> np.ndarray:
        return self._pixels("at_least", min_side)

    def within(self, side: int) -> np.ndarray:
        return self._pixels("within", side)

    def _pixels(self, *wish: Any) -> np.ndarray:
        pixels: np.ndarray = self._asked(*wish)
        # The caller may write into it; whoever asks again gets what was decoded.
        return pixels.copy() if wish in self._known else pixels


# What runs there


def be_mother(descriptor: int) -> None:
    """Fork workers and kill them, as one process says, until it ends.

    Args:
        descriptor: int, of a socket that is connected with it.
    """
    from hashnet.images import formats

    # Who is stopped finishes what is being answered, and whose process this is says when to end.
    for sign in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(sign, signal.SIG_IGN)
    formats.load_plugins()
    alive: set[int] = set()
    with socket.socket(fileno=descriptor) as control:
        while True:
            message, descriptors, _, _ = socket.recv_fds(control, COMMAND.size, 1)
            if not message:
                break
            command, number = COMMAND.unpack(message)
            alive -= {pid for pid in alive if os.waitpid(pid, os.WNOHANG)[0]}
            if command == FORK:
                limits = LIMITS.unpack(received(control, number))
                number = os.fork()
                if not number:
                    control.close()
                    _be_worker(descriptors[0], *limits)
                os.close(descriptors[0])
                alive.add(number)
            elif number in alive:
                os.kill(number, signal.SIGKILL)
            control.sendall(COMMAND.pack(command, number))
    for pid in alive:
        os.kill(pid, signal.SIGKILL)


def _be_worker(descriptor: int, memory: int, seconds: int) -> None:
    try:
        os.nice(_LOW)
        be_worker()
        if not system.limit_memory(memory):
            _end_beyond(memory)
        with socket.socket(fileno=descriptor) as connection:
            while True:
                asked, content = HEAD.unpack(received(connection, HEAD.size))
                name, max_pixels, wishes = json.loads(bytes(received(connection, asked)))
                data = Named(received(connection, content))
                data.name = name
                system.limit_processor_time(seconds)
                _answer(connection, data, max_pixels, wishes)
    except (OSError, EOFError):  # nobody asks any more
        pass
    finally:
        os._exit(0)


def _end_beyond(memory: int) -> None:
    """End this process once it has taken so much more memory, where the system sees to no limit.

    What takes more is seen a moment later, and only while its decoder lets other threads run.
    """
    most = system.peak_memory() + memory

    def watch() -> None:
        while system.peak_memory() <= most:
            time.sleep(_WATCH)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _answer(
    connection: socket.socket, data: Named, max_pixels: int | None, wishes: Sequence[Wish]
) -> None:
    told: dict[str, Any] = {"error": None, "too_large": None, "spoilt": False}
    told |= {"size": None, "answers": []}
    arrays = []
    try:
        photo = Photo(data, max_pixels=max_pixels)
        told["size"] = photo.size
        for name, *arguments in wishes:
            if name in TOLD:
                value = exif_to(photo.exif) if name == "exif" else photo.description
                told["answers"].append([name, value])
                continue
            method = getattr(photo, name)
            pixels = method(tuple(arguments)) if name == "resized" else method(*arguments)
            arrays.append(pixels)
            told["answers"].append([name, pixels.shape])
    except (HashnetError, MemoryError) as error:
        arrays = []
        told["error"] = str(error)
        if isinstance(error.__cause__, TooManyPixelsError):
            told["too_large"] = str(error.__cause__)
        if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
            told["spoilt"], told["error"] = True, OUT_OF_MEMORY
    text = json.dumps(told).encode()
    connection.sendall(HEAD.pack(len(text), 0) + text)
    for pixels in arrays:
        connection.sendall(np.ascontiguousarray(pixels).data.cast("B"))
