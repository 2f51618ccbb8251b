"""What a demo measured, from what the coordinator recorded."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from worker.demo.report import format_bytes, print_table, summarise, without_accuracy


def assignment(client: str, bytes_up: int = 0, bytes_down: int = 0, **metrics: float) -> Any:
    return {
        "client": client,
        "state": "submitted",
        "num_examples": 360,
        "metrics": metrics,
        "bytes_up": bytes_up,
        "bytes_down": bytes_down,
    }


def train_round(number: int, seconds: float, bytes_up: int, bytes_down: int) -> Any:
    return {
        "number": number,
        "kind": "train",
        "updates_received": 2,
        "bytes_up": bytes_up,
        "bytes_down": bytes_down,
        "opened_at": "2026-01-01T00:00:00Z",
        "closed_at": f"2026-01-01T00:00:{seconds:09.6f}Z",
        "metrics": {
            "accuracy_before": 0.5,
            "accuracy_after": 0.85,
            "loss_before": 1.5,
            "train_loss": 0.25,
            "seconds_training": 9.0,
            "feature_norm_squared": 0.5,
        },
    }


FEDERATION = {
    "specification": {
        "training": {"method": "hyperfl", "model": "cnn-mnist", "hyperparameters": {}}
    },
    "weights_digest": "sha256:0d",
}
TRAIN_ROUNDS = [train_round(1, 1.5, 2000, 4001), train_round(2, 12.25, 3000, 8000)]
LAST_ROUND = TRAIN_ROUNDS[1] | {
    "assignments": [
        assignment("bob", 1000, 5000, accuracy_before=0.4, accuracy_after=0.8),
        assignment("alice", 2000, 3000, accuracy_before=0.6, accuracy_after=0.9),
    ]
}
FINAL_ROUND = {
    "number": 3,
    "kind": "evaluate",
    "assignments": [
        assignment("alice", 10, 700, accuracy=0.875),
        assignment("bob", 10, 600, accuracy=0.75),
    ],
}


@pytest.fixture
def result() -> Any:
    return summarise(FEDERATION, TRAIN_ROUNDS, LAST_ROUND, FINAL_ROUND)


def test_a_summary_says_what_was_trained(result: Any) -> None:
    assert (result["method"], result["model"]) == ("hyperfl", "cnn-mnist")
    assert (result["clients"], result["rounds"]) == (2, 2)
    assert result["weights_digest"] == "sha256:0d"


def test_a_private_method_has_its_budget_in_the_summary_and_on_the_screen(result: Any) -> None:
    assert "privacy" not in result
    told = {"epsilon": 4.0, "delta": 1e-5, "noise_multiplier": 1.25, "sample_rate": 0.1}
    last_round = LAST_ROUND | {"metrics": LAST_ROUND["metrics"] | told}
    federation: Any = FEDERATION | {
        "specification": {
            "training": {
                "method": "dp-fedavg",
                "model": "cnn-mnist",
                "hyperparameters": {"noise_multiplier": 1.5, "sample_rate": 0.2},
            }
        }
    }
    found = summarise(federation, TRAIN_ROUNDS, last_round, FINAL_ROUND)
    assert found["privacy"] == told | {"noise_multiplier": 1.5, "sample_rate": 0.2}
    screen = io.StringIO()
    print_table(Console(file=screen, width=200), last_round, FINAL_ROUND, found)
    assert "privacy: ε 4, δ 1e-05, noise multiplier σ 1.5, sample rate 0.2\n" in screen.getvalue()


def test_accuracies_are_percent_and_means_are_over_clients(result: Any) -> None:
    assert result["accuracy_mean"] == 85.0
    assert result["accuracy_final_mean"] == 81.25
    assert result["accuracy_per_client"] == {
        "alice": {"after_training": 90.0, "final": 87.5},
        "bob": {"after_training": 80.0, "final": 75.0},
    }


def test_rounds_are_timed_from_open_to_closed(result: Any) -> None:
    assert result["seconds_per_round"] == [1.5, 12.25]


def test_every_round_is_told_in_detail(result: Any) -> None:
    assert result["rounds_detail"][1] == {
        "number": 2,
        "updates": 2,
        "accuracy_before": 50.0,
        "accuracy_after": 85.0,
        "loss_before": 1.5,
        "train_loss": 0.25,
        "feature_norm_squared": 0.5,
        "bytes_up": 3000,
        "bytes_down": 8000,
        "seconds": 12.25,
    }
    assert [round_["number"] for round_ in result["rounds_detail"]] == [1, 2]


def test_bytes_are_per_client_and_round(result: Any) -> None:
    assert result["bytes_up_per_client_round"] == 5000 // 4
    assert result["bytes_down_per_client_round"] == 12001 // 4


def test_the_table_has_a_row_for_each_client_and_the_means(result: Any) -> None:
    console = Console(width=120, file=io.StringIO(), record=True)
    print_table(console, LAST_ROUND, FINAL_ROUND, result)
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert lines[0] == "client examples before after final up down"
    assert "alice 360 60.00 % 90.00 % 87.50 % 2.0 kB 3.7 kB" in lines
    assert "bob 360 40.00 % 80.00 % 75.00 % 1.0 kB 5.6 kB" in lines
    assert "mean 50.00 % 85.00 % 81.25 % 1.2 kB 3.0 kB" in lines


def test_a_client_that_sent_nothing_is_left_out_of_the_mean() -> None:
    silent = assignment("carol") | {"state": "expired", "num_examples": None}
    last_round = LAST_ROUND | {"assignments": [*LAST_ROUND["assignments"], silent]}
    result = summarise(FEDERATION, TRAIN_ROUNDS, last_round, FINAL_ROUND)
    assert result["accuracy_mean"] == 85.0


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1250, "1.2 kB"),
        (123_456, "123.5 kB"),
        (1_000_000, "1.0 MB"),
        (2_500_000_000, "2.50 GB"),
        (7e12, "7000.00 GB"),
    ],
)
def test_bytes_are_written_in_the_unit_that_reads_best(num_bytes: float, text: str) -> None:
    assert format_bytes(num_bytes) == text


def test_clients_that_left_the_final_evaluation_out_are_named() -> None:
    assert without_accuracy(FEDERATION, FINAL_ROUND) == []
    silent = FINAL_ROUND["assignments"][0] | {"state": "expired", "metrics": {}}
    partly = FINAL_ROUND | {"assignments": [silent, FINAL_ROUND["assignments"][1]]}
    assert without_accuracy(FEDERATION, partly) == ["alice"]
