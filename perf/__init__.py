"""What happens to a workload: workloads -> measure -> decide -> track and report."""
