# %% [markdown]
# # Train on your photos
#
# Photos that lie in one folder for each class teach the network which differences matter. H, the
# layer that the code is made of, and F8, the classifier on top of it, learn on features of the
# pretrained backbone; then the photos are indexed, searched and the index is measured. Schedule
# and pictures are small here, so that all of it takes a minute.

# %%
import pathlib
import tempfile

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image, display

import hashnet
from hashnet import images
from hashnet.images import sheets
from hashnet.samples import fashion_mnist

scratch = tempfile.TemporaryDirectory()
work = pathlib.Path(scratch.name)

# %% [markdown]
# ## Class folders
#
# `photos/CLASS/*` to train on and to search, `queries/CLASS/*` to measure with. No picture is in
# both. With photos of your own, this cell is where you give their folders instead.

# %%
sample = fashion_mnist()
photos, queries = work / "photos", work / "queries"
for folder, part, count in ((photos, "train", 700), (queries, "test", 200)):
    pixels = sample[f"{part}_images"][:count, ..., None].repeat(3, axis=3)
    for number, (photo, label) in enumerate(zip(pixels, sample[f"{part}_labels"], strict=False)):
        path = folder / label / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        images.write(path, photo)
for label in sorted(photos.iterdir()):
    print(f"{label.name:12} {len(list(label.iterdir())):4} photos")

# %% [markdown]
# ## Training
#
# `epochs=0` leaves the backbone as it is: features are computed once, and H and F8 learn on them
# in seconds. A fifth of the photos is kept apart to measure mAP after each epoch. The same on
# the command line: `hashnet train photos --bundle bundle --image-size 64 --head-epochs 8
# --epochs 0 --validation 0.2`. For results that count, take the recipe `photos`, which goes on to
# train the whole network.

# %%
trained = hashnet.train(
    photos,
    work / "bundle",
    bits=48,
    image_size=64,
    head_epochs=8,
    epochs=0,
    validation=0.2,
    batch=32,
    verbose=False,
)
print(f"{trained.minutes:.1f} minutes, {len(trained.problems)} photos left out")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
epochs = [one["epoch"] for one in trained.history]
left.plot(epochs, [one["loss"] for one in trained.history], "o-")
left.set(xlabel="epoch", ylabel="loss")
right.plot(epochs, [one["validation_map"] for one in trained.history], "o-")
right.set(xlabel="epoch", ylabel="mAP, photos kept apart")
plt.show()

# %% [markdown]
# ## Index and search
#
# An index follows its folder: made again, it encodes only what is new or has changed.

# %%
place, bundle = work / "photos.index", work / "bundle"
first = hashnet.Index.of_photos(place, photos, bundle=bundle, label_from_folder=True).report
index = hashnet.Index.of_photos(place, photos, label_from_folder=True)
print(f"first: {first.added} added; again: {index.report.unchanged} unchanged")

# %%
shown = [min(label.iterdir()) for label in sorted(queries.iterdir())]
sheet = sheets.contact_sheet(zip(shown, index.search(shown, k=5, pool=40), strict=True))
display(Image(images.to_png(sheet)))

# %% [markdown]
# ## Evaluate
#
# The same queries against the same photos, by several ways of ranking:
#
# - `coarse`: the codes alone, and `coarse_to_fine`: the pool by features, what a search answers;
# - `float_f7`: the features alone, which is what there was before this training;
# - `class_id`: the class that F8 names, taken as a code; `class_probabilities`: all it knows;
# - `itq`: codes of the same length that were fitted to the features, without labels.
#
# The database is what was trained on, which flatters whatever has learned its labels: so read
# `coarse` beside `class_id`, not by itself. The mAP of `coarse_to_fine` is low by its nature: what
# is outside the pool is never found. Its first hits are what counts.

# %%
report = hashnet.evaluate(index, queries, query=hashnet.Query(pool=40))
print(f"{'':22} {'bits':>5} {'mAP':>6} {'precision at 10':>16}")
for name, row in report.rows.items():
    scores = row.evaluation
    bits = "" if row.bits is None else row.bits
    print(f"{name:22} {bits:>5} {scores.map_all.expected:6.3f} {scores.precision_at[10]:16.3f}")

# %%
maps = {name: row.evaluation.map_all.expected for name, row in report.rows.items()}
first_ten = {name: row.evaluation.precision_at[10] for name, row in report.rows.items()}
print(
    f"Training moved mAP from {maps['float_f7']:.3f} (features) to {maps['coarse']:.3f} (codes of "
    f"{report.coarse.bits} bits); without labels the same length reaches {maps['itq']:.3f}."
)
print(
    f"The class that the network names, as a code, reaches {maps['class_id']:.3f}: the codes are "
    f"{'better' if maps['coarse'] > maps['class_id'] else 'no better'} than that."
)
pool = report.rows["coarse_to_fine"].pool["mean"]
print(
    f"Of the first ten hits {first_ten['coarse']:.3f} are right by codes alone, "
    f"{first_ten['coarse_to_fine']:.3f} where features rank a pool of {pool:.0f}, and "
    f"{first_ten['float_f7']:.3f} where they rank everything."
)

# %% [markdown]
# This training did not touch the features, so they know nothing of the classes: the wider the
# pool, the more of what the codes have learned is lost again. An index of so few photos puts all
# of them into its pool by default; give a small `pool` or a `threshold` where H was trained and
# the backbone was not, or train the whole network.

# %% [markdown]
# ## Which classes are hard
#
# The mean over all queries hides that some classes are easy. Below, the mAP of each, and the two
# worst queries with what was found for them.

# %%
names = sorted(report.map_by_label, key=report.map_by_label.get)
plt.figure(figsize=(7, 3), layout="constrained")
plt.barh(names, [report.map_by_label[name] for name in names])
plt.xlabel("mAP of the codes, tie-aware")
plt.show()
print("hardest:", names[0], "and", names[1], "- easiest:", names[-1])

# %%
sheet = sheets.contact_sheet((example.query, example.hits[:5]) for example in report.worst[:2])
display(Image(images.to_png(sheet)))
for example in report.worst[:2]:
    counts = np.unique([hit.label for hit in example.hits], return_counts=True)
    print(example.label, "found", ", ".join(f"{n} {name}" for name, n in zip(*counts, strict=True)))

# %% [markdown]
# ## What was measured
#
# Every report says how it was made; with `hashnet evaluate INDEX QUERIES --report DIR` the same
# becomes a page with plots and pictures.

# %%
print(report.protocol)
