"""What an index keeps of its images: the bytes of local features, and what is refused."""

import numpy as np

from hashnet.retrieval.store.items import StoredFeatures, bytes_of_local


def test_local_features_of_any_numbers_are_kept_in_the_same_bytes():
    yx, descriptors = [[1.5, 2.25], [0, 300]], [[0.5, 0.25, 1], [1, 0, 0]]
    wanted = bytes_of_local(StoredFeatures(np.array(yx, "<f4"), np.array(descriptors, "<f2")))
    for dtype in (">f4", "f8"):
        given = StoredFeatures(np.array(yx, dtype), np.array(descriptors, dtype))
        assert bytes_of_local(given) == wanted
    assert len(wanted[0]) == 2 * 2 * 4 and len(wanted[1]) == 2 * 3 * 2
