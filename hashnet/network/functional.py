"""Walking through a Keras graph: each operation in turn, with a meaning of one's own."""

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Evaluation(Generic[T]):
    """Evaluates tensors of a Keras graph with another meaning of its operations, each once.

    Args:
        known: pairs of a Keras tensor and its value, such as the input's.
        step: function of an operation, its node, and the values of tensors by `id`, to the value
            of its output. Operations that are walked through have one output each.

    Example:
        >>> import keras
        >>> x = keras.Input((4,))
        >>> y = keras.layers.Dense(2)(keras.layers.Dense(3)(x))
        >>> def deeper(_, node, values):
        ...     return values[id(node.input_tensors[0])] + 1
        >>> Evaluation([(x, 0)], deeper).of(y)
        2
    """

    def __init__(
        self,
        known: Iterable[tuple[Any, T]],
        step: Callable[[Any, Any, dict[int, T]], T],
    ) -> None:
        self.values = {id(tensor): value for tensor, value in known}
        self._step = step
        self._inner: dict[int, Evaluation[T]] = {}  # of networks within the network, by their node

    def of(self, tensor: Any) -> T:
        """The value of a tensor.

        Args:
            tensor: a `KerasTensor` that follows from the known ones.

        Returns:
            What `step` gave for it, or what is known of it.
        """
        import keras

        waiting = [tensor]
        while waiting:
            wanted = waiting[-1]
            if id(wanted) in self.values:
                waiting.pop()
                continue
            operation, node_index, tensor_index = wanted._keras_history
            node = operation._inbound_nodes[node_index]
            missing = [one for one in node.input_tensors if id(one) not in self.values]
            if missing:
                waiting += missing
            elif isinstance(operation, keras.Model):
                if id(node) not in self._inner:
                    values = [self.values[id(outer)] for outer in node.input_tensors]
                    known = zip(operation.inputs, values, strict=True)
                    self._inner[id(node)] = Evaluation(known, self._step)
                inner = operation.outputs[tensor_index]
                self.values[id(wanted)] = self._inner[id(node)].of(inner)
            else:
                self.values[id(wanted)] = self._step(operation, node, self.values)
        return self.values[id(tensor)]
