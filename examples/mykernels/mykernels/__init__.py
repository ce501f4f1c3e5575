"""Attention kernels in a repository of their own. They join by the entry points in pyproject.toml."""
