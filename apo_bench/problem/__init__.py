"""What an update rule sees: usable without the harness."""
