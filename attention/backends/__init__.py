"""How attention is computed, one file a family of kernels. Each offers ready `Backend` objects."""
