"""A bounded queue before a few threads: when it is full, the next one is told to come back."""

import asyncio
import concurrent.futures
import functools
import threading


class BusyError(Exception):
    """There is no room, or no time, for this request now; a later one may fare better."""


class Desk:
    """Runs blocking work on a few threads, for a bounded number of callers.

    Args:
        name: str, of the threads.
        workers: int. Threads.
        places: int. Callers that may be here at once, those being served included.
        seconds: float. How long a caller waits, the work itself included.
    """

    def __init__(self, name: str, *, workers: int, places: int, seconds: float):
        self._pool = concurrent.futures.ThreadPoolExecutor(workers, name)
        self._places, self._seconds = places, seconds
        self._taken, self._lock = 0, threading.Lock()

    @property
    def taken(self) -> int:
        """int, callers that are here now."""
        return self._taken

    async def do(self, function, *args, **options):
        """Run a function on one of the threads.

        Args:
            function: callable.
            *args: its arguments.
            **options: its arguments by name.

        Returns:
            What the function returns; what it raises is raised.

        Raises:
            BusyError: the desk is full, or the answer takes too long. Work that has begun goes
                on and keeps its place, so that abandoned work counts as work.
        """
        with self._lock:
            if self._taken >= self._places:
                raise BusyError("The service is busy.")
            self._taken += 1
        try:
            future = self._pool.submit(functools.partial(function, *args, **options))
        except RuntimeError as error:  # closed meanwhile
            self._leave()
            raise BusyError("The service is stopping.") from error
        future.add_done_callback(self._leave)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._seconds)
        except TimeoutError as error:
            raise BusyError(f"There was no answer within {self._seconds:g} s.") from error

    def _leave(self, _future=None):
        with self._lock:
            self._taken -= 1

    def close(self) -> None:
        """Finish what has begun; what waits is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)
