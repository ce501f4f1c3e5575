"""Methods of torchao (https://github.com/pytorch/ao): weights are tensor subclasses, whose operations `torch.compile`
fuses.

The library would choose kernels by the installed packages and change global options of inductor, which would also
change how the model compiles that it is compared with. Here the kernels are PyTorch's and no global option changes. The
options that a method needs are in its `inductor`. For the tuning that torchao recommends, give both models
`compile={"coordinate_descent_tuning": True}`.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from models.quantization.method import Method, refuse_gradient, register

FEWEST_ROWS = 17  # the fewest rows that torch._int_mm multiplies on a GPU
FLOAT8, LARGEST = torch.float8_e4m3fn, 448.0  # the dtype and its largest number
SMALLEST = 1e-12  # a lower bound for the largest value of a row, since torchao divides by it


@dataclass(frozen=True)
class TorchAO(Method):
    """These methods keep the layer an nn.Linear and turn its weight into torchao's tensor by `config()`."""

    package = "torchao"
    layer_class: ClassVar[type[nn.Linear]] = nn.Linear

    def config(self) -> Any:
        """Gives torchao's description of the method."""
        raise NotImplementedError

    def twin(self, layer: Any) -> nn.Module:
        twin = self.layer_class(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        twin.weight, twin.bias = nn.Parameter(layer.weight.detach(), requires_grad=False), layer.bias
        self.encode(twin)
        return twin.train(layer.training)

    def encode(self, layer: nn.Linear) -> None:
        """Replaces the layer's weight by torchao's tensor."""
        from torchao.quantization import quantize_

        quantize_(layer, self.config(), filter_fn=lambda module, name: module is layer)

    def tensors(self, layer: Any) -> dict[str, torch.Tensor]:
        names, _ = layer.weight.__tensor_flatten__()
        stored = {name: getattr(layer.weight, name) for name in names}
        return stored if layer.bias is None else {**stored, "bias": layer.bias.data}


class _Float32Scale(nn.Linear):
    """This layer computes torchao's product, but on a GPU its scale is in float32.

    Inductor replaces a bfloat16 product times a bfloat16 scale by `_weight_int8pack_mm`. Its CUDA kernel (torch 2.11)
    took 4.1 s for a ViT-L/16 of 32 images on an H100, while bfloat16 weights take 0.01 s.
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
    """int8 weights with one scale for each output; inputs and products in `dtype`. torchao's Int8WeightOnlyConfig."""

    layer_class = _Float32Scale

    def config(self) -> Any:
        from torchao.quantization import Int8WeightOnlyConfig

        return Int8WeightOnlyConfig(set_inductor_config=False)


class _Inference(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        refuse_gradient(x)
        return functional.linear(x, self.weight, self.bias)


class _EnoughRows(_Inference):
    """This layer pads few rows (one token in decoding) to the fewest that the GPU's int8 product takes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.numel() // x.shape[-1]
        if x.is_cuda and rows < FEWEST_ROWS:
            more_rows = functional.pad(x.reshape(rows, -1), (0, 0, 0, FEWEST_ROWS - rows))
            return super().forward(more_rows)[:rows].reshape(*x.shape[:-1], -1)
        return super().forward(x)


@register("ao-int8-dynamic")
@dataclass(frozen=True)
class Int8Dynamic(TorchAO):
    """int8 weights and inputs with one scale for each output and token.

    It is torchao's Int8DynamicActivationInt8WeightConfig.
    """

    trains = False
    layer_class = _EnoughRows
    inductor: ClassVar[Mapping[str, Any]] = {"force_fuse_int_mm_with_mul": True}

    def refuses_layer(self, layer: Any) -> str | None:
        if layer.in_features % 8 or layer.out_features % 8:
            return "int8 products on a GPU want sides that are multiples of 8"
        return None

    def refuses_capture(self, *, compiled: bool) -> str | None:
        return None if compiled else "eager, torchao prints every input to see whether it is fake, which waits for it"

    def config(self) -> Any:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig

        return Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)


@register("ao-int4-weight")
@dataclass(frozen=True)
class Int4Weight(TorchAO):
    """4-bit weights with a scale and an offset for each `group` of inputs. torchao's Int4WeightOnlyConfig.

    They are packed for tinygemm, PyTorch's own kernel; torchao's other layouts need mslk or an Intel GPU. The kernel
    pads inputs to a multiple of 1024.
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
    """This layer uses torchao's weights and scales of tokens, and applies the scales where they cost least.

    Compiled, the kernel that reads the product (a norm, GELU) applies the scales and the bias, since PyTorch's product
    with one scale for the whole tensor, here 1, has better kernels than that with a scale for each row. Uncompiled, and
    before attention, whose kernel can't apply them, the product does.
    """

    feeds_attention = False  # layers.replace sets it

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        refuse_gradient(x)
        weight: Any = self.weight
        codes, columns = weight.qdata.t(), weight.scale.t()
        rows = x.reshape(-1, x.shape[-1]).float()
        scale = rows.abs().amax(-1, keepdim=True).clamp_min(SMALLEST) / LARGEST
        inputs = (rows * (1 / scale)).clamp(-LARGEST, LARGEST).to(FLOAT8)
        if self.feeds_attention or not torch.compiler.is_compiling():
            y = torch._scaled_mm(inputs, codes, scale_a=scale, scale_b=columns, bias=self.bias, out_dtype=x.dtype,
                                 use_fast_accum=True)
        else:
            one = torch.ones((), device=x.device)
            y = torch._scaled_mm(inputs, codes, scale_a=one, scale_b=one, out_dtype=x.dtype, use_fast_accum=True)
            y = y.float() * scale * columns
            y = (y if self.bias is None else y + self.bias).to(x.dtype)
        return y.reshape(*x.shape[:-1], -1)


@register("ao-fp8-dynamic")
@dataclass(frozen=True)
class Float8Dynamic(TorchAO):
    """float8 (e4m3) weights and inputs with one scale for each output and token ("rowwise").

    It is torchao's Float8DynamicActivationFloat8WeightConfig; the format is by Micikevicius et al., arXiv 2209.05433.
    """

    # 3 chooses the second of inductor's two kernels, which keeps a row of up to 16384 in registers from the search for
    # its largest value to the scaling. The first computes GELU twice: 0.1 ms for a layer of ViT-L/16 at 32 images on an
    # H100. (Inductor's comment on the option names the two the other way round. 1, which times both, failed with torch
    # 2.11 if the disk cache had the model.)
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
        # This is what quantize_ does, with a lower bound for weights too: without it rows of zeros would become NaN.
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
    own = torch.cuda.get_device_capability(device)
    least, here = (".".join(map(str, version)) for version in (capability, own))
    return f"needs a GPU of compute capability {least}; this one has {here}" if own < capability else None
