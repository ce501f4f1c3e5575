"""This room runs one pytest run: its options, its session and its end."""
