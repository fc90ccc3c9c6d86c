"""What does a search in words find of what photos show?

    python -m tests.bench.words_shown CLOTHING TINY GROCERY DESCRIPTIONS LARGE

CLOTHING, TINY and GROCERY are indexes of photos in class folders, with their labels: the training
photos of clothing10, the validation photos of Tiny ImageNet, whose folders are named by offsets in
WordNet, and the training photos of the grocery set; DESCRIPTIONS is the folder of the latter, with
`descriptions.json` and `class_split.json`. LARGE is an index whose size is of interest: of TINY's
features, many times with noise, say. The sentence network is to be installed; what is found
without it is measured as if it were not.
"""

import argparse
import contextlib
import json
import pathlib
import time
from unittest import mock

import numpy as np

from hashnet.encode import encoder as encoders
from hashnet.retrieval.index import Index
from hashnet.retrieval.words import learned, sentence
from hashnet.retrieval.words.plain import plain
from hashnet.retrieval.words.shown import ClassWay
from hashnet.retrieval.words.wordnet import wordnet
from tests.bench import figures

MOST = 1000
CLOTHES = {
    "dress": ("gown", "a long dress for a woman"),
    "hat": ("cap", "something to wear on the head"),
    "longsleeve": ("pullover", "a warm sweater with long sleeves"),
    "outwear": ("jacket", "a coat for cold weather"),
    "pants": ("trousers", "long trousers for the legs"),
    "shirt": ("blouse", "a shirt with buttons and a collar"),
    "shoes": ("footwear", "something to wear on the feet"),
    "shorts": ("bermudas", "short trousers for the summer"),
    "skirt": ("miniskirt", "a skirt for a girl"),
    "t-shirt": ("tee shirt", "a T-shirt with short sleeves"),
}
ABOVE = (
    "animal bird boat car cat clothing dog fish footwear fruit insect monkey vehicle dwelling"
).split()
LENGTHS = (8, 15, 30)
CAPTIONS = (100, 300)


class World:
    """An index, its labels, and what is right."""

    def __init__(self, place):
        self.index = Index.open(place, num_threads=1)
        engine = self.index.engine
        self.rows = engine.finder.rows()
        self.labels = np.array([item.label for item in engine.snapshot.items(self.rows)])
        self.way = ClassWay(engine)

    def found(self, text):
        """Places of what is found in words, best first, and seconds of a processor."""
        start = time.process_time()
        matches = self.way.find(plain(text), MOST, None)
        return np.searchsorted(self.rows, matches.rows), time.process_time() - start


def precision(right, ten=10):
    """The share of right ones among the first ten; what is not found is wrong."""
    return float(np.sum(right[:ten])) / ten


@contextlib.contextmanager
def without_sentences():
    with mock.patch.object(sentence, "missing", return_value="left out"):
        yield


def of_clothes(world):
    """P@10 of the labels, a synonym and a phrase of each."""
    texts = {"label": {label: label for label in CLOTHES}}
    texts |= {
        kind: {label: words[place] for label, words in CLOTHES.items()}
        for place, kind in enumerate(("synonym", "phrase"))
    }
    return {
        kind: {
            label: precision(world.labels[world.found(text)[0]] == label)
            for label, text in of_kind.items()
        }
        for kind, of_kind in texts.items()
    }


def mean_of(found):
    return {kind: round(float(np.mean(list(one.values()))), 3) for kind, one in found.items()}


def lengths_of_f7(world):
    """The length of F7 that explains the class scores of photos, and what others would find."""
    paths = [item.path for item in world.index.engine.snapshot.items(world.rows[::8])]
    encoder = world.index.encoder
    encoded = encoder.encode(paths)
    logits = encoded.features @ encoder.class_weights
    lengths = []
    for of_photo, scores in zip(logits, encoded.scores, strict=True):
        sure = scores > 1e-6
        told = np.log(scores[sure])
        lengths.append(np.polyfit(of_photo[sure], told, 1)[0])
    by_length = {}
    for length in LENGTHS:
        with mock.patch.object(encoders, "F7_LENGTH", np.float32(length)):
            by_length[length] = mean_of(of_clothes(world))
    quantiles = np.quantile(lengths, (0.05, 0.5, 0.95))
    return {
        "photos": len(lengths),
        "5, 50 and 95 %": np.round(quantiles, 1).tolist(),
        "precision_at_10": by_length,
    }


def above_classes(world):
    """P@10 of words above the classes, by pools and by a look at all images."""
    offsets = pathlib.Path(sentence.__file__).with_name("wordnet.txt").read_text().splitlines()
    number_of = {
        f"n{int(fields[0]):08}": int(fields[1])
        for fields in (line.split("\t") for line in offsets)
        if fields[1]
    }
    truth = np.array([number_of[label] for label in world.labels])
    features = world.index.engine.snapshot.features(world.rows)
    scores = world.index.encoder.class_scores(features)
    rows = []
    for word in ABOVE:
        right = np.isin(truth, wordnet().classes(word))
        places, seconds = world.found(word)
        of_all = scores @ world.way.weights(word)
        best = np.lexsort((world.rows, -of_all))[:100]
        rows.append(
            {
                "word": word,
                "classes": len(wordnet().classes(word)),
                "share": round(float(right.mean()), 3),
                "precision_at_10": precision(right[places]),
                "all_images": precision(right[best]),
                "recall_of_100": round(float(np.isin(best, places).mean()), 3),
                "processor_ms": round(seconds * 1000),
            }
        )
    return rows


def seconds_of_all(world):
    """Of a processor, to score all images in all classes."""
    features = world.index.engine.snapshot.features(world.rows)
    start = time.process_time()
    world.index.encoder.class_scores(features)
    return time.process_time() - start


def times(place):
    """Milliseconds of a processor that words take in a large index, once it is warm."""
    index = Index.open(place, num_threads=1)
    way = ClassWay(index.engine)
    way.find("tench", MOST, None)
    found = {}
    for word in ("lemon", "fish", "dog", "animal"):
        start = time.process_time()
        way.find(word, MOST, None)
        found[word] = round((time.process_time() - start) * 1000)
    return {"images": len(index), "processor_ms": found}


def of_groceries(world, folder):
    """P@10 of descriptions, and what captions of some photos teach."""
    descriptions = json.loads((folder / "descriptions.json").read_text(encoding="utf-8"))
    split = json.loads((folder / "class_split.json").read_text(encoding="utf-8"))
    products = sorted(descriptions)
    is_taught = np.isin(world.labels, split["train"])

    def precisions(among, names, order_of):
        found = []
        for name in names:
            places = order_of(descriptions[name])
            places = places[among[places]]
            found.append(precision(world.labels[places] == name))
        return round(float(np.mean(found)), 3)

    everywhere = np.ones(len(world.labels), bool)
    answer = {
        "products": len(products),
        "photos": len(world.labels),
        "chance": round(1 / len(products), 3),
        "descriptions": precisions(everywhere, products, lambda text: world.found(text)[0]),
        "unseen": {
            "products": len(split["unseen"]),
            "chance": round(1 / len(split["unseen"]), 3),
            "descriptions": precisions(
                ~is_taught, split["unseen"], lambda text: world.found(text)[0]
            ),
        },
        "learned": [],
    }
    features = world.index.engine.snapshot.features(world.rows).astype(np.float32)
    apart = features - features.mean(axis=0)
    apart /= np.linalg.norm(apart, axis=1, keepdims=True)
    network = sentence.opened()
    shuffled = np.random.default_rng(0).permutation(np.flatnonzero(is_taught))
    for number in CAPTIONS:
        captioned = np.sort(shuffled[:number])
        texts = [plain(descriptions[name]) for name in world.labels[captioned]]
        vector_of = {text: network.vectors([text])[0] for text in dict.fromkeys(texts)}
        fitted = learned.fit(np.stack([vector_of[text] for text in texts]), features[captioned])

        def order_of(text, fitted=fitted):
            cosines = apart @ fitted.direction(network.vectors([plain(text)])[0])
            return np.argsort(-cosines, kind="stable")

        others = everywhere.copy()
        others[captioned] = False
        answer["learned"].append(
            {
                "captions": number,
                "taught": precisions(others, split["train"], order_of),
                "unseen": precisions(~is_taught, split["unseen"], order_of),
            }
        )
    return answer


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("clothing", "tiny", "grocery", "descriptions", "large"):
        parser.add_argument(name)
    options = parser.parse_args()
    clothes = World(options.clothing)
    with without_sentences():
        nouns = of_clothes(clothes)
        lengths = lengths_of_f7(clothes)
    with_sentences = of_clothes(clothes)
    tiny = World(options.tiny)
    with without_sentences():
        above = above_classes(tiny)
        large = times(options.large)
    figures.write(
        "words_shown",
        {
            "question": "What does a search in words find of what photos show?",
            "protocol": f"clothing10: {len(clothes.labels):,} photos, ten labels, each asked by "
            "its name, a synonym and a phrase; precision: the share of the first ten that have the "
            "label. How the sentence network's classes are weighed was chosen on these very texts. "
            f"Words above the classes: {len(tiny.labels):,} photos of Tiny ImageNet, of 200 "
            "classes. Groceries: descriptions of products, few of which are its classes; "
            "taught: captions are descriptions, given to some photos of half of the products; "
            "photos without a caption are asked for, of these products (taught), and of the "
            "others among themselves (unseen).",
            "clothing": {
                "texts": {label: list(words) for label, words in CLOTHES.items()},
                "nouns": {"mean": mean_of(nouns), "labels": nouns},
                "sentences": {"mean": mean_of(with_sentences), "labels": with_sentences},
            },
            "length_of_f7": lengths,
            "above_classes": above,
            "all_images": {
                "images": len(tiny.labels),
                "processor_seconds": round(seconds_of_all(tiny), 2),
            },
            "large": large,
            "grocery": of_groceries(World(options.grocery), pathlib.Path(options.descriptions)),
        },
    )


if __name__ == "__main__":
    main()
