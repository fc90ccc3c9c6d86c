"""Where does likeness end? Grades of hits beside a fixed distance, the largest gap and other lines.

    python -m tests.bench.likeness_line DATA TINY CIFAR STAMPS SCRATCH

DATA holds clothing10, grocery, beer_labels and landmarks; TINY is tinyimagenet_val and CIFAR is
CIFAR-10, both unpacked; STAMPS is Debian's /usr/share/tuxpaint/stamps. SCRATCH keeps copies and
features for another run.

Numbers were chosen on the sets of `CHOSEN_ON`; the form of the score was, with the figures of all
sets in view. In every set, codes are
fitted to the database without labels, and all of it is ranked for each query. Queries ask for

- their own class, which is in the index: `precision` is that of the hits called alike among the
  first `HITS`, `found` the share of the relevant ones there that are;
- a class of which all images were taken out, by fifths of the classes: what is called alike among
  the first `SHOWN` is wrong;
- the photo of which they are a copy (`copies.EDITS`, but for those turned by a quarter or more).

The other lines: a fixed distance; so many standard deviations below the mean distance of the
sample; a false-alarm rate, so many of which a normal background would hold in this index; each at
the number that calls as many wrong hits alike as ours does on the sets of `CHOSEN_ON`. And the
largest gap between neighbours among the first `HITS`. Writes
tests/bench/results/likeness_line.json.
"""

import argparse
import json
import math
import pathlib
import statistics
import sys
import time

import numpy as np

from hashnet import codes
from hashnet.retrieval.search import grading
from hashnet.retrieval.search.coarse.hamming import CodeIndex
from hashnet.retrieval.search.fine import nearest_features
from hashnet.retrieval.search.ranking import ranking_of
from hashnet.train import unsupervised, unsupervised_codes
from tests.bench import copies, figures
from tests.bench.label_free_codes import default_encoder
from tests.bench.ranking import Fitted

CHOSEN_ON = ("clothing10", "tinyimagenet_val", "stamps")
BITS = 128
HITS, SHOWN = 50, 10
FOLDS = 5
COPIED = 30  # photos of each set
SMALL = (12, 50)  # images of a small index
ONE_CLASS = ("t-shirt", "shoes", "dress")  # of clothing10, each an index of its own
LYING = {"turned 90", "turned 180", "turned 270"}


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in copies.SUFFIXES)


def photos_of(data, tiny, cifar, stamps):
    """(name, photos of the database, their classes, queries, their classes) of every set."""
    parts = [files(data / "clothing10" / part) for part in ("train", "test")]
    yield "clothing10", *_with(parts, lambda path: path.parent.name)
    kept = [[], []]
    for folder in sorted(path for path in tiny.iterdir() if path.is_dir()):
        kept[0] += files(folder)[:15]
        kept[1] += files(folder)[15:18]
    yield "tinyimagenet_val", *_with(kept, lambda path: path.parent.name)
    found, kind = files(stamps), lambda path: "/".join(path.relative_to(stamps).parts[:-1][:2])
    kinds = [kind(path) for path in found]
    found = [path for path, its in zip(found, kinds, strict=True) if kinds.count(its) >= 5]
    asked = found[4::5]
    yield "stamps", *_with([[path for path in found if path not in asked], asked], kind)
    kept = [
        [path for folder in sorted((cifar / part).iterdir()) for path in files(folder)[:most]]
        for part, most in (("train", 300), ("test", 50))
    ]
    yield "cifar10", *_with(kept, lambda path: path.parent.name)
    groups = json.loads((data / "grocery" / "coarse.json").read_text("utf-8"))
    parts = [files(data / "grocery" / part) for part in ("train", "val")]
    yield "grocery", *_with(parts, lambda path: groups[path.parent.name])
    truth = json.loads((data / "beer_labels" / "ground_truth.json").read_text("utf-8"))
    shows = {
        "/".join(pathlib.Path(query).parts[-2:]): "/".join(pathlib.Path(names[0]).parts[-2:])
        for query, names in truth.items()
    }
    parts = [files(data / "beer_labels" / part) for part in ("db", "queries")]

    def label(path):
        name = "/".join(path.parts[-2:])
        return shows[name] if "queries" in path.parts else name

    yield "beer_labels", *_with(parts, label)
    found, seen, asked = files(data / "landmarks" / "images"), {}, []

    def scene(path):
        name = path.stem.split("__")[0]
        return path.stem if name == "distractor" else name

    for path in found:
        seen[scene(path)] = seen.get(scene(path), 0) + 1
        if seen[scene(path)] % 4 == 0:
            asked.append(path)
    yield "landmarks", *_with([[path for path in found if path not in asked], asked], scene)


def _with(parts, kind):
    database, queries = parts
    return database, [kind(path) for path in database], queries, [kind(path) for path in queries]


def read(encoder, scratch, name, database, kinds, queries, asked):
    """Features of a set's database, queries and copies, with what they show; kept in SCRATCH."""
    kept = scratch / f"{name}.npz"
    if not kept.exists():
        places = np.linspace(0, len(database) - 1, min(COPIED, len(database))).astype(int)
        out = scratch / "copies" / name
        copies.write([(f"{name}_{place:05}", database[place]) for place in places], out)
        upright = [edit for edit in copies.EDITS if edit not in LYING]
        copied = [path for edit in upright for path in sorted((out / edit).glob("*.jpg"))]
        features = [encoder.encode(paths) for paths in (database, queries, copied)]
        assert not any(one.problems for one in features)
        np.savez(
            kept,
            database=features[0].features,
            queries=features[1].features,
            copies=features[2].features,
            origin=[int(path.stem.rpartition("_")[2]) for path in copied],
        )
    return dict(np.load(kept)) | {"kinds": np.array(kinds), "asked": np.array(asked)}


class World:
    """An index of some features, whose codes are fitted to it without labels."""

    def __init__(self, features):
        prior = unsupervised.prior_of("efficientnet_lite0")
        mean = unsupervised_codes.mean_feature(features, prior)
        self.features = np.ascontiguousarray(features)
        self.network = Fitted(unsupervised_codes.fit(features, BITS, prior=prior), mean)
        self.codes = np.stack([self._code(feature) for feature in features])
        self.index = CodeIndex(self.codes)

    def _code(self, feature):
        return codes.from_latent(self.network.latent_of(feature))

    def asked(self, queries, most=HITS, among=None):
        """`Answer` to each query, over all rows or over those of `among`."""
        rows = np.arange(len(self.features)) if among is None else np.sort(among)
        places = grading.drawn(len(rows))
        sample = grading.Sample(
            self.codes[rows[places]],
            self.features[rows[places]],
            self.network.bundle.mean,
            unsupervised=True,
        )
        answers = []
        for query in queries:
            code = self._code(query)
            ranking = ranking_of(self.network, self.network.bundle.mean, code, query)
            added = ranking.weight * self.index.steps_apart(code, ranking.certainty.steps, rows)
            found, distances = nearest_features(
                query, rows, self.features, most, mean=ranking.mean, added=added
            )
            start = time.perf_counter()
            background = sample.background(code, query, ranking)
            graded = [background.grade(distance) for distance in distances[:SHOWN].tolist()]
            spent = time.perf_counter() - start
            graded += [background.grade(distance) for distance in distances[SHOWN:].tolist()]
            seen = sample._distances(code, query, ranking)
            answers.append((found, distances, graded, background, seen, len(rows), spent))
        return answers


# What each line goes by, the more alike the larger; the largest gap goes by nothing else.


def by_grade(answer):
    return np.array([one.likeness for one in answer[2]])


def by_distance(answer):
    return -answer[1]


def by_deviations(answer):
    _, distances, *_, seen, _, _ = answer
    return (seen.mean() - distances) / max(seen.std(), 1e-9)


def by_false_alarms(answer):
    """Less the logarithm of how many of the index a normal background would hold as near."""
    size = answer[5]
    tails = [0.5 * math.erfc(value / math.sqrt(2)) for value in by_deviations(answer)]
    return -np.log10(np.maximum(np.array(tails) * size, 1e-300))


def by_gap(answer):
    gaps = np.diff(answer[1])
    before = np.arange(len(answer[1])) <= (np.argmax(gaps) if len(gaps) else 0)
    return before.astype(float)


LINES = {
    "grades": by_grade,
    "distance": by_distance,
    "deviations": by_deviations,
    "false alarms": by_false_alarms,
    "largest gap": by_gap,
}
OWN = {"grades": grading.ALIKE, "largest gap": 0.5}


def wrongly_alike(answers, line, least):
    """Of each answer, how many of the hits that are shown are called alike."""
    return [int((line(answer)[:SHOWN] >= least).sum()) for answer in answers]


def matched(line, of_sets, wanted):
    """From where on a line calls `wanted` wrong hits alike, on average over the sets."""
    values = np.unique(
        np.concatenate([line(one)[:SHOWN] for answers in of_sets for one in answers])
    )
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        wrong = [np.mean(wrongly_alike(one, line, values[middle])) for one in of_sets]
        low, high = (middle + 1, high) if np.mean(wrong) > wanted else (low, middle)
    return float(values[low])


def same_kind(answers, right, line, least):
    """Precision of what is called alike, and how much of the relevant is."""
    alike, relevant = [], []
    for answer, row in zip(answers, right, strict=True):
        alike.append(line(answer) >= least)
        relevant.append(row[answer[0]])
    alike, relevant = np.concatenate(alike), np.concatenate(relevant)
    precision = relevant[alike].mean() if alike.any() else None
    return precision, alike[relevant].mean()


def fitted(worlds):
    """Slope and middle by logistic regression on the sets of `CHOSEN_ON`, and what is usual."""
    contrasts, alike, weights, medians, spreads = [], [], [], [], []
    for name in CHOSEN_ON:
        own, left_out, right = (worlds[name][key] for key in ("own", "left_out", "right"))
        ones = [(answer, row[answer[0]]) for answer, row in zip(own, right, strict=True)]
        others = [(answer, np.zeros(len(answer[0]), bool)) for answer in left_out]
        for answers, weight in ((ones, 1.0), (others, 0.5)):
            size = sum(len(flags) for _, flags in answers)
            for (_, distances, _, background, seen, _, _), flags in answers:
                median, upper = np.quantile(seen, (0.5, grading._UPPER))
                medians.append(median)
                spreads.append(upper - median)
                below = (background.median - distances) / (background.spread * distances)
                contrasts.append(np.log(np.maximum(below, 0.02)))
                alike.append(flags)
                weights.append(np.full(len(flags), weight / size))
    logs, alike, weights = (np.concatenate(ones) for ones in (contrasts, alike, weights))
    columns = np.stack([logs, np.ones(len(logs))], axis=1)
    found = np.zeros(2)
    for _ in range(50):
        chance = 1 / (1 + np.exp(-columns @ found))
        curved = (columns * (weights * chance * (1 - chance))[:, None]).T @ columns
        found -= np.linalg.solve(curved, columns.T @ (weights * (chance - alike)))
    slope, shift = found.tolist()
    return {
        "slope": round(slope, 3),
        "middle": round(math.exp(-shift / slope), 3),
        "median": round(statistics.median(medians), 3),
        "spread": round(statistics.median(spreads), 4),
    }


def measured(name, features):
    """Answers of a set to its queries, to those whose class is left out, and to copies."""
    kinds, asked = features["kinds"], features["asked"]
    world = World(features["database"])
    own = world.asked(features["queries"])
    left_out = []
    classes = np.random.default_rng(0).permutation(np.unique(kinds))
    for fold in np.array_split(classes, FOLDS):
        queries = features["queries"][np.isin(asked, fold)]
        if len(queries):
            left_out += World(features["database"][~np.isin(kinds, fold)]).asked(queries)
    small = {}
    for size in SMALL:
        places = np.random.default_rng(0).permutation(len(kinds))
        among = [places[start : start + size] for start in range(0, len(places) - size, size)][:10]
        small[size] = [
            answer for one in among for answer in world.asked(features["queries"][:100], SHOWN, one)
        ]
    print(name, len(kinds), len(asked), len(left_out), file=sys.stderr, flush=True)
    return {
        "own": own,
        "left_out": left_out,
        "copies": world.asked(features["copies"]),
        "small": small,
        "right": asked[:, None] == kinds,
        "small_right": np.tile(asked[:100, None] == kinds, (10, 1)),
    }


def copied(found, origin):
    """Precision of what is graded a copy among copies' hits, how many are, and of other queries
    how many have a hit of this grade."""
    graded, right = [], []
    for answer, own in zip(found["copies"], origin, strict=True):
        graded += [one.grade == grading.COPY for one in answer[2]]
        right += (answer[0] == own).tolist()
    graded, right = np.array(graded), np.array(right)
    strangers = [any(one.grade == grading.COPY for one in answer[2]) for answer in found["own"]]
    return {
        "precision": round(float(right[graded].mean()), 4),
        "found": round(float((graded & right).sum() / len(origin)), 4),
        "others_with_one": round(float(np.mean(strangers)), 4),
    }


def row_of(name, found, origin, leasts):
    lines = {}
    for line, go_by in LINES.items():
        precision, share = same_kind(found["own"], found["right"], go_by, leasts[line])
        wrong = wrongly_alike(found["left_out"], go_by, leasts[line])
        lines[line] = {
            "precision": None if precision is None else round(float(precision), 4),
            "found": round(float(share), 4),
            "left_out_any": round(float(np.mean(np.array(wrong) > 0)), 4),
            "left_out_wrong": round(float(np.mean(wrong)), 3),
        }
    shown = [
        row[answer[0]][:SHOWN] for answer, row in zip(found["own"], found["right"], strict=True)
    ]
    small = {}
    for size, answers in found["small"].items():
        right = found["small_right"][: len(answers)]
        precision, share = same_kind(answers, right, by_grade, grading.ALIKE)
        small[size] = {
            "precision": None if precision is None else round(float(precision), 4),
            "found": round(float(share), 4),
        }
    return {
        "set": name,
        "chosen_on": name in CHOSEN_ON,
        "database": found["right"].shape[1],
        "queries": found["right"].shape[0],
        "left_out_queries": len(found["left_out"]),
        "precision_of_all_shown": round(float(np.concatenate(shown).mean()), 4),
        "lines": lines,
        "small": small,
        "copies": copied(found, origin),
    }


def one_class(features):
    """Indexes of one class each: of the first hits, the share that is called alike."""
    rows = []
    for name in ONE_CLASS:
        world = World(features["database"][features["kinds"] == name])
        own = features["asked"] == name
        alike = [
            np.mean(wrongly_alike(world.asked(features["queries"][asked]), by_grade, grading.ALIKE))
            for asked in (own, ~own)
        ]
        rows.append(
            {
                "class": name,
                "database": len(world.features),
                "alike": round(float(alike[0]) / SHOWN, 4),
                "alike_to_others": round(float(alike[1]) / SHOWN, 4),
            }
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("data", "tiny", "cifar", "stamps", "scratch"):
        parser.add_argument(name, type=pathlib.Path)
    options = parser.parse_args()
    scratch = options.scratch
    scratch.mkdir(parents=True, exist_ok=True)
    with default_encoder() as encoder:
        features = {
            name: read(encoder, scratch, name, *lists)
            for name, *lists in photos_of(options.data, options.tiny, options.cifar, options.stamps)
        }
    worlds = {name: measured(name, ones) for name, ones in features.items()}
    chosen_on = [worlds[name]["left_out"] for name in CHOSEN_ON]
    wanted = float(
        np.mean([np.mean(wrongly_alike(one, by_grade, grading.ALIKE)) for one in chosen_on])
    )
    leasts = {
        line: OWN.get(line) or matched(go_by, chosen_on, wanted) for line, go_by in LINES.items()
    }
    start = time.perf_counter()
    grading.drawn(1_000_000)
    drawing = time.perf_counter() - start
    spent = [answer[6] for found in worlds.values() for answer in found["own"]]
    figures.write(
        "likeness_line",
        {
            "protocol": "F7 of EfficientNet-Lite0, codes of 128 bits fitted to each database "
            "without labels, all of it ranked. Relevant: the same class, group of products, "
            f"label or scene. Alike: among the first {HITS} hits. Left out: queries of a class of "
            f"which the index holds no image; any of their first {SHOWN} hits that is called alike "
            "is wrong. "
            "Numbers were chosen on " + ", ".join(CHOSEN_ON) + "; the form of the score was, with "
            "the figures of all sets in view.",
            "fitted": fitted(worlds),
            "lines_from": {line: round(least, 4) for line, least in leasts.items()},
            "rows": [
                row_of(name, found, features[name]["origin"], leasts)
                for name, found in worlds.items()
            ],
            "one_class": one_class(features["clothing10"]),
            "milliseconds": round(statistics.median(spent) * 1000, 4),
            "milliseconds_to_draw_of_a_million": round(drawing * 1000, 2),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
