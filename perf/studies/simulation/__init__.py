"""Simulates worlds of nights, and the rules that look for slowdowns in them: `python -m perf.studies.simulation`."""
