"""Files of networks as other libraries export them, for tests of what a user brings."""

import json

import numpy as np

from hashnet import images
from hashnet.network import efficientnet_lite, onnx_graph, onnx_layers, torch_weights


class _Prepared(onnx_layers.Layers):
    """Layers of a network that takes prepared pixels: floats, channels first."""

    def image(self, shape):
        _, height, width, channels = shape
        return self.take("input", "float32", ["batch", channels, height, width])

    def rescaled(self, x, scale, offset):
        return x


def write_lite0(path, image_size=224):
    """EfficientNet-Lite0 as an ONNX file of prepared pixels, with the TOML that says so."""
    layers = _Prepared()
    name = torch_weights.efficientnet_lite_file(0)
    network = efficientnet_lite.Lite(0, 1.0, 1.0)
    tensors = torch_weights.StateDict(torch_weights.read_torch(name), network.name, name)
    found = network.onnx(image_size, tensors, layers)
    layers.geometry = None
    layers.give("embedding", found.feature, shape=["batch", 1280])
    layers.rename(found.map, "stage16")
    path.write_bytes(onnx_graph.content(layers.model()))
    mean, std = [127 / 255] * 3, [128 / 255] * 3
    path.with_suffix(".toml").write_text(
        f'image_size = {image_size}\nmean = {mean}\nstd = {std}\nfeature = "embedding"\n'
        'map = "stage16"\n'
    )
    return path


def write_small(path, width=8, **settings):
    """A network of two convolutions, 32 pixels, 8 features or `width`; returns its path."""
    rng = np.random.default_rng(3)
    layers = onnx_layers.Layers()
    x = layers.take("x", "float32", ["n", 3, 32, 32])
    for number, (before, after) in enumerate(((3, 6), (6, width))):
        kernel = layers.weight(
            f"conv{number}/kernel", rng.normal(0, 0.3, (3, 3, before, after)), (3, 2, 0, 1)
        )
        x = layers.convolution(x, kernel, strides=(2, 2), padding="same")
        x = layers.node("Relu", [x])
    layers.rename(x, "places")
    layers.give("f", layers.global_pooling(x), shape=["n", width])
    path.write_bytes(onnx_graph.content(layers.model()))
    said = {"image_size": 32, "feature": "f", "range": [-1, 1]} | settings
    path.with_suffix(".toml").write_text(
        "\n".join(f"{name} = {value!r}".replace("'", '"') for name, value in said.items() if value)
    )
    return path


def write_keras(path, **settings):
    """A `.keras` file of a small network with an addition and a nested model; returns its path."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    inner_image = keras.Input((16, 16, 6))
    inner = keras.Model(
        inner_image,
        layers.Conv2D(6, 3, padding="same", activation="relu", name="within")(inner_image),
        name="block",
    )
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(6, 3, strides=2, padding="same", kernel_regularizer="l2", name="a")(image)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU(6.0)(x)
    x = inner(x) + x
    x = places = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="places")(x)
    x = layers.GlobalAveragePooling2D(name="pooled")(places)
    x = layers.Dense(5, activation="softmax", name="classes")(x)
    keras.Model(image, x).save(path)
    said = {"image_size": 32, "feature": "pooled", "range": [0, 1]} | settings
    path.with_suffix(".toml").write_text(
        "\n".join(f"{name} = {value!r}".replace("'", '"') for name, value in said.items() if value)
    )
    return path


# Families of KerasHub, as small as they can be made: how each is built, and its image converter.
FAMILIES = {
    "clip": ("CLIP", {}),
    "metaclip_2": ("MetaCLIP2", {}),
    "siglip": ("SigLIP", {}),
    "dinov2": ("DINOV2", {"num_register_tokens": 2, "position_embedding_shape": (48, 48, 3)}),
    "dinov2_gated": ("DINOV2", {"use_swiglu_ffn": True, "position_embedding_shape": (32, 32, 3)}),
    "dinov3": ("DINOV3", {"num_register_tokens": 3, "layer_scale_init_value": 0.5}),
    "dinov3_gated": ("DINOV3", {"use_gated_mlp": True, "hidden_activation": "silu"}),
    "vit": ("ViT", {}),
}
SCALE, OFFSET = (1 / 60, 1 / 70, 1 / 80), (-2.0, -1.9, -1.8)


def write_preset(family, folder):
    """A preset of random weights, 32 pixels; returns KerasHub's model as read from the folder."""
    import keras
    import keras_hub

    kind, options = FAMILIES[family]
    keras.utils.set_random_seed(1)
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16}
    image = {"patch_size": 8, "image_shape": (32, 32, 3)}
    models = keras_hub.models
    make = getattr(models, f"{kind}Backbone")
    if kind in ("CLIP", "MetaCLIP2", "SigLIP"):
        text = {"vocabulary_size": 16, "embedding_dim": 16, "intermediate_dim": 16, **sizes}
        parts = [
            getattr(models, f"{kind}VisionEncoder")(intermediate_dim=32, **sizes, **image),
            getattr(models, f"{kind}TextEncoder")(**text),
        ]
        model = make(*parts) if kind == "SigLIP" else make(*parts, projection_dim=12)
    else:
        name = "mlp_dim" if kind == "ViT" else "intermediate_dim"
        model = make(**{name: 32}, **sizes, **image, **options)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.dtype.startswith("float"):
            weight.assign(np.asarray(weight) + rng.normal(0, 0.1, weight.shape))
    model.save_to_preset(str(folder))
    converter = getattr(keras_hub.layers, f"{kind}ImageConverter")
    converter(image_size=(32, 32), scale=list(SCALE), offset=list(OFFSET)).save_to_preset(
        str(folder)
    )
    return models.Backbone.from_preset(str(folder))


def features_of_preset(model, pixels):
    """What KerasHub itself gives for uint8 images `(n, 32, 32, 3)`."""
    x = (pixels * np.array(SCALE) + np.array(OFFSET)).astype(np.float32)
    if hasattr(model, "get_vision_embeddings"):
        return np.asarray(model.get_vision_embeddings(x))
    [name] = model.input if isinstance(model.input, dict) else [None]
    tokens = model({name: x} if name else x)
    return np.asarray(tokens)[:, 0]


# A pair of networks, of pictures and of texts, by which names of colours mean what shows them.
COLOURS = {"red": (220, 30, 30), "green": (30, 210, 40), "blue": (40, 50, 230)}
VOCABULARY = {"[PAD]": 0, "[UNK]": 1, "a": 2, "photo": 3, "of": 4} | {
    name: 5 + place for place, name in enumerate(COLOURS)
}
DIM, TOKENS = 8, 6
TEXT = {
    "network": "texts.onnx",
    "tokenizer": "tokens.json",
    "num_tokens": TOKENS,
    "vector": "v",
    "tokens": "t",
    "mask": "m",
    "template": "a photo of {}",
}


def write_pictures(path):
    """A network whose feature is the mean colour of an image, beside a constant; `DIM` numbers."""
    layers = onnx_layers.Layers()
    x = layers.take("x", "float32", ["n", 3, 32, 32])
    kernel = layers.weight("kernel", np.eye(3, DIM - 1)[None, None], (3, 2, 0, 1))
    x = layers.global_pooling(layers.convolution(x, kernel, strides=(1, 1), padding="same"))
    one = layers.node("Add", [layers.node("ReduceMean", [x], axes=[1]), layers.constant(0.3)])
    layers.give("f", layers.node("Concat", [x, one], axis=1), shape=["n", DIM])
    path.write_bytes(onnx_graph.content(layers.model()))


def write_texts(path, width=DIM, dtype="int64", num_tokens=None, mask=True):
    """The mean of what words are, which is a colour or nothing, beside another constant."""
    words = np.zeros((len(VOCABULARY), width), np.float32)
    words[:, -1] = -0.05
    for name, colour in COLOURS.items():
        words[VOCABULARY[name], :3] = np.array(colour) / 255
    builder = onnx_graph.Builder()
    tokens = builder.take("t", dtype, ["n", num_tokens])
    x = builder.node("Gather", [builder.constant(words), tokens])
    if mask:
        seen = builder.node("Cast", [builder.take("m", dtype, ["n", num_tokens])], to=1)
        x = builder.node("Mul", [x, builder.node("Unsqueeze", [seen, builder.constant([2], "i8")])])
    builder.give("v", builder.node("ReduceMean", [x], axes=[1], keepdims=0), shape=["n", width])
    builder.give("other", x, shape=["n", num_tokens, width])
    path.write_bytes(onnx_graph.content(builder.model()))


def tokenizer(**settings):
    """A tokenizer.json of whole words."""
    model = {"type": "WordLevel", "vocab": VOCABULARY, "unk_token": "[UNK]"}
    whole = {"version": "1.0", "model": model, "pre_tokenizer": {"type": "Whitespace"}}
    return json.dumps(whole | {"added_tokens": [], "normalizer": {"type": "Lowercase"}} | settings)


def write_pair(folder, **text):
    """Both networks, the tokenizer and the TOML; returns the path of the image network."""
    folder.mkdir(exist_ok=True)
    write_pictures(folder / "pair.onnx")
    write_texts(folder / "texts.onnx")
    (folder / "tokens.json").write_text(tokenizer())
    write_table(folder, **text)
    return folder / "pair.onnx"


def write_table(folder, **text):
    """The TOML of a pair, with a table of texts."""
    table = {name: value for name, value in (TEXT | text).items() if value is not None}
    lines = ["image_size = 32", 'feature = "f"', "range = [0, 1]", "[text]"]
    lines += [f"{name} = {json.dumps(value)}" for name, value in table.items()]
    (folder / "pair.toml").write_text("\n".join(lines))


def write_colours(folder):
    """Twenty pictures of each colour, whose names say nothing; returns the folder."""
    rng = np.random.default_rng(0)
    for number in range(60):
        colour = list(COLOURS.values())[number % 3]
        pixels = rng.normal(colour, 25, (16, 16, 3)) + rng.normal(0, 15, 3)
        images.write(folder / f"{number}.png", np.clip(pixels, 0, 255).astype(np.uint8))
    return folder


def colours(hits):
    """The colours of hits among what `write_colours` wrote."""
    return [list(COLOURS)[int(hit.id.rpartition("/")[2].removesuffix(".png")) % 3] for hit in hits]
