"""Does marking hits right or wrong help? Simulated people, round by round.

    python -m tests.bench.feedback INDEX QUERIES

INDEX holds labelled images, QUERIES is a folder of class folders. For every query the first ten
unmarked hits are marked by their labels, the query is moved, and so on. What a person has marked
is known to the person, so each round is scored on the images that are not marked yet, with the
query as it was and as it was moved: on the same images.
"""

import argparse

import numpy as np

from hashnet import codes, images, metrics
from retrieval import feedback
from retrieval.engine import Engine
from retrieval.index import Index
from tests.bench import figures

SHOWN, ROUNDS = 10, 4
WEIGHTS = ((0.75, 0.0), (0.75, 0.25), (0.75, 0.5), (1.5, 0.25), (3.0, 0.25), (3.0, 1.0))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("index")
    parser.add_argument("queries")
    parser.add_argument("--queries-per-class", type=int, default=20, help="at most (%(default)s)")
    options = parser.parse_args()
    world = World(options.index, options.queries, options.queries_per_class)
    rows, chosen = [], [feedback.QUERY, feedback.RIGHT, feedback.WRONG]
    for right, wrong in WEIGHTS:
        feedback.RIGHT, feedback.WRONG = right, wrong
        rows.append({"weights": [feedback.QUERY, right, wrong], "rounds": world.play()})
        print(rows[-1], flush=True)
    figures.write(
        "feedback",
        {
            "question": "Does each round of relevance feedback raise mAP, and which codes follow?",
            "protocol": f"{len(world.queries)} queries that are not among the {len(world.labels)} "
            f"images. In each round the {SHOWN} nearest unmarked images by feature are marked "
            "by their labels. mAP, tie-aware, over all images that are not marked, with the "
            "query as it was (still) and as it was moved, by feature and by three codes: moved "
            "by vote (what the engine does), given by H for the moved feature, and moved by vote "
            "with every bit weighted by how far its votes agree.",
            "weights_of_the_engine": chosen,
            "rows": rows,
        },
    )


class World:
    def __init__(self, index, folder, most):
        index = Index.open(index)
        snapshot = Engine(index).snapshot
        places, names = snapshot.labels()
        self.encoder = index.encoder
        self.num_bits = index.encoder.config.num_bits
        self.labels = np.array(names)[places]
        self.codes = snapshot.codes
        self.bits = codes.unpack(self.codes, self.num_bits)
        self.features = snapshot.features(np.arange(snapshot.num_rows)).astype(np.float32)
        found, _ = images.find([folder])
        kept, counts = [], {}
        for file in found:
            counts[file.folder] = counts.get(file.folder, 0) + 1
            if counts[file.folder] <= most:
                kept.append(file)
        encoded = index.encoder.encode([file.path for file in kept])
        truth = np.array([file.folder for file in kept])[encoded.positions]
        self.queries = list(zip(encoded.codes, encoded.features, truth, strict=True))

    def play(self):
        """For each round, the mean over queries of each kind of AP on the unmarked images."""
        marked = [np.zeros(len(self.labels), bool) for _ in self.queries]
        moved = [(code, feature) for code, feature, _ in self.queries]
        rounds = []
        for number in range(ROUNDS + 1):
            scores = [
                self.score(query, new, seen)
                for query, new, seen in zip(self.queries, moved, marked, strict=True)
            ]
            means = {name: float(np.mean([one[name] for one in scores])) for name in scores[0]}
            latents = self.encoder.from_features("latent", np.stack([one[1] for one in moved]))
            by_h = [
                self.ap(self.apart(latent >= 0.5), label, seen)
                for latent, (_, _, label), seen in zip(latents, self.queries, marked, strict=True)
            ]
            means["code_by_h"] = float(np.mean(by_h))
            rounds.append(
                {"round": number, **{name: round(mean, 4) for name, mean in means.items()}}
            )
            for at, (code, feature, label) in enumerate(self.queries):
                distances = np.linalg.norm(self.features - moved[at][1], axis=1)
                distances[marked[at]] = np.inf
                marked[at][np.argsort(distances, kind="stable")[:SHOWN]] = True
                same = self.labels == label
                right, wrong = marked[at] & same, marked[at] & ~same
                moved[at] = feedback.move(
                    code,
                    feature,
                    (self.codes[right], self.features[right]),
                    (self.codes[wrong], self.features[wrong]),
                    num_bits=self.num_bits,
                )
        return rounds

    def score(self, query, moved, marked):
        code, feature, label = query
        new_code, new_feature = moved
        new_bits = codes.unpack(new_code, self.num_bits)
        right = marked & (self.labels == label)
        # How far the right images and the query agree on a bit.
        ones = np.concatenate([self.bits[right], codes.unpack(code, self.num_bits)[None]])
        agreement = np.abs(2 * ones.mean(axis=0) - 1)
        return {
            "feature_still": self.ap(
                np.linalg.norm(self.features - feature, axis=1), label, marked
            ),
            "feature_moved": self.ap(
                np.linalg.norm(self.features - new_feature, axis=1), label, marked
            ),
            "code_still": self.ap(self.apart(codes.unpack(code, self.num_bits)), label, marked),
            "code_moved": self.ap(self.apart(new_bits), label, marked),
            "code_moved_and_weighted": self.ap((self.bits != new_bits) @ agreement, label, marked),
        }

    def apart(self, bits):
        return (self.bits != bits).sum(axis=1)

    def ap(self, distances, label, marked):
        relevant = self.labels[~marked] == label
        return metrics.tie_aware_average_precision(distances[~marked], relevant).expected


if __name__ == "__main__":
    main()
