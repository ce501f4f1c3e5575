"""Gives the tests options for each function, from the `test_values` of its registration."""
from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from attention.registry import function


def fixed(name: str) -> dict[str, Any]:
    """Gives options that suit sequences of a few dozen keys."""
    return {option: values[0] for option, values in function(name).test_values.items()}


def any_options(name: str) -> st.SearchStrategy[dict[str, Any]]:
    """Gives a strategy that chooses any of the test values."""
    values = function(name).test_values
    return st.fixed_dictionaries({option: st.sampled_from(choices) for option, choices in values.items()})
