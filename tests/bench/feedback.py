"""Does marking hits right or wrong help? Simulated people, round by round.

    python -m tests.bench.feedback INDEX QUERIES

INDEX holds labelled images, QUERIES is a folder of class folders. For every query the first ten
unmarked hits of the pool are marked by their labels, the query is moved, and so on. Images that
are marked easily are marked first: what is left grows harder from round to round, and scores on
it fall whatever the query does. So rounds are compared on the same images, in two ways that the
field uses: with what was shown *frozen* in its ranks, before the new ranking of the rest, as the
person has met them; and on *control* images, a random half of the index that is never shown.
Settings are chosen on every other query, and reported on the rest.
"""

import argparse
import contextlib

import numpy as np

from hashnet import codes, images
from hashnet.retrieval.index import Index
from hashnet.retrieval.search import feedback
from hashnet.retrieval.search.engine import default_pool
from hashnet.retrieval.search.finder import threshold_of
from tests.bench import figures

SHOWN, ROUNDS = 10, 4
SETTINGS = [(wrong, stiffness) for wrong in (0.0, -0.3) for stiffness in (0.3, 1.0, 3.0)]
MEANS = ((3.0, 1.0), (8.0, 6.0))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("index")
    parser.add_argument("queries")
    parser.add_argument("--queries-per-class", type=int, default=20, help="at most (%(default)s)")
    options = parser.parse_args()
    world = World(options.index, options.queries, options.queries_per_class)
    tried = []
    for wrong, stiffness in SETTINGS:
        with settings(wrong, stiffness):
            tried.append({"wrong": wrong, "stiffness": stiffness, **world.play(0, feedback.move)})
        print(tried[-1], flush=True)
    for right, wrong in MEANS:
        tried.append({"means": [1.0, right, wrong], **world.play(0, means(right, wrong))})
        print(tried[-1], flush=True)
    best = max(tried[: len(SETTINGS)], key=lambda one: one["control"][-1] + one["frozen"][-1])
    best_means = max(tried[len(SETTINGS) :], key=lambda one: one["control"][-1] + one["frozen"][-1])
    with settings(best["wrong"], best["stiffness"]):
        reported = world.play(1, feedback.move)
    figures.write(
        "feedback",
        {
            "question": "Does each round of relevance feedback raise mAP?",
            "protocol": f"{len(world.queries)} queries that are not among the {len(world.labels)} "
            "images, every other one to choose the settings, the rest reported. In each round "
            f"the {SHOWN} nearest unmarked images of the pool are marked by their labels. AP as "
            "the engine ranks: in its default pool by feature; what is outside the pool counts "
            "as never found. frozen: mAP over all images, those shown keeping their ranks. "
            "control: mAP over a random half of the images, of which none is ever shown. "
            "precision: right ones among the ten shown next. Elements are rounds, from 0.",
            "seed": 0,
            "settings_of_the_engine": [feedback.WRONG, feedback.STIFFNESS],
            "chosen": {name: best[name] for name in ("wrong", "stiffness")},
            "reported": reported,
            "reported_means": {
                "means": best_means["means"],
                **world.play(1, means(*best_means["means"][1:])),
            },
            "tried_on_the_other_half": tried,
        },
    )


@contextlib.contextmanager
def settings(wrong, stiffness):
    before = feedback.WRONG, feedback.STIFFNESS
    feedback.WRONG, feedback.STIFFNESS = wrong, stiffness
    try:
        yield
    finally:
        feedback.WRONG, feedback.STIFFNESS = before


def means(right_weight, wrong_weight):
    """Rocchio's way: towards the mean of the right, away from the mean of the wrong."""

    def move(code, feature, right, wrong, *, num_bits):
        def moved(start, some, others):
            for rows, weight in ((some, right_weight), (others, -wrong_weight)):
                if len(rows):
                    start = start + weight * rows.mean(axis=0)
            return start

        bits = [codes.unpack(one, num_bits) * 2.0 - 1 for one in (code, right[0], wrong[0])]
        feature = moved(feature, right[1], wrong[1])
        return codes.pack(moved(*bits) > 0), feature / np.linalg.norm(feature)

    return move


class World:
    def __init__(self, index, folder, most):
        index = Index.open(index)
        snapshot = index.store.snapshot()
        places, names = snapshot.labels()
        self.num_bits = index.encoder.config.num_bits
        self.labels = np.array(names)[places]
        self.codes = snapshot.codes
        self.signs = codes.unpack(self.codes, self.num_bits) * np.float32(2) - 1
        self.features = snapshot.features(np.arange(snapshot.num_rows)).astype(np.float32)
        self.control = np.random.default_rng(0).random(len(self.labels)) < 0.5
        self.pool = default_pool(SHOWN, len(self.labels))
        found, *_ = images.find([folder])
        kept, counts = [], {}
        for file in found:
            counts[file.folder] = counts.get(file.folder, 0) + 1
            if counts[file.folder] <= most:
                kept.append(file)
        encoded = index.encoder.encode([file.path for file in kept])
        truth = np.array([file.folder for file in kept])[encoded.positions]
        self.queries = list(zip(encoded.codes, encoded.features, truth, strict=True))

    def play(self, half, move):
        """Means over one half of the queries, for each round: see the protocol."""
        everything = np.ones(len(self.labels), bool)
        frozen, control = (
            [self.rounds(query, move, shown, scored) for query in self.queries[half::2]]
            for shown, scored in ((everything, everything), (~self.control, self.control))
        )
        return {
            "frozen": np.mean([ap for ap, _ in frozen], axis=0).round(4).tolist(),
            "control": np.mean([ap for ap, _ in control], axis=0).round(4).tolist(),
            "precision": np.mean([hits for _, hits in frozen], axis=0).round(4).tolist(),
        }

    def rounds(self, query, move, may_show, scored):
        """AP among the scored images, and the precision of what is shown next, by round."""
        code, feature, label = query
        relevant, shown, aps, hits = self.labels == label, np.empty(0, np.int64), [], []
        for _ in range(ROUNDS + 1):
            moved = code, feature
            if len(shown):
                right, wrong = shown[relevant[shown]], shown[~relevant[shown]]
                moved = move(
                    code,
                    feature,
                    (self.codes[right], self.features[right]),
                    (self.codes[wrong], self.features[wrong]),
                    num_bits=self.num_bits,
                )
            ranking = self.ranking(*moved)
            ranking = ranking[~np.isin(ranking, shown)]
            ranks = np.concatenate([shown, ranking])
            aps.append(average_precision(relevant, ranks[scored[ranks]], relevant & scored))
            new = ranking[may_show[ranking]][:SHOWN]
            hits.append(relevant[new].mean())
            shown = np.concatenate([shown, new])
        return aps, hits

    def ranking(self, code, feature):
        """Rows of the pool, nearest first; features have length 1."""
        bits = codes.unpack(code, self.num_bits) * np.float32(2) - 1
        apart = (self.num_bits - self.signs @ bits) / 2
        apart = apart.round().astype(np.int64)
        pool = np.flatnonzero(apart < threshold_of(np.bincount(apart), self.pool))
        return pool[np.argsort(-(self.features[pool] @ feature), kind="stable")]


def average_precision(relevant, ranks, wanted):
    right = relevant[ranks]
    return (np.cumsum(right) / np.arange(1, len(right) + 1))[right].sum() / wanted.sum()


if __name__ == "__main__":
    main()
