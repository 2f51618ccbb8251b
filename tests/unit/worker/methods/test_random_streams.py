"""Streams depend on seed, purpose and round alone."""

from __future__ import annotations

import torch

from worker.methods.random_streams import client_generator


def first_draw(client_seed: int, purpose: str, round_number: int) -> float:
    return float(torch.rand((), generator=client_generator(client_seed, purpose, round_number)))


def test_every_seed_purpose_and_round_has_a_stream_of_its_own() -> None:
    draws = {
        first_draw(client_seed, purpose, round_number)
        for client_seed in (1, 12)
        for purpose in ("batches", "noise")
        for round_number in (0, 1, 21)
    }
    assert len(draws) == 12


def test_a_stream_can_be_drawn_again() -> None:
    assert first_draw((1 << 63) - 1, "batches", 3) == first_draw((1 << 63) - 1, "batches", 3)
