"""Write `class_texts.npz`: names and descriptions of the classes of ImageNet, as vectors.

    python hashnet/retrieval/words/make_class_texts.py /usr/share/wordnet

Where the sentence network is installed (`sentence.PACKAGE`), and WordNet 3.0 (Debian's package
`wordnet-base`), whose glosses are the descriptions. They take minutes of a processor, so they are
not made anew in each process.
"""

import pathlib
import sys

import numpy as np

from hashnet.network.backbones import imagenet_classes
from hashnet.retrieval.words import sentence
from hashnet.retrieval.words.make_wordnet import find_classes, read_nouns
from hashnet.retrieval.words.wordnet import wordnet


def read_glosses(folder):
    """Read the definitions in `data.noun`, without the examples that follow them.

    Args:
        folder: pathlib.Path of WordNet's files.

    Returns:
        dict of the offset of a synset to str.
    """
    lines = (folder / "data.noun").read_text(encoding="ascii").splitlines()
    pairs = [line.split(" | ") for line in lines if not line.startswith("  ")]
    return {int(facts[:8]): gloss.split('; "')[0].strip() for facts, gloss in pairs}


def _as_bytes(vectors):
    """Vectors in eight bits a number, of other lengths: only their directions count."""
    return np.rint(vectors * (127 / np.abs(vectors).max(axis=1, keepdims=True))).astype(np.int8)


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    glosses = read_glosses(folder)
    texts = {
        "names": [", ".join(words) for words in wordnet().words],
        "glosses": [
            glosses[offset] for offset in find_classes(read_nouns(folder), imagenet_classes())
        ],
    }
    network = sentence.opened()
    np.savez_compressed(
        pathlib.Path(__file__).with_name("class_texts.npz"),
        **{name: _as_bytes(network.vectors(some)) for name, some in texts.items()},
    )
