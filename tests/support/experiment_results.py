"""Results of two methods with two seeds each, one of them missing."""

from __future__ import annotations

from typing import Any

from worker.experiment.grid import Run


def run_of(method: str, seed: int, **changed: Any) -> Run:
    given = {"method": method, "dataset": "digits", "clients": 4, "rounds": 2, "seed": seed}
    return Run.model_validate(given | changed)


def result(accuracy: float, seconds: float, curve: list[float]) -> dict[str, Any]:
    return {
        "accuracy_final_mean": accuracy,
        "seconds_per_round": [seconds, seconds + 1],
        "bytes_up_per_client_round": 1000,
        "bytes_down_per_client_round": 2_000_000,
        "rounds_detail": [
            {
                "accuracy_before": value - 10,
                "accuracy_after": value,
                "bytes_up": 10,
                "bytes_down": 5,
                "seconds": seconds,
            }
            for value in curve
        ],
    }


RUNS = [run_of(method, seed) for seed in (1, 2) for method in ("hyperfl", "local")]
RESULTS = {
    run_of("hyperfl", 1).key: result(90.0, 1.0, [50.0, 70.0]),
    run_of("hyperfl", 2).key: result(94.0, 2.0, [60.0, 90.0]),
    run_of("local", 1).key: result(80.0, 1.0, [40.0, 45.0]),
}
