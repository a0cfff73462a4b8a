"""Translation from German to English by a Transformer (E5), judged by the BLEU of whole sentences.

The paper's model is recalled [R]: six and six layers of width 512, as the small configuration that is usual on IWSLT14,
with post-norm, dropout 0.3 and label smoothing 0.1. The local stand-in is a small model with pre-norm, which needs no
warm-up to train.
"""

import functools

from apo_bench.data import bpe, iwslt14, libreoffice
from apo_bench.data.examples import Dataset
from apo_bench.models.transformer import transformer
from apo_bench.plugins.task import Task
from apo_bench.problem.objectives import TokenCrossEntropy
from apo_bench.tasks.bleu import Bleu


def iwslt14_transformer() -> Task:
    """Transformer with 6 + 6 layers of width 512 on IWSLT14, lowercased; its data are to be fetched."""
    return Task(
        dataset=iwslt14.IWSLT14_DE_EN,
        model_name="transformer",
        model=functools.partial(
            transformer, iwslt14.PIECES, layers=6, width=512, heads=4, hidden=1024, dropout=0.3, norm="post"
        ),
        objective=TokenCrossEntropy(label_smoothing=0.1),
        metric=Bleu(iwslt14.decode, begin=bpe.BOS, end=bpe.EOS, text="lowercased"),
        batch_size=128,
        source="[P] E5, model [R]",
        evaluation_interval=5,
    )


def libreoffice_transformer_small() -> Task:
    """Transformer with 2 + 2 layers of width 128 on the help of LibreOffice.

    Trivial is to translate everything by one sentence: the best of the 30 that are most common in training.
    """
    return _small(libreoffice.LIBREOFFICE_DE_EN, epoch_seconds=140.0, trivial=1.32)


def libreoffice_2k_transformer_small() -> Task:
    """The same on its first 2,000 pairs, for a check of the machinery in seconds."""
    return _small(libreoffice.LIBREOFFICE_DE_EN_2K, epoch_seconds=10.0)


def _small(dataset: Dataset, *, epoch_seconds: float, trivial: float | None = None) -> Task:
    return Task(
        dataset=dataset,
        model_name="transformer-small",
        model=functools.partial(
            transformer, libreoffice.PIECES, layers=2, width=128, heads=4, hidden=512, dropout=0.1, norm="pre"
        ),
        objective=TokenCrossEntropy(),
        metric=Bleu(libreoffice.decode, begin=bpe.BOS, end=bpe.EOS),
        batch_size=64,
        reference_epoch_seconds=epoch_seconds,
        source="[L] E5",
        evaluation_interval=2,
        trivial=trivial,
    )
