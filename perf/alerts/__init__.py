"""Tells people what a comparison found: an issue for each set of regressions, a comment on a pull request, and more.

Pure: markdown, tables, issue, comment, exports, sets (what is to be opened, updated, closed). What sends: client
(GitHub), webhook, actions (a workflow's summary and annotations), deliver, which keeps a message until it is sent.
command: `python -m perf alert`.
"""
