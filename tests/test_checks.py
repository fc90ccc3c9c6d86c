"""hashnet/checks.py and Query: what cannot be taken is refused by name, never guessed."""

import pytest

import hashnet
from hashnet.checks import checked_ids
from hashnet.errors import ArgumentError


@pytest.mark.parametrize("ids", ["cat", b"cat", 5, None, [5], ["cat", None]])
def test_ids_are_a_collection_of_str(ids):
    with pytest.raises(ArgumentError, match="Ids are a collection of str"):
        checked_ids(ids)


@pytest.mark.parametrize(
    "fields",
    [
        {"verify": "no"},
        {"histogram": 1},
        {"region": (True, 0, 5, 5)},
        {"region": (0, 0, 5)},
        {"region": "0,0,5,5"},
    ],
    ids=repr,
)
def test_a_query_takes_no_field_of_another_kind(fields):
    with pytest.raises(ArgumentError, match=next(iter(fields))):
        hashnet.Query(**fields)


@pytest.mark.parametrize("number", [0, -3, 1.5, "2", True])
def test_a_number_of_threads_is_a_whole_number(bundle_folder, number):
    with pytest.raises(ArgumentError, match="num_threads is an integer"):
        hashnet.Encoder.open(bundle_folder, num_threads=number)
    with pytest.raises(ArgumentError, match="workers is an integer"):
        list(hashnet.Encoder.open(bundle_folder).stream([], workers=number))


def test_an_index_refuses_what_is_no_id(tmp_path, bundle_folder):
    index = hashnet.Index.create(tmp_path / "i", bundle_folder)
    with pytest.raises(ArgumentError, match="Ids are"):
        index.remove([5])
    with pytest.raises(ArgumentError, match="Ids are"):
        index.add(["cat.png"], ids=[5])
