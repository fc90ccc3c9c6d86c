# %% [markdown]
# # DELF matches
#
# A feature of the whole picture says what it is like. Local features say which parts of two
# pictures are the same thing: places that match, and one geometry that explains them together.
# This notebook compares the two extractors of local features, DELF and SIFT, on pages of a
# catalogue and photos of these pages. The photos are made here, so it is known where every place
# of a page lies in its photo, and matches can be checked instead of believed.

# %%
import pathlib
import tempfile

import cv2
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image, display

import hashnet
from hashnet import images
from hashnet.images import sheets
from hashnet.retrieval.search.verify import MATCHING, verify_all
from hashnet.samples import fashion_mnist

scratch = tempfile.TemporaryDirectory()
work = pathlib.Path(scratch.name)

# %% [markdown]
# ## Pages
#
# Each page shows twelve pieces of clothing of the bundled sample, printed dark on white with a
# line of text below. All pages have the same layout and all lines of text the same letters:
# look-alikes on purpose, for a page must be told from the others by what is on it.

# %%
sample = fashion_mnist()
garments, labels = 255 - sample["train_images"], sample["train_labels"]
pages = []
for first in range(0, 96, 12):
    rows = []
    for start in range(first, first + 12, 4):
        tiles = []
        for number in range(start, start + 4):
            tile = np.full((132, 112, 3), 255, np.uint8)
            tile[:112] = images.resize(garments[number, ..., None].repeat(3, axis=2), (112, 112))
            line = images.text(f"{labels[number]} no. {number}", 14)[:, :112]
            tile[114:128, : line.shape[1]] -= line[..., None]
            tiles.append(tile)
        rows.append(np.concatenate(tiles, axis=1))
    pages.append(np.concatenate(rows))
paths = [work / f"page{number}.png" for number in range(len(pages))]
for path, page in zip(paths, pages, strict=True):
    images.write(path, page)
height, width = pages[0].shape[:2]
print(len(pages), "pages of", height, "x", width, "pixels")

# %% [markdown]
# ## Photos of pages
#
# A photo shows its page on a brown desk: askew, out of the middle, darker, blurred, and with
# noise. `views` keeps the map from page to photo, (column, row) as OpenCV wants it.

# %%
rng = np.random.default_rng(0)
corners = np.float32([[0, 0], [width, 0], [width, height], [0, height]])
photos, views = [], []
for page in pages:
    seen = (corners + (50, 40) + rng.uniform(-45, 45, (4, 2))).astype(np.float32)
    view = cv2.getPerspectiveTransform(corners, seen)
    photo = cv2.warpPerspective(page, view, (560, 480), borderValue=(110, 80, 50))
    photo = cv2.GaussianBlur(photo, (0, 0), 0.8) * rng.uniform(0.6, 0.9)
    photo = np.clip(photo + rng.normal(0, 5, photo.shape), 0, 255).astype(np.uint8)
    photos.append(photo)
    views.append(view)
padded = np.pad(pages[0], ((0, 480 - height), (0, 8), (0, 0)), constant_values=255)
display(Image(images.to_png(np.concatenate([padded, photos[0]], axis=1))))

# %% [markdown]
# ## Two indexes
#
# `local=` keeps local features beside code and feature. Eight pages are too few to learn codes
# from, so what comes along about other photos helps out; on the command line this is
# `hashnet index pages.index pages --local delf`.

# %%
indexes = {}
for name in ("delf", "sift"):
    indexes[name] = hashnet.Index.of_photos(work / f"{name}.index", paths, bits=64, local=name)
    print(name, MATCHING[name])
# An id is the name of the folder that was indexed, and the path below it.
ids = [f"{path.parent.name}/{path.name}" for path in paths]

# %% [markdown]
# ## Matches, drawn
#
# `search(verify=True)` finds by feature and puts first what at least `min_inliers` matches verify.
# Photo on the left, page on the right: its own page, then the page that comes second.

# %%
query = photos[0]
for name, index in indexes.items():
    hits = index.search(query, k=2, verify=True)
    matched = [(hit, index.engine.match(query, hit.id)) for hit in hits]
    sheet = sheets.match_sheet((query, hit, one.query_yx, one.yx) for hit, one in matched)
    print(name, "- hits:", ", ".join(f"{hit.path} with {hit.inliers} inliers" for hit in hits))
    display(Image(images.to_png(sheet)))

# %% [markdown]
# ## Every photo against every page
#
# Inliers on the diagonal are what should be found; all others are false. The error is the
# distance, in pixels of the photo, from where an inlier was seen to where the page's place truly
# lies in the photo.

# %%
stored = {}
for name, index in indexes.items():
    snapshot = index.engine.snapshot
    stored[name] = snapshot.local_features(snapshot.rows(ids))
inliers, errors = {}, {}
for name, index in indexes.items():
    counts, apart = [], []
    for row, (photo, view) in enumerate(zip(photos, views, strict=True)):
        found = verify_all(index.extractor.extract(photo), stored[name], MATCHING[name])
        counts.append([one.inliers for one in found])
        true = cv2.perspectiveTransform(found[row].yx[None, :, ::-1], view)[0, :, ::-1]
        apart.append(np.linalg.norm(true - found[row].query_yx, axis=1))
    inliers[name], errors[name] = np.array(counts), np.concatenate(apart)

figure, both = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for axes, (name, counts) in zip(both, inliers.items(), strict=True):
    picture = axes.imshow(counts, cmap="viridis")
    axes.set(title=f"{name}, inliers", xlabel="page", ylabel="photo")
    figure.colorbar(picture, ax=axes)
plt.show()

# %%
own = np.eye(len(pages), dtype=bool)
for name, counts in inliers.items():
    least = MATCHING[name].min_inliers
    first = (counts.argmax(axis=1) == np.arange(len(pages))).sum()
    print(
        f"{name}: own page {counts[own].min()} to {counts[own].max()} inliers, other pages "
        f"{counts[~own].min()} to {counts[~own].max()}; own page first for {first} of {len(pages)}"
        f"\n      from {least} inliers on: {(counts[own] >= least).sum()} of {own.sum()} own pages "
        f"verified, and {(counts[~own] >= least).sum()} of {(~own).sum()} others, wrongly"
        f"\n      error of a right inlier: median {np.median(errors[name]):.1f} pixels, ninetieth "
        f"percentile {np.percentile(errors[name], 90):.1f}"
    )
by_feature = [result[0].id for result in indexes["sift"].search(photos, k=1)]
right = sum(found == own for found, own in zip(by_feature, ids, strict=True))
print(f"by feature alone, nothing verified: own page first for {right} of {len(pages)}")
finer = min(errors, key=lambda name: np.median(errors[name]))
print(f"The finer places are those of {finer}.")

# %% [markdown]
# Read the second line of each: `min_inliers` is one number for all collections, and pages that
# share layout and letters are harder than most. Where other pages pass too, the order by
# inliers may still be right, but "the same thing" is then a claim about a part of the page.
#
# ## Where it fails: turned, small, seen from the side
#
# One page, shown upright and ever more turned; ever smaller; and ever more from the side. The
# dashed lines are `min_inliers`.

# %%
turns, sizes, tilts = (0, 15, 30, 45, 90, 180), (1, 0.5, 0.25, 0.125), (0, 0.2, 0.4, 0.6, 0.8)
page, centre = pages[1], (width / 2, height / 2)
series = {"degrees turned": [], "part of the size": [], "seen from the side": []}
for turn in turns:
    view = cv2.getRotationMatrix2D(centre, turn, 0.7)
    seen = cv2.warpAffine(page, view, (width, height), borderValue=(110, 80, 50))
    series["degrees turned"].append((turn, seen))
for size in sizes:
    seen = images.resize(page, (round(height * size), round(width * size)))
    series["part of the size"].append((size, seen))
for tilt in tilts:
    squeezed = corners + np.float32(
        [[0, 0], [-tilt * width, tilt * height / 3], [-tilt * width, -tilt * height / 3], [0, 0]]
    )
    view = cv2.getPerspectiveTransform(corners, squeezed)
    seen = cv2.warpPerspective(page, view, (width, height), borderValue=(110, 80, 50))
    series["seen from the side"].append((tilt, seen))

figure, axes_of = plt.subplots(1, 3, figsize=(11, 3), layout="constrained")
for axes, (title, views_of_page) in zip(axes_of, series.items(), strict=True):
    for color, (name, index) in zip(("C0", "C1"), indexes.items(), strict=True):
        extractor, least = index.extractor, MATCHING[name].min_inliers
        counts = [
            verify_all(extractor.extract(seen), stored[name][1:2], MATCHING[name])[0].inliers
            for _, seen in views_of_page
        ]
        axes.plot([value for value, _ in views_of_page], counts, "o-", color=color, label=name)
        axes.axhline(least, color=color, linestyle="dashed", linewidth=0.8)
        lost = [
            value for (value, _), count in zip(views_of_page, counts, strict=True) if count < least
        ]
        print(f"{title}, {name}: {counts}; not verified: {lost or 'none'}")
    axes.set(xlabel=title, ylabel="inliers")
    axes.legend()
plt.show()

# %%
shown = [views_of_page[-1][1] for views_of_page in series.values()]
tiles = [
    np.pad(
        seen,
        ((0, height - seen.shape[0]), (0, width + 8 - seen.shape[1]), (0, 0)),
        constant_values=255,
    )
    for seen in shown
]
print("the last of each:", ", ".join(series))
display(Image(images.to_png(np.concatenate(tiles, axis=1))))

# %% [markdown]
# DELF's descriptors come from a network that has seen the world upright; SIFT turns each place to
# its own strongest direction first. Both need pixels: DELF because its places lie far apart, SIFT
# because print that is blurred away has no corners.
#
# ## Where it misleads: the same print on another page
#
# A new page keeps the upper row of an old one; all else is different. Is it the same page?

# %%
mixture = pages[2].copy()
mixture[: height // 3] = pages[1][: height // 3]
for name, index in indexes.items():
    found = verify_all(index.extractor.extract(mixture), stored[name], MATCHING[name])
    passed = [
        f"page{row} ({one.inliers})"
        for row, one in enumerate(found)
        if one.inliers >= MATCHING[name].min_inliers
    ]
    print(f"{name}: verified {', '.join(passed)}")
one = indexes["sift"].engine.match(mixture, ids[1])
shared = np.mean(one.yx[:, 0] < height / 3)
print(f"{shared:.0%} of the places that match page1 lie in the row that is shared")
hit = hashnet.Hit(ids[1], str(paths[1]), None, 0, 0.0, one.inliers)
display(Image(images.to_png(sheets.match_sheet([(mixture, hit, one.query_yx, one.yx)]))))

# %% [markdown]
# Inliers count what agrees, and nothing counts what does not: one row in common is enough, and
# where further pages pass, lines of text and layout were. Who needs to know which parts
# differ looks at where the places lie.
#
# ## Where it has nothing to say: one small picture
#
# A single piece of clothing, as small as the sample has it, against the page that shows it.

# %%
alone = garments[12, ..., None].repeat(3, axis=2)
for name, index in indexes.items():
    features = index.extractor.extract(alone)
    found = verify_all(features, stored[name], MATCHING[name])
    print(
        f"{name}: {len(features)} local features, {found[1].inliers} inliers with its own page, "
        f"{max(one.inliers for one in found)} with the best page"
    )
print("local features of a whole page:", {name: len(stored[name][1].yx) for name in stored})

# %% [markdown]
# ## Which one to take
#
# The figures above are for flat print, SIFT's own ground. Take `sift` for print, labels, pages
# and screens, and for anything that may be turned; try `delf` where things have depth, few
# corners, or light that changes. Both verify what the code and the feature have found already:
# an image that is not among the nearest is never verified.
