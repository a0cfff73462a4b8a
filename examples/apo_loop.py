"""APO and KFAC in a training loop of one's own: no harness, one network, 500 steps."""

# --8<-- [start:apo-lr]
import torch
from torch import nn

from apo_bench import CrossEntropy, Precision, PrecisionPolicy, Problem
from apo_bench.data.fashion_mnist import load
from apo_bench.optim import APOLR, ProximalWeights

train = load().train


def draw():
    return train.take(torch.randint(len(train), (128,)))


model = nn.Sequential(nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
policy = PrecisionPolicy(Precision.FP32, torch.device("cpu"))
problem = Problem(model, CrossEntropy(), policy, draw)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
rule = APOLR(problem, optimizer, weights=ProximalWeights(fsd=0.3, wsd=0.0))
losses = [float(rule.step(draw()).loss) for _ in range(300)]
print(f"loss {losses[0]:.2f} to {losses[-1]:.2f}, learning rate 0.01 to {rule.learning_rates[0]:.2g}")
# --8<-- [end:apo-lr]

# --8<-- [start:apo-p-kfac]
from apo_bench.optim import APOP
from baselines.kfac import KFAC, Settings

for rule in (
    APOP(problem, lr=0.1, weights=ProximalWeights(fsd=3.0, wsd=0.0), meta_lr=1e-3),
    KFAC(problem, Settings(lr=0.1, damping=0.1, kl_clip=3e-4)),
):
    losses += [float(rule.step(draw()).loss) for _ in range(100)]
    print(f"{type(rule).__name__}: loss {losses[-1]:.2f}")
# --8<-- [end:apo-p-kfac]
