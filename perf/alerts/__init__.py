"""Tells people what a comparison found: an issue for each set of regressions, a comment on a pull request, and more.

Pure are markdown, table, text, exports, and sets, which decides what is to be opened, updated and closed. client talks
to GitHub; deliver keeps a message until it is sent. The command is `python -m perf alert`.
"""
