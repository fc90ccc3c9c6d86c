"""Arrays that get longer, where what was handed out stays as it was and is seldom copied."""

import threading

import numpy as np

SPARE = 8  # one part in so many is left free behind what is copied
LEAST_SPARE = 1024


class _Room:
    """Memory of one length; what lies before `end` is written, and is never written again."""

    def __init__(self, array: np.ndarray, length: int) -> None:
        self.memory = np.empty((length, *array.shape[1:]), array.dtype)
        self.memory[: len(array)] = array
        self.end = len(array)
        self.lock = threading.Lock()


class Growing:
    """A copy of an array, with room behind it for what is to follow.

    Args:
        array: any dtype, shape `(n, ...)`.

    Attributes:
        array: the copy, read-only; it never changes.

    Example:
        >>> short = Growing(np.array([1, 2]))
        >>> longer = short.followed_by(np.array([3]))
        >>> longer.array.tolist(), np.shares_memory(short.array, longer.array)
        ([1, 2, 3], True)
    """

    def __init__(self, array: np.ndarray) -> None:
        self._set(_Room(array, len(array) + max(LEAST_SPARE, len(array) // SPARE)), len(array))

    def _set(self, room: _Room, end: int) -> None:
        self._room = room
        self.array = room.memory[:end]
        self.array.flags.writeable = False

    def followed_by(self, more: np.ndarray) -> "Growing":
        """This array with more behind it; this one stays as it is.

        Args:
            more: of the same dtype, shape `(m, ...)`.

        Returns:
            `Growing`. Its memory is this one's where there was room that no other has taken.
        """
        if not len(more):
            return self
        start, end = len(self.array), len(self.array) + len(more)
        room = self._room
        with room.lock:
            if room.end != start or end > len(room.memory):
                room = _Room(self.array, end + max(LEAST_SPARE, end // SPARE))
            room.memory[start:end] = more
            room.end = end
        longer = Growing.__new__(Growing)
        longer._set(room, end)
        return longer
