"""Batches in an order that only the seed and the epoch decide."""

import keras
import numpy as np

from hashnet.train.catalogue import Views


class Batches(keras.utils.PyDataset):
    """The batches of one epoch, shuffled; a remainder smaller than a batch is left out.

    Args:
        inputs: array `(n, ...)`: uint8 images or float32 features; or `Views` of images.
        targets: float32 array `(n, num_classes)`.
        batch: int; `n` if that is less.
        seed: tuple of int: of the run and of the epoch.
        balanced: bool. Draw every class equally often.
        images_of_class: int, K, or 0. Make each batch of `batch` / K classes, K images of each,
            as losses of pairs ask for; an image comes again only after all others of its class.
        catalogue: int. So many of the inputs, the last, are pictures of a catalogue: with
            `images_of_class`, one of the K is such a picture where its class has any.
    """

    def __init__(
        self,
        inputs: np.ndarray | Views,
        targets: np.ndarray,
        batch: int,
        seed: tuple[int, ...],
        *,
        balanced: bool = False,
        images_of_class: int = 0,
        catalogue: int = 0,
    ) -> None:
        # With more than one worker Keras turns off tf.data's tuning, whose thread can keep the end
        # of an epoch waiting for many seconds. The order stays.
        super().__init__(workers=2)
        self.inputs, self.targets = inputs, targets
        self.batch = min(batch, len(targets))
        random = np.random.default_rng(seed)
        if images_of_class:
            self._order = self._by_class(random, images_of_class, catalogue)
        else:
            self._order = self._shuffled(random, balanced)

    def __len__(self) -> int:
        return len(self.targets) // self.batch

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self._order[step * self.batch : (step + 1) * self.batch]
        return self.inputs[rows], self.targets[rows]

    def _shuffled(self, random: np.random.Generator, balanced: bool) -> np.ndarray:
        if not balanced:
            return random.permutation(len(self.targets))
        of_class = [np.flatnonzero(column) for column in self.targets.T > 0]
        share = -(-len(self.targets) // len(of_class))
        drawn = [_repeated(rows, share, random) for rows in of_class]
        # Each class once in every stretch of num_classes rows, and so evenly in every batch.
        columns = [random.permutation(one) for one in np.array(drawn).T]
        return np.concatenate(columns)[: len(self.targets)]

    def _by_class(
        self, random: np.random.Generator, images_of_class: int, catalogue: int
    ) -> np.ndarray:
        photos = len(self.targets) - catalogue
        of_class = [np.flatnonzero(column) for column in self.targets.T > 0]
        pictures = [_Drawn(rows[rows >= photos], random) for rows in of_class]
        others = [_Drawn(rows[rows < photos], random) for rows in of_class]
        order: list[int] = []
        for _ in range(len(self)):
            for one in random.permutation(len(of_class))[: self.batch // images_of_class]:
                shown = pictures[one].next(1)
                order += shown + others[one].next(images_of_class - len(shown))
        return np.array(order)


class _Drawn:
    """Rows in an order of chance, each again only after all others; of none, none."""

    def __init__(self, rows: np.ndarray, random: np.random.Generator) -> None:
        self._rows, self._random = rows, random
        self._waiting: list[int] = []

    def next(self, count: int) -> list[int]:
        """The next so many."""
        while len(self._waiting) < count and len(self._rows):
            self._waiting += self._random.permutation(self._rows).tolist()
        taken = self._waiting[:count]
        del self._waiting[:count]
        return taken


def _repeated(rows: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """`count` of the rows, each as often as any other, give or take one."""
    times = -(-count // len(rows))
    return np.concatenate([random.permutation(rows) for _ in range(times)])[:count]
