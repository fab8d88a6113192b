"""Half precision: which numbers of a model are bfloat16 or float16, and which stay float32.

The matrices of matrix products, convolutions and embeddings are lowered once, after loading; `computing` then runs what is
between them. Float32 stay: the sums along residual paths and so what the norms see, the convolutions of the decoder's
encoder, which read such sums, the flow's way from noise to mel, every model's last projection, but of draft heads, which
only propose, and in the vocoder F0, phases, source and both Fourier transforms. Attention takes half-precision scores into a
softmax that computes in float32 inside.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, Protocol, TypeVar

import torch
from torch import Tensor, nn

_NAMES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_LARGE = 200_000  # numbers of a matrix: smaller ones stay near the processor as they are
_LOWERED = (nn.Linear, nn.Conv1d, nn.ConvTranspose1d, nn.Embedding)


class Lowerable(Protocol):
    """A model that says which of its parts may be in half precision."""

    HALF: ClassVar[tuple[str, ...]]  # names of modules; of these, what holds matrices
    FULL: ClassVar[tuple[str, ...]]  # names of modules inside them that stay


M = TypeVar("M", bound=nn.Module)


def resolve(name: str, device: str) -> torch.dtype:
    """The type that `tts.dtype` means on a device: auto is bfloat16 on a GPU, float32 on a CPU."""
    if name == "auto":
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    return _NAMES[name]


def lower(model: M, dtype: torch.dtype) -> M:
    """Bring a `Lowerable` model's matrices to `dtype`, in place."""
    if dtype == torch.float32:
        return model
    half: tuple[str, ...] = model.HALF  # type: ignore[assignment]
    full: tuple[str, ...] = model.FULL  # type: ignore[assignment]
    for name, module in model.named_modules():
        if isinstance(module, _LOWERED) and _within(name, half) and not _within(name, full):
            module.to(dtype)
    return model


def pack(model: M) -> M:
    """Have a CPU read the large matrices of a `Lowerable` model as float16, where that is exactly what they hold; in place.

    Products are summed in float32 as before, of the same numbers. With the few rows of a step, reading the matrix is what a
    product costs. For inference only: what is trained afterwards is not seen.
    """
    weight = next(model.parameters())
    if weight.device.type != "cpu" or "fbgemm" not in torch.backends.quantized.supported_engines:
        return model
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.weight.numel() >= _LARGE and _is_half(module.weight):
            module.forward = _Packed(module)  # type: ignore[assignment, method-assign]
    return model


def ready(model: M, dtype: str, device: str) -> M:
    """A loaded model as it computes best on a device: there, lowered as `dtype` asks (see `resolve`), and packed; in place."""
    return pack(lower(model.to(device), resolve(dtype, device)))


def weight_bytes(model: nn.Module) -> int:
    """Memory of a model's weights, and of the copies that `pack` made."""
    packed = [one for one in model.modules() if isinstance(one.forward, _Packed)]
    copies = sum(2 * one.weight.numel() for one in packed if isinstance(one, nn.Linear))
    return copies + sum(weight.nbytes for weight in model.parameters())


def _is_half(weight: Tensor) -> bool:
    return weight.dtype == torch.float32 and torch.equal(weight, weight.half().float())


class _Packed:
    """The product of an `nn.Linear`."""

    def __init__(self, linear: nn.Linear) -> None:
        bias = None if linear.bias is None else linear.bias.detach()
        self._matrix = torch.ops.quantized.linear_prepack_fp16(linear.weight.detach(), bias)

    def __call__(self, x: Tensor) -> Tensor:
        product: Tensor = torch.ops.quantized.linear_dynamic_fp16(x[None] if x.dim() == 1 else x, self._matrix)
        return product[0] if x.dim() == 1 else product


def computing(weight: Tensor) -> AbstractContextManager[object]:
    """Compute as the weight's type asks: nothing changes for float32."""
    if weight.dtype == torch.float32:
        return nullcontext()
    return torch.autocast(weight.device.type, dtype=weight.dtype, cache_enabled=False)


def exactly(device: torch.device) -> AbstractContextManager[object]:
    """Compute in float32, whatever is around: for parts whose input nothing has normalised (float16 ends at 65,504)."""
    return torch.autocast(device.type, enabled=False)


def _within(name: str, parts: tuple[str, ...]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)
