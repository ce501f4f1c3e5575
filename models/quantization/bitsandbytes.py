"""Methods of bitsandbytes: LLM.int8() and the 4-bit types of QLoRA.

They use the library's own layers, so measurements are of the library as people use it. The subclasses here only prevent
silent changes of numbers (see docs/quantization.md).
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

LIMIT = 256.0  # the largest input of a row; the library also computes outputs in fp16, which ends at 65504


@functools.cache
def _layers() -> tuple[type[Any], type[Any]]:
    """Defines the two layer classes when bitsandbytes is first needed."""
    import bitsandbytes as bnb

    class Int8Linear(bnb.nn.Linear8bitLt):
        """This Linear8bitLt takes inputs beyond fp16's range, moves and loads after use too, and loads only int8."""

        weight: Any

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.dim() > 3:  # the library scales the rows of 2 or 3 dimensions rightly, and of no more
                return self(x.flatten(0, -2)).unflatten(0, x.shape[:-1])
            if x.dtype == torch.float16:
                return super().forward(x)
            # In bf16 and float32 a row and its products may exceed fp16, so it is scaled down and the result up.
            scale = (x.detach().abs().amax(-1, keepdim=True) / LIMIT).clamp(min=1.0)
            self.state.is_training = self.training
            if self.weight.CB is not None:
                self.init_8bit_state()
            out = bnb.matmul((x / scale).half(), self.weight, state=self.state).to(x.dtype) * scale
            return out if self.bias is None else out + self.bias

        def _apply(self, fn: Any, recurse: bool = True) -> Any:
            self._undo_use()
            super()._apply(fn, recurse)
            # Moving a parameter replaces its data; the library's attributes of it stay on the old device.
            self.weight.CB = self.weight.data
            self.weight.SCB = self.weight.SCB.to(self.weight.device)
            return self

        def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
            weight, errors = state_dict.get(prefix + "weight"), args[-1]
            if weight is not None and weight.dtype != torch.int8:  # the library would round it to zeros
                errors.append(f"{prefix}weight is not quantised: load it into an unquantised model, then quantise that")
                return
            self._undo_use()
            super()._load_from_state_dict(state_dict, prefix, *args)

        def _undo_use(self) -> None:
            # After the first use the library stores the scales where neither `to` nor `load_state_dict` looks.
            if self.state.CB is not None:
                self.weight.CB, self.weight.SCB = self.state.CB, self.state.SCB
                self.state.CB = self.state.SCB = None

    class FourBitLinear(bnb.nn.Linear4bit):
        """This Linear4bit never repacks its weights, since copies and saved files of repacked weights are wrong."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.support_avx512bf16_for_cpu = False

    return Int8Linear, FourBitLinear


@register("bnb-int8")
@dataclass(frozen=True)
class Int8(Method):
    """LLM.int8() (Dettmers et al., arXiv 2208.07339) multiplies int8 rows by int8 columns, and outlier columns in fp16.

    A column of inputs with an element of at least `threshold` stays in fp16; 0 turns that off. The library multiplies
    in fp16 for any `dtype`.
    """

    dtype: torch.dtype = torch.float16
    threshold: float = 6.0
    package = "bitsandbytes"

    def refuses_capture(self, *, compiled: bool) -> str | None:
        if self.threshold:
            return "the host waits for the number of outlier columns (threshold=0 looks for none)"
        return None

    def twin(self, layer: Any) -> nn.Module:
        import bitsandbytes as bnb

        twin = _layers()[0](layer.in_features, layer.out_features, bias=layer.bias is not None,
                            has_fp16_weights=False, threshold=self.threshold, device="meta")
        codes, scales, _ = bnb.functional.int8_vectorwise_quant(layer.weight.detach().half().contiguous())
        twin.weight = bnb.nn.Int8Params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=scales)
        twin.bias = layer.bias
        return twin.train(layer.training)

    def tensors(self, layer: Any) -> dict[str, torch.Tensor]:
        scales = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
        return _with_bias({"weight": layer.weight.data, "SCB": scales}, layer)


@dataclass(frozen=True)
class FourBit(Method):
    """These methods have a scale for 64 weights; `double` quantises the scales too (arXiv 2305.14314, section 3)."""

    double: bool = False
    package = "bitsandbytes"
    code: ClassVar[str]

    def twin(self, layer: Any) -> nn.Module:
        import bitsandbytes as bnb

        twin = _layers()[1](layer.in_features, layer.out_features, bias=layer.bias is not None,
                            compute_dtype=self.dtype, compress_statistics=self.double, quant_type=self.code,
                            device="meta")
        with _default_stream(layer.weight.device):
            codes, state = bnb.functional.quantize_4bit(layer.weight.detach().contiguous(), blocksize=64,
                                                        compress_statistics=self.double, quant_type=self.code)
        twin.weight = bnb.nn.Params4bit(codes, requires_grad=False, quant_state=state, blocksize=64,
                                        compress_statistics=self.double, quant_type=self.code, bnb_quantized=True)
        state.code = state.code.clone()  # the library shares one among all layers; a saved layer needs its own
        # The library would store the state in the layer too, and a copy would then have it twice.
        twin.bias = layer.bias
        return twin.train(layer.training)

    def tensors(self, layer: Any) -> dict[str, torch.Tensor]:
        state = layer.weight.quant_state
        stored = {"weight": layer.weight.data, "absmax": state.absmax, "code": state.code}
        if state.nested:
            stored |= {"offset": state.offset, "nested_absmax": state.state2.absmax, "nested_code": state.state2.code}
        return _with_bias(stored, layer)


@register("bnb-nf4")
@dataclass(frozen=True)
class NF4(FourBit):
    """NormalFloat4 of QLoRA (Dettmers et al., arXiv 2305.14314)."""

    code = "nf4"


@register("bnb-nf4-dq")
@dataclass(frozen=True)
class NF4Double(FourBit):
    """NormalFloat4 with double quantisation (arXiv 2305.14314) needs 4.13 bits for a weight instead of 4.5."""

    double: bool = True
    code = "nf4"


@register("bnb-fp4")
@dataclass(frozen=True)
class FP4(FourBit):
    """4-bit floats with 2 bits of exponent (arXiv 2305.14314); `double=True` quantises the scales too."""

    code = "fp4"


@contextlib.contextmanager
def _default_stream(device: torch.device) -> Iterator[None]:
    """Makes the default stream current, on which the library's 4-bit quantisation runs (0.50.2 passes it no stream).

    The current and the default stream don't wait for each other, so codes were computed from weights that were still
    being written.
    """
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)
    with torch.cuda.stream(torch.cuda.default_stream(device)):
        yield
    torch.cuda.synchronize(device)


def _with_bias(stored: dict[str, torch.Tensor], layer: Any) -> dict[str, torch.Tensor]:
    return stored if layer.bias is None else {**stored, "bias": layer.bias.data}
