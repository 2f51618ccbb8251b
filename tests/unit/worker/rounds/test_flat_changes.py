"""A change as one vector: its order, its way back, its norm."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.private_sums import private_specification
from worker.methods.interface import TrainingResult
from worker.rounds.flat_changes import clipped, flat_change, split

BIAS = "hypernetwork.output.bias"


def test_a_change_comes_back_as_the_tensors_that_it_was_made_of() -> None:
    parameters = private_specification().parameters
    change = np.array([0.5, -1.0, 2.0, 0.25], np.float32)
    result = TrainingResult("a", 1, {BIAS: change}, {}, {})
    flat = flat_change(result, {}, parameters)
    assert flat.dtype == np.float64
    assert split(flat, parameters)[BIAS].tolist() == change.tolist()


def test_a_change_is_shortened_and_never_lengthened() -> None:
    assert np.linalg.norm(clipped(np.array([3.0, 4.0]), 1.0)) == pytest.approx(1.0)
    assert clipped(np.array([3.0, 4.0]), 6.0).tolist() == [3.0, 4.0]
    assert clipped(np.zeros(2), 1.0).tolist() == [0.0, 0.0]
