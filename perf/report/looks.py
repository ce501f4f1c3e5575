"""Gives each backend its look, the same in every plot and on the page, in the light and in the dark.

The colours of a theme stay apart for the colour-blind (CIE76 distance of at least 20 for normal, protan,
deutan and tritan sight, simulated after Machado et al. 2009) and from their background (contrast of at
least 3); no two backends share a marker either.
"""
from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Look:
    """Holds a backend's colours as "#rrggbb", and its marker and line in matplotlib's letters."""

    light: str
    dark: str
    marker: str
    line: str = "-"


# sdpa, which picks another backend, is hollow and dotted: what it picks shows through.
LOOKS = {
    "eager": Look("#111111", "#ffffff", "o"),
    "tiled": Look("#949494", "#7a7a7a", "s"),
    "sdpa": Look("#004eb5", "#4684f6", "D", ":"),
    "sdpa-math": Look("#692a1a", "#b16735", "<"),
    "sdpa-flash": Look("#2b88f3", "#b7abff", "^"),
    "sdpa-efficient": Look("#167e50", "#0bbd76", "v"),
    "sdpa-cudnn": Look("#b84fa0", "#fe94c5", "P"),
    "fa2": Look("#b42c12", "#f17515", "X"),
    "flex": Look("#d8780d", "#ffdb2d", ">"),
}
OTHERS = (  # of other packages
    Look("#332288", "#b9b0ff", "p", "--"),
    Look("#8800ee", "#d28bff", "h", "--"),
    Look("#857a00", "#c9c95a", "*", "--"),
    Look("#117733", "#6fd08c", "d", "--"),
)

# Of what was done to a model, in the colours of backends, beside which they never stand.
METHODS = {
    "fp64": LOOKS["eager"], "fp32": LOOKS["eager"], "bf16": LOOKS["eager"], "fp16": LOOKS["tiled"],
    "bnb-int8": LOOKS["sdpa-flash"], "bnb-nf4": LOOKS["sdpa-efficient"], "bnb-nf4-dq": OTHERS[0],
    "bnb-fp4": LOOKS["sdpa-math"], "ao-int8-weight": LOOKS["fa2"], "ao-int8-dynamic": LOOKS["flex"],
    "ao-int4-weight": LOOKS["sdpa-cudnn"], "ao-fp8-dynamic": OTHERS[1], "ptq-int8": OTHERS[2],
}
COMPILED = " compiled"


def treatments(names: Collection[str]) -> dict[str, Look]:
    """Returns the look of each treatment ("bf16", "bnb-int8 compiled"), in a fixed order: a compiled model is filled,
    an uncompiled one hollow."""
    ordered = [name for method in METHODS for name in (method, method + COMPILED) if name in names]
    known = {name: METHODS[name.removesuffix(COMPILED)] for name in ordered}
    known |= dict.fromkeys(sorted(set(names) - set(known)), OTHERS[-1])
    return {name: replace(look, line="-" if name.endswith(COMPILED) else ":") for name, look in known.items()}


def looks(backends: Collection[str]) -> dict[str, Look]:
    """Returns the look of each backend, in a fixed order."""
    known = {name: look for name, look in LOOKS.items() if name in backends}
    return known | {name: OTHERS[i % len(OTHERS)] for i, name in enumerate(sorted(set(backends) - set(LOOKS)))}
