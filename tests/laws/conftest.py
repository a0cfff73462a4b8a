"""What the batteries share."""

from typing import Any

import pytest

from apo_bench.optim import kronecker
from apo_bench.optim.kronecker import Factors


@pytest.fixture
def meta_gradients(monkeypatch: pytest.MonkeyPatch) -> list[Factors]:
    """The meta-gradients that production code computes, as they come."""
    caught: list[Factors] = []
    original = kronecker.meta_gradient

    def spy(*arguments: Any) -> Factors:
        found = original(*arguments)
        assert isinstance(found, Factors)
        caught.append(found)
        return found

    monkeypatch.setattr(kronecker, "meta_gradient", spy)
    return caught
