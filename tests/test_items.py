"""What an index keeps of its images: the bytes of local features, and what is refused."""

import numpy as np
import pytest

from hashnet.retrieval.store.items import StoredFeatures, bytes_of_local


def test_local_features_of_any_numbers_are_kept_in_the_same_bytes():
    yx, descriptors = [[1.5, 2.25], [0, 300]], [[0.5, 0.25, 1], [1, 0, 0]]
    wanted = bytes_of_local(StoredFeatures(np.array(yx, "<f4"), np.array(descriptors, "<f2")))
    for dtype in (">f4", "f8"):
        given = StoredFeatures(np.array(yx, dtype), np.array(descriptors, dtype))
        assert bytes_of_local(given) == wanted
    assert len(wanted[0]) == 2 * 2 * 4 and len(wanted[1]) == 2 * 3 * 2


def test_local_features_come_back_from_their_bytes():
    yx, descriptors = bytes_of_local(
        StoredFeatures(np.array([[1, 2], [3, 4.5]]), np.eye(2, 3, dtype="f2"))
    )
    again = StoredFeatures.from_bytes(yx, descriptors, 3)
    assert again.yx.tolist() == [[1, 2], [3, 4.5]] and again.yx.dtype == "<f4"
    assert again.descriptors.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert again.descriptors.dtype == "<f2"
    assert len(StoredFeatures.from_bytes(b"", b"", 3).yx) == 0
    for wrong in ((yx[:8], descriptors), (yx, descriptors[:6]), (yx[:-1], descriptors)):
        with pytest.raises(ValueError, match="places|reshape|multiple"):
            StoredFeatures.from_bytes(*wrong, 3)
