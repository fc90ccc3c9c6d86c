"""ONNX files of strangers: refused by name before a runtime sees them."""

import hashlib
import itertools
import json
import shutil
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hashnet.encode.encoder import Encoder
from hashnet.errors import BundleError
from hashnet.network import backbones, onnx_check, onnx_graph, onnx_layers, runtimes
from hashnet.network import bundle as bundles
from hashnet.network.onnx_cost import ELEMENT, WINDOW, Cost

FLOATS = TensorProto.FLOAT


def network(*, operator="Add", opset=15, domain="", weight=None, more_nodes=(), **attributes):
    """A file that adds four numbers to rows of four numbers."""
    if weight is None:
        weight = helper.make_tensor("w", FLOATS, [4], [1.0, 2.0, 3.0, 4.0])
    node = helper.make_node(operator, ["x", "w"], ["y"], domain=domain, **attributes)
    graph = helper.make_graph(
        [node, *more_nodes],
        "g",
        [helper.make_tensor_value_info("x", FLOATS, [None, 4])],
        [helper.make_tensor_value_info("y", FLOATS, [None, 4])],
        [weight],
    )
    opsets = [helper.make_opsetid("", opset)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def elsewhere(location):
    weight = TensorProto(name="w", data_type=FLOATS, dims=[4], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=str(location))
    return weight


def refusal(model):
    content = model if isinstance(model, bytes) else model.SerializeToString()
    with pytest.raises(BundleError) as caught:
        onnx_check.check(content, "x.onnx")
    assert "x.onnx" in str(caught.value)
    return str(caught.value)


def test_a_plain_network_passes_and_runs():
    content = network().SerializeToString()
    onnx_check.check(content, "x.onnx")
    [rows] = runtimes.open_bytes(content, "x.onnx", "onnxruntime").run(
        ["y"], {"x": np.zeros((2, 4), np.float32)}
    )
    assert rows.tolist() == [[1, 2, 3, 4]] * 2


@pytest.mark.parametrize("place", ["secret.bin", "../secret.bin", "{folder}/secret.bin"])
def test_weights_in_other_files_are_never_read(place, tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    for folder in (tmp_path, tmp_path / "below"):
        (folder / "secret.bin").write_bytes(np.ones(4, np.float32).tobytes())
    model = network(weight=elsewhere(place.format(folder=tmp_path)))
    assert "hold all its weights" in refusal(model)
    for runtime in runtimes.FASTEST:
        with pytest.raises(BundleError):
            runtimes.open_bytes(model.SerializeToString(), "x.onnx", runtime)


def test_weights_in_other_files_hide_in_no_attribute_either():
    constant = helper.make_node("Constant", [], ["c"], value=elsewhere("/etc/passwd"))
    assert "hold all its weights" in refusal(network(more_nodes=[constant]))
    lists = helper.make_node("Constant", [], ["c"])
    lists.attribute.append(helper.make_attribute("many", [elsewhere("/etc/passwd")]))
    assert "hold all its weights" in refusal(network(more_nodes=[lists]))


@pytest.mark.parametrize("opset", [0, 1, 6, 25, 999, 2**62])
def test_an_opset_that_is_not_known_is_refused(opset):
    assert f"opset {opset}" in refusal(network(opset=opset))


def test_a_number_in_place_of_a_domain_asks_for_no_memory():
    domain = b"\x08" + b"\xff" * 8 + b"\x3f"  # field 1 as the number 2**62 - 1
    content = network().SerializeToString() + bytes([0x42, len(domain)]) + domain
    assert "a number in place of a message" in refusal(content)


def test_a_file_without_opset_or_graph_is_refused():
    model = network()
    del model.opset_import[:]
    assert "opset not given" in refusal(model)
    assert "no graph" in refusal(b"")


def test_operators_that_could_do_more_than_compute_are_refused():
    assert "Loop" in refusal(network(operator="Loop"))
    assert "ConstantOfShape" in refusal(network(operator="ConstantOfShape"))
    assert "com.microsoft" in refusal(network(domain="com.microsoft"))
    inner = network().graph
    assert "graph within a graph" in refusal(network(body=inner))
    assert "graph within a graph" in refusal(network(bodies=[inner]))
    with_function = network()
    with_function.functions.add(name="f", domain="d")
    assert "functions" in refusal(with_function)


def test_a_small_file_that_calls_for_gigabytes_is_refused():
    shape = helper.make_tensor("big", TensorProto.INT64, [2], [10**6, 10**6])
    expand = helper.make_node("Expand", ["x", "big"], ["huge"])
    model = network(more_nodes=[expand])
    model.graph.initializer.append(shape)
    assert "arrays must be of known sizes" in refusal(model)


def int64(name, numbers):
    return helper.make_tensor(name, TensorProto.INT64, [len(numbers)], numbers)


def blown_up(*nodes, weights=(), shape=(None, 4)):
    model = network(more_nodes=nodes)
    model.graph.initializer.extend(weights)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", FLOATS, shape))
    return model


def test_margins_that_make_gigabytes_of_a_pixel_are_refused():
    pads = int64("margins", [0, 0, 0, 2**33])
    pad = helper.make_node("Pad", ["x", "margins"], ["huge"])
    assert "'huge'" in refusal(blown_up(pad, weights=[pads]))
    # No number of the file is large here: the margins are worked out.
    half = int64("half", [0, 0, 0, 2**16])
    product = helper.make_node("Mul", ["half", "half"], ["margins"])
    assert "known sizes" in refusal(blown_up(product, pad, weights=[half]))


@pytest.mark.parametrize("attribute", ["kernel_shape", "pads", "strides", "dilations"])
@pytest.mark.parametrize("size", [2**20, 2**62, -(2**40)])
def test_windows_beyond_any_image_are_refused(attribute, size):
    sizes = {"kernel_shape": [3, 3], "pads": [0] * 4, "strides": [1, 1], "dilations": [1, 1]}
    sizes[attribute] = [size] * len(sizes[attribute])
    pool = helper.make_node("MaxPool", ["x"], ["huge"], **sizes)
    assert attribute in refusal(blown_up(pool, shape=(None, 3, 8, 8)))


def test_arrays_that_double_at_every_step_are_refused():
    names = ["x", *(f"twice{step}" for step in range(40))]
    nodes = [
        helper.make_node("Concat", [before] * 2, [after], axis=1)
        for before, after in itertools.pairwise(names)
    ]
    assert "far larger" in refusal(blown_up(*nodes))


def test_arrays_that_grow_with_the_square_of_the_images_are_refused():
    """One image says nothing; a thousand would be 10^12 times as much."""
    nodes = [
        helper.make_node("Unsqueeze", ["x", "axis0"], ["a"]),
        helper.make_node("Unsqueeze", ["x", "axis1"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["square"]),
    ]
    weights = [int64("axis0", [0]), int64("axis1", [1])]
    assert "'square'" in refusal(blown_up(*nodes, weights=weights))


def test_weights_are_no_larger_than_their_file():
    model = blown_up(weights=[TensorProto(name="v", data_type=FLOATS, dims=[10**6, 10**6])])
    assert "weights of shape" in refusal(model)
    model = blown_up(weights=[TensorProto(name="v", data_type=FLOATS, dims=[-4])])
    assert "weights of shape" in refusal(model)


@pytest.mark.parametrize("shape", [(None, None), (None, 2**40), (None, -4)])
def test_an_input_of_no_known_size_is_refused(shape):
    assert "input must be images of one known size" in refusal(blown_up(shape=shape))


def test_images_of_any_size_may_come_but_not_grow_with_the_square_of_their_pixels():
    images = (None, None, None, 3)
    pool = helper.make_node("GlobalMaxPool", ["x"], ["small"])
    model = blown_up(pool, shape=images)
    model.graph.initializer[0].CopyFrom(helper.make_tensor("w", FLOATS, [3], [0.0] * 3))
    onnx_check.check(model.SerializeToString(), "x.onnx")
    turn = helper.make_node("Transpose", ["x"], ["turned"], perm=[0, 1, 3, 2])
    square = helper.make_node("MatMul", ["x", "turned"], ["square"])
    model = blown_up(turn, square, shape=images)
    model.graph.initializer[0].CopyFrom(helper.make_tensor("w", FLOATS, [3], [0.0] * 3))
    assert "'square'" in refusal(model)


def test_what_a_file_says_of_its_own_arrays_counts_for_nothing():
    pad = helper.make_node("Pad", ["x", "margins"], ["huge"])
    model = blown_up(pad, weights=[int64("margins", [0, 0, 0, 2**33])])
    model.graph.value_info.append(helper.make_tensor_value_info("huge", FLOATS, [None, 4]))
    refusal(model)


def test_a_truncated_file_is_refused_wherever_it_ends():
    """Where the end falls between two fields, the runtime must notice; else we do."""
    content = network().SerializeToString()
    for length in range(len(content)):
        with pytest.raises(BundleError):
            runtimes.open_bytes(content[:length], "x.onnx", "onnxruntime")


def test_any_bytes_are_refused_quickly():
    rng = np.random.default_rng(0)
    began = time.monotonic()
    for _ in range(500):
        refusal(rng.bytes(int(rng.integers(0, 200))))
    refusal(b"\x08" + b"\xff" * 1_000_000)  # a number without end
    refusal(b"\x3a\xff\xff\xff\xff\x7f")  # a graph of 34 GB
    refusal(b"\x3a\x80" * 1_000_000)
    assert time.monotonic() - began < 10


def test_the_encoder_of_a_bundle_passes_and_one_that_was_tampered_with_does_not(
    bundle_folder, tmp_path
):
    folder = shutil.copytree(bundle_folder, tmp_path / "bundle")
    model = onnx.load(folder / "encoder.onnx")
    onnx_check.check(model.SerializeToString(), "encoder.onnx")
    secret = tmp_path / "secret.bin"
    weight = model.graph.initializer[0]
    secret.write_bytes(onnx.numpy_helper.to_array(weight).tobytes())
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=str(secret))
    content = model.SerializeToString()
    (folder / "encoder.onnx").write_bytes(content)
    description = json.loads((folder / "hashnet.json").read_text())
    description["sha256"]["encoder.onnx"] = hashlib.sha256(content).hexdigest()
    (folder / "hashnet.json").write_text(json.dumps(description))
    with pytest.raises(BundleError, match="hold all its weights"):
        Encoder.open(folder)


def test_work_is_counted_as_by_hand():
    image = helper.make_tensor_value_info("image", FLOATS, [None, 3, 8, 8])
    small = helper.make_tensor_value_info("small", FLOATS, [None, 10])
    weights = [
        helper.make_tensor("kernel", FLOATS, [5, 3, 3, 3], [0.0] * 135),
        helper.make_tensor("matrix", FLOATS, [5, 10], [0.0] * 50),
    ]
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["map"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Relu", ["map"], ["positive"]),
        helper.make_node("MaxPool", ["positive"], ["pooled"], kernel_shape=[8, 8]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["small"]),
    ]
    graph = helper.make_graph(nodes, "g", [image], [small], weights)
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    cost = onnx_check.check(content.SerializeToString(), "x.onnx")
    convolution, relu, pool, product = 8 * 8 * 5 * 27, 2 * 320 * ELEMENT, 5 * 64 * WINDOW, 50
    assert cost.work == convolution + relu + pool + product
    assert cost.numbers == 2 * 320  # the map, and what is positive of it
    with pytest.raises(BundleError, match=r"no more than 100 multiply-adds.*x.onnx: 2.98e\+04"):
        onnx_check.check(content.SerializeToString(), "x.onnx", Cost(100, 1e9))
    with pytest.raises(BundleError, match="hold no more than 639 numbers"):
        onnx_check.check(content.SerializeToString(), "x.onnx", Cost(1e9, 639))


def pool_of(side, window):
    pool = helper.make_node(
        "MaxPool", ["x"], ["wide"], kernel_shape=[window] * 2, pads=[window // 2] * 4
    )
    model = blown_up(pool, shape=(None, 3, side, side))
    model.graph.initializer[0].CopyFrom(helper.make_tensor("w", FLOATS, [side], [0.0] * side))
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    return model


def test_a_pool_of_a_minute_is_refused():
    onnx_check.check(pool_of(224, 5).SerializeToString(), "x.onnx")
    assert "multiply-adds" in refusal(pool_of(224, 511))


def test_a_network_for_so_many_images_counts_as_one_of_one():
    model = pool_of(224, 101)
    onnx_check.check(model.SerializeToString(), "x.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 64
    assert "multiply-adds" in refusal(model)


def test_an_encoder_takes_a_few_times_what_its_backbone_needs(bundle_folder, tmp_path):
    bundle = bundles.load(bundle_folder)
    content = bundle.encoder_bytes()
    cost = onnx_check.check(content, "x.onnx", bundle.config.most)
    assert cost.work < bundle.config.most.work < 10 * cost.work
    assert cost.numbers < bundle.config.most.numbers < 10 * cost.numbers
    greedy = onnx.load_model_from_string(content)
    [image] = [end.name for end in greedy.graph.input]
    cast = helper.make_node("Cast", [image], ["floats"], to=FLOATS)
    pool = helper.make_node("MaxPool", ["floats"], ["wide"], kernel_shape=[63, 63], pads=[31] * 4)
    greedy.graph.node.extend([cast, pool])
    content = greedy.SerializeToString()
    onnx_check.check(content, "x.onnx")  # of a backbone of one's own
    folder = shutil.copytree(bundle_folder, tmp_path / "bundle")
    (folder / "encoder.onnx").write_bytes(content)
    description = json.loads((folder / "hashnet.json").read_text())
    description["sha256"]["encoder.onnx"] = hashlib.sha256(content).hexdigest()
    (folder / "hashnet.json").write_text(json.dumps(description))
    with pytest.raises(BundleError, match="multiply-adds"):
        Encoder.open(folder)


@pytest.mark.parametrize(
    "variant", [0, *(pytest.param(n, marks=pytest.mark.thorough) for n in (1, 2))]
)
def test_what_a_backbone_takes_is_known(variant):
    backbone, layers = backbones.known(f"efficientnet_lite{variant}"), onnx_layers.Layers()
    tensors = backbone.write(backbone.image_size, "imagenet", layers)
    layers.give("feature", tensors.feature)
    layers.give("scores", tensors.scores)
    cost = tuple(onnx_check.check(onnx_graph.content(layers.model()), backbone.name))
    assert cost == pytest.approx(tuple(backbone.cost), rel=0.02)
