"""LoRA (Hu et al., arXiv 2106.09685) and, on a quantised model, QLoRA (Dettmers et al., arXiv 2305.14314), by peft.

    model = quantize(trained("vit-digits"), "bnb-nf4")      # leave out for LoRA
    tuned = finetune(add(model, "vit-digits"), "vit-digits", data)
    save(tuned, "adapter"); again = load(quantize(trained("vit-digits"), "bnb-nf4"), "vit-digits", "adapter")

As in the study of ViT: rank 8, alpha 32, on query, key, value and dense, which are all linear layers of a block;
the head is trained whole. What is trained is float32 meanwhile, and the head then gets its own dtype back.
"""
from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import models
from models import training
from models.data.packages import needs
from models.quantization.layers import HEADS
from models.recipes import Recipe
from models.registry import Preset

RANK, ALPHA = 8, 32
RECIPE = Recipe(steps=120, batch=64, learning_rate=3e-3, weight_decay=0.0, label_smoothing=0.1, augment=True)
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def add(model: nn.Module, preset: str | Preset, *, rank: int = RANK, alpha: int = ALPHA, seed: int = 0) -> Any:
    """The model with adapters that do nothing yet; only they and the head want a gradient.

    `model` itself gets them too. Raises ValueError for a preset without blocks of linear layers, or a model that has
    adapters already; ImportError, in one line, without peft.
    """
    preset = models.get(preset)
    if preset.family not in ("vit", "gpt2"):
        raise ValueError(f"{preset.name}: LoRA is for the blocks of a ViT or GPT-2, not for the family {preset.family}")
    if any("lora_" in name for name, _ in model.named_parameters()):
        raise ValueError(f"{preset.name}: this model has adapters already; start from one without")
    with needs("peft", "for LoRA", "lora"):
        from peft import LoraConfig, get_peft_model
    names = layers(model)
    # GPT-2's own Conv1D keep their weights transposed; quantised, they are Linear.
    transposed = type(model.get_submodule(names[0])).__name__ == "Conv1D"
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=names, modules_to_save=heads(model),
                        fan_in_fan_out=transposed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def layers(model: nn.Module) -> list[str]:
    """Names of the linear layers of all blocks, quantised or not."""
    return [name for name, layer in model.named_modules()
            if (isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D")
            and any(part.isdigit() for part in name.split("."))]


def heads(model: nn.Module) -> list[str]:
    """The output layer, unless it shares its weight with the embedding (GPT-2's): then there is none to train."""
    tied = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return [name for name, layer in model.named_children()
            if name in HEADS and isinstance(layer, nn.Linear) and id(layer.weight) not in tied]


def finetune(adapted: Any, preset: str | Preset, data: Any = None, *, how: Recipe = RECIPE, **settings: Any) -> Any:
    """Trains adapters and head in place, in eval mode afterwards; `data` is the preset's training data if left
    out, the settings are those of `training.fit`. A model in half precision is trained in that (autocast)."""
    preset = models.get(preset)
    if data is None:
        from models.data import split

        data, _ = split(preset)
    own = next(weight.dtype for weight in adapted.parameters()
               if not weight.requires_grad and weight.is_floating_point())
    trained = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
    for weight in trained.values():
        weight.data = weight.data.float()
    try:
        return training.fit(adapted, preset, data, how, **{"dtype": own, **settings})
    finally:
        for name, weight in trained.items():
            if "lora_" not in name:  # peft keeps adapters in float32, and casts what goes in and out
                weight.data = weight.data.to(own)


def save(adapted: Any, folder: str | Path) -> None:
    """Writes adapters and head, and nothing of what they were added to, in peft's format."""
    adapted.save_pretrained(str(folder), save_embedding_layers=False)


def load(model: nn.Module, preset: str | Preset, folder: str | Path) -> Any:
    """The model with saved adapters. Raises ValueError, in one line, for a folder that holds none, damaged ones or
    those of another shape; the model is then as it was."""
    folder = Path(folder)
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        rank, alpha = int(config["r"]), int(config["lora_alpha"])
        from safetensors.torch import load_file

        weights = load_file(folder / WEIGHTS)
    except Exception as error:  # of a damaged file, safetensors raises an error of its own
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder}: no whole adapter; expected {CONFIG} and {WEIGHTS} ({reason})") from error
    expected = _shapes(model, rank)
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ValueError(f"{folder}: an adapter of another model: {name} is {found.get(name, 'missing')}, "
                             f"here {expected.get(name, 'not there')}")
    adapted = add(model, preset, rank=rank, alpha=alpha)
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(adapted, weights)
    return adapted.eval()


def _shapes(model: nn.Module, rank: int) -> Mapping[str, tuple[int, ...]]:
    """Of what `save` writes for this model, by peft's names."""
    from models.quantization.layers import shape

    shapes: dict[str, tuple[int, ...]] = {}
    plan = getattr(getattr(model, "quantization", None), "layers", {})
    for name in layers(model):
        outputs, inputs = plan.get(name) or shape(model.get_submodule(name))
        shapes[f"base_model.model.{name}.lora_A.weight"] = (rank, inputs)
        shapes[f"base_model.model.{name}.lora_B.weight"] = (outputs, rank)
    for name in heads(model):
        for part, weight in model.get_submodule(name).named_parameters():
            shapes[f"base_model.model.{name}.{part}"] = tuple(weight.shape)
    return shapes
