"""Studies: measured only where they are named."""
