"""The ground that every room stands on: git, files, devices and exit codes. It knows nothing of attention."""
