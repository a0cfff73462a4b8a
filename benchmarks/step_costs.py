"""What a step of each optimizer costs beside one of SGDm, and how far that is from its floor.

Every kind of step (plain, with factors, with inverses, with a meta-update) of every optimizer is timed in one process,
in rounds that run forwards and then backwards through the kinds, so that drift of the machine cancels; a kind's cost is
its time over SGDm's in the same round, and an optimizer's is the mean of its kinds by their frequency. Printed are the
median over rounds and the quartiles.

With ``--peers`` the public optimizers that are installed are in the same rounds (`benchmarks/peers.py`); of these a
whole cycle of their intervals is timed, which takes long.

The floor is what the method cannot do without, measured in the same rounds: SGDm's step; for a meta-update a forward
pass over B′ and forward and backward passes over B and B′; for a factor step a backward pass to the layers' outputs and
the products of the factors; for an inversion the Cholesky factorizations; for every step the products with P.

"KFAC, declared defaults" is the competitor `kfac` as it is registered, with its own intervals; the other rows have the
same intervals for all. AlexNet is that of the task `fashion-mnist-20k.alexnet-w16`.

    python benchmarks/step_costs.py [--models lenet alexnet-w16 resnet18-w16] [--rounds 20] [--peers] [--output PAGE]
"""

import argparse
import dataclasses
import functools
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peers import peers
from tabulate import tabulate
from torch import Tensor, nn

from apo_bench import Batch, CrossEntropy, Precision, PrecisionPolicy, Problem, TorchRule, UpdateRule
from apo_bench.measure.kinds import step_kinds
from apo_bench.models.alexnet import alexnet
from apo_bench.models.lenet import lenet
from apo_bench.models.resnet import resnet18
from apo_bench.optim import APOLR, APOP, ProximalWeights, Structure, kronecker
from apo_bench.optim.layers import to_matrix
from baselines.kfac import factors, kfac
from baselines.kfac.curvature import CorrectedCurvature, KroneckerCurvature
from baselines.kfac.damping import Damping, Solver, damped_inverses
from baselines.kfac.hooks import recording
from baselines.kfac.optimizer import KFAC
from baselines.kfac.settings import Settings

K = 10
"""Steps between two meta-updates, and between two estimates of the factors."""
INVERSES = 100
PLAIN = "plain"
SHARE = 0.25
"""Of the batch's examples, for the factors: the default of the competitors."""
QUARTERS = 0.25
APO_P = {
    "APO-P": (Structure.FULL, 1.0),
    "APO-P, quarters": (Structure.FULL, QUARTERS),
    "APO-P, spatial": (Structure.SPATIAL, 1.0),
    "APO-P, spatial, quarters": (Structure.SPATIAL, QUARTERS),
}
"""Structure, and the share of B and B′ on which a meta-update is done."""
APO_LR = {"APO-LR": 1.0, "APO-LR, quarters": QUARTERS}
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "lenet": (functools.partial(lenet, in_channels=1, image_size=28, classes=10), (128, 1, 28, 28), 200),
    "alexnet-w16": (
        functools.partial(alexnet, in_channels=1, image_size=28, classes=10, width=16),
        (128, 1, 28, 28),
        60,
    ),
    "resnet18-w16": (functools.partial(resnet18, in_channels=3, classes=10, width=16), (64, 3, 32, 32), 12),
    "resnet18-w64": (functools.partial(resnet18, in_channels=3, classes=10, width=64), (32, 3, 32, 32), 5),
}


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of step, or a part of the floor.

    Attributes:
        owner: Optimizer or floor it belongs to.
        run: Does it once.
        share: How many of it there are in a step, on average.
        name: What kind of step it is.
    """

    owner: str
    run: Callable[[], object]
    share: float
    name: str = ""


class Bench:
    """A model with everything that is timed on it."""

    def __init__(self, make: Callable[[], nn.Module], shape: tuple[int, ...], *, with_peers: bool = False) -> None:
        self.with_peers = with_peers
        self.make = make
        self.shape = shape
        self.batch = self._batch()
        self.other = self._batch()

    def _batch(self) -> Batch:
        inputs = torch.randn(self.shape).to(memory_format=torch.channels_last)
        return Batch((inputs,), torch.randint(0, 10, self.shape[:1]))

    def model(self) -> nn.Module:
        """A new network."""
        torch.manual_seed(0)
        return self.make().to(memory_format=torch.channels_last)

    def problem(self) -> Problem:
        """With a new network."""
        model = self.model()
        policy = PrecisionPolicy(Precision.FP32, torch.device("cpu"))
        policy.prepare(model)
        return Problem(model, CrossEntropy(), policy, lambda: self.other)

    def stepping(self, rule: UpdateRule, at: int | None = None) -> Callable[[], object]:
        """A step of the kind that the rule takes at step ``at`` of its cycle."""

        def step() -> None:
            if at is not None:
                rule.steps = at  # type: ignore[attr-defined] # rules that have intervals count steps
            rule.step(self.batch)

        return step

    def kinds(self) -> list[Kind]:
        """Everything that is timed, SGDm first."""
        sgd = functools.partial(torch.optim.SGD, lr=1e-4, momentum=0.9, foreach=True)
        found = [Kind("SGDm", self.stepping(TorchRule(problem := self.problem(), sgd(problem.parameters))), 1.0, PLAIN)]
        solvers = {
            "KFAC": (KroneckerCurvature, Solver.CHOLESKY, SHARE),
            "KFAC, eigen": (KroneckerCurvature, Solver.EIGEN, SHARE),
            "KFAC, factors from all of B": (KroneckerCurvature, Solver.CHOLESKY, 1.0),
            "EKFAC": (CorrectedCurvature, Solver.EIGEN, SHARE),
        }
        for name, (curvature, solver, share) in solvers.items():
            settings = Settings(
                lr=1e-4,
                kl_clip=1e-3,
                factor_interval=K,
                factor_share=share,
                inverse_interval=INVERSES,
                solver=solver,
                form=Damping.FACTORED,
            )
            rule: UpdateRule = KFAC(self.problem(), settings, curvature)
            found += [
                Kind(name, self.stepping(rule, INVERSES), 1 / INVERSES, "factors and inverses"),
                Kind(name, self.stepping(rule, K), 1 / K - 1 / INVERSES, "factors"),
                Kind(name, self.stepping(rule, 1), 1 - 1 / K, PLAIN),
            ]
        declared = kfac.build(self.problem(), kfac.hyperparameters(lr=1e-4))
        found += [
            Kind("KFAC, declared defaults", self.stepping(declared, kind.at), float(kind.share), kind.name)
            for kind in step_kinds(declared)
        ]
        for name, (structure, share) in APO_P.items():
            weights = ProximalWeights(fsd=1.0, wsd=0.0, share=share)
            rule = APOP(self.problem(), lr=1e-4, weights=weights, meta_lr=1e-6, interval=K, structure=structure)
            found += [
                Kind(name, self.stepping(rule, K), 1 / K, "meta-update"),
                Kind(name, self.stepping(rule, 1), 1 - 1 / K, PLAIN),
            ]
        for name, share in APO_LR.items():
            problem = self.problem()
            weights = ProximalWeights(fsd=1.0, wsd=0.0, share=share)
            rule = APOLR(problem, sgd(problem.parameters), weights=weights, meta_lr=1e-3, interval=K)
            found += [
                Kind(name, self.stepping(rule, K), 1 / K, "meta-update"),
                Kind(name, self.stepping(rule, 1), 1 - 1 / K, PLAIN),
            ]
        return found + (self.peers() if self.with_peers else []) + self.floors()

    def peers(self) -> list[Kind]:
        """Public optimizers; a cycle's steps are one kind, whose share makes it a step."""
        found = []
        for name, step, cycle in peers(self.model, self.batch, K, INVERSES):

            def run(step: Callable[[], object] = step, cycle: int = cycle) -> None:
                for _ in range(cycle):
                    step()

            found.append(Kind(name, run, 1 / cycle, f"{cycle} steps"))
        return found

    def floors(self) -> list[Kind]:
        """Parts of the floors; each with SGDm's own step."""
        problem = self.problem()

        def forward(batch: Batch) -> None:
            with torch.no_grad():
                problem.outputs(batch)

        def passes(batch: Batch) -> None:
            problem.gradients(problem.loss(problem.outputs(batch), batch))

        found = []
        for owner, share in (APO_LR | {name: share for name, (_, share) in APO_P.items()}).items():
            own, other = _part(self.batch, share), _part(self.other, share)
            found += [
                Kind(f"{owner} floor", functools.partial(forward, other), 1 / K, "forward over B'"),
                Kind(f"{owner} floor", functools.partial(passes, other), 1 / K, "forward and backward over B'"),
                Kind(f"{owner} floor", functools.partial(passes, own), 1 / K, "forward and backward over B"),
            ]
        for owner, (structure, _) in APO_P.items():
            rule = APOP(problem, lr=1.0, weights=ProximalWeights(fsd=0.0, wsd=0.0), structure=structure)
            found += [
                Kind(f"{owner} floor", functools.partial(_precondition, rule), 1.0 + 1 / K, "products with P"),
                Kind(f"{owner} floor", functools.partial(_meta_gradient, rule), 1 / K, "gradient in A, B and S"),
            ]
        return found + self._floor_of_kfac(problem)

    def _floor_of_kfac(self, problem: Problem) -> list[Kind]:
        kinds = (nn.Linear, nn.Conv2d)
        with recording(module for module in problem.model.modules() if isinstance(module, kinds)) as calls:
            outputs = problem.outputs(self.batch)
        loss = problem.loss(outputs, self.batch)
        edges = [call.output for call in calls]
        values = problem.intermediate_gradients(loss, edges).values
        gradients = [call.shaped(value) for call, value in zip(calls, values, strict=True)]
        rule = KFAC(self.problem(), Settings(lr=1e-9))
        rule.step(self.batch)
        matrices = [to_matrix(layer, rule.problem.parameters).detach() for layer in rule.layers]

        def rows(share: float) -> list[tuple[Tensor, Tensor]]:
            count = round(share * self.shape[0])
            return [
                (
                    factors.input_rows(call.module, call.inputs[:count]).flatten(0, 1),
                    factors.gradient_rows(call.module, gradient[:count]).flatten(0, 1),
                )
                for call, gradient in zip(calls, gradients, strict=True)
                if gradient is not None
            ]

        @torch.no_grad()
        def products(pairs: list[tuple[Tensor, Tensor]]) -> None:
            for x_RI, g_RO in pairs:
                _ = x_RI.mT @ x_RI, g_RO.mT @ g_RO

        @torch.no_grad()
        def inversions() -> None:
            for curvature in rule.curvatures:
                assert curvature.A_II is not None
                assert curvature.G_OO is not None
                damped_inverses(curvature.A_II, curvature.G_OO, 1e-3)

        @torch.no_grad()
        def precondition() -> None:
            for curvature, matrix in zip(rule.curvatures, matrices, strict=True):
                curvature.precondition(matrix)

        return [
            kind
            for owner, share in (("KFAC", SHARE), ("KFAC, factors from all of B", 1.0))
            for kind in (
                Kind(
                    f"{owner} floor", lambda: problem.intermediate_gradients(loss, edges), 1 / K, "backward to outputs"
                ),
                Kind(f"{owner} floor", functools.partial(products, rows(share)), 1 / K, "products of the factors"),
                Kind(f"{owner} floor", inversions, 1 / INVERSES, "inversions"),
                Kind(f"{owner} floor", precondition, 1.0, "products with the inverses"),
            )
        ]


def _part(batch: Batch, share: float) -> Batch:
    count = round(share * batch.size)
    return Batch((batch.inputs[0][:count],), batch.targets[:count])


@torch.no_grad()
def _precondition(rule: APOP) -> None:
    for own, matrix in zip(rule.factors, _matrices(rule), strict=True):
        kronecker.precondition(own, matrix)


@torch.no_grad()
def _meta_gradient(rule: APOP) -> None:
    for own, matrix in zip(rule.factors, _matrices(rule), strict=True):
        kronecker.meta_gradient(own, matrix, matrix, 1.0)


@functools.cache
def _matrices(rule: APOP) -> list[Tensor]:
    return [to_matrix(layer, rule.problem.parameters).detach() for layer in rule.layers]


def measure(bench: Bench, rounds: int, only: list[str] | None = None) -> tuple[float, dict[str, list[float]]]:
    """Milliseconds of SGDm's step, and by owner the ratio to it, round by round."""
    wanted = None if only is None else {"SGDm", *only, *(f"{owner} floor" for owner in only)}
    kinds = [kind for kind in bench.kinds() if wanted is None or kind.owner in wanted]
    for kind in kinds:
        kind.run()
        kind.run()
    base: list[float] = []
    ratios: dict[str, list[float]] = {}
    for _ in range(rounds):
        times = [0.0] * len(kinds)
        for places in (range(len(kinds)), reversed(range(len(kinds)))):
            for place in places:
                start = time.perf_counter()
                kinds[place].run()
                times[place] += (time.perf_counter() - start) / 2
        base.append(times[0])
        totals: dict[str, float] = {}
        for kind, seconds in zip(kinds, times, strict=True):
            totals[kind.owner] = totals.get(kind.owner, 0.0) + kind.share * seconds
        for owner, seconds in totals.items():
            extra = times[0] if owner.endswith("floor") else 0.0
            ratios.setdefault(owner, []).append((seconds + extra) / times[0])
    return 1000.0 * statistics.median(base), ratios


def page(name: str, rounds: int | None, threads: int, only: list[str] | None, *, with_peers: bool) -> str:
    """One model's table."""
    make, shape, usual = MODELS[name]
    milliseconds, ratios = measure(Bench(make, shape, with_peers=with_peers), rounds or usual, only)
    rows = []
    for owner, values in ratios.items():
        if owner.endswith("floor") or owner == "SGDm":
            continue
        low, middle, high = statistics.quantiles(values, n=4)
        floor = ratios.get(f"{owner} floor")
        over = statistics.median(a / b for a, b in zip(values, floor, strict=True)) if floor else None
        rows.append([owner, middle, f"{low:.3f} to {high:.3f}", statistics.median(floor) if floor else None, over])
    headers = ["optimizer", "step / SGDm", "quartiles", "floor", "over floor"]
    return (
        f"## {name}, batch {shape[0]} of {' × '.join(map(str, shape[1:]))}\n\n"
        f"SGDm: {milliseconds:.1f} ms a step, {threads} threads, {len(values)} rounds.\n\n"
        + tabulate(rows, headers, tablefmt="github", floatfmt=".3f", missingval="–")
        + "\n"
    )


def main() -> None:
    """Print one table a model, and write them to a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rounds", type=int, help="for every model; by default fewer for larger ones")
    parser.add_argument(
        "--only", nargs="+", help="optimizers, as the table calls them; eigenvectors of 4608 take minutes"
    )
    parser.add_argument("--peers", action="store_true", help="also public optimizers, where they are installed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="Markdown file")
    options = parser.parse_args()
    if options.rounds is not None and options.rounds < 2:
        parser.error(f"--rounds must be at least 2 (got {options.rounds})")
    torch.set_num_threads(options.threads)
    here = f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, fp32, {platform.machine()} CPU."
    pages = [f"# What a step costs\n\n{(__doc__ or '').partition('    python')[0].strip()}\n\n{here}\n"]
    for name in options.models:
        pages.append(page(name, options.rounds, options.threads, options.only, with_peers=options.peers))
        print(f"\n{pages[-1]}", flush=True)
        if options.output:
            options.output.write_text("\n".join(pages), encoding="utf-8")


if __name__ == "__main__":
    main()
