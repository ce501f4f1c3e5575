"""This room makes a workload ready and measures it once."""

NO_MEMORY = "does not fit"  # stands in the reason of what is missing for a lack of memory
