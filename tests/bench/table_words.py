"""How long does a search in words take where an index is a table, and are its answers a folder's?

    python -m tests.bench.table_words

Of each number of texts as `words` makes them up, captions and what was read, two words are
searched by, in every other query with a letter changed: in a folder, and in a table of ClickHouse's
engine in this process. A search asks for names, captions, and what was read. Seconds are of all
processors together, the server's included.
"""

import json
import pathlib
import statistics
import tempfile
import time
import types

import numpy as np

from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.store.items import Item
from hashnet.retrieval.store.kinds import kind_of
from hashnet.retrieval.store.texts import Line, Texts
from hashnet.retrieval.words import ways
from hashnet.retrieval.words.box import WordBox
from tests.bench import figures
from tests.bench.words import made_up

NUMBERS = 20_000, 100_000
QUERIES = 40


def measured(place, items, queries):
    """Answers, and what they took."""
    store = kind_of(place).create(place, num_bits=8, feature_dim=1, fingerprint="ab" * 8, ocr="x")
    arrays = np.zeros((len(items), 1), "u1"), np.ones((len(items), 1), store.feature_dtype)
    start = time.process_time()
    with store.writer() as writer:
        writer.add(items, *arrays)
        with store.snapshot() as snapshot:
            ways.settle(snapshot)
    adding = time.process_time() - start
    box = WordBox(Engine(types.SimpleNamespace(store=store)))
    answers, spent = [], []
    for query in queries:
        start = time.process_time()
        answers.append([(hit.id, hit.ways) for hit in box.search(query, Query(k=10))])
        spent.append(time.process_time() - start)
    return answers, {
        "seconds_to_add": round(adding, 2),
        "milliseconds": round(statistics.median(spent) * 1000, 1),
        "milliseconds_of_slowest": round(max(spent[1:]) * 1000, 1),
    }


def compared(scratch, number, rng):
    texts = made_up(number, rng)
    items = [
        Item(f"{row:08x}", texts=Texts(text, lines=(Line(text[::-1], (0, 0, 9, 9), 0.5),)))
        for row, text in enumerate(texts)
    ]
    queries = []
    for query, row in enumerate(rng.integers(0, number, QUERIES).tolist()):
        words = texts[row].split()[:2]
        if query % 2:
            place = len(words[0]) // 2
            words[0] = f"{words[0][:place]}z{words[0][place + 1 :]}"
        queries.append(" ".join(words))
    places = {
        "folder": str(scratch / f"i{number}"),
        "table": f"chdb://{scratch}/db/words/t{number}",
    }
    found = {name: measured(place, items, queries) for name, place in places.items()}
    assert found["folder"][0] == found["table"][0] and all(found["table"][0])
    return {"texts": number, **{name: spent for name, (_, spent) in found.items()}}


def main():
    with tempfile.TemporaryDirectory() as scratch:
        rows = [
            compared(pathlib.Path(scratch), number, np.random.default_rng(0)) for number in NUMBERS
        ]
    report = {"seed": 0, "queries": QUERIES, "rows": rows}
    print(json.dumps(report, indent=1))
    figures.write("table_words", report)


if __name__ == "__main__":
    main()
