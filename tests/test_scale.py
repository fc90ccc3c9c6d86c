"""The plan to ten billion images says what the results give, and its sums are right."""

import math

from tests.bench import scale

FACTS = {
    "rows": 10,
    "batch": 64,
    "seconds_a_code_alone": 1e-9,
    "seconds_a_code_in_batch": 5e-10,
    "bytes_a_second": 1e10,
    "seconds_a_number_of_a_feature": 1e-9,
    "images_a_second_a_core": 20.0,
    "machine": {"processor": "none"},
}


def test_the_document_is_what_the_results_give():
    text = scale.DOCUMENT.read_text(encoding="utf-8")
    assert scale.renewed(text) == text


def test_the_plan_follows_the_figures(monkeypatch):
    before = list(scale.lines())
    facts = scale.measured()
    slower = {**facts, "seconds_a_code_in_batch": 10 * facts["seconds_a_code_in_batch"]}
    monkeypatch.setattr(scale, "measured", lambda: slower)
    assert list(scale.lines()) != before


def test_a_plan_by_hand(monkeypatch):
    assumed = {
        "bits": 64, "id_bytes": 100, "cores": 10, "memory_gb": 10, "disk_gb": 10_000, "fill": 1.0,
        "replicas": 2, "pool": 1000, "seconds": 1.0, "price": 3.0,
    }  # fmt: skip
    monkeypatch.setattr(scale, "A", assumed)
    plan = scale.plan(10**10, FACTS)
    # 80 GB of codes in 10 GB a node; 20 seconds of scans on 10 cores in a second take two.
    assert (plan["shards"], plan["bound"], plan["nodes"]) == (8, "memory", 16)
    assert plan["coarse_seconds"] == 2 * 10**10 / 8 * 1e-9 / 10
    a_query = 2 * 10**10 * 5e-10 + 1000 * 1280 * 1e-9
    assert math.isclose(plan["queries_a_second"], 160 / a_query)
    assert math.isclose(plan["price_a_million_queries"], 48 / (160 / a_query * 3600) * 1e6)
    assert math.isclose(plan["encoding_core_hours"], 10**10 / 20 / 3600)


def test_bytes_an_image_are_those_of_an_index(tmp_path):
    import numpy as np

    from hashnet.retrieval.store.folder.store import Store
    from hashnet.retrieval.store.items import Item
    from hashnet.retrieval.store.roots import Roots

    dim, count = scale.FEATURE_DIM, 512
    store = Store.create(
        tmp_path / "i", num_bits=64, feature_dim=dim, feature_dtype="float16", fingerprint="f"
    )
    ids = [f"p/{number:098d}" for number in range(count)]
    with store.writer() as writer:
        codes, features = np.zeros((count, 8), np.uint8), np.zeros((count, dim), np.float16)
        writer.set_roots(Roots([("p", "/photos")]))
        items = [Item(id, writer.roots.path_of(id)) for id in ids]
        writer.add(items, codes, features)
    found = sum(path.stat().st_size for path in (store.folder / "segments").iterdir())
    # Every 512th hash stands in the look-ups twice.
    assert scale.bytes_an_image() == (8, found / count - 8 / 512)
