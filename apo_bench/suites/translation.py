"""Machine translation by a Transformer (E5): IWSLT14 German to English, or the help of LibreOffice.

The paper compares SGDm, Adam and APO-P. Its model is recalled [R]: six and six layers, width 512. So are 3,000 steps of
Adam before APO-P's own begin; here APO-P has no such phase. Nothing is tuned at any scale: SGDm and APO-P have their
declared defaults, chosen on another network, and Adam a usual rate.
"""

from apo_bench.schedules import Constant, Cosine
from apo_bench.spec import OptimizerEntry, Precision, Scale, Suite, TaskEntry

_WARMUP = 0.05


def translation(scale: Scale) -> Suite:
    """Machine translation: a Transformer, judged by BLEU."""
    local = "libreoffice-de-en.transformer-small"
    precisions: tuple[Precision, ...] = (Precision.FP32,)
    match scale:
        case Scale.SMOKE:
            tasks: tuple[TaskEntry, ...] = (TaskEntry(task="libreoffice-de-en-2k.transformer-small", epochs=0.5),)
            precisions = (Precision.FP32, Precision.FP16)
        case Scale.LOCAL:
            tasks = (TaskEntry(task=local, epochs=8),)
        case Scale.PAPER:
            tasks = (TaskEntry(task="iwslt14-de-en.transformer", epochs=60, seeds=(0, 1, 2)),)
    return Suite(
        name="translation",
        scale=scale,
        title="Machine translation",
        tasks=tasks,
        optimizers=(
            OptimizerEntry(optimizer="sgdm", schedule=Cosine(warmup=_WARMUP)),
            OptimizerEntry(optimizer="adam", overrides={"lr": 1e-3}, schedule=Cosine(warmup=_WARMUP)),
            OptimizerEntry(optimizer="apo-p", schedule=Constant()),
        ),
        precisions=precisions,
    )
