"""A workload is made ready here and measured once."""

NO_MEMORY = "does not fit"  # stands in the reason of what is missing for a lack of memory
