"""A little of what `make fuzz` does for an hour: the same inputs every time."""

import random

import pytest

from hashnet.errors import HashnetError
from tests import fuzz
from tests.fuzz import targets

FEW = 12
# Some seconds each.
MANY = {
    "catalogues": 100,
    "checkpoints": 1000,
    "descriptions": 150,
    "footers": 5000,
    "heads": 3000,
    "networks": 3000,
    "pictures": 3000,
    "questions": 300,
}


def inputs(name, number):
    rng = random.Random(f"{name} 0")
    corpus = fuzz.TARGETS[name].corpus()
    return corpus, [fuzz.mutated(rng, corpus) for _ in range(number)]


@pytest.mark.fast("catalogues", "checkpoints", "descriptions", "heads", "networks", "pictures")
@pytest.mark.parametrize("name", sorted(fuzz.TARGETS))
def test_a_few_inputs_are_read_or_refused_by_name(name):
    if name == "footers":
        pytest.importorskip("pyarrow", reason='pip install "hashnet[parquet]"')
    corpus, several = inputs(name, FEW)
    for data in corpus:
        # Of questions some are good only of an index that has folders, or local features.
        assert fuzz.judged(fuzz.TARGETS[name], data) or name == "questions"
    for data in several:
        fuzz.judged(fuzz.TARGETS[name], data)


@pytest.mark.thorough
@pytest.mark.parametrize("name", sorted(fuzz.TARGETS))
def test_many_inputs_are_read_or_refused_by_name(name):
    if name == "footers":
        pytest.importorskip("pyarrow", reason='pip install "hashnet[parquet]"')
    _, several = inputs(name, MANY[name])
    read = sum(fuzz.judged(fuzz.TARGETS[name], data) for data in several)
    assert 0 < read


def test_what_is_no_refusal_is_a_find():
    def use(data):
        if data == b"refused":
            raise HashnetError("It is refused.")
        if data == b"crash":
            raise KeyError(data)

    target = targets.Target(lambda: [b"good"], use)
    assert fuzz.judged(target, b"good") and not fuzz.judged(target, b"refused")
    with pytest.raises(KeyError):
        fuzz.judged(target, b"crash")


def test_what_takes_long_is_a_find(monkeypatch):
    monkeypatch.setattr(targets, "MOST_SECONDS", 0)
    with pytest.raises(fuzz.Costly, match="4 bytes"):
        fuzz.judged(targets.Target(list, lambda data: sum(range(1000))), b"long")


def test_changes_are_those_of_a_seed_and_differ():
    corpus = [bytes(range(200)), b"short"]
    one, same, other = (
        [fuzz.mutated(random.Random(seed), corpus) for seed in seeds]
        for seeds in (range(50), range(50), range(50, 100))
    )
    assert one == same != other
    assert len({*one}) > 45
