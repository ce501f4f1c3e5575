"""Options that the tests give to each function, from the `test_values` of its registration."""
from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from attention.registry import function


def fixed(name: str) -> dict[str, Any]:
    """Options that suit sequences of a few dozen keys."""
    return {option: values[0] for option, values in function(name).test_values.items()}


def drawn(name: str) -> st.SearchStrategy[dict[str, Any]]:
    """Any of the options."""
    values = function(name).test_values
    return st.fixed_dictionaries({option: st.sampled_from(choices) for option, choices in values.items()})
