"""Pictures of the index, made anew: smaller, upright, as JPEG, and with none of their metadata."""

import collections
import os
import threading

from hashnet import images
from hashnet.errors import ImageError
from hashnet.images.apart import Decoders, within

QUALITY = 85

# Path, side, and what tells a file from the one that it was: size and time of last change.
_Key = tuple[str, int, int, int]


class Pictures:
    """Makes pictures and remembers the small ones, oldest use forgotten first.

    Args:
        bytes_remembered: int. Of all pictures remembered together.
        decoders: `Decoders`.
    """

    def __init__(self, bytes_remembered: int, decoders: Decoders) -> None:
        self._limit, self._held = bytes_remembered, 0
        self._decoders = decoders
        self._known: collections.OrderedDict[_Key, bytes] = collections.OrderedDict()
        self._lock = threading.Lock()

    def jpeg(self, path: str, side: int, *, remember: bool) -> bytes:
        """A file's picture as JPEG, its longer side `side` pixels or less, never enlarged.

        Args:
            path: str. The file, which may have gone or changed since it was indexed.
            side: int, pixels.
            remember: bool. Keep it for the next one who asks.

        Returns:
            bytes, the whole JPEG file.

        Raises:
            ImageError: the file has gone or is no picture; the message does not say where it is.
            CrowdedError: as `Decoders.photo` does.
        """
        try:
            status = os.stat(path)
        except (OSError, ValueError) as error:
            raise ImageError("The file of this image has gone.") from error
        key = path, side, status.st_size, status.st_mtime_ns
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        try:
            image = self._decoders.photo(path, within(side)).within(side)
        except ImageError as error:
            raise ImageError("The file of this image is no picture any more.") from error
        content = images.to_jpeg(image, QUALITY)
        if remember:
            self._remember(key, content)
        return content

    def _remember(self, key: _Key, content: bytes) -> None:
        with self._lock:
            if key not in self._known:
                self._known[key] = content
                self._held += len(content)
            while self._held > self._limit:
                _, gone = self._known.popitem(last=False)
                self._held -= len(gone)
