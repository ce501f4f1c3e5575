"""Loads the perf plugin where the package is not installed (installed, pytest finds it by entry point)."""
from __future__ import annotations

import pytest

import perf.plugin


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    if not pluginmanager.is_registered(perf.plugin):
        pluginmanager.register(perf.plugin, "attention_perf")
