"""Verdicts: what is slower, in which commit, and how sure that is."""
