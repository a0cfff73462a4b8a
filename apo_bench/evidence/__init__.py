"""Pure functions from records to statements."""
