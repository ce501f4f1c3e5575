"""Tells people what a comparison found: an issue for each set of regressions, a comment on a pull request, and more.

Pure are markdown, table, issue, comment, exports, and sets, which decides what is to be opened, updated and closed.
client (GitHub) and webhook send; deliver keeps a message until it is sent. The command is `python -m perf alert`.
"""
