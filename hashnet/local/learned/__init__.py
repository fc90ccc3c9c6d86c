"""Extractors that are a network from an image to its best local features.

`aliked`, `disk` and `xfeat` make the networks, of layers that `layers` has; `extractor` runs them.
"""

from hashnet.local.learned.extractor import (
    NETWORKS,
    SIDE,
    Learned,
    Network,
    export,
    file_of,
    size_of,
)

__all__ = ["NETWORKS", "SIDE", "Learned", "Network", "export", "file_of", "size_of"]
