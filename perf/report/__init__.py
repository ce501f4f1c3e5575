"""What a run shows: the terminal table."""
