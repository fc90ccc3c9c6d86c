"""Makes tests/golden/bundle_v3_int8 of bundle_v1; run once, when format 3 was new."""

import pathlib
import tempfile

from hashnet.encode import precision
from hashnet.network import bundle, onnx_writer

HERE = pathlib.Path(__file__).parent
SAMPLES = HERE.parents[1] / "docs"

if __name__ == "__main__":
    source = bundle.load(HERE / "bundle_v1")
    with tempfile.TemporaryDirectory() as scratch:
        light = bundle.save_encoder(
            pathlib.Path(scratch) / "light",
            onnx_writer.write(source.load_model(), ("latent", "feature", "scores")),
            source.config,
            origin=source.origin,
        )
        precision.convert(light, HERE / "bundle_v3_int8", "int8", images_from=[SAMPLES])
