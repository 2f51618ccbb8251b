"""The digits: what scikit-learn has of them, split."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from worker.data import digits
from worker.data.digits import read_digits


def test_the_digits_are_those_of_scikit_learn() -> None:
    train, test = read_digits()
    known = load_digits()
    place = np.empty(len(known.target), np.int64)
    for label in range(10):
        place[known.target == label] = np.arange((known.target == label).sum())
    is_test = place % 5 == 4
    for split, chosen in ((train, ~is_test), (test, is_test)):
        assert split.labels.tolist() == known.target[chosen].tolist()
        expected = np.round(known.images[chosen] * (255 / 16))
        np.testing.assert_array_equal(split.images[:, 0].numpy(), expected)


def test_without_scikit_learn_it_is_said_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError) as caught:
        read_digits()
    assert caught.value.name == "sklearn"
