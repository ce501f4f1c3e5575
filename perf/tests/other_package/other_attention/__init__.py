"""A package that is not of this project: it joins by entry points, see its pyproject.toml."""
