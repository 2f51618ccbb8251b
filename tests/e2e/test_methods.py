"""Other methods than HyperFL through real processes, HTTP and a database."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.processes import hyperfl

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(("method", "encoding"), [("fedavg", "factored"), ("local", "dense")])
def test_a_demo_runs_to_its_final_evaluation(method: str, encoding: str, tmp_path: Path) -> None:
    options = ("--method", method, "--encoding", encoding, "--clients", 2, "--rounds", 2)
    done = hyperfl("demo", *options, "--dataset", "digits", "--json", folder=tmp_path)
    assert done.exit_code == 0, done.errors
    result = done.json
    assert (result["method"], result["rounds"]) == (method, 2)
    assert result["accuracy_mean"] > 90
    if method == "local":
        assert result["accuracy_final_mean"] == result["accuracy_mean"]
        assert result["bytes_up_per_client_round"] < 1000
    else:
        assert result["bytes_up_per_client_round"] > 2 * 117_066
