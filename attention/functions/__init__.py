"""What attention computes, one file a function: its paper, its oracle, its variants."""
