"""bitsandbytes: LLM.int8() and the 4-bit types of QLoRA.

The library's own layers, so that what is measured is the library as people use it; the subclasses here only
close what would change numbers behind the user's back (see docs/quantization.md).
"""
from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from models.quantization.method import Method, register

REACH = 256.0  # of a row of inputs; the library computes outputs in fp16 too, which ends at 65504


@functools.cache
def _layers() -> tuple[type[Any], type[Any]]:
    """The two layer classes, made when bitsandbytes is first needed."""
    import bitsandbytes as bnb

    class Int8Linear(bnb.nn.Linear8bitLt):
        """Linear8bitLt that takes inputs beyond fp16's range, moves and loads after use, and loads nothing but int8."""

        weight: Any

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.dtype == torch.float16:
                return super().forward(x)
            # In bf16 and float32 a row may reach beyond fp16, and more so its product: it is scaled down, and back.
            scale = (x.detach().abs().amax(-1, keepdim=True) / REACH).clamp(min=1.0)
            self.state.is_training = self.training
            if self.weight.CB is not None:
                self.init_8bit_state()
            out = bnb.matmul((x / scale).half(), self.weight, state=self.state).to(x.dtype) * scale
            return out if self.bias is None else out + self.bias

        def _apply(self, fn: Any, recurse: bool = True) -> Any:
            self._as_before_use()
            super()._apply(fn, recurse)
            # A parameter moves by changing its data: what the library hung on it stays where it was.
            self.weight.CB = self.weight.data
            self.weight.SCB = self.weight.SCB.to(self.weight.device)
            return self

        def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
            weight, errors = state_dict.get(prefix + "weight"), args[-1]
            if weight is not None and weight.dtype != torch.int8:  # the library would round it to zeros
                errors.append(f"{prefix}weight is not quantised: load it into an unquantised model, then quantise that")
                return
            self._as_before_use()
            super()._load_from_state_dict(state_dict, prefix, *args)

        def _as_before_use(self) -> None:
            # Once used, the library keeps the scales where neither `to` nor `load_state_dict` looks.
            if self.state.CB is not None:
                self.weight.CB, self.weight.SCB = self.state.CB, self.state.SCB
                self.state.CB = self.state.SCB = None

    class FourBitLinear(bnb.nn.Linear4bit):
        """Linear4bit that never repacks its weights: repacked, a copy or a saved file of them is wrong."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.support_avx512bf16_for_cpu = False

    return Int8Linear, FourBitLinear


@register("bnb-int8")
@dataclass(frozen=True)
class Int8(Method):
    """LLM.int8(), Dettmers et al., arXiv 2208.07339: int8 rows times int8 columns, outlier columns in fp16.

    Inputs with an element of at least `threshold` in a column keep that column in fp16; 0 turns that off. The
    library multiplies in fp16 whatever `dtype` is.
    """

    dtype: torch.dtype = torch.float16
    threshold: float = 6.0
    package = "bitsandbytes"

    def uncaptured(self, *, compiled: bool) -> str | None:
        if self.threshold:
            return "the host waits for the number of outlier columns (threshold=0 looks for none)"
        return None

    def quantized(self, layer: Any) -> nn.Module:
        import bitsandbytes as bnb

        made = _layers()[0](layer.in_features, layer.out_features, bias=layer.bias is not None,
                            has_fp16_weights=False, threshold=self.threshold, device="meta")
        codes, scales, _ = bnb.functional.int8_vectorwise_quant(layer.weight.detach().half().contiguous())
        made.weight = bnb.nn.Int8Params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=scales)
        made.bias = layer.bias
        return made.train(layer.training)

    def tensors(self, layer: Any) -> dict[str, torch.Tensor]:
        scales = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
        return _with_bias({"weight": layer.weight.data, "SCB": scales}, layer)


@dataclass(frozen=True)
class FourBit(Method):
    """Blocks of 64 weights share a scale; `double` quantises these scales too (section 3 of the paper)."""

    double: bool = False
    package = "bitsandbytes"
    code: ClassVar[str]

    def quantized(self, layer: Any) -> nn.Module:
        import bitsandbytes as bnb

        made = _layers()[1](layer.in_features, layer.out_features, bias=layer.bias is not None,
                            compute_dtype=self.dtype, compress_statistics=self.double, quant_type=self.code,
                            device="meta")
        with _default_stream(layer.weight.device):
            packed, state = bnb.functional.quantize_4bit(layer.weight.detach().contiguous(), blocksize=64,
                                                         compress_statistics=self.double, quant_type=self.code)
        made.weight = bnb.nn.Params4bit(packed, requires_grad=False, quant_state=state, blocksize=64,
                                        compress_statistics=self.double, quant_type=self.code, bnb_quantized=True)
        state.code = state.code.clone()  # the library's is one for all layers; a saved layer holds its own
        # The library would keep the state in the layer as well, and a copy would then have it twice.
        made.bias = layer.bias
        return made.train(layer.training)

    def tensors(self, layer: Any) -> dict[str, torch.Tensor]:
        state = layer.weight.quant_state
        stored = {"weight": layer.weight.data, "absmax": state.absmax, "code": state.code}
        if state.nested:
            stored |= {"offset": state.offset, "nested_absmax": state.state2.absmax, "nested_code": state.state2.code}
        return _with_bias(stored, layer)


@register("bnb-nf4")
@dataclass(frozen=True)
class NF4(FourBit):
    """NormalFloat4 of QLoRA, Dettmers et al., arXiv 2305.14314."""

    code = "nf4"


@register("bnb-nf4-dq")
@dataclass(frozen=True)
class NF4Double(FourBit):
    """NormalFloat4 with double quantisation, arXiv 2305.14314: 4.13 bits a weight instead of 4.5."""

    double: bool = True
    code = "nf4"


@register("bnb-fp4")
@dataclass(frozen=True)
class FP4(FourBit):
    """4-bit floats with 2 bits of exponent, arXiv 2305.14314; `double=True` quantises the scales too."""

    code = "fp4"


@contextlib.contextmanager
def _default_stream(device: torch.device) -> Iterator[None]:
    """Where the library's 4-bit quantisation runs, whatever the current stream (0.50.2 gives it none). That one and the
    default stream don't wait for each other, so codes were made of weights that were still being written."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)
    with torch.cuda.stream(torch.cuda.default_stream(device)):
        yield
    torch.cuda.synchronize(device)


def _with_bias(stored: dict[str, torch.Tensor], layer: Any) -> dict[str, torch.Tensor]:
    return stored if layer.bias is None else {**stored, "bias": layer.bias.data}
