"""Made tests/golden/stub_bundles, once: two bundles of a few hundred weights, of which tests that
build no network take one where size and time count, and the other where it must be another.

Run it from the root of the repository, `python -m tests.golden.make_stub_bundles FOLDER`. The code
is of 12 bits, which fill no whole number of bytes, and each bit is about as often one as zero.
"""

import pathlib
import sys

import numpy as np

NUM_BITS = 12

if __name__ == "__main__":
    import keras

    from hashnet.network import backbones, bundle
    from hashnet.network.model import HashNetConfig, build
    from tests.stub_backbone import STUB

    backbones.BACKBONES["stub"] = STUB
    config = HashNetConfig(backbone="stub", num_bits=NUM_BITS, classes=("a", "b", "c"))
    keras.utils.set_random_seed(1)
    network, rng = build(config, weights=None), np.random.default_rng(0)
    for name in ("one", "other"):
        kernel = rng.normal(size=(config.feature_dim, NUM_BITS))
        network.get_layer("latent").set_weights([(kernel - kernel.mean(0)) * 9, np.zeros(NUM_BITS)])
        bundle.save(
            pathlib.Path(sys.argv[1]) / name,
            network,
            config,
            origin={"command": "python -m tests.golden.make_stub_bundles"},
        )
