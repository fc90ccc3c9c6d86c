"""Vision transformers of KerasHub as backbones: a preset's folder, or the name of one.

An adapter for each family says which `Transformer` its encoder is and where its weights belong. The
library is needed here alone: what comes out of it is a network of plain layers.

Nothing is fetched unless a preset is named; a folder is read where it lies, and only the classes of
known families are made of what it says.
"""

import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from hashnet import extras
from hashnet.errors import HashnetError, WeightsError
from hashnet.network import keras_check, transformer
from hashnet.network.backbones import Backbone
from hashnet.network.own_keras import load_weights
from hashnet.network.transformer import POOLINGS, Transformer
from hashnet.quiet import import_keras

PREFIX = "keras_hub:"
CONFIG, CONVERTER, WEIGHTS = "config.json", "image_converter.json", "model.weights.h5"
_MAX_JSON_BYTES = 10_000_000

Arrays = dict[str, list[np.ndarray]]


def is_preset(name: str) -> bool:
    """Whether a name is that of a preset, or of a preset's folder.

    Args:
        name: str.

    Returns:
        bool.

    Example:
        >>> is_preset("keras_hub:dinov2_small"), is_preset("resnet50")
        (True, False)
    """
    place, _ = _parts(name)
    return name.startswith(PREFIX) or (pathlib.Path(place) / CONFIG).is_file()


def open_preset(name: str) -> Backbone:
    """Open a preset as a backbone.

    Args:
        name: str, the path of a preset's folder, or `keras_hub:` and the name of a preset; with
            `:` and some of `POOLINGS`, joined by `+`, behind it, if F7 is to be another than the
            family's own, as in `keras_hub:dinov2_small:cls+gem`.

    Returns:
        A `Backbone`.

    Raises:
        WeightsError: there is no such preset, or it is damaged, or of another family.
        HashnetError: KerasHub is not installed.
    """
    place, pooling = _parts(name)
    import_keras()
    hub = extras.load("keras_hub", "hub", "Presets of KerasHub are read with it.")
    try:
        if name.startswith(PREFIX):
            model, converter = _named(hub, place)
        else:
            model, converter = _of_folder(hub, pathlib.Path(place))
        network, weights = _ADAPTERS[type(model).__name__](model)
        size = network.get("image_size") or int(converter["image_size"][0])
        described = {"image_size": size, **_scaling(converter), **network}
        if pooling:
            described |= {"pooling": pooling, "projection": 0}
            weights.pop("projection", None)
        found = Transformer(**described)
    except HashnetError:
        raise
    except Exception as error:  # the library raises as many kinds as a preset can be wrong
        raise WeightsError(
            "A preset is whole, and of a family that is known here.",
            f"{name}: {str(error)[:300] or type(error).__name__}",
            "Without a network, give the folder of a preset that was fetched before.",
        ) from error
    return transformer.backbone(
        pathlib.Path(place).name, found, weights, f"KerasHub's {type(model).__name__}"
    )


def _parts(name: str) -> tuple[str, tuple[str, ...]]:
    """The place of a preset, and the pooling that is asked for."""
    place, _, last = name.removeprefix(PREFIX).rpartition(":")
    pooling = tuple(last.split("+"))
    if place and set(pooling) <= set(POOLINGS):
        return place, pooling
    return name.removeprefix(PREFIX), ()


def _named(hub: Any, preset: str) -> tuple[Any, dict[str, Any]]:
    """The model of a preset that the library fetches, and what its converter says."""
    model = hub.models.Backbone.from_preset(preset)
    if type(model).__name__ not in _ADAPTERS:
        raise _another_family(type(model).__name__)
    found = hub.layers.ImageConverter.from_preset(preset)
    return model, {"scale": found.scale, "offset": found.offset, "image_size": found.image_size}


def _of_folder(hub: Any, folder: pathlib.Path) -> tuple[Any, dict[str, Any]]:
    config = _read(folder / CONFIG)
    kind = config.get("class_name")
    if kind not in _ADAPTERS:
        raise _another_family(str(kind))
    _refuse_strange_classes(config)
    if not (folder / WEIGHTS).is_file():
        raise WeightsError("A preset's folder holds its weights.", f"no {folder / WEIGHTS}")
    # A file holds a byte at least of each of its weights.
    with keras_check.weights_of_at_most((folder / WEIGHTS).stat().st_size):
        model = getattr(hub.models, kind).from_config(config["config"])
    load_weights(model, str(folder / WEIGHTS))
    if not (folder / CONVERTER).is_file():
        raise WeightsError(
            "A preset's folder says how images are scaled.",
            f"no {folder / CONVERTER}",
            "Save its image converter, too: converter.save_to_preset(folder).",
        )
    return model, _read(folder / CONVERTER)["config"]


def _read(path: pathlib.Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        found: dict[str, Any] = json.loads(file.read(_MAX_JSON_BYTES))
    return found


def _refuse_strange_classes(config: Any) -> None:
    """Refuse a description that names a class of any other module: loading would import it."""
    if isinstance(config, list):
        for one in config:
            _refuse_strange_classes(one)
    elif isinstance(config, dict):
        if "class_name" in config:
            module = str(config.get("module"))
            known = module.startswith("keras_hub.src.models.") or module == "keras"
            if not known or (module == "keras" and config["class_name"] != "DTypePolicy"):
                raise WeightsError(
                    "Of a preset only classes of KerasHub's models are made.",
                    f"{config['class_name']!r} of {module!r}",
                )
        for one in config.values():
            _refuse_strange_classes(one)


def _another_family(kind: str) -> WeightsError:
    return WeightsError(
        "A preset is of a family that is known here.",
        kind,
        f"Known ones: {', '.join(_ADAPTERS)}.",
    )


def _scaling(converter: dict[str, Any]) -> dict[str, Any]:
    def three(value: Any, default: float) -> tuple[float, ...]:
        array = np.broadcast_to(np.float64(default if value is None else value), (3,))
        return tuple(array.tolist())

    return {"scale": three(converter["scale"], 1.0), "offset": three(converter["offset"], 0.0)}


# --- Weights of the library's layers, as layers here have them ---------------------------------


def _numpy(variable: Any) -> np.ndarray:
    from keras import ops

    return np.asarray(ops.convert_to_numpy(variable), np.float32)


def _dense(layer: Any, scale: Any = None, width: int | None = None) -> list[np.ndarray]:
    """Kernel and bias, of a layer that may have no bias, and whose answer may be scaled."""
    kernel = _numpy(layer.kernel)
    kernel = kernel if width is None else kernel.reshape(-1, width)
    bias = None if layer.bias is None else _numpy(layer.bias).ravel()
    bias = np.zeros(kernel.shape[-1], np.float32) if bias is None else bias
    factor = np.float32(1) if scale is None else _numpy(scale)
    return [kernel * factor, bias * factor]


def _norm(layer: Any) -> list[np.ndarray]:
    return [_numpy(layer.gamma), _numpy(layer.beta)]


def _attention(layer: Any, prefix: str, width: int, scale: Any = None) -> Arrays:
    """Of `keras.layers.MultiHeadAttention`."""

    def flat(one: Any) -> list[np.ndarray]:
        kernel = _numpy(one.kernel).reshape(width, width)
        bias = np.zeros(width) if one.bias is None else _numpy(one.bias).reshape(width)
        return [kernel, bias.astype(np.float32)]

    return {
        f"{prefix}_query": flat(layer.query_dense),
        f"{prefix}_key": flat(layer.key_dense),
        f"{prefix}_value": flat(layer.value_dense),
        f"{prefix}_out": _dense(layer.output_dense, scale, width),
    }


def _patches(convolution: Any) -> list[np.ndarray]:
    kernel = _numpy(convolution.kernel)
    bias = np.zeros(kernel.shape[-1]) if convolution.bias is None else _numpy(convolution.bias)
    return [kernel, bias.astype(np.float32)]


def _tokens(*rows: Any) -> list[np.ndarray]:
    """What is added to tokens, row by row."""
    table = np.concatenate([_numpy(part).reshape(-1, part.shape[-1]) for part in rows])
    return [table.reshape(1, -1)]


# --- Families ----------------------------------------------------------------------------------


def _vit(model: Any) -> tuple[dict[str, Any], Arrays]:
    embedding, encoder = model.layers[1], model.layers[2]
    position = embedding.position_embedding.embeddings
    table = _numpy(position)
    if model.use_class_token:
        table[0] += _numpy(embedding.class_token).ravel()
    weights = {
        "patches": _patches(embedding.patch_embedding),
        "tokens": _tokens(table),
        "norm_last": _norm(encoder.layer_norm),
    }
    for number, block in enumerate(encoder.encoder_layers):
        weights |= _attention(block.mha, f"b{number}", model.hidden_dim)
        weights[f"b{number}_norm1"] = _norm(block.layer_norm_1)
        weights[f"b{number}_norm2"] = _norm(block.layer_norm_2)
        weights[f"b{number}_up"] = _dense(block.mlp.dense_1)
        weights[f"b{number}_down"] = _dense(block.mlp.dense_2)
    network = _sizes(model, model.mlp_dim) | {
        "patch_size": model.patch_size[0],
        "prefix": int(model.use_class_token),
        "epsilon": model.layer_norm_epsilon,
        "last_epsilon": model.layer_norm_epsilon,
        "pooling": ("cls",) if model.use_class_token else ("mean",),
    }
    return network, weights


def _clip(model: Any) -> tuple[dict[str, Any], Arrays]:
    """CLIP and MetaCLIP 2, which has its last norm outside of the encoder."""
    encoder = model.vision_encoder
    embedding = encoder.embedding
    # The places have numbers of their own, which a preset may have in another order.
    order = _numpy(embedding.position_ids).ravel().astype(int)
    table = _numpy(embedding.position_embedding.embeddings)[order]
    table[0] += _numpy(embedding.class_embedding).ravel()
    last = getattr(encoder, "layer_norm", None) or model.vision_post_layer_norm
    weights = {
        "patches": _patches(embedding.patch_embedding),
        "tokens": _tokens(table),
        "norm_first": _norm(encoder.pre_layer_norm),
        "norm_last": _norm(last),
        "projection": [_numpy(model.vision_projection.kernel)],
    }
    for number, block in enumerate(encoder.encoder_layers):
        weights |= _attention(block.attention, f"b{number}", encoder.hidden_dim)
        weights[f"b{number}_norm1"] = _norm(block.layer_norm_1)
        weights[f"b{number}_norm2"] = _norm(block.layer_norm_2)
        weights[f"b{number}_up"] = _dense(block.dense_1)
        weights[f"b{number}_down"] = _dense(block.dense_2)
    network = _sizes(encoder, encoder.intermediate_dim) | {
        "activation": encoder.intermediate_activation,
        "first_norm": True,
        "epsilon": 1e-5,
        "last_epsilon": 1e-5,
        "projection": model.vision_projection.kernel.shape[-1],
    }
    return network, weights


def _siglip(model: Any) -> tuple[dict[str, Any], Arrays]:
    encoder = model.vision_encoder
    head, width = encoder.head, encoder.hidden_dim
    weights = {
        "patches": _patches(encoder.embedding.patch_embedding),
        "tokens": _tokens(encoder.embedding.position_embedding.embeddings),
        "norm_last": _norm(encoder.post_layer_norm),
        "pool_norm2": _norm(head.layer_norm),
        "pool_up": _dense(head.mlp.fc1),
        "pool_down": _dense(head.mlp.fc2),
    }
    for number, block in enumerate(encoder.encoder_layers):
        weights |= _attention(block.self_attn, f"b{number}", width)
        weights[f"b{number}_norm1"] = _norm(block.layer_norm1)
        weights[f"b{number}_norm2"] = _norm(block.layer_norm2)
        weights[f"b{number}_up"] = _dense(block.mlp.fc1)
        weights[f"b{number}_down"] = _dense(block.mlp.fc2)
    pool = _attention(head.attention, "pool", width)
    kernel, bias = pool.pop("pool_query")
    query = (_numpy(head.probe).ravel() @ kernel + bias) / np.sqrt(width // encoder.num_heads)
    # What a head's query asks of a token is a product with its key: one dense layer for all.
    kernel, bias = pool["pool_key"]
    by_head = (encoder.num_heads, -1)
    asked = np.einsum("whd,hd->wh", kernel.reshape(width, *by_head), query.reshape(by_head))
    given = np.einsum("hd,hd->h", bias.reshape(by_head), query.reshape(by_head))
    weights |= pool | {"pool_key": [asked.astype(np.float32), given.astype(np.float32)]}
    activation = encoder.intermediate_activation
    network = _sizes(encoder, encoder.intermediate_dim) | {
        "activation": "gelu_tanh" if activation == "gelu_approximate" else activation,
        "prefix": 0,
        "epsilon": encoder.layer_norm_epsilon,
        "pooling": ("attention",),
    }
    return network, weights


def _dino(model: Any, *, rotary: bool) -> tuple[dict[str, Any], Arrays]:
    embedding, width = model.embeddings, model.hidden_dim
    registers = [embedding.register_tokens] if model.num_register_tokens else []
    if rotary:
        patches = np.zeros((_grid(model) ** 2, width))
        table = [embedding.cls_token, *registers, patches]
    else:
        position = _numpy(embedding.interpolated_position_embeddings)[0]
        table = [_numpy(embedding.cls_token)[0] + position[:1], *registers, position[1:]]
    weights = {
        "patches": _patches(embedding.patch_embeddings.projection),
        "tokens": _tokens(*table),
        "norm_last": _norm(model.layernorm),
    }
    gated = model.use_gated_mlp if rotary else model.use_swiglu_ffn
    for number, block in enumerate(model.encoder.layers):
        name, one = f"b{number}", block.layer_scale1.lambda1
        weights |= (_dino3_attention if rotary else _dino2_attention)(block, name, width, one)
        weights[f"{name}_norm1"], weights[f"{name}_norm2"] = _norm(block.norm1), _norm(block.norm2)
        weights |= _dino_pair(block.mlp, name, block.layer_scale2.lambda1, gated, rotary)
    hidden = weights["b0_up"][0].shape[-1]
    activation = model.hidden_activation if rotary else "silu" if gated else "gelu"
    epsilon = model.layer_norm_eps if rotary else 1e-6
    network = _sizes(model, hidden) | {
        "activation": activation,
        "gated": gated,
        "prefix": 1 + model.num_register_tokens,
        "epsilon": epsilon,
        "last_epsilon": epsilon,
        "rope_theta": float(model.rope_theta) if rotary else 0.0,
    }
    return network, weights


def _dino2_attention(block: Any, name: str, width: int, scale: Any) -> Arrays:
    return _attention(block.attention.attention, name, width, scale)


def _dino3_attention(block: Any, name: str, width: int, scale: Any) -> Arrays:
    layer = block.attention
    ends = {"query": layer.query_dense, "key": layer.key_dense, "value": layer.value_dense}
    weights = {f"{name}_{end}": _dense(dense) for end, dense in ends.items()}
    return weights | {f"{name}_out": _dense(layer.output_dense, scale)}


def _dino_pair(layer: Any, name: str, scale: Any, gated: bool, rotary: bool) -> Arrays:
    if rotary:
        gate = {f"{name}_gate": _dense(layer.gate_proj)} if gated else {}
        return gate | {
            f"{name}_up": _dense(layer.up_proj),
            f"{name}_down": _dense(layer.down_proj, scale),
        }
    if not gated:
        return {f"{name}_up": _dense(layer.fc1), f"{name}_down": _dense(layer.fc2, scale)}
    both = _dense(layer.weights_in)  # the gate, then what it is multiplied with
    gate, up = zip(*(np.split(part, 2, axis=-1) for part in both), strict=True)
    return {
        f"{name}_gate": list(gate),
        f"{name}_up": list(up),
        f"{name}_down": _dense(layer.weights_out, scale),
    }


def _grid(model: Any) -> int:
    return int(model.image_shape[0]) // int(model.patch_size)


def _sizes(model: Any, mlp_width: int) -> dict[str, Any]:
    """What all families call alike."""
    patch = model.patch_size
    return {
        "image_size": int(model.image_shape[0]),
        "patch_size": patch if isinstance(patch, int) else patch[0],
        "width": model.hidden_dim,
        "depth": model.num_layers,
        "heads": model.num_heads,
        "mlp_width": mlp_width,
    }


_ADAPTERS: dict[str, Callable[[Any], tuple[dict[str, Any], Arrays]]] = {
    "CLIPBackbone": _clip,
    "DINOV2Backbone": functools.partial(_dino, rotary=False),
    "DINOV3Backbone": functools.partial(_dino, rotary=True),
    "MetaCLIP2Backbone": _clip,
    "SigLIPBackbone": _siglip,
    "ViTBackbone": _vit,
}
