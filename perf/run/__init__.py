"""One pytest run: its options, its session and its end."""
