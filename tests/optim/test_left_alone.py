"""What KFAC and APO-P leave alone is said, and a model of which they would leave all is refused."""

import copy
import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.kfac import problem_of
from support.shell import Shell
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from apo_bench import Batch, UpdateRule
from apo_bench.errors import UsageError
from apo_bench.optim.competitors import APOPHyperparameters, apo_p
from apo_bench.problem.rule import Selective
from baselines.kfac import EKFACHyperparameters, KFACHyperparameters, ekfac, kfac

BUILDERS: dict[str, Callable[..., UpdateRule]] = {
    "kfac": lambda problem: kfac.build(problem, KFACHyperparameters()),
    "ekfac": lambda problem: ekfac.build(problem, EKFACHyperparameters()),
    "apo-p": lambda problem: apo_p.build(problem, APOPHyperparameters()),
}


class _Everything(nn.Module):
    """A layer of every kind that the methods leave alone, behind one that they do not."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens = nn.Embedding(7, 4)
        self.places = nn.Parameter(torch.randn(3, 4))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.grouped = nn.Conv2d(4, 4, 1, groups=2)
        self.along = nn.Conv1d(4, 4, 1)
        self.memory = nn.LSTM(4, 4, batch_first=True)
        self.behind = parametrizations.weight_norm(nn.Linear(4, 4))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.hooked = nn.utils.weight_norm(nn.Linear(4, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, x_BT: Tensor) -> Tensor:
        x = self.tokens(x_BT) + self.places
        x = self.norm(self.attention(x, x, x)[0])
        x = self.along(self.grouped(x.mT.unsqueeze(3)).squeeze(3)).mT
        out: Tensor = self.head(self.hooked(self.behind(self.memory(x)[0])).mean(1))
        return out


def _batch() -> Batch:
    source = torch.Generator().manual_seed(0)
    return Batch((torch.randint(0, 7, (6, 3), generator=source),), torch.randint(0, 3, (6,), generator=source))


@pytest.mark.parametrize("name", BUILDERS)
def test_every_weight_outside_the_layers_is_named_with_its_reason(name: str) -> None:
    model = _Everything()
    rule = BUILDERS[name](problem_of(model))
    assert isinstance(rule, Selective)
    expected: dict[str, tuple[str, ...]] = {
        "part of _Everything": ("places",),
        "embedding": ("tokens.weight",),
        "packed projection of attention": ("attention.in_proj_weight",),
        "grouped convolution": ("grouped.weight",),
        "part of Conv1d": ("along.weight",),
        "part of LSTM": ("memory.weight_ih_l0", "memory.weight_hh_l0"),
        "behind a parametrization": (
            "behind.parametrizations.weight.original0",
            "behind.parametrizations.weight.original1",
            "hooked.weight_g",
            "hooked.weight_v",
        ),
    }
    if name != "apo-p":  # attention uses this weight without calling its layer, which hooks do not see
        expected["layer never called"] = ("attention.out_proj.weight",)
    assert rule.left_alone == expected
    if name != "apo-p":  # what is not called is seen in the first step
        rule.step(_batch())
        assert rule.left_alone == expected


@pytest.mark.parametrize("name", ["kfac", "ekfac"])
def test_what_is_left_alone_steps_along_its_plain_gradient(name: str) -> None:
    """The output projection of attention too: no KL clip of other weights acts on it."""
    model = _Everything()
    problem = problem_of(model)
    rule: Any = BUILDERS[name](problem)
    start = copy.deepcopy(model.state_dict())
    gradients = problem.gradients(problem.loss(problem.outputs(_batch()), _batch())).values
    names = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
    rule.step(_batch())
    after = model.state_dict()
    for key in ("attention.out_proj.weight", "attention.in_proj_weight", "hooked.weight_v", "tokens.weight"):
        gradient = gradients[names.index(key)]
        assert gradient is not None
        torch.testing.assert_close(start[key] - after[key], 0.1 * gradient, rtol=1e-4, atol=1e-7)


class _Functional(nn.Module):
    def __init__(self, *, other: bool) -> None:
        super().__init__()
        self.layer, self.other = nn.Linear(4, 3), nn.Linear(4, 4) if other else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.other(x), self.layer.weight, self.layer.bias)


def test_a_layer_that_is_used_without_being_called_is_named_after_the_first_step() -> None:
    batch = Batch((torch.randn(6, 4),), torch.arange(6) % 3)
    rule: Any = BUILDERS["kfac"](problem_of(_Functional(other=True)))
    rule.step(batch)
    assert rule.left_alone == {"layer never called": ("layer.weight",)}
    with pytest.raises(UsageError, match="without calling the layers, so that nothing can be preconditioned"):
        BUILDERS["kfac"](problem_of(_Functional(other=False))).step(batch)


def _without_layers() -> dict[str, nn.Module]:
    frozen = nn.Linear(4, 3).requires_grad_(requires_grad=False)
    return {
        "parametrized": parametrizations.weight_norm(nn.Linear(4, 3)),
        "grouped": nn.Conv2d(4, 4, 1, groups=4),
        "embedding": nn.EmbeddingBag(7, 3),
        "recurrent": nn.LSTM(4, 3),
        "frozen": nn.Sequential(frozen, nn.LayerNorm(3)),
    }


@pytest.mark.parametrize("model", _without_layers())
@pytest.mark.parametrize("name", BUILDERS)
def test_a_model_of_which_nothing_would_be_preconditioned_is_refused(name: str, model: str) -> None:
    with pytest.raises(UsageError, match=r"no linear layer and no convolution to precondition.*use sgdm") as caught:
        BUILDERS[name](problem_of(_without_layers()[model]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["kfac", "ekfac"])
def test_attention_of_torch_alone_is_refused_by_kfac(name: str) -> None:
    with pytest.raises(UsageError, match="calls no linear layer"):
        BUILDERS[name](problem_of(nn.MultiheadAttention(4, 2)))


TOKENS = '''
import torch
from torch import nn
import apo_bench


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.head = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.tokens(x).mean(1))


def load():
    source = torch.Generator().manual_seed(0)
    parts = []
    for size in (64, 16, 16):
        x = torch.randint(0, 7, (size, 5), generator=source)
        parts.append(apo_bench.Examples((x,), x[:, 0] % 3))
    return apo_bench.Splits(*parts)


def tokens():
    """Tokens in a bag."""
    return apo_bench.Task(
        dataset=apo_bench.Dataset("bags", load, lambda: "1"),
        model=Bag,
        model_name="bag",
        objective=apo_bench.CrossEntropy(),
        metric=apo_bench.Accuracy(),
        batch_size=16,
    )
'''


def test_the_command_says_it_once_and_the_record_and_the_list_do(tmp_path: Any) -> None:
    shell = Shell(tmp_path)
    shell.install("bags", TOKENS, "[apo_bench.tasks]\nbag = bags:tokens\n")
    said = shell(
        *("run", "--suite", "classification", "--scale", "smoke", "--tasks", "bag"),
        *("--optimizers", "apo-p,kfac,sgdm", "--precisions", "fp32", "--seeds", "0,1"),
        *("--epochs", "1", "--device", "cpu", "--store", "here"),
    )
    for name in ("apo-p", "kfac"):
        line = f"{name} on bag leaves alone tokens.weight (embedding)"
        assert (said.stdout + said.stderr).splitlines().count(line) == 1
    assert "sgdm on bag leaves alone" not in said.stdout + said.stderr
    records = [json.loads(path.read_text()) for path in (tmp_path / "here").rglob("record.json")]
    assert len(records) == 6
    for record in records:
        expected = {} if record["intent"]["spec"]["optimizer"]["name"] == "sgdm" else {"embedding": ["tokens.weight"]}
        assert record.get("left_alone", {}) == expected
    listed = {
        row["name"]: row for row in json.loads(shell("list", "optimizers", "--long", "--json").stdout)["optimizers"]
    }
    for name in ("apo-p", "kfac", "ekfac"):
        for kind in ("embeddings", "grouped convolutions", "weights behind parametrizations"):
            assert kind in listed[name]["leaves alone"]
    assert "leaves alone" not in listed["sgdm"]
