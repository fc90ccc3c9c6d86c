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

from IPython.display import Image, display

from hashnet import images
from hashnet.images import sheets
from hashnet.retrieval.index import Index
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import Query
from hashnet.samples import fashion_mnist
from hashnet.train import unsupervised

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
paths = [work / f"{number:03}.png" for number in range(len(photos))]
for path, photo in zip(paths, photos, strict=True):
    images.write(path, photo)
print(len(paths), "files of", photos.shape[1:], "pixels and channels")

# %% [markdown]
# ## A bundle and an index
#
# A *bundle* is the network with codes fitted to these photos. An *index* holds the code and the
# feature of every photo, and carries its bundle, so that it can be searched on its own. On the
# command line both are `hashnet index photos.index FOLDER`.

# %%
unsupervised.fit_bundle(work / "bundle", paths, num_bits=64)
index = Index.create(work / "photos.index", work / "bundle")
report = index.add(paths, ids=[path.name for path in paths], labels=labels)
print(report.added, "added,", len(report.problems), "could not be read")

# %% [markdown]
# ## Search
#
# Queries are pictures that the index does not hold. The *pool* is what has few differing bits;
# the hits are the pool's best by the distance of features. So few photos would all be in the pool
# by default; `pool=30` keeps it small. A hit says both: bits apart, which is
# coarse, and distance, which is fine.

# %%
queries = []
for number, photo in enumerate(sample["test_images"][:4, ..., None].repeat(3, axis=3)):
    queries.append(work / f"query{number}.png")
    images.write(queries[-1], photo)
engine = Engine(index)
results = [engine.search(query, Query(k=5, pool=30)) for query in queries]
for result, truth in zip(results, sample["test_labels"], strict=False):
    right = sum(hit.label == truth for hit in result.hits)
    print(
        f"{truth}: {right} of {len(result.hits)} hits are of this class; fewer than "
        f"{result.threshold} bits apart: {result.pool} photos; {result.milliseconds}"
    )

# %%
shown = [(query, result.hits) for query, result in zip(queries, results, strict=True)]
display(Image(images.to_png(sheets.contact_sheet(shown))))

# %% [markdown]
# ## What next
#
# `looking_at_codes` opens the codes, `train_on_your_photos` teaches them classes, `delf_matches`
# confirms that two pictures show the same thing, and `where_it_fails` shows what to expect less
# of.
