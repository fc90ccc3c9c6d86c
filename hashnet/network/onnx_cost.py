"""What an ONNX network takes to run: multiply-adds and comparisons, and numbers held at one time.

Worked out from the shapes of its arrays, before anything of it is run. Multiply-adds of
convolutions and matrix products are the unit. What runtimes do number by number takes longer:
each number that goes through a window that slides counts as `WINDOW`, any other as `ELEMENT`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import onnx

# Of a pool of 511 x 511, ONNX Runtime compares 6e8 numbers a second on a core, where it does some
# 3e10 multiply-adds.
WINDOW = 50
ELEMENT = 8
# Cheaper than the rest by their kind: their answer is their input, or says its shape.
_FREE = frozenset("Constant Dropout Flatten Identity Reshape Shape Squeeze Unsqueeze".split())
# Numbers that each of their outputs is interpolated from.
_INTERPOLATED = {"GridSample": 16, "Resize": 16}

Shape = tuple[int, ...]


class Cost(NamedTuple):
    """What running a network takes.

    Attributes:
        work: float. Multiply-adds, and what takes as long.
        numbers: float. Numbers that are held at one time, at the most, but for the weights.
    """

    work: float
    numbers: float

    def times(self, factor: float) -> "Cost":
        """So many times as much.

        Args:
            factor: float.

        Returns:
            `Cost`.
        """
        return Cost(self.work * factor, self.numbers * factor)


def cost_of(
    graph: "onnx.GraphProto", shapes: Mapping[str, Shape], given: Mapping[str, Shape]
) -> Cost:
    """What one run takes of a graph whose arrays are of these shapes.

    Args:
        graph: of a network, its nodes in the order in which they run.
        shapes: dict of name to shape, of weights, inputs and what nodes give.
        given: the same, of inputs alone.

    Returns:
        `Cost`.
    """
    last_use = {name: place for place, node in enumerate(graph.node) for name in node.input}
    last_use |= dict.fromkeys((end.name for end in graph.output), len(graph.node))
    ends: list[list[str]] = [[] for _ in range(len(graph.node) + 1)]
    held = 0
    for name, shape in given.items():
        held += math.prod(shape)
        ends[last_use.get(name, 0)].append(name)
    work, most = 0, held
    for place, node in enumerate(graph.node):
        outputs = [name for name in node.output if name]
        work += _work(
            node,
            [shapes.get(name, ()) for name in node.input],
            [shapes[name] for name in outputs],
        )
        for name in outputs:
            held += math.prod(shapes[name])
            ends[max(place, last_use.get(name, place))].append(name)
        most = max(most, held)
        held -= sum(math.prod(shapes[name]) for name in ends[place])
    return Cost(work, most)


def _work(node: "onnx.NodeProto", inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    kind, made = node.op_type, sum(map(math.prod, outputs))
    read = sum(math.prod(shape) for shape in inputs if shape)
    if kind in _FREE:
        return 0
    if kind == "Conv":
        return made * math.prod(inputs[1][1:])
    if kind == "ConvTranspose":
        return math.prod(inputs[0]) * math.prod(inputs[1][1:])
    if kind == "MatMul":
        return made * (inputs[0][-1] if inputs[0] else 1)
    if kind == "Gemm":
        return made * math.prod(inputs[0]) // max(1, outputs[0][0])
    if kind in ("AveragePool", "MaxPool"):
        [window] = [one.ints for one in node.attribute if one.name == "kernel_shape"]
        return made * math.prod(window) * WINDOW
    if kind == "LRN":
        [size] = [one.i for one in node.attribute if one.name == "size"]
        return made * size * WINDOW
    if kind == "TopK":
        return read * WINDOW
    return (made * _INTERPOLATED.get(kind, 1) + read) * ELEMENT
