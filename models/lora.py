"""Fine-tunes by LoRA (Hu et al., arXiv 2106.09685) and, on a quantised model, by QLoRA (Dettmers et al., arXiv
2305.14314), with peft.

    model = quantize(trained("vit-digits"), "bnb-nf4")      # leave out for LoRA
    tuned = finetune(add(model, "vit-digits"), "vit-digits", data)
    save(tuned, "adapter"); again = load(quantize(trained("vit-digits"), "bnb-nf4"), "vit-digits", "adapter")

The defaults are those of the study of ViT: rank 8, alpha 32, on query, key, value and dense, which are all linear
layers of a block. All of the head is trained. The trained weights are float32 during training; then the head gets its
dtype back.
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
from models.packages import needs
from models.quantization.layers import HEADS
from models.recipes import Recipe
from models.registry import Preset

RANK, ALPHA = 8, 32
RECIPE = Recipe(steps=120, batch=64, learning_rate=3e-3, weight_decay=0.0, label_smoothing=0.1, augment=True)
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def add(model: nn.Module, preset: str | Preset, *, rank: int = RANK, alpha: int = ALPHA, seed: int = 0) -> Any:
    """Adds adapters, which change nothing yet, to the model in place. Only they and the head want a gradient.

    Raises ValueError for a preset without blocks of linear layers, or a model that has adapters already, and
    ImportError, in one line, without peft.
    """
    preset = models.get(preset)
    if preset.family not in ("vit", "gpt2"):
        raise ValueError(f"{preset.name}: LoRA is for the blocks of a ViT or GPT-2, not for the family {preset.family}")
    if any("lora_" in name for name, _ in model.named_parameters()):
        raise ValueError(f"{preset.name}: this model has adapters already; start from one without")
    with needs("peft", "for LoRA", "lora"):
        from peft import LoraConfig, get_peft_model
    names = layers(model)
    # GPT-2's Conv1D layers store their weights transposed; quantised, they are Linear layers.
    transposed = type(model.get_submodule(names[0])).__name__ == "Conv1D"
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=names, modules_to_save=heads(model),
                        fan_in_fan_out=transposed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def layers(model: nn.Module) -> list[str]:
    """Lists the names of the linear layers of all blocks, quantised or not."""
    return [name for name, layer in model.named_modules()
            if (isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D")
            and any(part.isdigit() for part in name.split("."))]


def heads(model: nn.Module) -> list[str]:
    """Lists the output layer to train; none if it shares its weight with the embedding, as GPT-2's does."""
    tied = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return [name for name, layer in model.named_children()
            if name in HEADS and isinstance(layer, nn.Linear) and id(layer.weight) not in tied]


def finetune(adapted: Any, preset: str | Preset, data: Any = None, *, how: Recipe = RECIPE, **settings: Any) -> Any:
    """Trains adapters and head in place and puts the model in eval mode.

    `data` is by default the preset's training data; `settings` are those of `training.fit`. A model in half precision
    is trained in that precision (autocast).
    """
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
            if "lora_" not in name:  # peft stores adapters in float32 and casts inputs and outputs
                weight.data = weight.data.to(own)


def save(adapted: Any, folder: str | Path) -> None:
    """Writes adapters and head, without the model below them, in peft's format."""
    adapted.save_pretrained(str(folder), save_embedding_layers=False)


def load(model: nn.Module, preset: str | Preset, folder: str | Path) -> Any:
    """Adds the adapters of a folder to the model, in eval mode.

    Raises ValueError, in one line, for a folder without adapters, with damaged ones or with those of another shape;
    then the model does not change.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        rank, alpha = int(config["r"]), int(config["lora_alpha"])
        from safetensors.torch import load_file

        weights = load_file(folder / WEIGHTS)
    except Exception as error:  # for a damaged file safetensors raises its own kind of error
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder}: no whole adapter; expected {CONFIG} and {WEIGHTS} ({reason})") from error
    expected = _shapes(model, rank)
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    for name in sorted(expected.keys() | shapes.keys()):
        if expected.get(name) != shapes.get(name):
            raise ValueError(f"{folder}: an adapter of another model: {name} is {shapes.get(name, 'missing')}, "
                             f"here {expected.get(name, 'not there')}")
    adapted = add(model, preset, rank=rank, alpha=alpha)
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(adapted, weights)
    return adapted.eval()


def _shapes(model: nn.Module, rank: int) -> Mapping[str, tuple[int, ...]]:
    """Gives the shapes of the tensors that `save` writes for this model, by peft's names."""
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
