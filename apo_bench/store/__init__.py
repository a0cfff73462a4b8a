"""The store: claims, writing, reading."""
