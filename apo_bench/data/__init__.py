"""Datasets as tensors on the device."""
