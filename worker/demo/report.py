"""What a demo measured: the table for people and the JSON object for programs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

Json = dict[str, Any]


def summarise(
    federation: Json, train_rounds: Sequence[Json], last_round: Json, final_round: Json
) -> Json:
    """The demo's result from what the coordinator recorded.

    ``train_rounds`` are the committed training rounds; ``last_round`` is the last of them and
    ``final_round`` the final evaluation, both with their assignments. Bytes are HTTP bodies as the
    coordinator counted them.
    """
    after = _reported(last_round, "accuracy_after")
    final = _reported(final_round, "accuracy")
    client_rounds = sum(r["updates_received"] for r in train_rounds)
    specification = federation["specification"]
    return {
        "method": specification["training"]["method"],
        "model": specification["training"]["model"],
        "clients": len(final_round["assignments"]),
        "rounds": len(train_rounds),
        "accuracy_mean": _mean_of(last_round, "accuracy_after"),
        "accuracy_final_mean": _mean_of(final_round, "accuracy"),
        "accuracy_per_client": {
            name: {"after_training": after.get(name), "final": final.get(name)}
            for name in sorted(after.keys() | final.keys())
        },
        "seconds_per_round": [_seconds(r) for r in train_rounds],
        "rounds_detail": [_detail(r) for r in train_rounds],
        "bytes_up_per_client_round": sum(r["bytes_up"] for r in train_rounds) // client_rounds,
        "bytes_down_per_client_round": sum(r["bytes_down"] for r in train_rounds) // client_rounds,
        "weights_digest": federation["weights_digest"],
    } | _privacy(specification["training"]["hyperparameters"], last_round)


def is_protected(federation: Json) -> bool:
    """Whether only sums over the clients are known."""
    return federation["specification"].get("protection") is not None


def without_accuracy(federation: Json, final_round: Json) -> list[str]:
    """Clients that did not answer the final evaluation, where it is known of each."""
    if is_protected(federation):
        return []
    measured = _reported(final_round, "accuracy")
    return [part["client"] for part in final_round["assignments"] if part["client"] not in measured]


def print_table(console: Console, last_round: Json, final_round: Json, result: Json) -> None:
    """One row for each client, and the means."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("client")
    for column in ("examples", "before", "after", "final", "up", "down"):
        table.add_column(column, justify="right")
    downloaded = {a["client"]: a["bytes_down"] for a in final_round["assignments"]}
    for part in last_round["assignments"]:
        table.add_row(
            part["client"],
            "–" if part["num_examples"] is None else str(part["num_examples"]),
            *(
                _format_percent(measured.get(part["client"]))
                for measured in (
                    _reported(last_round, "accuracy_before"),
                    _reported(last_round, "accuracy_after"),
                    _reported(final_round, "accuracy"),
                )
            ),
            format_bytes(part["bytes_up"]),
            format_bytes(part["bytes_down"] + downloaded.get(part["client"], 0)),
        )
    table.add_section()
    table.add_row(
        "mean",
        "",
        _format_percent(_mean_of(last_round, "accuracy_before")),
        _format_percent(result["accuracy_mean"]),
        _format_percent(result["accuracy_final_mean"]),
        format_bytes(result["bytes_up_per_client_round"]),
        format_bytes(result["bytes_down_per_client_round"]),
    )
    console.print(table)
    if privacy := result.get("privacy"):
        console.print(
            f"privacy: ε {privacy['epsilon']:g}, δ {privacy['delta']:g}, "
            f"noise multiplier σ {privacy['noise_multiplier']:.4g}, "
            f"sample rate {privacy['sample_rate']:.4g}",
            style="dim",
        )
    console.print(
        "before, after: accuracy before and after the last round's local training. final: "
        "accuracy of the final weights with the client's own private tensors.",
        style="dim",
    )


def format_bytes(num_bytes: float) -> str:
    """Bytes in the unit that reads best."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.2f} GB"


_ACCURACIES = ("accuracy_before", "accuracy_after")
_PRIVACY = ("epsilon", "delta", "noise_multiplier", "sample_rate")
_AS_MEASURED = ("loss_before", "loss_after", "train_loss", "feature_norm_squared")


def _detail(round_: Json) -> Json:
    """A training round in numbers: accuracies in percent, means over the clients that reported."""
    metrics = round_["metrics"]
    return (
        {"number": round_["number"], "updates": round_["updates_received"]}
        | {name: round(100 * metrics[name], 4) for name in _ACCURACIES if name in metrics}
        | {name: metrics[name] for name in _AS_MEASURED if name in metrics}
        | {
            "bytes_up": round_["bytes_up"],
            "bytes_down": round_["bytes_down"],
            "seconds": _seconds(round_),
        }
    )


def _privacy(hyperparameters: Json, last_round: Json) -> Json:
    """What a private method's federation agreed on; where it did not, means over the clients."""
    if "noise_multiplier" not in last_round["metrics"]:
        return {}
    told = last_round["metrics"] | hyperparameters
    return {"privacy": {name: told[name] for name in _PRIVACY}}


def _reported(round_: Json, metric: str) -> dict[str, float]:
    """A metric in percent by client, of those that sent something."""
    return {
        part["client"]: round(100 * part["metrics"][metric], 4)
        for part in round_["assignments"]
        if metric in part["metrics"]
    }


def _mean_of(round_: Json, metric: str) -> float:
    """The mean over the clients that reported, in percent."""
    values = _reported(round_, metric)
    if not values:  # of a secure sum
        return round(100 * float(round_["metrics"][metric]), 4)
    return round(sum(values.values()) / len(values), 4)


def _format_percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} %"


def _seconds(round_: Json) -> float:
    opened = datetime.fromisoformat(round_["opened_at"])
    closed = datetime.fromisoformat(round_["closed_at"])
    return round((closed - opened).total_seconds(), 3)
