"""The commands of `python -m perf`, a file a subject: each adds its commands, with their arguments, to the parser."""
