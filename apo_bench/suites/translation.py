"""Machine translation by a Transformer (E5): IWSLT14 German to English, or the help of LibreOffice.

The paper compares SGDm, Adam and APO-P. Its model is recalled [R]: six and six layers, width 512. So are 3,000 steps of
Adam before APO-P's own begin; here APO-P has no such phase. At scale ``study``, on 2,000 pairs, the command tunes each
competitor; so few pairs say who minimizes the training loss, and nothing about translation.

Nothing is tuned at the other scales: SGDm and APO-P have their declared defaults, chosen on another network, and Adam a
usual rate, at ``local`` the one with which the budget was measured: Adam at 2e-3 came to a validation BLEU of 15.7,
21.9, 26.3, 29.0, 29.5 and 30.0 after 2, 4, ... 12 epochs, and to a test BLEU of 30.8. The others have not been run.
"""

from apo_bench.records.contrast import against
from apo_bench.records.schedules import Constant, Cosine
from apo_bench.records.spec import Precision, Scale
from apo_bench.records.suite import TUNING_SEED, OptimizerEntry, Suite, TaskEntry
from apo_bench.suites import study

_WARMUP = 0.05


def translation(scale: Scale) -> Suite:
    """Machine translation: a Transformer, judged by BLEU."""
    local = "libreoffice-de-en.transformer-small"
    precisions: tuple[Precision, ...] = (Precision.FP32,)
    adam_rate = 1e-3
    tuning_seeds: tuple[int, ...] = (TUNING_SEED,)
    match scale:
        case Scale.SMOKE:
            tasks: tuple[TaskEntry, ...] = (TaskEntry(task="libreoffice-de-en-2k.transformer-small", epochs=0.5),)
            precisions = (Precision.FP32, Precision.FP16)
        case Scale.LOCAL:
            tasks = (TaskEntry(task=local, epochs=12),)
            adam_rate = 2e-3
        case Scale.STUDY:
            tasks = (
                TaskEntry(
                    task="libreoffice-de-en-2k.transformer-small",
                    epochs=30,
                    seeds=study.REPORTING_SEEDS,
                    optimizers=(
                        study.competitor("sgdm", Cosine(warmup=_WARMUP)),
                        study.competitor("adam", Cosine(warmup=_WARMUP)),
                        study.competitor("kfac", Cosine(warmup=_WARMUP)),
                        study.competitor("apo-p"),
                    ),
                ),
            )
            tuning_seeds = study.TUNING_SEEDS
        case Scale.PAPER:
            tasks = (TaskEntry(task="iwslt14-de-en.transformer", epochs=60, seeds=(0, 1, 2)),)
    return Suite(
        name="translation",
        scale=scale,
        title="Machine translation",
        tasks=tasks,
        optimizers=(
            OptimizerEntry(optimizer="sgdm", schedule=Cosine(warmup=_WARMUP)),
            OptimizerEntry(optimizer="adam", overrides={"lr": adam_rate}, schedule=Cosine(warmup=_WARMUP)),
            OptimizerEntry(optimizer="apo-p", schedule=Constant()),
        ),
        precisions=precisions,
        tuning_seeds=tuning_seeds,
        contrasts=against("sgdm", "adam", "apo-p"),
    )
