"""Shows what a run measured: tables in the terminal, and plots."""
