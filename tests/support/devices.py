"""Devices that tests name."""

import torch

CPU = torch.device("cpu")
