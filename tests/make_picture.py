"""Make the picture at the top of the READMEs: `python -m tests.make_picture CLOTHING10 [PICTURE]`.

CLOTHING10 is the folder of Grigorev's Clothing dataset (small), CC0, with `train` and `validation`.
The commands of the README index its training photos and search by three of the others.
"""

import pathlib
import sys
import tempfile

from hashnet import cli, images

PICTURE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "search.jpg"
QUERIES = (
    "shoes/24535295-abe3-4613-91f6-a7fe87954662.jpg",
    "shoes/253dc2b9-f49e-4f55-9917-c9005c29bbd9.jpg",
    "hat/7b4ca4a5-fd04-4a96-9f40-1a982ff6cb8b.jpg",
)
HITS = 5


def picture(clothing, scratch):
    """The contact sheet that `hashnet search` writes: uint8 `(height, width, 3)`.

    Args:
        clothing: path of the folder of photos.
        scratch: path of a folder for the index.
    """
    index, sheet = scratch / "photos.index", scratch / "hits.png"
    queries = [str(clothing / "validation" / name) for name in QUERIES]
    for arguments in (
        ["index", str(index), str(clothing / "train"), "--label-from", "folder"],
        ["search", str(index), *queries, "-k", str(HITS), "--picture", str(sheet)],
    ):
        assert cli.main(arguments) == cli.DONE
    return images.read(sheet)


def main():
    target = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else PICTURE
    with tempfile.TemporaryDirectory() as folder:
        drawn = picture(pathlib.Path(sys.argv[1]), pathlib.Path(folder))
    target.write_bytes(images.to_jpeg(drawn))


if __name__ == "__main__":
    main()
