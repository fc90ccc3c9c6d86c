"""Find photos by example: a network gives each image a short code and a feature to compare by.

    import hashnet

    index = hashnet.Index.of_photos("photos.index", "photos/")
    result = index.search("cat.jpg", k=5)

Names are loaded when they are first used: the import itself loads neither NumPy nor a network.
"""

import importlib
from typing import TYPE_CHECKING, Any

from hashnet.version import __version__

if TYPE_CHECKING:
    from hashnet.api import Index, evaluate, open
    from hashnet.comparing import compare
    from hashnet.encode.encoder import Encoder
    from hashnet.errors import HashnetError
    from hashnet.network.bundle import Bundle
    from hashnet.network.own_backbones import Backbone
    from hashnet.retrieval.search.hits import Hit, SearchResult
    from hashnet.retrieval.search.query import Query
    from hashnet.train import CallablePackage

    train: CallablePackage

__all__ = [
    "Backbone",
    "Bundle",
    "Encoder",
    "HashnetError",
    "Hit",
    "Index",
    "Query",
    "SearchResult",
    "__version__",
    "compare",
    "evaluate",
    "open",
    "train",
]

# Where each name is. `train` is a package that can be called: `hashnet.train.config` is in it.
_HOMES = {
    "Backbone": "hashnet.network.own_backbones",
    "Bundle": "hashnet.network.bundle",
    "Encoder": "hashnet.encode.encoder",
    "HashnetError": "hashnet.errors",
    "Hit": "hashnet.retrieval.search.hits",
    "Index": "hashnet.api",
    "Query": "hashnet.retrieval.search.query",
    "SearchResult": "hashnet.retrieval.search.hits",
    "compare": "hashnet.comparing",
    "evaluate": "hashnet.api",
    "open": "hashnet.api",
}


def __getattr__(name: str) -> Any:
    if name == "train":
        return importlib.import_module("hashnet.train")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
