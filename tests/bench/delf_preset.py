"""Train the DELF head that comes with HashNet: `python -m tests.bench.delf_preset DATA OUT.npz`.

DATA is the folder of real images (`landmarks`, `clothing10`). Neither the scenes of `landmarks`,
which are for testing, nor anything of `beer_labels` is seen: only distractors and clothes.
"""

import json
import pathlib
import sys
import time

from hashnet.train import attention

CLOTHES_OF_A_CLASS = 12


def photos(data):
    """Paths of the training photos, always in the same order."""
    landmarks = data / "landmarks"
    scenes = json.loads((landmarks / "scenes.json").read_text())
    found = [landmarks / name for name in sorted(scenes["distractors"])]
    for folder in sorted((data / "clothing10" / "train").iterdir()):
        found += sorted(folder.iterdir())[:CLOTHES_OF_A_CLASS]
    return found


def main(data, out):
    began = time.process_time()
    sources = photos(pathlib.Path(data))
    trained = attention.train(sources, None, attention.from_recipe("views"))
    trained.head.save(out)
    report = {
        "images": len(sources) - len(trained.problems),
        "variance_kept": trained.variance_kept,
        "history": trained.history,
        "processor_seconds": round(time.process_time() - began, 1),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
