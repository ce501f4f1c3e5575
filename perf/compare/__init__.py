"""Two sides are measured live, in turns, on one device."""
