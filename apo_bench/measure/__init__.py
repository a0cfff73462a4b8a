"""Instruments: memory, environment."""
