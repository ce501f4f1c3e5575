"""Quantises models in place: `quantize(model, "bnb-nf4")`. Each method is a dataclass.

    model = models.quantization.quantize(model, "bnb-nf4", skip=["vit.layers.0", "*.attention.o_proj"])
    models.quantization.model_bytes(model), models.quantization.save(model, "nf4.safetensors")

`docs/quantization.md` says what each method is, where it runs and which layers it leaves alone. To add one, register a
subclass of `Method` in a file here and name the file below.
"""
from __future__ import annotations

import importlib

from models.quantization.method import Method, get, methods, register
from models.quantization.quantize import Quantized, kept_layers, quantize, quantized_layers, why_not, why_not_captured
from models.quantization.storage import load, model_bytes, save

__all__ = ["Method", "Quantized", "get", "kept_layers", "load", "methods", "model_bytes", "quantize",
           "quantized_layers", "register", "save", "why_not", "why_not_captured"]

for _library in ("plain", "bitsandbytes", "torchao", "ptq", "low_rank"):  # each registers its methods, in this order
    importlib.import_module(f"models.quantization.{_library}")
