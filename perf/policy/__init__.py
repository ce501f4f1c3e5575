"""Each file of settings, what the project demands, stands beside its loader."""
