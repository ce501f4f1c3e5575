"""What attention computes, one file a function: its paper, its oracle, its variants."""
from attention.functions import alibi, sliding_window, softmax

__all__ = ["alibi", "sliding_window", "softmax"]
