"""Low precision: parameters, activations and gradients stored in 16 bit (E6).

The paper's table says 16 bit and not which format [P]; both are run here, and fp32 beside them.
"""

import msgspec

from apo_bench.records.contrast import Contrast, Selector, against
from apo_bench.records.schedules import Constant
from apo_bench.records.spec import Precision, Scale
from apo_bench.records.suite import Suite
from apo_bench.suites import study
from apo_bench.suites.classification import classification

_COMPETITORS = ("sgdm", "kfac", "apo-p")
_NETWORKS = {
    Scale.SMOKE: ("fashion-mnist-20k.lenet",),
    Scale.LOCAL: ("fashion-mnist-20k.lenet", "fashion-mnist-20k.resnet18-w8"),
    Scale.STUDY: (study.LENET,),
    Scale.PAPER: ("cifar10.lenet", "cifar10.resnet18", "cifar100.resnet18"),
}


def low_precision(scale: Scale) -> Suite:
    """Low precision: who stays stable when everything is stored in 16 bit."""
    base = classification(scale)
    precisions = (Precision.PURE_BF16, Precision.PURE_FP16)
    return msgspec.structs.replace(
        base,
        name="low-precision",
        title="Low precision",
        tasks=tuple(entry for entry in base.tasks if entry.task in _NETWORKS[scale]),
        optimizers=tuple(
            entry
            for entry in base.optimizers
            if entry.optimizer in _COMPETITORS and (scale is not Scale.STUDY or isinstance(entry.schedule, Constant))
        ),
        precisions=precisions if scale is Scale.SMOKE else (Precision.FP32, *precisions),
        contrasts=(
            *against("sgdm", "kfac", "apo-p"),
            *against("apo-p", "kfac", family="second order"),
            *(
                Contrast(
                    name=f"{name} in {precision} against fp32",
                    left=Selector(optimizer=name, precision=precision),
                    right=Selector(optimizer=name, precision=Precision.FP32),
                    family="precision",
                )
                for name in _COMPETITORS
                for precision in precisions
            ),
        ),
    )
