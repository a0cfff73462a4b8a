"""Regression on tables (E2): two hidden layers of 100 rectified linear units, squared error, as the paper is recalled.

Batches of 50 where the table is embedded and of 100 else. The curve has a point every 10 of 500 epochs, 50 in all.
"""

from apo_bench.data.examples import Dataset
from apo_bench.data.regression import (
    CONCRETE,
    CONCRETE_TABLE,
    MEATS,
    MEATS_TABLE,
    PARKINSONS,
    PARKINSONS_TABLE,
    PROTEIN,
    PROTEIN_TABLE,
    SLICE,
    SLICE_TABLE,
    Table,
)
from apo_bench.models.mlp import mlp
from apo_bench.plugins.metrics import MeanSquaredError
from apo_bench.plugins.task import Task
from apo_bench.problem.objectives import SquaredError


def _task(
    dataset: Dataset,
    table: Table,
    *,
    source: str,
    batch: int,
    trivial: float | None = None,
    epoch_seconds: float | None = None,
) -> Task:
    return Task(
        dataset=dataset,
        model_name="mlp",
        model=lambda: mlp([table.features, 100, 100, len(table.targets)]),
        objective=SquaredError(),
        metric=MeanSquaredError(),
        batch_size=batch,
        reference_epoch_seconds=epoch_seconds,
        source=source,
        evaluation_interval=10,
        trivial=trivial,
    )


def concrete_mlp() -> Task:
    """MLP on Concrete Compressive Strength."""
    return _task(CONCRETE, CONCRETE_TABLE, source="[L] E2", trivial=0.7708, batch=50, epoch_seconds=0.011)


def meats_mlp() -> Task:
    """MLP on near-infrared spectra of meat."""
    return _task(MEATS, MEATS_TABLE, source="[L] E2", trivial=1.0675, batch=50, epoch_seconds=0.0023)


def slice_mlp() -> Task:
    """MLP on UCI Slice localization."""
    return _task(SLICE, SLICE_TABLE, source="[R] E2", batch=100)


def protein_mlp() -> Task:
    """MLP on UCI Protein."""
    return _task(PROTEIN, PROTEIN_TABLE, source="[R] E2", batch=100)


def parkinsons_mlp() -> Task:
    """MLP on UCI Parkinsons telemonitoring."""
    return _task(PARKINSONS, PARKINSONS_TABLE, source="[R] E2", batch=100)
