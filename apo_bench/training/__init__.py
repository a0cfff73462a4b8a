"""The only training loop, and what an update rule may see."""
