"""Regression: a badly conditioned linear map (E1) and tables (E2), judged by the training loss in the paper.

E1 is learned by a network without nonlinearity, so that nothing but the conditioning is hard. The sizes of E1, and all
of E2, are recalled from the paper and not verified [R]. At scale ``local`` concrete and meats stand in for the tables;
there each competitor has the best of 8 trials on validation data (``reports/regression-local/tuning.csv``, fp32). At
scale ``paper`` the linear map, which is the same, has those too, and nothing else is tuned. Scale ``study`` is
``local`` with twice the budget and five seeds.
"""

from apo_bench.records.contrast import against
from apo_bench.records.spec import Precision, Scalar, Scale
from apo_bench.records.suite import OptimizerEntry, Suite, TaskEntry
from apo_bench.suites import study

COMPETITORS = ("sgdm", "adam", "soap", "kfac", "ekfac", "apo-p")
"""The paper's, with SOAP in place of Shampoo, whose successor it is, and EKFAC."""
CONTRASTS = (*against("sgdm", *COMPETITORS[1:]), *against("apo-p", "kfac", family="second order"))
LINEAR_STEPS = 5000
"""Full-batch steps of E1: APO-P updates its preconditioner 500 times in them."""

_Tuned = dict[str, dict[str, Scalar]]
_TUNED_LINEAR: _Tuned = {
    "sgdm": {"lr": 0.14},
    "adam": {"lr": 0.00517},
    "soap": {"lr": 0.000309},
    "kfac": {"damping": 0.00557, "kl_clip": 0.00153},
    "ekfac": {"damping": 0.00557, "kl_clip": 0.00153},
    "apo-p": {"lr": 0.837, "meta_lr": 0.00555, "fsd": 3.85},
}
_TUNED_CONCRETE: _Tuned = {
    "sgdm": {"lr": 0.14},
    "adam": {"lr": 0.00517},
    "soap": {"lr": 0.0174},
    "kfac": {"damping": 0.00111, "kl_clip": 0.000789},
    "ekfac": {"damping": 0.098, "kl_clip": 0.00265},
    "apo-p": {"lr": 0.837, "meta_lr": 0.00555, "fsd": 3.85},
}
_TUNED_MEATS: _Tuned = {
    "sgdm": {"lr": 0.00281},
    "adam": {"lr": 0.000178},
    "soap": {"lr": 0.0128},
    "kfac": {"damping": 0.00557, "kl_clip": 0.00153},
    "ekfac": {"damping": 0.0566, "kl_clip": 0.00045},
    "apo-p": {"lr": 0.0386, "meta_lr": 0.00254, "fsd": 6.03},
}


def regression(scale: Scale) -> Suite:
    """Regression: who minimizes an ill-conditioned loss."""
    linear, concrete, meats = "linear-map-1e10.two-layer", "concrete.mlp", "meats.mlp"
    precisions: tuple[Precision, ...] = (Precision.FP32,)
    match scale:
        case Scale.SMOKE:
            budgets = {linear: 100, concrete: 5, meats: 20}
            tasks = tuple(TaskEntry(task=task, epochs=epochs) for task, epochs in budgets.items())
            precisions = (Precision.FP32, Precision.FP16)
        case Scale.LOCAL | Scale.STUDY:
            seeds, factor = ((0, 1, 2), 1) if scale is Scale.LOCAL else (study.REPORTING_SEEDS, 2)
            tasks = (
                TaskEntry(
                    task=linear,
                    epochs=factor * LINEAR_STEPS,
                    seeds=seeds,
                    overrides=_TUNED_LINEAR,
                    precisions=(Precision.FP32, Precision.FP64),
                ),
                TaskEntry(task=concrete, epochs=factor * 200, seeds=seeds, overrides=_TUNED_CONCRETE),
                TaskEntry(task=meats, epochs=factor * 500, seeds=seeds, overrides=_TUNED_MEATS),
            )
        case Scale.PAPER:
            tables = ("slice.mlp", "protein.mlp", "parkinsons.mlp")
            tasks = (
                TaskEntry(task=linear, epochs=LINEAR_STEPS, seeds=(0, 1, 2), overrides=_TUNED_LINEAR),
                *(TaskEntry(task=task, epochs=500, seeds=(0, 1, 2)) for task in tables),
            )
    return Suite(
        name="regression",
        scale=scale,
        title="Regression",
        tasks=tasks,
        optimizers=tuple(OptimizerEntry(optimizer=name, overrides={"weight_decay": 0.0}) for name in COMPETITORS),
        precisions=precisions,
        contrasts=CONTRASTS,
    )
