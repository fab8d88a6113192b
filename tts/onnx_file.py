"""Weights out of an ONNX file: read as data, nothing in it is run.

An exporter keeps the names of some parameters and makes up others (`onnx::MatMul_2228`). What each of them is, is told by
the node that reads it: its kind says which parameter, its name is the path of the module that it was made from.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tts import checkpoint
from tts.base import CheckpointError

_ROLES = {  # of a node's inputs from the second one on
    "Conv": ("weight", "bias"),
    "LayerNormalization": ("weight", "bias"),
    "BatchNormalization": ("weight", "bias", "running_mean", "running_var"),
    "MatMul": ("weight",),
}


@dataclass
class OnnxWeights:
    """Parameters under the dotted names of their modules, and the epsilon of each normalisation."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    epsilons: dict[str, float] = field(default_factory=dict)

    def renamed(self, name_of: Callable[[str], str]) -> "OnnxWeights":
        """The same under other names."""
        return OnnxWeights(
            {name_of(name): tensor for name, tensor in self.tensors.items()},
            {name_of(name): epsilon for name, epsilon in self.epsilons.items()},
        )

    def apply_epsilons(self, model: nn.Module) -> None:
        """Let the model's normalisations divide as the file's do."""
        for name, epsilon in self.epsilons.items():
            model.get_submodule(name).eps = epsilon  # type: ignore[assignment]


def read(file: Path) -> OnnxWeights:
    """Read the parameters; matrices are turned to (out, in), as torch keeps them.

    Tables that only other kinds of nodes read (shapes, positions) are the exporter's own and are left out. A tensor that
    no node reads keeps its raw name. Raises CheckpointError.
    """
    graph = _graph(file)
    stored = {value.name: value for value in graph.initializer}
    same = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Identity"}
    weights, used = OnnxWeights(), set[str]()
    for node in graph.node:
        inputs = [_origin(name, same) for name in node.input]
        used.update(inputs)
        module = _module(node)
        for role, name in _parameters(node.op_type, inputs, stored):
            tensor = _tensor(stored[name], file)
            if node.op_type == "Add" and tensor.ndim != 1:
                continue
            key = f"{module}.{role}"
            if key in weights.tensors:
                raise CheckpointError(f"{file} holds {key} twice: it is not the export of one model.")
            weights.tensors[key] = tensor.T.contiguous() if node.op_type == "MatMul" else tensor
        if node.op_type.endswith("Normalization"):
            weights.epsilons[module] = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
    for name in stored.keys() - used:
        weights.tensors[name] = _tensor(stored[name], file)
    return weights


def _parameters(kind: str, inputs: list[str], stored: dict[str, Any]) -> list[tuple[str, str]]:
    """(role, stored name) of what a node reads from the file."""
    if kind == "Add":  # behind a matrix multiplication; the exporter puts the bias first
        return [("bias", name) for name in inputs if name in stored]
    roles = zip(_ROLES.get(kind, ()), inputs[1:], strict=False)
    return [(role, name) for role, name in roles if name in stored]


def _module(node: Any) -> str:
    """`/head/layer1/layer1.0/conv1/Conv` -> `head.layer1.0.conv1`: a path whose parts may repeat the one before."""
    name = node.name or node.output[0].rpartition("_output_")[0]
    parts: list[str] = []
    for part in name.strip("/").split("/")[:-1]:
        if parts and part.startswith(f"{parts[-1]}."):
            parts.pop()
        parts.append(part)
    return ".".join(parts)


def _origin(name: str, same: dict[str, str]) -> str:
    """Exporters store equal tensors once and point to them."""
    seen = set[str]()
    while name in same and name not in seen:
        seen.add(name)
        name = same[name]
    return name


def _graph(file: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(file, format="protobuf", load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise checkpoint.unreadable(file, error) from None
    if not model.graph.node:
        raise checkpoint.unreadable(file, "it holds no ONNX graph")
    return model.graph


def _tensor(value: Any, file: Path) -> Tensor:
    import onnx

    if onnx.external_data_helper.uses_external_data(value):
        raise CheckpointError(f"{file} keeps {value.name} in another file: export it as one file.")
    try:
        return torch.from_numpy(onnx.numpy_helper.to_array(value).copy())
    except (ValueError, TypeError) as error:
        raise checkpoint.unreadable(file, f"{value.name}: {error}") from None
