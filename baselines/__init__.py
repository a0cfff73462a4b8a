"""Against whom: optimizers that enter by the same entry points as anyone's plugin."""
