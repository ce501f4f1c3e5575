"""The sensors: each file measures or records one thing."""
