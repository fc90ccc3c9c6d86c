"""Made tests/golden/bundle_v1, once: a bundle that must open for ever, and that most tests run on.

Run it from the root of the repository, `python -m tests.golden.make_bundle FOLDER`. Its backbone
is the tiny one, whose filters are drawn at random; what they answer is scaled on coloured patterns
as the tests' photos show them, so that features tell one pattern from another and each bit is
about as often one as zero.
"""

import sys

import numpy as np

NUM_BITS = 32
CLASSES = ("one", "two", "three")


def patterns(count, size, rng):
    """Bands, checks, discs, ramps and blots in random colours, uint8 `(count, size, size, 3)`."""
    ys, xs = np.mgrid[0:size, 0:size]
    images = np.empty((count, size, size, 3), np.uint8)
    for image in images:
        period, angle = rng.uniform(4, 40), rng.uniform(0, np.pi)
        along = (xs * np.cos(angle) + ys * np.sin(angle)) / period
        across = (xs * np.sin(angle) - ys * np.cos(angle)) / period
        top, left = rng.uniform(0, size, 2)
        share = [
            np.floor(along) % 2,
            (np.floor(along) + np.floor(across)) % 2,
            (ys - top) ** 2 + (xs - left) ** 2 < (rng.uniform(0.1, 0.6) * size) ** 2,
            along * period / size,
            rng.uniform(size=(size // 4, size // 4)).repeat(4, 0).repeat(4, 1),
        ][rng.integers(5)]
        dark, bright = rng.uniform(0, 255, (2, 3))
        noisy = dark + (bright - dark) * share[..., None] + rng.normal(0, 8, image.shape)
        image[:] = np.clip(noisy, 0, 255)
    return images


def network():
    """The network and its `HashNetConfig`."""
    from keras import Model

    from hashnet.network.model import HashNetConfig, build

    config = HashNetConfig(backbone="tiny", num_bits=NUM_BITS, classes=CLASSES)
    model = build(config, weights=None)
    rng = np.random.default_rng(0)
    images = patterns(500, config.image_size, rng).astype(np.float32)

    def answers(layer):
        return np.asarray(Model(model.input, model.get_layer(layer).output)(images))

    for index in range(4):
        conv = model.get_layer(f"block{index}_conv")
        shape = conv.kernel.shape
        conv.set_weights([rng.normal(0, 1 / np.sqrt(np.prod(shape[:3])), shape)])
        found = answers(conv.name)
        ones = np.ones(shape[-1])
        spread = [found.mean(axis=(0, 1, 2)), found.var(axis=(0, 1, 2))]
        model.get_layer(f"block{index}_bn").set_weights([ones, 0 * ones, *spread])
    # One filter for what is bright, one for what is dark, and so on: half of each answer is cut.
    conv = model.get_layer("head_conv")
    kernel = rng.normal(0, 1, conv.kernel.shape)
    conv.set_weights([kernel, np.zeros(kernel.shape[-1])])
    found = np.maximum(answers("block3_relu") @ kernel[0, 0], 0)
    mean = np.median(answers("block3_relu") @ kernel[0, 0], axis=(0, 1, 2))
    kernel, bias = kernel / found.std(axis=(0, 1, 2)), -mean / found.std(axis=(0, 1, 2))
    conv.set_weights([kernel, bias])
    features = answers("feature")
    kernel = rng.normal(size=(config.feature_dim, NUM_BITS))
    middle = np.median(features @ kernel, axis=0)
    model.get_layer("latent").set_weights([9 * kernel, -9 * middle])
    kernel = rng.normal(size=(NUM_BITS, len(CLASSES)))
    model.get_layer("scores").set_weights([kernel, np.zeros(len(CLASSES))])
    return model, config


if __name__ == "__main__":
    from hashnet.network import bundle

    bundle.save(sys.argv[1], *network(), origin={"command": "python -m tests.golden.make_bundle"})
