"""Names that options take, kept where `--help` reads them without loading what they name.

Each is held equal to what it repeats by tests/test_cli.py.
"""

# hashnet.network.backbones.BACKBONES
BACKBONES = (
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "alexnet",
    "vgg16",
    "resnet50",
    "mobilenet_v3_large",
)
# hashnet.network.bundle.PRECISIONS
PRECISIONS = ("float32", "bfloat16", "int8")
# hashnet.local.extractors.NAMES
EXTRACTORS = ("aliked", "delf", "disk", "sift", "xfeat")
# hashnet.network.export.SUFFIXES
FORMATS = ("keras", "saved_model", "onnx", "openvino", "litert")
# hashnet.network.export.PRECISIONS
EXPORT_PRECISIONS = ("float32", "float16", "int8")
# Of shtab.SUPPORTED_SHELLS
SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")
