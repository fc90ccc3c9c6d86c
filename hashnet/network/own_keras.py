"""A `.keras` file of one's own as a backbone: its layers built anew, and its weights alone taken.

Of what the file says about layers only plain values are read, of the classes that are known here;
so nothing in it can run. Initializers, regularizers and the like, which matter to no pretrained
network, are left out.
"""

import hashlib
import json
import os
import pathlib
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

from hashnet.errors import ArgumentError, HashnetError, WeightsError
from hashnet.network import keras_check, onnx_writer
from hashnet.network.backbones import Backbone, no_weights
from hashnet.network.own_settings import Settings
from hashnet.quiet import import_keras

if TYPE_CHECKING:
    import keras

KIND = "keras"
_MAX_CONFIG_BYTES = 10_000_000
_MAX_DEPTH = 32
# Functions of `keras.ops` that files name where a network adds or multiplies by an operator.
_OPERATIONS = {"Add": "Add", "Multiply": "Multiply"}
_PLAIN = str | int | float | bool | None


def open_file(path: str) -> Backbone:
    """Open a `.keras` file as a backbone.

    Args:
        path: str, with a TOML beside it.

    Returns:
        A `Backbone`.

    Raises:
        WeightsError: it is damaged, holds what is refused, or is not what the TOML says.
        HashnetError: Keras is not installed.
    """
    settings = Settings.beside(path)
    import_keras()
    try:
        own: dict[str, Any] = {
            "kind": KIND,
            "settings": settings.to_dict(),
            "layers": _plain_model(_config(path)),
            "sha256": hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest(),
        }
        # A file holds a byte at least of each of its weights.
        inner = _inner(own, os.path.getsize(path))
        keras_check.check(path, inner)
        network = _network(inner, settings)
    except HashnetError:
        raise
    except Exception as error:  # Keras raises as many kinds as a description can be wrong
        raise WeightsError(
            "A network of yours is a whole .keras file of known layers.",
            f"{path}: {str(error)[:300] or type(error).__name__}",
        ) from error
    outputs = network.output
    own["feature_dim"] = outputs["feature"].shape[-1]
    own["map_channels"] = outputs["map"].shape[-1] if "map" in outputs else 0
    return _backbone(pathlib.Path(path).stem, own, path)


def described(name: str, own: dict[str, Any]) -> Backbone:
    """The backbone of a description, without its weights; see `own_backbones.described`.

    Args:
        name: str.
        own: dict.

    Returns:
        A `Backbone`.

    Raises:
        KeyError, TypeError, ValueError: it describes none.
    """
    return _backbone(name, own, None)


def _backbone(name: str, own: dict[str, Any], path: str | None) -> Backbone:
    settings = Settings.from_dict(own["settings"])

    def build(size: int, weights: str | None) -> "keras.Model":
        inner = _inner(own)
        file = path if weights == "imagenet" else weights
        if weights is not None and file is None:
            raise no_weights(name)
        if file is not None:
            load_weights(inner, file)
        return _network(inner, settings)

    return Backbone(
        name=name,
        image_size=settings.image_size,
        any_size=False,
        feature_dim=int(own["feature_dim"]),
        map_channels=int(own["map_channels"]),
        build=build,
        source="a .keras file of yours",
        has_classes=False,
        own=own,
    )


def load_weights(model: "keras.Model", path: str) -> None:
    """Fill a network with the weights of a file, once that was looked through.

    Args:
        model: `keras.Model`, changed in place.
        path: str, of a `.keras` file or of HDF5 weights.

    Raises:
        WeightsError: the file is damaged, holds what is refused, or is of another network.
    """
    try:
        keras_check.check(path, model)
        with warnings.catch_warnings():
            # Keras names containers that hold nothing of their own; what is missing it raises.
            warnings.simplefilter("ignore")
            model.load_weights(path)
    except HashnetError:
        raise
    except Exception as error:  # h5py and keras raise as many kinds as a file can be broken
        raise WeightsError(
            "The weights of a network must fit its layers.", f"{path}: {str(error)[:300]}"
        ) from error


def _inner(own: dict[str, Any], most: int = keras_check.MOST_WEIGHTS) -> "keras.Model":
    """The network as it was saved, with random weights."""
    import keras

    # Once more: a bundle's description may come from strangers, too.
    with keras_check.weights_of_at_most(most):
        return keras.Model.from_config(_plain_model(own["layers"]))


def _network(inner: "keras.Model", settings: Settings) -> "keras.Model":
    """From images in 0..255, RGB, to F7 and the map."""
    from keras import Input, Model, layers, ops

    size = settings.image_size
    if settings.layout == "nchw":
        raise ArgumentError("A .keras file takes channels last.", 'layout = "nchw"')
    if len(inner.inputs) != 1 or tuple(inner.inputs[0].shape[1:]) not in (
        (size, size, 3),
        (None, None, 3),
    ):
        raise ArgumentError(
            f"A network takes images as the TOML says, (n, {size}, {size}, 3).",
            f"{[tuple(one.shape) for one in inner.inputs]}",
        )
    known = [layer.name for layer in inner.layers]
    for wanted in (settings.feature, settings.map):
        if wanted is not None and wanted not in known:
            raise ArgumentError(
                "feature and map name layers of the network.",
                repr(wanted),
                f"The last ones are: {', '.join(known[-5:])}.",
            )
    taps = {"feature": inner.get_layer(settings.feature).output}
    if settings.map is not None:
        taps["map"] = inner.get_layer(settings.map).output
        if len(taps["map"].shape) != 4:
            raise ArgumentError("A map has rows and columns.", repr(settings.map))
    image = x = Input((size, size, 3), name="image")
    if settings.channels == "bgr":
        x = ops.take(x, [2, 1, 0], axis=3)
    scale, offset = settings.scale_and_offset()
    x = layers.Rescaling(scale.tolist(), offset=offset.tolist(), name="scale")(x)
    network = Model(inner.input, list(taps.values()), name="network")
    found = network(x)
    outputs = dict(zip(taps, found if isinstance(found, list | tuple) else [found], strict=True))
    outputs["feature"] = layers.Flatten(name="f7")(outputs["feature"])
    return Model(image, outputs, name="own")


# --- What a file says of its layers -------------------------------------------------------------


def _config(path: str) -> dict[str, Any]:
    """What `config.json` in the file says of the network."""
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo("config.json").file_size
        if size > _MAX_CONFIG_BYTES:
            raise _refused(f"a description of {size} bytes")
        described = json.loads(archive.read("config.json"))
    if described.get("class_name") not in ("Functional", "Sequential"):
        raise _refused(f"a {described.get('class_name')!r}, which holds code of its own")
    config: dict[str, Any] = described["config"]
    if described["class_name"] == "Sequential":
        return _functional(config)
    return config


def _functional(config: dict[str, Any]) -> dict[str, Any]:
    """A Sequential's description as that of a Functional: each layer takes what the last gives."""
    import keras

    plain = [_plain_layer(layer, 0) for layer in config["layers"]]
    model = keras.Sequential.from_config({"name": str(config["name"]), "layers": plain})
    functional: dict[str, Any] = model._functional.get_config()
    return functional


def _plain_model(config: dict[str, Any], depth: int = 0) -> dict[str, Any]:
    if depth > _MAX_DEPTH:
        raise _refused("models within models")
    return {
        "name": str(config["name"]),
        "trainable": True,
        "layers": [_plain_layer(layer, depth) for layer in config["layers"]],
        "input_layers": _plain(config["input_layers"], 0),
        "output_layers": _plain(config["output_layers"], 0),
    }


def _plain_layer(layer: dict[str, Any], depth: int) -> dict[str, Any]:
    kind, config = layer["class_name"], layer["config"]
    plain = {"name": layer.get("name", config.get("name")), "class_name": kind}
    plain |= {"registered_name": None, "inbound_nodes": _plain(layer.get("inbound_nodes", []), 0)}
    if kind == "Functional":
        return plain | {
            "module": "keras.src.models.functional",
            "config": _plain_model(config, depth + 1),
        }
    if layer.get("module") == "keras.src.ops.numpy" and kind in _OPERATIONS:
        return plain | {"module": "keras.src.ops.numpy", "config": {"name": str(config["name"])}}
    if layer.get("module") != "keras.layers" or kind not in {"InputLayer", *onnx_writer.LAYERS}:
        raise _refused(f"a layer {kind!r} of {layer.get('module')!r}")
    activation = config.get("activation")
    if not isinstance(activation, _PLAIN) or activation not in (
        None,
        "linear",
        *onnx_writer.ACTIVATIONS,
    ):
        raise _refused(f"an activation {str(activation)[:100]} in {plain['name']!r}")
    values = {name: value for name, value in config.items() if _is_plain(value)}
    return plain | {"module": "keras.layers", "config": values}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


def _plain(value: Any, depth: int) -> Any:
    """How layers are connected: lists of texts and numbers, and the names of tensors."""
    if depth > _MAX_DEPTH:
        raise _refused("connections within connections")
    if isinstance(value, list):
        return [_plain(one, depth + 1) for one in value]
    if isinstance(value, dict):
        if "class_name" not in value:
            return {str(name): _plain(one, depth + 1) for name, one in value.items()}
        if value["class_name"] == "__keras_tensor__":
            config = value["config"]
            kept = {
                name: _plain(config[name], depth + 1)
                for name in ("shape", "dtype", "keras_history")
            }
            return {"class_name": "__keras_tensor__", "config": kept}
        if value["class_name"] == "__tuple__":
            return {"class_name": "__tuple__", "items": _plain(value["items"], depth + 1)}
    if isinstance(value, _PLAIN):
        return value
    raise _refused(f"{str(value)[:100]} between layers")


def _refused(what: str) -> WeightsError:
    return WeightsError(
        "Of a .keras file only plain layers are taken.",
        what,
        f"Known layers: {', '.join(sorted(onnx_writer.LAYERS))}.",
    )
