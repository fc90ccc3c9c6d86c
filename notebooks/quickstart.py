# %% [markdown]
# # Quickstart
#
# Photos that nobody has labelled become searchable: a pretrained network gives features, codes
# are learned from the photos alone, a query's code finds a pool and its feature ranks it. This
# runs on the bundled sample of Fashion-MNIST, small grey pictures of clothes; put a folder of
# your own photos instead.

# %%
import pathlib
import tempfile

from IPython.display import display

import hashnet
from hashnet import images
from hashnet.samples import fashion_mnist

scratch = tempfile.TemporaryDirectory()
work = pathlib.Path(scratch.name)

# %% [markdown]
# ## Photos
#
# Three hundred pictures, as files. Their classes are used below only to look at the answer.

# %%
sample = fashion_mnist()
photos = sample["train_images"][:300, ..., None].repeat(3, axis=3)
labels = sample["train_labels"][:300].tolist()
folder = work / "photos"
for number, (photo, label) in enumerate(zip(photos, labels, strict=True)):
    path = folder / label / f"{number:03}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    images.write(path, photo)
print(len(photos), "files of", photos.shape[1:], "pixels and channels")

# %% [markdown]
# ## An index
#
# An *index* holds the code and the feature of every photo, and carries the *bundle* that made
# them: the network, with codes fitted to these photos. It can be searched on its own, and follows
# its folder: run again, only what is new or has changed is encoded. On the command line this is
# `hashnet index photos.index photos --label-from folder`.

# %%
index = hashnet.Index.of_photos(work / "photos.index", folder, bits=64, label_from_folder=True)
print(index.report.added, "added,", len(index.report.problems), "could not be read")

# %% [markdown]
# ## Search
#
# Queries are pictures that the index does not hold. The *pool* is what has few differing bits;
# the hits are the pool's best by the distance of features. So few photos would all be in the pool
# by default; `pool=30` keeps it small. A hit says both: `bits_apart`, the Hamming distance of the
# codes, which is coarse, and `distance`, which is fine.

# %%
queries = []
for number, photo in enumerate(sample["test_images"][:4, ..., None].repeat(3, axis=3)):
    queries.append(work / f"query{number}.png")
    images.write(queries[-1], photo)
results = index.search(queries, k=5, pool=30)
for result, truth in zip(results, sample["test_labels"], strict=False):
    right = sum(hit.label == truth for hit in result)
    print(
        f"{truth}: {right} of {len(result)} hits are of this class; Hamming distance below "
        f"{result.threshold}: {result.pool} photos; {result.milliseconds}"
    )

# %%
for result in results:
    display(result)

# %% [markdown]
# ## What next
#
# `looking_at_codes` opens the codes, `train_on_your_photos` teaches them classes, `delf_matches`
# verifies that two pictures show the same thing, and `where_it_fails` shows what to expect less
# of.
