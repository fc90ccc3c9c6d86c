# %% [markdown]
# # Looking at codes
#
# A code is what a search compares first, so what its bits say decides what can be found. This
# notebook opens codes of two kinds, made of the very same features: those that a hash layer
# learned from labels, and those that were fitted to photos without labels. It shows what one bit
# asks, how evenly bits split the photos, how much they repeat each other, how far apart codes
# lie, and which pictures end up in the wrong place.

# %%
import itertools
import pathlib
import tempfile

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image, display

import hashnet
from hashnet import codes, images, metrics
from hashnet.samples import fashion_mnist
from hashnet.train import data, unsupervised_codes

scratch = tempfile.TemporaryDirectory()
work = pathlib.Path(scratch.name)
num_bits = 48

# %% [markdown]
# ## Three sets of photos
#
# The network with labels is trained on the first. The database is the second and the queries are
# the third: the training has seen neither, so nothing below was learned by heart.

# %%
sample = fashion_mnist()
rgb = sample["train_images"][..., None].repeat(3, axis=3)
labels = sample["train_labels"]
database, database_labels = rgb[1000:2000], labels[1000:2000]
queries = sample["test_images"][:300, ..., None].repeat(3, axis=3)
query_labels = sample["test_labels"][:300]
names = sorted(set(labels.tolist()))

trained = hashnet.train(
    data.from_arrays(rgb[:1000], labels[:1000]),
    work / "bundle",
    bits=num_bits,
    image_size=64,
    head_epochs=8,
    epochs=0,
    batch=32,
    verbose=False,
)
encoder = hashnet.Encoder(trained.bundle)
found, asked = encoder.encode(database), encoder.encode(queries)
free = unsupervised_codes.fit(found.features, num_bits)

bits = {
    "with labels": codes.unpack(found.codes, num_bits),
    "without labels": free.bits(found.features),
}
query_bits = {
    "with labels": codes.unpack(asked.codes, num_bits),
    "without labels": free.bits(asked.features),
}
print(len(database), "photos and", len(queries), "queries,", num_bits, "bits each")

# %% [markdown]
# ## From latent to code
#
# H gives each bit a number between nought and one, the *latent*. One half and more is a one;
# eight bits are packed into a byte, the first bit highest.

# %%
figure, (left, right) = plt.subplots(
    1, 2, figsize=(9, 2.4), width_ratios=[1, 4], layout="constrained"
)
left.imshow(queries[0])
left.set(title=query_labels[0], xticks=[], yticks=[])
right.bar(np.arange(num_bits), asked.latents[0], color=np.where(asked.latents[0] < 0.5, "C7", "C0"))
right.axhline(0.5, color="black", linewidth=0.8)
right.set(xlabel="bit", ylabel="latent", title=f"code {asked.codes[0].tobytes().hex(' ')}")
plt.show()

# %% [markdown]
# ## What a bit means
#
# Nobody told a bit what to ask. How often it is one in each class shows what it asks: a cell near
# nought or one separates whole classes, a cell in between looks at something inside a class.

# %%
share = {
    kind: np.array([own[database_labels == name].mean(axis=0) for name in names])
    for kind, own in bits.items()
}
figure, both = plt.subplots(1, 2, figsize=(11, 3.2), sharey=True, layout="constrained")
for axes, (kind, cells) in zip(both, share.items(), strict=True):
    picture = axes.imshow(cells, cmap="RdBu_r", vmin=0, vmax=1, aspect="auto")
    axes.set(title=kind, xlabel="bit", yticks=np.arange(len(names)), yticklabels=names)
figure.colorbar(picture, ax=both, label="share of ones")
plt.show()
for kind, cells in share.items():
    decided = np.mean((cells < 0.1) | (cells > 0.9))
    print(f"{kind}: {decided:.0%} of the cells are below a tenth or above nine tenths")

# %% [markdown]
# Labels push every row towards one code that stands for its class; the figures say how far this
# short training has come. Without labels there are no such codes, and a bit may cut through a
# class. Below are four bits without labels, each by the photos that are most surely a nought
# (left) and most surely a one (right).

# %%
surely = np.argsort(found.features @ free.kernel + free.bias, axis=0)
strips = []
for bit in range(4):
    ends = np.concatenate([surely[:8, bit], surely[-8:, bit]])
    tiles = [images.resize(database[row], (56, 56)) for row in ends]
    tiles.insert(8, np.full((56, 20, 3), 255, np.uint8))
    strips.append(
        np.pad(np.concatenate(tiles, axis=1), ((0, 6), (0, 0), (0, 0)), constant_values=255)
    )
display(Image(images.to_png(np.concatenate(strips))))
for bit in range(4):
    ordered = np.argsort(share["without labels"][:, bit])
    print(f"bit {bit}: seldom one in {names[ordered[0]]}, mostly one in {names[ordered[-1]]}")

# %% [markdown]
# ## Balance
#
# A bit that is one in half of the photos tells the most; one that hardly ever changes tells
# nothing and costs as much. The entropy of a bit is one for the first and nought for the second.

# %%
plt.figure(figsize=(7, 2.6), layout="constrained")
for kind, own in bits.items():
    ones = own.mean(axis=0)
    plt.plot(np.sort(ones), label=kind)
    entropy = np.nan_to_num(-ones * np.log2(ones) - (1 - ones) * np.log2(1 - ones))
    print(
        f"{kind}: from {ones.min():.2f} to {ones.max():.2f} ones a bit, entropy "
        f"{entropy.mean():.2f} in the mean, {entropy.min():.2f} for the most lopsided bit"
    )
plt.axhline(0.5, color="black", linewidth=0.8)
plt.gca().set(xlabel="bits, ordered", ylabel="share of ones", ylim=(0, 1))
plt.legend()
plt.show()

# %% [markdown]
# ## Correlation
#
# Balanced bits are worth little if all ask the same. Correlation shows it, and so does counting:
# how many different codes are there among the photos? Photos that share a code cannot be told
# apart by it, which is what labels ask for within a class, and what a ranking then lacks.

# %%
figure, both = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
off_diagonal = ~np.eye(num_bits, dtype=bool)
for axes, (kind, own) in zip(both, bits.items(), strict=True):
    centred = own - own.mean(axis=0)
    lengths = np.maximum(np.linalg.norm(centred, axis=0), 1e-12)
    correlation = (centred.T @ centred) / np.outer(lengths, lengths)
    picture = axes.imshow(correlation, cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set(title=kind, xlabel="bit", ylabel="bit")
    print(
        f"{kind}: mean size of the correlation {np.abs(correlation[off_diagonal]).mean():.2f}, "
        f"{len(np.unique(own, axis=0))} different codes among {len(own)} photos"
    )
figure.colorbar(picture, ax=both)
plt.show()

# %% [markdown]
# ## How far apart
#
# Hamming distances between queries and database, of pairs of one class and of pairs of two. The
# less the two hills overlap, the better the code alone finds a class; the mAP says it in one
# number, with the order of ties taken as chance. Exact features, without any code, stand beside.

# %%
figure, both = plt.subplots(1, 2, figsize=(10, 3), layout="constrained")
for axes, kind in zip(both, bits, strict=True):
    scores = metrics.evaluate_codes(
        codes.pack(query_bits[kind]),
        query_labels,
        codes.pack(bits[kind]),
        database_labels,
        num_bits=num_bits,
    )
    same = scores.relevant_at_distance
    other = scores.items_at_distance - same
    apart = np.arange(num_bits + 1)
    for counts, name in ((same, "same class"), (other, "other class")):
        axes.bar(apart, counts / counts.sum(), width=1, alpha=0.6, label=name)
    axes.set(title=kind, xlabel="Hamming distance", ylabel="share of the pairs")
    axes.legend()
    print(
        f"{kind}: {np.average(apart, weights=same):.1f} bits of distance in the same class, "
        f"{np.average(apart, weights=other):.1f} in another; mAP {scores.map_all.expected:.3f}, "
        f"between {scores.map_all.worst:.3f} and {scores.map_all.best:.3f} by the order of ties"
    )
plt.show()
exact = metrics.evaluate_features(asked.features, query_labels, found.features, database_labels)
print(f"exact features: mAP {exact.map_all.expected:.3f}")

# %% [markdown]
# ## How firm a bit is
#
# A bit whose latent is close to one half may flip when the picture hardly changes. Here every
# query is moved by one pixel to the right, and the flips are counted by how far from one half
# the latent was.

# %%
moved = encoder.encode(np.roll(queries, 1, axis=2))
flipped = codes.unpack(moved.codes, num_bits) != query_bits["with labels"]
margin = np.abs(asked.latents - 0.5)
edges = np.linspace(0, 0.5, 6)
for low, high in itertools.pairwise(edges):
    inside = (margin >= low) & (margin <= high)
    if inside.any():
        print(
            f"latent {low:.1f} to {high:.1f} from one half: {inside.mean():6.1%} of the bits, of "
            f"which {flipped[inside].mean():6.1%} flip"
        )
flips = flipped.sum(axis=1)
print(f"a query moves by {flips.mean():.1f} bits in the mean, {flips.max()} at most")

# %% [markdown]
# This is why a pool is wider than the nearest code, and why features rank it.
#
# ## Classes that codes confuse
#
# Mean Hamming distance between the queries of one class (rows) and the photos of another (columns),
# with labels. A small number off the diagonal is a pair of classes that codes confuse.

# %%
apart = np.bitwise_count(asked.codes[:, None] ^ found.codes[None]).sum(axis=2, dtype=int)
between = np.array(
    [[apart[query_labels == a][:, database_labels == b].mean() for b in names] for a in names]
)
figure, axes = plt.subplots(figsize=(5.4, 4.6), layout="constrained")
picture = axes.imshow(between, cmap="viridis")
axes.set(xticks=np.arange(len(names)), yticks=np.arange(len(names)), yticklabels=names)
axes.set_xticklabels(names, rotation=60, ha="right")
figure.colorbar(picture, label="Hamming distance")
plt.show()
off = np.where(np.eye(len(names), dtype=bool), np.inf, between)
nearest = np.argsort(off, axis=None)[:6]
for a, b in zip(*np.unravel_index(nearest, off.shape), strict=True):
    print(
        f"{names[a]} and {names[b]}: {between[a, b]:.1f} bits; within {names[a]}: "
        f"{between[a, a]:.1f}"
    )

# %% [markdown]
# ## Failures, as pictures
#
# In the upper half, pairs of two classes at the smallest Hamming distance, which a search mixes up.
# In the lower half, pairs of one class at the largest, which it does not find. Each column of a
# half is a query and, below it, a photo of the database.

# %%
same_class = query_labels[:, None] == database_labels[None]
nearest_other = np.where(same_class, num_bits + 1, apart)
farthest_own = np.where(same_class, apart, -1)
figure, grid = plt.subplots(4, 6, figsize=(10, 7), layout="constrained")
halves = (
    (grid[:2], nearest_other.argmin(axis=1), np.argsort(nearest_other.min(axis=1))),
    (grid[2:], farthest_own.argmax(axis=1), np.argsort(-farthest_own.max(axis=1))),
)
for half, photo_of, order in halves:
    for (above, below), query in zip(half.T, order, strict=False):
        photo = photo_of[query]
        above.imshow(queries[query])
        above.set_title(query_labels[query], fontsize=9)
        below.imshow(database[photo])
        below.set_title(f"{database_labels[photo]}, {apart[query, photo]} bits", fontsize=9)
for axes in grid.flat:
    axes.set_axis_off()
plt.show()

# %%
nearest_own = np.where(same_class, apart, num_bits + 1).min(axis=1)
mistaken = nearest_other.min(axis=1) <= nearest_own
print(
    f"For {mistaken.mean():.0%} of the queries a photo of another class is as near as the nearest "
    "of their own. By class:"
)
for name in names:
    print(f"  {name:10} {mistaken[query_labels == name].mean():4.0%} of its queries")
