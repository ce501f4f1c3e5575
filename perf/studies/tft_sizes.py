"""Says which models study 000 measures and how far its knobs are turned: on a CPU, on a GPU, and in a test."""
from __future__ import annotations

from dataclasses import dataclass, replace

import models
from models.registry import Preset


@dataclass(frozen=True)
class Size:
    """Names presets, and how long and how wide the knobs are turned. `steps` and `large_steps` are of training; 0 is
    none, and the large model is measured without any too."""

    small: Preset
    large: Preset
    batches: tuple[int, ...]
    heads: tuple[int, ...]
    steps: int
    large_steps: int
    windows: int  # that one timed call of 000b forecasts
    dtypes: tuple[str, ...] = ("fp32", "bf16")

    @property
    def batch(self) -> int:
        """Gives the batch that most rows have."""
        return self.batches[0]


def sizes(name: str, cuda: bool) -> Size:
    """Gives "tiny"; "small", the CPU's: hidden 80, 36 months to 12; or "study", the GPU's: hidden 160, 168 to 24."""
    if name == "tiny":
        tiny = replace(models.get("tft-monthly").resized(context=12, horizon=4, variable=4), heads=4, kv_heads=4,
                       head_dim=4)
        return Size(tiny, replace(tiny, name="tft-larger", head_dim=8), (4, 8), (4,), 3, 0, 4)
    small = models.get("tft-monthly").resized(heads=4)
    large = replace(small, name="tft-53m", head_dim=256)  # 52 million parameters
    if name == "small":
        return Size(small, large, (64, 128), (1, 4), 300, 20, 8)
    study = models.get("tft-160").resized(static=(3,), known=3)
    return Size(study, replace(study, name="tft-53m", head_dim=256), (64, 128, 256), (1, 4), 1000 if cuda else 20,
                300 if cuda else 0, 8)
