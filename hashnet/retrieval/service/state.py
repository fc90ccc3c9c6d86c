"""What all routes of one service share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hashnet import images
from hashnet.images.apart import Decoders
from hashnet.images.workers import Wish
from hashnet.retrieval.service.counters import Counters
from hashnet.retrieval.service.served_index import ServedIndex, Version
from hashnet.retrieval.service.settings import Settings
from hashnet.retrieval.service.thumbnails import Pictures
from hashnet.retrieval.service.uploads import received
from hashnet.retrieval.service.work_queue import WorkQueue
from hashnet.retrieval.store.items import Item


@dataclass(frozen=True)
class Service:
    """One service of one index.

    Attributes:
        settings: `Settings`.
        served: `ServedIndex`.
        decoders: `Decoders`.
        queues: dict of `decoding`, `search`, `pictures` and `changes` to `WorkQueue`.
        pictures: `Pictures`.
        counters: `Counters`.
    """

    settings: Settings
    served: ServedIndex
    decoders: Decoders
    queues: Mapping[str, WorkQueue]
    pictures: Pictures
    counters: Counters

    @classmethod
    def of(cls, place: Any, settings: Settings) -> "Service":
        """Open an index to be served.

        Args:
            place: str or path-like, the folder of the index, or the URL of its table.
            settings: `Settings`.

        Returns:
            `Service`.

        Raises:
            StoreError, FingerprintError, BundleError: the index cannot be served.
        """
        served = ServedIndex(place, show_paths=settings.show_paths)
        workers, capacity = settings.workers, settings.capacity
        queues = {
            name: WorkQueue(name, workers=number, capacity=most, seconds=settings.seconds)
            for name, number, most in (
                # These threads wait for processes, in an order that only `Decoders` knows.
                ("decoding", capacity, capacity),
                ("search", workers, capacity),
                # Thumbnails come by the dozen and must not keep a search waiting.
                ("pictures", workers, 4 * capacity),
                ("changes", 1, capacity),
            )
        }
        counters = Counters(lambda: served.current.engine.snapshot.num_items, queues)
        decoders = Decoders(workers)
        pictures = Pictures(settings.thumbnail_bytes, decoders)
        return cls(settings, served, decoders, queues, pictures, counters)

    async def received(self, content: bytes, *wishes: Wish) -> images.Photo:
        """A picture that came with a request, decoded as far as is wished.

        Args:
            content: bytes of its file.
            *wishes: as for `Decoders.photo`.

        Returns:
            `images.Photo`.

        Raises:
            ImageError, CrowdedError: as `received` of uploads does.
            BusyError: as `WorkQueue.run` does.
        """
        return await self.queues["decoding"].run(received, self.decoders, content, *wishes)

    def close(self) -> None:
        """Give up what is being decoded, finish what else has begun, and drop what waits."""
        self.decoders.close()
        for queue in self.queues.values():
            queue.close()

    def described(self, version: Version, item: Item) -> dict[str, Any]:
        """What is told of an image.

        Args:
            version: `Version`, of which the item is.
            item: `Item`.

        Returns:
            dict that JSON can hold.
        """
        fields: dict[str, Any] = {
            "id": version.public_ids.shown(item.id),
            "label": item.label,
            "bytes": item.size,
        }
        if item.exif is not None:
            taken, _, _, camera = item.exif
            fields |= {"taken": None if taken is None else taken.isoformat(), "camera": camera}
        if not self.settings.show_paths:
            return fields
        if item.exif is not None:
            fields |= {"latitude": item.exif.latitude, "longitude": item.exif.longitude}
        return {**fields, "path": item.path}
