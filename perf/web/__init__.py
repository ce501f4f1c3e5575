"""Writes web pages that load nothing from elsewhere: the report of one run, and the site of the history."""
