# %% [markdown]
# # Quickstart
#
# Photos that nobody has labelled become searchable: a pretrained network gives features, codes
# are learned from the photos alone, a query's code finds a pool and its feature ranks it.
# This runs on the bundled sample of Fashion-MNIST; put a folder of your own photos instead.

# %%
import pathlib
import tempfile

from hashnet import images, pictures
from hashnet.samples import fashion_mnist
from retrieval.engine import Engine
from retrieval.index import Index
from train import unlabelled

work = pathlib.Path(tempfile.mkdtemp())

# %% [markdown]
# Five hundred pictures, as files. Their classes are used below only to look at the answer.

# %%
sample = fashion_mnist()
paths, labels = [], sample["train_labels"][:500].tolist()
for number, picture in enumerate(sample["train_images"][:500]):
    paths.append(work / f"{number:03}.png")
    images.write(paths[-1], picture[..., None].repeat(3, axis=2))

# %% [markdown]
# A *bundle* is the network with codes fitted to these photos; an *index* carries its bundle.

# %%
unlabelled.fit_bundle(work / "bundle", paths, num_bits=64)
index = Index.create(work / "photos.index", work / "bundle")
index.add([path.name for path in paths], paths, labels=labels)

# %%
query = work / "query.png"
images.write(query, sample["test_images"][0][..., None].repeat(3, axis=2))
result = Engine(index).search(query, k=5)
print(f"a {sample['test_labels'][0]}: pool of {result.pool}, {result.milliseconds}")
for hit in result.hits:
    print(hit.label, hit.bits_apart, "bits apart, distance", round(hit.distance, 3))

# %%
sheet = pictures.contact_sheet([(query, result.hits)])
images.write(work / "hits.png", sheet)
print(work / "hits.png", sheet.shape)
