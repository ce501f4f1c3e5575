"""torchao: weights that are tensor subclasses, made to be compiled (`torch.compile` fuses what they add).

https://github.com/pytorch/ao. Every choice that the library would make by what is installed or by global state
is made here: PyTorch's own kernels, and no change to inductor's global options, which would also change how the
model that it is compared with compiles. What a method can't do without stands in its `inductor`; for the tuning that
torchao recommends, give both models `compile={"coordinate_descent_tuning": True}`.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from models.quantization.method import Method, refuse_gradient, register

FEWEST_ROWS = 17  # that torch._int_mm multiplies on a GPU
FLOAT8, LARGEST = torch.float8_e4m3fn, 448.0  # and its largest number
SMALLEST = 1e-12  # that the largest value of a row counts as: torchao divides by it, zero or not


@dataclass(frozen=True)
class TorchAO(Method):
    """`config()` is torchao's; the layer stays an nn.Linear, its weight becomes torchao's tensor."""

    package = "torchao"
    layer_class: ClassVar[type[nn.Linear]] = nn.Linear

    def config(self) -> Any:
        """torchao's own description of the method."""
        raise NotImplementedError

    def quantized(self, layer: Any) -> nn.Module:
        made = self.layer_class(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        made.weight, made.bias = nn.Parameter(layer.weight.detach(), requires_grad=False), layer.bias
        self.encode(made)
        return made.train(layer.training)

    def encode(self, layer: nn.Linear) -> None:
        """Puts torchao's tensor in the place of the layer's weight."""
        from torchao.quantization import quantize_

        quantize_(layer, self.config(), filter_fn=lambda module, name: module is layer)

    def tensors(self, layer: Any) -> dict[str, torch.Tensor]:
        names, _ = layer.weight.__tensor_flatten__()
        stored = {name: getattr(layer.weight, name) for name in names}
        return stored if layer.bias is None else {**stored, "bias": layer.bias.data}


class _ScaledInFloat32(nn.Linear):
    """torchao's product, but for the scale's dtype on a GPU.

    Inductor takes a product in bfloat16 times a scale in bfloat16 for `_weight_int8pack_mm`, whose CUDA kernel
    (torch 2.11) took 4.1 s for a ViT-L/16 of 32 images on an H100, where bfloat16 weights take 0.01 s.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not x.is_cuda:
            return super().forward(x)
        weight: Any = self.weight
        y = functional.linear(x, weight.qdata.to(x.dtype)).float() * weight.scale.float().flatten()
        return (y if self.bias is None else y + self.bias).to(x.dtype)


@register("ao-int8-weight")
@dataclass(frozen=True)
class Int8Weight(TorchAO):
    """int8 weights, one scale an output; inputs and products in `dtype`. torchao Int8WeightOnlyConfig."""

    layer_class = _ScaledInFloat32

    def config(self) -> Any:
        from torchao.quantization import Int8WeightOnlyConfig

        return Int8WeightOnlyConfig(set_inductor_config=False)


class _Inference(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        refuse_gradient(x)
        return functional.linear(x, self.weight, self.bias)


class _EnoughRows(_Inference):
    """Pads few rows (decoding one token) to what the GPU's int8 product takes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.numel() // x.shape[-1]
        if x.is_cuda and rows < FEWEST_ROWS:
            padded = functional.pad(x.reshape(rows, -1), (0, 0, 0, FEWEST_ROWS - rows))
            return super().forward(padded)[:rows].reshape(*x.shape[:-1], -1)
        return super().forward(x)


@register("ao-int8-dynamic")
@dataclass(frozen=True)
class Int8Dynamic(TorchAO):
    """int8 weights and inputs, a scale an output and a scale a token. torchao Int8DynamicActivationInt8WeightConfig."""

    trains = False
    layer_class = _EnoughRows
    inductor: ClassVar[Mapping[str, Any]] = {"force_fuse_int_mm_with_mul": True}

    def refuses_layer(self, layer: Any) -> str | None:
        if layer.in_features % 8 or layer.out_features % 8:
            return "int8 products on a GPU want sides that are multiples of 8"
        return None

    def uncaptured(self, *, compiled: bool) -> str | None:
        return None if compiled else "eager, torchao prints every input to see whether it is fake, which waits for it"

    def config(self) -> Any:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig

        return Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)


@register("ao-int4-weight")
@dataclass(frozen=True)
class Int4Weight(TorchAO):
    """4-bit weights, a scale and an offset for each `group` of inputs. torchao Int4WeightOnlyConfig.

    Packed for tinygemm, PyTorch's own kernel: torchao's other layouts need mslk or an Intel GPU. It pads the inputs
    to a multiple of 1024.
    """

    group: int = 128
    devices = ("cuda",)
    dtypes = (torch.bfloat16,)
    trains = False
    layer_class = _Inference

    def refuses_device(self, device: torch.device) -> str | None:
        return _needs(device, (8, 0))

    def refuses_layer(self, layer: Any) -> str | None:
        if layer.in_features % self.group:
            return f"{layer.in_features} inputs are no multiple of the group of {self.group}"
        return None

    def config(self) -> Any:
        from torchao.quantization import Int4WeightOnlyConfig
        from torchao.quantization.quantize_.workflows import Int4PackingFormat

        return Int4WeightOnlyConfig(group_size=self.group, int4_packing_format=Int4PackingFormat.TILE_PACKED_TO_4D,
                                    set_inductor_config=False)


class _Float8(_Inference):
    """torchao's weight and its way of scaling tokens, with the scales where they cost least.

    Compiled, they and the bias are left to the kernel that reads the product (a norm, GELU): PyTorch's product with
    one scale a tensor, here 1, has better kernels than the one with a scale a row. Before attention, whose kernel
    takes nothing in, and uncompiled, the product applies them.
    """

    feeds_attention = False  # layers.replace sets it

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        refuse_gradient(x)
        weight: Any = self.weight
        codes, columns = weight.qdata.t(), weight.scale.t()
        rows = x.reshape(-1, x.shape[-1]).float()
        scale = rows.abs().amax(-1, keepdim=True).clamp_min(SMALLEST) / LARGEST
        scaled = (rows * (1 / scale)).clamp(-LARGEST, LARGEST).to(FLOAT8)
        if self.feeds_attention or not torch.compiler.is_compiling():
            y = torch._scaled_mm(scaled, codes, scale_a=scale, scale_b=columns, bias=self.bias, out_dtype=x.dtype,
                                 use_fast_accum=True)
        else:
            one = torch.ones((), device=x.device)
            y = torch._scaled_mm(scaled, codes, scale_a=one, scale_b=one, out_dtype=x.dtype, use_fast_accum=True)
            y = y.float() * scale * columns
            y = (y if self.bias is None else y + self.bias).to(x.dtype)
        return y.reshape(*x.shape[:-1], -1)


@register("ao-fp8-dynamic")
@dataclass(frozen=True)
class Float8Dynamic(TorchAO):
    """float8 (e4m3) weights and inputs, a scale an output and a scale a token: "rowwise".

    torchao Float8DynamicActivationFloat8WeightConfig; the format: Micikevicius et al., arXiv 2209.05433.
    """

    # 3 takes the second of inductor's two kernels, which keeps a row of up to 16384 in registers between finding its
    # largest value and scaling it; the first works out GELU twice, 0.1 ms a layer of ViT-L/16 at 32 images on an H100.
    # (inductor's comment on the option has the two the other way round. 1, which times both, failed with torch 2.11
    # where the disk cache had the model.)
    inductor: ClassVar[Mapping[str, Any]] = {"triton.multi_kernel": 3}
    devices = ("cuda",)
    dtypes = (torch.bfloat16,)
    trains = False
    layer_class = _Float8

    def refuses_device(self, device: torch.device) -> str | None:
        return _needs(device, (8, 9))

    def refuses_layer(self, layer: Any) -> str | None:
        if layer.in_features % 16 or layer.out_features % 16:
            return "float8 products want sides that are multiples of 16"
        return None

    def config(self) -> Any:
        from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow
        from torchao.quantization.quantize_.common import KernelPreference

        return Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False,
                                                         kernel_preference=KernelPreference.TORCH,
                                                         activation_value_lb=SMALLEST)

    def encode(self, layer: nn.Linear) -> None:
        # What quantize_ makes of the config, but that has no lower bound for weights: rows of zeros would become NaN.
        from torchao.quantization import Float8Tensor
        from torchao.quantization.quantize_.workflows import QuantizeTensorToFloat8Kwargs

        config = self.config()
        inputs, weights = config.granularity
        weight = Float8Tensor.from_hp(
            layer.weight, float8_dtype=config.weight_dtype, granularity=weights, mm_config=config.mm_config,
            hp_value_lb=SMALLEST, kernel_preference=config.kernel_preference,
            act_quant_kwargs=QuantizeTensorToFloat8Kwargs(
                config.activation_dtype, inputs, hp_value_lb=SMALLEST, kernel_preference=config.kernel_preference))
        layer.weight = nn.Parameter(weight, requires_grad=False)


def _needs(device: torch.device, capability: tuple[int, int]) -> str | None:
    have = torch.cuda.get_device_capability(device)
    wanted, found = (".".join(map(str, version)) for version in (capability, have))
    return f"needs a GPU of compute capability {wanted}; this one has {found}" if have < capability else None
