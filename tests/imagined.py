"""Weights of networks that were never trained, the same everywhere, from their names alone."""

import zlib

import numpy as np

from hashnet import images
from hashnet.network.torch_weights import StateDict


def imagined(name, shape):
    """float32 weights of a name and a shape, as PyTorch has them, that keep signals alive."""
    numbers = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)
    if name.endswith("running_var"):
        numbers = 1 + 0.2 * np.abs(numbers)
    elif len(shape) == 1:
        numbers = 0.1 * numbers + (0.5 if name.endswith("weight") else 0)
    else:
        numbers *= np.sqrt(2 / np.prod(shape[1:]))
    if name.endswith("final_proj.weight"):
        numbers *= 4  # so that some of what is compared is surely the same
    if name.endswith(("token.0.weight", "matchability.weight")):
        numbers *= 8  # so that some features are sure, and some of those have no match
    if name == "token_confidence.1.token.0.bias":
        numbers += 30  # so that no third layer is asked
    return numbers.astype(np.float32)


class Imagined(StateDict):
    """A checkpoint that has whatever it is asked for."""

    def __init__(self):
        super().__init__({}, "no network", "nowhere")

    def of_keras(self, name, shape, depthwise=False):
        order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(len(shape), tuple(range(len(shape))))
        self.tensors[name] = imagined(name, tuple(shape[axis] for axis in order))
        return super().of_keras(name, shape, depthwise)


def picture(height, width, seed=0):
    """uint8 `(height, width, 3)`: spots of all sizes."""
    rng = np.random.default_rng(seed)
    sums = np.zeros((height, width, 3))
    for size in (4, 8, 16, 32):
        spots = rng.integers(0, 256, (height // size, width // size, 3), dtype=np.uint8)
        sums += images.resize(spots, (height, width))
    return (sums / 4).astype(np.uint8)


def lightglue_shapes(inputs, dim, heads, layers):
    """dict of name to shape of the weights of LightGlue."""

    def linear(name, inner, outer):
        return {f"{name}.weight": (outer, inner), f"{name}.bias": (outer,)}

    shapes = {"posenc.Wr.weight": (dim // heads // 2, 2), **linear("input_proj", inputs, dim)}
    for layer in range(layers):
        for block, parts in (
            ("self_attn", {"Wqkv": 3 * dim, "out_proj": dim}),
            ("cross_attn", {"to_qk": dim, "to_v": dim, "to_out": dim}),
        ):
            within = f"transformers.{layer}.{block}"
            for part, outer in parts.items():
                shapes |= linear(f"{within}.{part}", dim, outer)
            shapes |= linear(f"{within}.ffn.0", 2 * dim, 2 * dim)
            shapes |= linear(f"{within}.ffn.3", 2 * dim, dim)
            shapes |= {f"{within}.ffn.1.{one}": (2 * dim,) for one in ("weight", "bias")}
        shapes |= linear(f"log_assignment.{layer}.matchability", dim, 1)
        shapes |= linear(f"log_assignment.{layer}.final_proj", dim, dim)
        if layer < layers - 1:
            shapes |= linear(f"token_confidence.{layer}.token.0", dim, 1)
    return shapes


# Numbers of the small LightGlues of tests: of a descriptor, within, and heads. The one of four
# layers leaves features out after the first and stops after the second.
SMALL = (12, 32, 2)
LAYERS = (2, 4)


def two_sides(seed, num=60):
    """Places and descriptors of two images, of which the second has most of the first's."""
    rng = np.random.default_rng(seed)
    yx = rng.uniform(0, 500, (num, 2)).astype(np.float32)
    descriptors = rng.normal(size=(num, SMALL[0])).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    order = rng.permutation(num)[: num - 7]
    moved = yx[order] * 0.8 + rng.normal(scale=2, size=(len(order), 2)) + 30
    noise = rng.normal(scale=0.05, size=(len(order), SMALL[0]))
    return yx, descriptors, moved.astype(np.float32), (descriptors[order] + noise).astype("f4")
