"""``hyperfl demo``: train a federation on this machine, with real processes."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from shared.federation.plans import spreads_privacy_budget
from shared.federation.specification import RoundPolicy
from shared.terminal.failures import one_line_errors
from shared.terminal.logs import configure_logging
from shared.validation import InvalidInput
from worker.commands.aggregation_options import (
    HostileClientsOption,
    MaxExamplesWeightOption,
    MaxUpdateNormOption,
    MethodOption,
    OnExcessOption,
    RuleOption,
    TrimFractionOption,
    aggregation_plan,
    policy_caps,
)
from worker.commands.protection_options import (
    AllowSeparableOption,
    DeltaOption,
    EncodingOption,
    EpsilonOption,
    PrivacyOption,
    ProtectionOption,
    SumBitsOption,
    SumBoundOption,
    encoding_plan,
    protection_of,
)
from worker.data.source import DataSource
from worker.demo.defaults import default_model
from worker.demo.federation import Demo, run_demo
from worker.demo.steps import call
from worker.errors import FAILURES
from worker.operations.specification_request import SpecificationRequest

demo = typer.Typer(add_completion=False)


@demo.command()
def run(
    dataset: Annotated[
        str, typer.Option(help="digits, fashion-mnist, emnist, cifar10, cinic10 or image-folder.")
    ] = "digits",
    model: Annotated[
        str | None,
        typer.Option(
            help="cnn-mnist, cnn-cifar or package.module:function; hyperfl-lpm, *-adapter and "
            "*-fixed take vit:TIMM_NAME, resnet:TIMM_NAME or torchvision's resnet18 to resnet152."
        ),
    ] = None,
    clients: Annotated[
        int, typer.Option(min=1, help="Number of clients; one worker hosts all.")
    ] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of training.")] = 10,
    method: MethodOption = "hyperfl",
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random draws.")] = 2022,
    partition: Annotated[
        str, typer.Option(help="How clients divide the data: paper, dirichlet or iid.")
    ] = "paper",
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the data set; digits needs none.")
    ] = None,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            help="New or empty folder that keeps the database, private states and logs; by "
            "default a temporary folder."
        ),
    ] = None,
    image_shape: Annotated[
        str | None, typer.Option(help="Image shape that the model takes: CxHxW, such as 3x32x32.")
    ] = None,
    encoding: EncodingOption = None,
    protection: ProtectionOption = "none",
    sum_bits: SumBitsOption = None,
    sum_bound: SumBoundOption = None,
    allow_separable: AllowSeparableOption = False,
    epsilon: EpsilonOption = None,
    delta: DeltaOption = None,
    privacy: PrivacyOption = None,
    cohort_size: Annotated[
        int | None,
        typer.Option(min=1, help="Number of clients to draw for each round; by default all."),
    ] = None,
    deadline_seconds: Annotated[
        float,
        typer.Option(help="Longest duration of a round; a client that takes longer ends the demo."),
    ] = 3600.0,
    aggregation: RuleOption = "mean",
    trim_fraction: TrimFractionOption = None,
    hostile_clients: HostileClientsOption = None,
    max_update_norm: MaxUpdateNormOption = None,
    on_excess: OnExcessOption = None,
    max_examples_weight: MaxExamplesWeightOption = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Named set of hyperparameters: default, paper, or hyperfl's aligned."),
    ] = None,
    backbone_weights: Annotated[
        str | None,
        typer.Option(help="Source of a frozen backbone's weights: hub (default), random or FILE."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE sets one hyperparameter, over --preset; repeatable."),
    ] = None,
    serve_page: Annotated[
        bool,
        typer.Option(
            "--serve-page",
            help="Print the coordinator's address and a read-only token for its page, and serve it "
            "after the end too, until Ctrl-C.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    parent: Annotated[
        int | None, typer.Option(hidden=True, help="End when this process is no longer the parent.")
    ] = None,
) -> None:
    """Train a federation on this machine with real processes, HTTP and a database.

    Example: hyperfl demo --dataset digits --clients 4 --rounds 10
    """
    # A termination unwinds, so that the demo's own processes end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console(stderr=as_json, soft_wrap=True)
    # A cohort of everybody: the first round waits until all of them are enrolled.
    cohort_size = cohort_size or clients
    data = {"dataset": dataset, "partition": partition, "num_clients": clients, "seed": seed}
    if data_dir is not None:
        data["data_dir"] = str(data_dir.resolve())
    with one_line_errors(*FAILURES):
        configure_logging("warning")
        DataSource.model_validate(data)
        if cohort_size > clients:
            raise InvalidInput(f"--cohort-size {cohort_size} is more than --clients {clients}")
        if data_dir is not None and not data_dir.is_dir():
            raise InvalidInput(f"--data-dir {data_dir} is not a folder")
        if backbone_weights == "random":
            console.print("The backbone's weights are RANDOM: for trials only.", style="bold red")
        protected = protection_of(
            protection,
            sum_bits=sum_bits,
            sum_bound=sum_bound,
            allow_separable=allow_separable,
            epsilon=epsilon,
            delta=delta,
            privacy=privacy,
        )
        if protected.summed is not None and max_examples_weight is None:
            max_examples_weight = _most_examples(data)
        request = SpecificationRequest(
            name="demo",
            method=method,
            model=model or default_model(dataset),
            round_policy=RoundPolicy(
                rounds=rounds,
                cohort_size=cohort_size,
                # The cohort is known to come: a mean over a part would be another experiment.
                minimum_updates=cohort_size,
                deadline_seconds=deadline_seconds,
                **policy_caps(max_update_norm, on_excess, max_examples_weight),
            ),
            seed=seed,
            dataset=dataset,
            data_dir=data_dir,
            image_shape=image_shape,
            preset=preset,
            settings=settings or (),
            aggregation=aggregation_plan(aggregation, trim_fraction, hostile_clients),
            encoding=encoding_plan(encoding, protection, method),
            protection=protected.summed,
            privacy=protected.privacy,
            backbone_weights=backbone_weights,
            examples_per_client=_examples_per_client(method, settings or (), data),
        )
        result = run_demo(Demo(request, data, clients, parent, serve_page), state_dir, console)
    if as_json:
        typer.echo(json.dumps({"dataset": dataset} | result))


def _most_examples(data: dict[str, Any]) -> int:
    """Training examples of the client that has the most of them."""
    from worker.demo.examples import examples_of_clients  # noqa: PLC0415 - torch

    return max(call(examples_of_clients, data))


def _examples_per_client(method: str, settings: Sequence[str], data: dict[str, Any]) -> int | None:
    """The clients' mean, for a method whose noise follows from it, unless a rate is given."""
    if not spreads_privacy_budget(method):
        return None
    if any(setting.startswith("sample_rate=") for setting in settings):
        return None
    from worker.demo.examples import examples_of_clients  # noqa: PLC0415 - torch

    counts = call(examples_of_clients, data)
    return round(sum(counts) / len(counts))
