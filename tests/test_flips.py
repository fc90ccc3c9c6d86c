"""A flipped bit in any file of an index is an error, or nothing that a search could tell."""

import random
import shutil

import numpy as np
import pytest

from hashnet.errors import BundleError, StoreError
from hashnet.retrieval.index import Index
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.store.folder.store import Store
from tests import flips
from tests.fixtures import GOLDEN
from tests.make_images import photo


@pytest.fixture(scope="module")
def made(bundle_folder, tmp_path_factory):
    return flips.make(tmp_path_factory.mktemp("flips"), bundle_folder)


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "index")


def flip(path, at, bit=6):
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("number", [25, pytest.param(400, marks=pytest.mark.thorough)])
def test_a_flipped_bit_changes_no_answer_unnoticed(folder, number):
    counts = flips.flip(folder, number, seed=number)
    assert sum(bits for bits, _ in counts.values()) == number
    assert sum(errors for _, errors in counts.values()) > number / 2


def test_an_image_whose_feature_is_damaged_does_not_just_vanish(folder):
    index = Index.open(folder)
    code, feature = index.encoder.encode_one(photo(64, 64, 5))
    [best] = index.engine.search_encoded(code, feature, Query(k=1)).hits
    assert best.id == "2/5"
    row = int(index.engine.snapshot.rows([best.id])[0])
    # The highest bit of the exponent of one of its numbers: the nearest is now the farthest.
    flip(folder / "segments/000001.features", (64 * row + 3) * 2 + 1)
    again = Index.open(folder)
    with pytest.raises(StoreError, match=f"000001.features: row {row} differs"):
        again.engine.search_encoded(code, feature, Query(k=1))
    with again.store.snapshot() as snapshot, pytest.raises(StoreError, match="row"):
        snapshot.features([row])


def test_what_was_verified_of_features_is_kept_by_later_commits(folder):
    index = Index.open(folder)
    code, feature = index.encoder.encode_one(photo(64, 64, 5))
    verified = index.engine.snapshot._committed._features_verified
    index.engine.search_encoded(code, feature)
    num_verified = np.count_nonzero(verified)
    assert num_verified > 50
    index.remove(["2/2"])
    kept = index.engine.snapshot._committed._features_verified
    assert kept is not verified and np.count_nonzero(kept) == num_verified


@pytest.mark.parametrize("name", ["hashnet.json", "encoder.onnx", "regions.onnx"])
def test_networks_are_compared_with_their_checksums_when_they_are_opened(folder, name):
    index = Index.open(folder, runtime="onnxruntime")
    size = (folder / "encoder" / name).stat().st_size
    flip(folder / "encoder" / name, size // 2)
    if name == "regions.onnx":
        with pytest.raises(StoreError, match=name):
            Index.open(folder).proposer  # noqa: B018
        return
    with pytest.raises((StoreError, BundleError), match=name):
        Index.open(folder)
    if name == "encoder.onnx":
        # The network for many images is opened when there are many.
        with pytest.raises(BundleError, match=name):
            index.encoder.encode([photo(64, 64, 1)] * 3)


def test_an_image_is_not_left_out_of_the_local_pool_for_a_damaged_count(folder):
    # Of the third row: where its features begin, how many they are, their checksum.
    flip(folder / "segments/000001.spans", 2 * 16 + 8, bit=3)
    with Index.open(folder).store.snapshot() as snapshot:
        with pytest.raises(StoreError, match="000001.spans"):
            snapshot.local_counts()


def everything(folder):
    """All that a snapshot of an index of any version gives."""
    with Store.open(folder).snapshot() as snapshot:
        rows = np.arange(snapshot.num_rows)
        local = snapshot.local_features(rows) if Store.open(folder).extractor else []
        return (
            snapshot.codes.tolist(),
            snapshot.features(rows).tolist(),
            snapshot.items(rows),
            snapshot.regions(rows),
            [one.yx.tolist() + one.descriptors.tolist() for one in local],
            None if snapshot.live is None else snapshot.live.tolist(),
            snapshot.labels()[0].tolist(),
            snapshot.rows([item.id for item in snapshot.items(rows)]).tolist(),
        )


@pytest.mark.parametrize("rounds", [2, pytest.param(30, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("version", range(1, 7))
def test_a_flipped_bit_in_an_index_of_any_version_changes_nothing_unnoticed(
    version, rounds, tmp_path
):
    folder = shutil.copytree(GOLDEN / f"index_v{version}", tmp_path / "index")
    wanted, chance, errors = everything(folder), random.Random(version), 0
    files = [path for path in sorted((folder / "segments").iterdir()) if path.stat().st_size]
    for path in [*files, folder / "catalogue.sqlite"] * rounds:
        place, bit = chance.randrange(path.stat().st_size), chance.randrange(8)
        flip(path, place, bit)
        try:
            assert everything(folder) == wanted, (path, place, bit)
        except StoreError:
            errors += 1
        flip(path, place, bit)
    assert everything(folder) == wanted and errors > rounds / 2 * len(files)
