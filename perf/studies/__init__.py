"""Measures published studies again: only where they are named."""
