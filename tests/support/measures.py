"""What measurements are compared with."""

import torch

CPU = torch.device("cpu")
