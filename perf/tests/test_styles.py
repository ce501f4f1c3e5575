"""Backends can be told apart in every plot, in both themes, and by the colour-blind."""
from __future__ import annotations

from itertools import combinations

import pytest

from perf.report.styles import OTHERS, STYLES, backend_styles
from perf.web.page.charts import MARKERS

BACKGROUNDS = {"light": "#ffffff", "dark": "#17191d"}
# Machado, Oliveira, Fernandes, 2009, severity 1.0: linear RGB as seen without one of the three cones.
SIGHT = {
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protan": ((.152286, 1.052583, -.204868), (.114503, .786281, .099216), (-.003882, -.048116, 1.051998)),
    "deutan": ((.367322, .860646, -.227968), (.280085, .672501, .047413), (-.011820, .042940, .968881)),
    "tritan": ((1.255528, -.076749, -.178779), (-.078411, .930809, .147602), (.004733, .691367, .303900)),
}
XYZ = ((.4124, .3576, .1805), (.2126, .7152, .0722), (.0193, .1192, .9505))
WHITE = (.9505, 1.0, 1.089)


def linear(color: str) -> list[float]:
    parts = [int(color[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    return [part / 12.92 if part <= .04045 else ((part + .055) / 1.055) ** 2.4 for part in parts]


def times(matrix, vector):
    return [sum(a * b for a, b in zip(line, vector, strict=True)) for line in matrix]


def lab(rgb):
    """Converts linear RGB to CIE 1976 L*a*b*."""
    xyz = times(XYZ, [min(1, max(0, part)) for part in rgb])
    x, y, z = (t ** (1 / 3) if t > .008856 else 7.787 * t + 16 / 116
               for t in (part / white for part, white in zip(xyz, WHITE, strict=True)))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def luminance(color: str) -> float:
    return times(XYZ, linear(color))[1]


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("theme", BACKGROUNDS)
def test_colours_stay_apart(theme, sight):
    seen = {name: lab(times(SIGHT[sight], linear(getattr(style, theme)))) for name, style in STYLES.items()}
    for a, b in combinations(seen, 2):
        assert sum((x - y) ** 2 for x, y in zip(seen[a], seen[b], strict=True)) ** .5 >= 20, (a, b)


@pytest.mark.parametrize("theme", BACKGROUNDS)
def test_colours_stand_out_from_their_background(theme):
    ground = luminance(BACKGROUNDS[theme])
    for style in (*STYLES.values(), *OTHERS):
        light, dark = sorted((luminance(getattr(style, theme)), ground), reverse=True)
        assert (light + .05) / (dark + .05) >= 3, style


def test_a_backend_looks_the_same_in_every_plot_and_like_no_other():
    alone, together = backend_styles({"fa2"}), backend_styles({*STYLES, "their-own"})
    assert alone["fa2"] == together["fa2"]
    assert [*together] == [*STYLES, "their-own"]
    for part in ("light", "dark", "marker"):
        assert len({getattr(style, part) for style in (*STYLES.values(), *OTHERS)}) == len(STYLES) + len(OTHERS)
    assert {style.marker for style in (*STYLES.values(), *OTHERS)} == set(MARKERS)
