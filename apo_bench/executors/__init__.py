"""Run many runs: isolated processes on this machine."""
