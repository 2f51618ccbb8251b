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
    after = {a["client"]: a["metrics"]["accuracy_after"] for a in last_round["assignments"]}
    final = {a["client"]: a["metrics"]["accuracy"] for a in final_round["assignments"]}
    client_rounds = sum(r["updates_received"] for r in train_rounds)
    specification = federation["specification"]
    return {
        "method": specification["training"]["method"],
        "model": specification["training"]["model"],
        "clients": len(final),
        "rounds": len(train_rounds),
        "accuracy_mean": _percent(sum(after.values()) / len(after)),
        "accuracy_final_mean": _percent(sum(final.values()) / len(final)),
        "accuracy_per_client": {
            name: {"after_training": _percent(after[name]), "final": _percent(final[name])}
            for name in sorted(final)
        },
        "seconds_per_round": [_seconds(r) for r in train_rounds],
        "bytes_up_per_client_round": sum(r["bytes_up"] for r in train_rounds) // client_rounds,
        "bytes_down_per_client_round": sum(r["bytes_down"] for r in train_rounds) // client_rounds,
        "weights_digest": federation["weights_digest"],
    }


def print_table(console: Console, last_round: Json, final_round: Json, result: Json) -> None:
    """One row for each client, and the means."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("client")
    for column in ("examples", "before", "after", "final", "up", "down"):
        table.add_column(column, justify="right")
    final = {a["client"]: a for a in final_round["assignments"]}
    for part in last_round["assignments"]:
        table.add_row(
            part["client"],
            str(part["num_examples"]),
            f"{_percent(part['metrics']['accuracy_before']):.2f} %",
            f"{_percent(part['metrics']['accuracy_after']):.2f} %",
            f"{_percent(final[part['client']]['metrics']['accuracy']):.2f} %",
            format_bytes(part["bytes_up"]),
            format_bytes(part["bytes_down"] + final[part["client"]]["bytes_down"]),
        )
    table.add_section()
    table.add_row(
        "mean",
        "",
        f"{_percent(last_round['metrics']['accuracy_before']):.2f} %",
        f"{result['accuracy_mean']:.2f} %",
        f"{result['accuracy_final_mean']:.2f} %",
        format_bytes(result["bytes_up_per_client_round"]),
        format_bytes(result["bytes_down_per_client_round"]),
    )
    console.print(table)
    console.print(
        "before, after: the last round's local training. final: the final weights with the "
        "client's own embedding and head.",
        style="dim",
    )


def format_bytes(num_bytes: float) -> str:
    """Bytes in the unit that reads best."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.2f} GB"


def _percent(fraction: float) -> float:
    return round(100 * fraction, 4)


def _seconds(round_: Json) -> float:
    opened = datetime.fromisoformat(round_["opened_at"])
    closed = datetime.fromisoformat(round_["closed_at"])
    return round((closed - opened).total_seconds(), 3)
