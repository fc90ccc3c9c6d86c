"""Texts by the trigrams that they have, in columns beside the images: nothing else is kept.

Each question reads one column of all images, which is what a server does fastest, and what was
committed is found at once.
"""

from collections.abc import Sequence

import numpy as np

from hashnet.retrieval.store.clickhouse.entries import SPACED
from hashnet.retrieval.store.clickhouse.snapshot import Snapshot

_TRIGRAMS_AT_ONCE = 200  # a server looks for fewer than 256


class TextColumns:
    """The texts of the images of a snapshot. Safe to use from several threads.

    Args:
        snapshot: `Snapshot`, of a table that keeps texts.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def having(self, trigrams: Sequence[str], kind: int) -> list[np.ndarray]:
        """The images whose text of a kind has a trigram, for each of several.

        Args:
            trigrams: sequence of str of three letters, blanks included.
            kind: int, as `documents` numbers them.

        Returns:
            list of int64 `(n,)`, as many; rows, ascending.
        """
        found: list[np.ndarray] = []
        for start in range(0, len(trigrams), _TRIGRAMS_AT_ONCE):
            wanted = list(trigrams[start : start + _TRIGRAMS_AT_ONCE])
            rows, numbers = self._snapshot.ask(
                f"SELECT row, arrayJoin(arrayFilter((number, place) -> place > 0, "
                f"range({len(wanted)}), multiSearchAllPositions({SPACED[kind]}, {{trigrams}}))) "
                f"FROM {{table}} WHERE {{image}} AND multiSearchAny({SPACED[kind]}, {{trigrams}}) "
                "ORDER BY row".replace("{trigrams}", "{trigrams:Array(String)}"),
                width=2,
                trigrams=wanted,
            )
            rows, numbers = np.array(rows, np.int64), np.array(numbers, np.int64)
            found += [rows[numbers == number] for number in range(len(wanted))]
        return found

    def texts(self, rows: np.ndarray, kind: int) -> list[str]:
        """The texts of images.

        Args:
            rows: int64 `(n,)`, each once.
            kind: int.

        Returns:
            list of n str, "" of an image that has none.
        """
        if not len(rows):
            return []
        found, texts = self._snapshot.ask(
            f"SELECT row, {SPACED[kind]} FROM {{table}} "
            "WHERE kills = 0 AND row IN {rows:Array(UInt64)}",
            width=2,
            rows=rows.tolist(),
        )
        text_of = {int(row): text.decode() for row, text in zip(found, texts, strict=True)}
        return [text_of.get(row, "") for row in rows.tolist()]

    def has_kind(self, kind: int) -> bool:
        """Whether an image has a text of a kind.

        Args:
            kind: int.

        Returns:
            bool.
        """
        [found] = self._snapshot.ask(
            f"SELECT 1 FROM {{table}} WHERE {{image}} AND notEmpty({SPACED[kind]}) LIMIT 1"
        )
        return bool(len(found))
