"""Copies of photos as people, chat programs and web sites make them: 26 edits of one photo each.

    python -m tests.bench.copies PHOTOS OUT [--photos 60] [--odd]

writes `OUT/original/SET_NAME.png` and, for each edit, `OUT/EDIT/SET_NAME.jpg`.
"""

import argparse
import io
import pathlib
import sys

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

SETS = {
    "landmarks": "landmarks/images",
    "grocery": "grocery",
    "clothing": "clothing10",
    "beer_labels": "beer_labels/db",
}
QUALITY = 90
SUFFIXES = (".jpg", ".jpeg", ".png")


def scaled(image, share):
    width, height = (max(1, round(side * share)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def compressed(image, quality, kind="JPEG"):
    stream = io.BytesIO()
    image.save(stream, kind, quality=quality)
    return Image.open(stream).convert("RGB")


def bordered(image, share, colour):
    return ImageOps.expand(image, round(min(image.size) * share), colour)


def cut(image, share):
    """Without `share` of each side, on all four."""
    across, down = (round(side * share) for side in image.size)
    return image.crop((across, down, image.width - across, image.height - down))


def turned_a_little(image, degrees):
    return image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor="black")


def with_noise(image):
    noise = np.random.default_rng(0).normal(0, 12, (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def warm(image):
    return Image.fromarray(np.clip(np.asarray(image) * [1.15, 1, 0.8], 0, 255).astype(np.uint8))


def lettered(image, box, words, ink, ground=None):
    """Words in a box of (left, top, right, bottom), as shares of the sides."""
    left, top, right, bottom = (
        round(share * side) for share, side in zip(box, image.size * 2, strict=True)
    )
    layer = Image.new("RGBA", image.size)
    draw = ImageDraw.Draw(layer)
    if ground is not None:
        draw.rectangle((left, top, right, bottom), ground)
    font = ImageFont.load_default((bottom - top) * 0.7)
    draw.text(((left + right) / 2, (top + bottom) / 2), words, ink, font, anchor="mm")
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def captioned_below(image):
    strip = Image.new("RGB", (image.width, round(image.height * 1.12)), "white")
    strip.paste(image, (0, 0))
    return lettered(strip, (0, 0.9, 1, 1), "when it is Monday", "black")


def stretched(image):
    return image.resize((round(image.width * 1.15), image.height), Image.Resampling.LANCZOS)


TURNED = {
    "mirrored": ImageOps.mirror,
    "turned 90": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "turned 180": lambda image: image.transpose(Image.Transpose.ROTATE_180),
    "turned 270": lambda image: image.transpose(Image.Transpose.ROTATE_270),
}
EDITS = {
    "half size": lambda image: scaled(image, 1 / 2),
    "quarter size": lambda image: scaled(image, 1 / 4),
    "JPEG 30": lambda image: compressed(image, 30),
    "JPEG 10": lambda image: compressed(image, 10),
    "WebP 40": lambda image: compressed(image, 40, "WEBP"),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.4),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.5),
    "warm": warm,
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(max(image.size) / 200)),
    "noise": with_noise,
    "white border": lambda image: bordered(image, 0.08, "white"),
    "black border": lambda image: bordered(image, 0.08, "black"),
    "caption below": captioned_below,
    "caption over": lambda image: lettered(
        image, (0, 0.8, 1, 0.94), "good morning", "white", (0, 0, 0, 150)
    ),
    "watermark": lambda image: lettered(image, (0, 0.4, 1, 0.6), "SAMPLE", (255, 255, 255, 140)),
    "cut 5 %": lambda image: cut(image, 0.05),
    "cut 10 %": lambda image: cut(image, 0.10),
    "turned 2": lambda image: turned_a_little(image, 2),
    "turned 5": lambda image: turned_a_little(image, 5),
    "stretched": stretched,
    **TURNED,
}


def photos(folder, number, odd=False):
    """Photos of each set, spread over it: list of (name, path); `odd` gives others."""
    chosen = []
    for name, inside in SETS.items():
        files = sorted(
            path
            for path in (pathlib.Path(folder) / inside).rglob("*")
            if path.suffix.lower() in SUFFIXES
        )
        places = np.linspace(0, len(files) // 2 - 1, min(number, len(files) // 2)).astype(int)
        chosen += [(f"{name}_{place:04}", files[2 * place + odd]) for place in places]
    return chosen


def opened(path):
    """A photo in RGB, on white where it is transparent."""
    image = Image.open(path).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def write(chosen, out):
    """Write originals and copies, unless they are there."""
    for kind in ("original", *EDITS):
        (out / kind).mkdir(parents=True, exist_ok=True)
    for name, path in chosen:
        original = out / "original" / f"{name}.png"
        if original.exists():
            continue
        image = opened(path)
        for kind, edit in EDITS.items():
            edit(image).save(out / kind / f"{name}.jpg", quality=QUALITY)
        image.save(original)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--photos", type=int, default=60, help="of each set")
    parser.add_argument("--odd", action="store_true", help="other photos of the same sets")
    options = parser.parse_args()
    write(photos(options.folder, options.photos, options.odd), options.out)


if __name__ == "__main__":
    sys.exit(main())
