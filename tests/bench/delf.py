"""How often local features find the same place again, and how long they take.

`python -m tests.bench.delf DATA` measures DELF with its preset's attention, the same with the
paper's scales and selection, DELF with the activation norm in place of attention, RootSIFT and ORB,
1000 features each:

- graf 1 -> 3 and 1 -> 6, whose homographies are known;
- photos that training did not see, beside a random homography of each: true by construction;
- seconds for one photo of 800 x 600 pixels, with each runtime that is installed.

A match is two features that are each other's nearest; it is right within 5 pixels of where the
homography puts it. Of the features of the first image whose place is in the second as well,
*repeatability* is the part that has any feature there within 5 pixels, *matching score* the part
that has a right match.
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import time

import cv2
import numpy as np

from hashnet import images
from hashnet.local import delf, delf_head, delf_network, extractors
from hashnet.network import runtimes
from tests.bench import figures
from tests.bench.local import Orb

NEAR = 5.0  # pixels
SEED = 0
RANSAC_ERROR = 10.0  # pixels, DELF's cells are 8 at the finest scale


def homographies(data):
    """dict of (graf image, graf image) to float64 `(3, 3)`, of (x, y, 1)."""
    scenes = json.loads((pathlib.Path(data) / "landmarks" / "scenes.json").read_text())
    found = {}
    for pair, numbers in scenes["homographies"].items():
        first, second = (int(name.split("graf__graf")[1][0]) for name in pair.split("->"))
        found[first, second] = np.reshape(numbers, (3, 3))
    return found


def carried(yx, homography):
    """Places, float `(n, 2)` (row, column), where a homography of (x, y, 1) puts them."""
    xyw = np.c_[yx[:, ::-1], np.ones(len(yx))] @ homography.T
    return (xyw[:, :2] / xyw[:, 2:])[:, ::-1]


def compare(first, second, homography, image):
    """How the features of two images agree, given what is true.

    Args:
        first, second: `LocalFeatures`, at least one each.
        homography: float64 `(3, 3)`, from (x, y, 1) of the first image to the second.
        image: one of the images, for its size; the other is as large.
    """
    there = carried(first.yx, homography)
    shared = ((there >= 0) & (there <= np.array(image.shape[:2]) - 1)).all(axis=1)
    gaps = np.linalg.norm(there[:, None] - second.yx[None], axis=-1)
    similar = first.descriptors @ second.descriptors.T
    nearest, answer = similar.argmax(axis=1), similar.argmax(axis=0)
    rows = np.flatnonzero(answer[nearest] == np.arange(len(nearest)))
    columns = nearest[rows]
    errors = gaps[rows, columns]
    right, at_all = errors <= NEAR, gaps[shared].min(axis=1) <= NEAR
    found = {
        "features": [len(first), len(second)],
        "mutual_matches": len(rows),
        "right_within_5_px": int(right.sum()),
        "right_share": round(float(right.sum() / max(1, len(rows))), 4),
        "right_within_10_px": int((errors <= 2 * NEAR).sum()),
        "repeatability": round(float(at_all.sum() / max(1, shared.sum())), 4),
        "matching_score": round(float((right & shared[rows]).sum() / max(1, shared.sum())), 4),
    }
    return found | _estimated(first.yx[rows], second.yx[columns], errors, homography, image)


def _estimated(yx, other_yx, errors, homography, image):
    """The homography that RANSAC finds from the matches, beside the true one."""
    height, width = image.shape[:2]
    corners = np.array([[0, 0], [0, width - 1], [height - 1, width - 1], [height - 1, 0]], float)
    nothing = {"inliers": 0, "inliers_within_5_px": 0, "corner_error_px": None}
    if len(yx) < 4:
        return nothing
    matrix, mask = cv2.findHomography(
        np.ascontiguousarray(yx[:, ::-1]),
        np.ascontiguousarray(other_yx[:, ::-1]),
        cv2.USAC_MAGSAC,
        RANSAC_ERROR,
        maxIters=5000,
        confidence=0.999,
    )
    if matrix is None:
        return nothing
    inliers = mask.ravel() > 0
    off = np.linalg.norm(carried(corners, matrix) - carried(corners, homography), axis=1)
    return {
        "inliers": int(inliers.sum()),
        "inliers_within_5_px": int((errors[inliers] <= NEAR).sum()),
        "corner_error_px": round(float(off.mean()), 2),
    }


def warped(image, rng):
    """(homography, the image seen through it)."""
    height, width = image.shape[:2]
    corners = np.float32([[0, 0], [width, 0], [width, height], [0, height]])
    middle, turn, zoom = corners.mean(axis=0), rng.uniform(-0.35, 0.35), rng.uniform(0.7, 1.2)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) * zoom
    moved = (corners - middle) @ rotation + middle
    moved += rng.uniform(-0.12, 0.12, (4, 2)) * [width, height]
    homography = cv2.getPerspectiveTransform(corners, np.float32(moved))
    seen = cv2.warpPerspective(image, homography, (width, height), flags=cv2.INTER_LINEAR)
    light = rng.uniform(0.7, 1.2)
    return homography, np.clip(seen * light, 0, 255).astype(np.uint8)


def unseen(data, count):
    """Photos of the scenes and of labels, at most 800 pixels a side; none was trained on."""
    data = pathlib.Path(data)
    scenes = json.loads((data / "landmarks" / "scenes.json").read_text())["groups"]
    names = [data / "landmarks" / group[0] for group in scenes.values()]
    names += [found.path for found in images.find([data / "beer_labels" / "db"])[0]]
    for name in names[:count]:
        image = images.read(name)
        reduction = min(1.0, 800 / max(image.shape[:2]))
        yield images.resize(image, [round(side * reduction) for side in image.shape[:2]])


def seconds(extractor, image, repeats):
    """Median and spread of extracting one image; the first time does not count."""
    taken = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        features = extractor.extract(image)
        taken.append(time.perf_counter() - began)
    taken = taken[1:]
    middle = statistics.median(taken)
    return {
        "median": round(middle, 3),
        "least": round(min(taken), 3),
        "most": round(max(taken), 3),
        "features_per_second": round(len(features) / middle),
    }


def compared(folder):
    """(name of the score, extractor) of each that is compared."""
    head = delf_head.Head.load("efficientnet_lite0")
    model = delf_network.load_backbone("efficientnet_lite0")
    for name, one in (
        ("attention", head),
        ("norm", delf_head.Head(head.mean, head.components)),
    ):
        path = pathlib.Path(folder) / f"{name}.onnx"
        delf.export(path, model, one)
        yield f"delf, {name}", delf.Delf.open(path)
        if name == "attention":
            paper = {"scales": delf_head.SCALES_BEFORE, "spread": False}
            yield "delf, as in the paper", delf.Delf.open(path, **paper)
    yield "sift", extractors.open("sift")
    yield "orb", Orb()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    data = pathlib.Path(arguments.data)
    cv2.setRNGSeed(SEED)
    graf = {
        number: images.read(data / "landmarks" / "images" / f"graf__graf{number}.jpg")
        for number in (1, 3, 6)
    }
    photos = list(unseen(data, arguments.photos))
    pairs = [
        (photo, *warped(photo, np.random.default_rng((SEED, number))))
        for number, photo in enumerate(photos)
    ]
    photo = images.resize(graf[1], (600, 800))
    report = {"seed": SEED, "photos": len(photos), "repeats": arguments.repeats, "extractors": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name, extractor in compared(folder):
            found = {number: extractor.extract(image) for number, image in graf.items()}
            results = {
                f"graf {first} to {second}": compare(
                    found[first], found[second], homography, graf[first]
                )
                for (first, second), homography in homographies(data).items()
            }
            each = [
                compare(extractor.extract(one), extractor.extract(other), homography, one)
                for one, homography, other in pairs
            ]
            results["synthetic"] = {
                key: round(statistics.mean(result[key] for result in each), 4)
                for key in ("mutual_matches", "right_share", "repeatability", "matching_score")
            } | {
                "corner_error_under_5_px": round(
                    statistics.mean((result["corner_error_px"] or 1e9) < 5 for result in each), 4
                )
            }
            report["extractors"][name] = results
        report["seconds_of_800x600"] = {
            "sift": seconds(extractors.open("sift"), photo, arguments.repeats)
        }
        for runtime in runtimes.FASTEST:
            extractor = delf.Delf.open(pathlib.Path(folder) / "attention.onnx", runtime)
            report["seconds_of_800x600"][f"delf, {runtime}"] = seconds(
                extractor, photo, arguments.repeats
            )
    figures.write("delf", report)


if __name__ == "__main__":
    main()
