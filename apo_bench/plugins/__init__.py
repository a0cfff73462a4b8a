"""Names to factories: how optimizers, tasks and metrics enter."""
