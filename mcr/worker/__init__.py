"""The worker process: packets."""
