"""Clocks, memory, the machine, and the evidence a measured workload leaves: one thing a file."""
