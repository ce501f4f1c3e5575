"""Gives each backend its style, the same in every plot and on the page, in the light and in the dark.

The colours of a theme stay apart for the colour-blind (CIE76 distance of at least 20 for normal, protan,
deutan and tritan sight, simulated after Machado et al. 2009) and from their background (contrast of at
least 3); no two backends share a marker either.
"""
from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Style:
    """Holds a backend's colours as "#rrggbb", and its marker and line in matplotlib's letters."""

    light: str
    dark: str
    marker: str
    line: str = "-"


# sdpa, which picks another backend, is hollow and dotted: what it picks shows through.
STYLES = {
    "eager": Style("#111111", "#ffffff", "o"),
    "tiled": Style("#949494", "#7a7a7a", "s"),
    "sdpa": Style("#004eb5", "#4684f6", "D", ":"),
    "sdpa-math": Style("#692a1a", "#b16735", "<"),
    "sdpa-flash": Style("#2b88f3", "#b7abff", "^"),
    "sdpa-efficient": Style("#167e50", "#0bbd76", "v"),
    "sdpa-cudnn": Style("#b84fa0", "#fe94c5", "P"),
    "fa2": Style("#b42c12", "#f17515", "X"),
    "flex": Style("#d8780d", "#ffdb2d", ">"),
}
OTHERS = (  # of other packages
    Style("#332288", "#b9b0ff", "p", "--"),
    Style("#8800ee", "#d28bff", "h", "--"),
    Style("#857a00", "#c9c95a", "*", "--"),
    Style("#117733", "#6fd08c", "d", "--"),
)

# Of what was done to a model, in the colours of backends, beside which they never stand.
METHODS = {
    "fp64": STYLES["eager"], "fp32": STYLES["eager"], "bf16": STYLES["eager"], "fp16": STYLES["tiled"],
    "bnb-int8": STYLES["sdpa-flash"], "bnb-nf4": STYLES["sdpa-efficient"], "bnb-nf4-dq": OTHERS[0],
    "bnb-fp4": STYLES["sdpa-math"], "ao-int8-weight": STYLES["fa2"], "ao-int8-dynamic": STYLES["flex"],
    "ao-int4-weight": STYLES["sdpa-cudnn"], "ao-fp8-dynamic": OTHERS[1], "ptq-int8": OTHERS[2],
}
COMPILED = " compiled"


def treatment_styles(names: Collection[str]) -> dict[str, Style]:
    """Returns the style of each treatment ("bf16", "bnb-int8 compiled"), in a fixed order: a compiled model is filled,
    an uncompiled one hollow."""
    ordered = [name for method in METHODS for name in (method, method + COMPILED) if name in names]
    styles = {name: METHODS[name.removesuffix(COMPILED)] for name in ordered}
    styles |= dict.fromkeys(sorted(set(names) - set(styles)), OTHERS[-1])
    return {name: replace(style, line="-" if name.endswith(COMPILED) else ":") for name, style in styles.items()}


def backend_styles(backends: Collection[str]) -> dict[str, Style]:
    """Returns the style of each backend, in a fixed order."""
    styles = {name: style for name, style in STYLES.items() if name in backends}
    return styles | {name: OTHERS[i % len(OTHERS)] for i, name in enumerate(sorted(set(backends) - set(STYLES)))}
