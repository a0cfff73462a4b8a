"""A suite and a store make work: what is to be run, what is reused, what it takes."""
