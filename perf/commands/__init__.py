"""The commands of `python -m perf`, one a file."""
