"""A workload is made ready here and measured once."""
