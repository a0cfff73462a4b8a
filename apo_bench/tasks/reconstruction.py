"""Reconstruction (E3): the deep autoencoder of Hinton and Salakhutdinov (2006), four sigmoid layers and back, untied.

Pixels in [0, 1] are inputs and targets, the loss is their Bernoulli cross-entropy, summed over an image, in nats; grey
pixels have entropy of their own, so the best loss is not 0. Batches of 128 [R]; the paper's size is not known.
"""

from apo_bench.data.examples import Dataset
from apo_bench.data.fashion_mnist import FASHION_MNIST_20K_PIXELS
from apo_bench.data.mnist import FASHION_MNIST_PIXELS, MNIST_PIXELS
from apo_bench.models.mlp import autoencoder
from apo_bench.plugins.metrics import MeanLoss
from apo_bench.plugins.task import Task
from apo_bench.problem.objectives import BernoulliCrossEntropy


def _task(dataset: Dataset, source: str, *, trivial: float | None = None, epoch_seconds: float | None = None) -> Task:
    return Task(
        dataset=dataset,
        model_name="autoencoder",
        model=autoencoder,
        objective=BernoulliCrossEntropy(),
        metric=MeanLoss(BernoulliCrossEntropy(), "cross-entropy (nats)"),
        batch_size=128,
        reference_epoch_seconds=epoch_seconds,
        source=source,
        trivial=trivial,
    )


def mnist_autoencoder() -> Task:
    """Autoencoder on MNIST."""
    return _task(MNIST_PIXELS, '[A] "image reconstruction", E3 [R]')


def fashion_mnist_autoencoder() -> Task:
    """Autoencoder on Fashion-MNIST."""
    return _task(FASHION_MNIST_PIXELS, '[A] "image reconstruction", E3 [R]')


def fashion_mnist_20k_autoencoder() -> Task:
    """Autoencoder on Fashion-MNIST-20k; trivial is to predict the mean of the training images."""
    return _task(FASHION_MNIST_20K_PIXELS, "[L] E3", trivial=385.68, epoch_seconds=6.3)
