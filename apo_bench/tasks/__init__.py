"""Tasks: a dataset, a model, an objective and a metric under one name."""
