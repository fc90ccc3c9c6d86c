"""A bounded queue before a few threads: when it is full, the next one is told to come back."""

import asyncio
import concurrent.futures
import contextlib
import functools
import threading
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from hashnet import deadline

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


class BusyError(Exception):
    """There is no room, or no time, for this request now; a later one may fare better."""


class _Work:
    """Work that its caller may drop: what has not begun then never does, and holds nothing more.

    An executor keeps what was cancelled until a thread comes to it, a search's picture included.

    Args:
        function: callable.
        moment: float, by `time.monotonic`. What has begun stops soon after it; see `deadline`.
    """

    def __init__(self, function: Callable[[], Any], moment: float) -> None:
        self._function: Callable[[], Any] | None = function
        self._moment = moment

    def __call__(self) -> Any:
        function, self._function = self._function, None
        if function is None:
            return None
        with deadline.until(self._moment):
            return function()

    def drop(self) -> None:
        self._function = None


class WorkQueue:
    """Runs blocking work on a few threads, for a bounded number of callers.

    Args:
        name: str, of the threads.
        workers: int. Threads.
        capacity: int. Callers at once, those being served included.
        seconds: float. How long a caller waits, the work itself included.
    """

    def __init__(self, name: str, *, workers: int, capacity: int, seconds: float) -> None:
        self._executor = concurrent.futures.ThreadPoolExecutor(workers, name)
        self._capacity, self._seconds = capacity, seconds
        self._size, self._lock = 0, threading.Lock()

    def size(self) -> int:
        """int, callers that wait or are being served now."""
        return self._size

    async def run(
        self,
        function: Callable[Arguments, Answer],
        *args: Arguments.args,
        **options: Arguments.kwargs,
    ) -> Answer:
        """Run a function on one of the threads.

        Args:
            function: callable.
            *args: its arguments.
            **options: its arguments by name.

        Returns:
            What the function returns; what it raises is raised.

        Raises:
            BusyError: the queue is full, or the answer takes too long. Work that has begun ends
                where it asks for the time, and keeps its place until then, so that abandoned work
                counts as work; what has not is dropped, with all that it was given.
        """
        with self._lock:
            if self._size >= self._capacity:
                raise BusyError("The service is busy.")
            self._size += 1
        moment = time.monotonic() + self._seconds
        work = _Work(functools.partial(function, *args, **options), moment)
        try:
            future = self._executor.submit(work)
        except RuntimeError as error:  # closed meanwhile
            self._leave()
            raise BusyError("The service is stopping.") from error
        future.add_done_callback(self._leave)
        waiting = asyncio.wrap_future(future)
        try:
            await asyncio.wait([waiting], timeout=self._seconds)
            with contextlib.suppress(deadline.LateError):
                if waiting.done():
                    return waiting.result()
            raise BusyError(f"There was no answer within {self._seconds:g} s.")
        finally:
            future.cancel()
            waiting.cancel()
            work.drop()
            # An error holds this frame. If that held the error in turn, all that was asked would
            # stay until memory is cleared, which pictures do not bring about.
            del future, waiting

    def _leave(self, _future: Any = None) -> None:
        with self._lock:
            self._size -= 1

    def close(self) -> None:
        """Finish what has begun; what waits is dropped."""
        self._executor.shutdown(wait=True, cancel_futures=True)
