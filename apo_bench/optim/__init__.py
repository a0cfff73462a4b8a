"""Amortized Proximal Optimization (Bae, Vicol, HaoChen and Grosse, NeurIPS 2022), with or without the harness."""

from apo_bench.optim.apo_lr import APOLR
from apo_bench.optim.apo_p import APOP, Structure
from apo_bench.optim.combined import Combined
from apo_bench.optim.meta import MetaOptimizer
from apo_bench.optim.proximal import ProximalObjective, ProximalWeights

__all__ = ["APOLR", "APOP", "Combined", "MetaOptimizer", "ProximalObjective", "ProximalWeights", "Structure"]
