"""Made tests/golden/stubs, once: what tests would else have to build from a stub of a backbone.

Run it from the root of the repository, `python -m tests.golden.make_stubs FOLDER`. Two bundles of
a few hundred weights each have codes of 12 bits, which fill no whole number of bytes; each bit is
about as often one as zero. A proposer of regions finds what is bright.
"""

import pathlib
import sys

import numpy as np

NUM_BITS = 12
COMMAND = "python -m tests.golden.make_stubs"

if __name__ == "__main__":
    import keras

    from hashnet.local import regions
    from hashnet.network import backbones, bundle
    from hashnet.network.model import HashNetConfig, build
    from tests.stub_backbone import STUB

    folder = pathlib.Path(sys.argv[1])
    backbones.BACKBONES["stub"] = STUB
    config = HashNetConfig(backbone="stub", num_bits=NUM_BITS, classes=("a", "b", "c"))
    keras.utils.set_random_seed(1)
    network, rng = build(config, weights=None), np.random.default_rng(0)
    for name in ("one", "other"):
        kernel = rng.normal(size=(config.feature_dim, NUM_BITS))
        network.get_layer("latent").set_weights([(kernel - kernel.mean(0)) * 9, np.zeros(NUM_BITS)])
        bundle.save(folder / name, network, config, origin={"command": COMMAND})

    bright = STUB.build(32, None)
    kernel = np.zeros((3, 3, 3, 8), np.float32)
    kernel[1, 1, :, 0] = 1
    bright.get_layer("conv").set_weights([kernel])
    regions.export(folder / "bright_regions.onnx", bright)
