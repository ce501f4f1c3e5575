"""A family of models shares what the harness knows of it, for every revision that is measured."""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Describes a family of models.

    `test` names the test that collects it. `transformer`: its FLOPs are counted by `MODEL_FORMULA`. `any_length`: an
    option may choose n. `takes_length`: its inputs are made for a length. `items` is what its batch counts. `trained`
    is the preset whose quality is judged, and `figure` the one that gates.
    """

    test: str
    transformer: bool = False
    any_length: bool = False
    takes_length: bool = True
    items: str = "tokens"
    trained: str | None = None
    figure: str | None = None


FAMILIES = {
    "gpt2": Family("gpt2", transformer=True, any_length=True, trained="gpt2-docstrings", figure="perplexity"),
    "vit": Family("vit", transformer=True, takes_length=False, items="images", trained="vit-digits", figure="top1"),
    "tft": Family("tft", takes_length=False, items="series", trained="tft-monthly", figure="quantile_loss"),
    "forecasting": Family("other_models", takes_length=False, items="series"),
}
KERNELS = Family("attention")  # bare ones
OTHER = Family("other_models")  # of other packages


def family(model: str) -> Family:
    """Returns the family of a workload's `model`; `OTHER` also for a preset that only the other revision has."""
    if model == KERNELS.test:
        return KERNELS
    from models import presets

    preset = presets().get(model)
    return FAMILIES.get(preset.family, OTHER) if preset else OTHER
