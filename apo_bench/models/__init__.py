"""The networks of the suites, written out."""
