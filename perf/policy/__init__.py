"""What the project demands: each file of settings stands beside its loader."""
