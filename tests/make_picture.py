"""Make the picture at the top of the READMEs: `python -m tests.make_picture [PICTURE]`.

Photos that come with scikit-image, all in the public domain or CC0, are indexed with local
features. The query is a view of one of them: part of it, seen askew and darker.
"""

import pathlib
import sys
import tempfile

import cv2
import numpy as np
import skimage.data

from hashnet import images
from hashnet.images import sheets
from hashnet.retrieval.index import Index
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import Query
from hashnet.train import unsupervised

PICTURE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "search.jpg"
PHOTOS = (
    "astronaut", "brick", "camera", "chelsea", "clock", "coffee", "coins", "grass", "gravel",
    "hubble_deep_field", "page", "retina", "rocket", "text",
)  # fmt: skip
SUBJECT = "coffee"
# Corners of what the query shows of it, from the top left one clockwise: shares of its height and
# its width.
SEEN = ((0.06, 0.30), (0.22, 0.98), (0.98, 0.80), (0.88, 0.06))
SIZE = (300, 400)


def view(photo):
    """What a second photo might have shown: the four-cornered part `SEEN`, darker."""
    corners = np.float32(np.multiply(SEEN, photo.shape[:2]))
    height, width = SIZE
    rectangle = np.float32([(0, 0), (width, 0), (width, height), (0, height)])
    seen = cv2.getPerspectiveTransform(np.ascontiguousarray(corners[:, ::-1]), rectangle)
    return (cv2.warpPerspective(photo, seen, (width, height)) * 0.8).astype(np.uint8)


def search(folder):
    """Index the photos in `folder` and search; returns the query, its hits and the engine."""
    paths = [folder / f"{name}.png" for name in PHOTOS]
    for path in paths:
        photo = getattr(skimage.data, path.stem)()
        images.write(path, photo if photo.ndim == 3 else photo[..., None].repeat(3, axis=2))
    unsupervised.fit_bundle(folder / "bundle", paths, num_bits=64)
    index = Index.create(folder / "index", folder / "bundle", local="sift")
    index.add(paths, ids=[path.stem for path in paths])
    engine = Engine(index)
    query = view(images.read(folder / f"{SUBJECT}.png"))
    return query, engine.search(query, Query(k=5, verify=True)).hits, engine


def picture(query, hits, engine):
    """The query and its hits above, matches with the first hit below."""
    found = engine.match(query, hits[0].id)
    drawn = [
        sheets.contact_sheet([(query, hits)]),
        sheets.match_sheet([(query, hits[0], found.query_yx, found.yx)]),
    ]
    width = max(sheet.shape[1] for sheet in drawn)
    sides = [divmod(width - sheet.shape[1], 2) for sheet in drawn]
    return np.concatenate(
        [
            np.pad(sheet, ((0, 0), (half, half + odd), (0, 0)), constant_values=255)
            for sheet, (half, odd) in zip(drawn, sides, strict=True)
        ]
    )


def main():
    target = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    with tempfile.TemporaryDirectory() as folder:
        drawn = picture(*search(pathlib.Path(folder)))
    target.write_bytes(images.to_jpeg(drawn))


if __name__ == "__main__":
    main()
