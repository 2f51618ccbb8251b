"""``hyperfl worker specify``: write a federation's specification."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared.federation.specification import RoundPolicy
from shared.terminal.failures import one_line_errors
from shared.terminal.logs import configure_logging
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
from worker.commands.configuration import dash_is_stdout
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
from worker.errors import FAILURES
from worker.operations.specification_request import SpecificationRequest


def specify(
    name: Annotated[str, typer.Argument(help="The federation's name.")],
    model: Annotated[
        str,
        typer.Option(
            help="cnn-mnist, cnn-cifar, mlp:WIDTHxDEPTH (rows of features) or "
            "package.module:function; hyperfl-lpm, *-adapter and "
            "*-fixed take vit:TIMM_NAME, resnet:TIMM_NAME or torchvision's resnet18 to resnet152."
        ),
    ] = "cnn-mnist",
    method: MethodOption = "hyperfl",
    dataset: Annotated[
        str | None,
        typer.Option(help="Take the classes and the image shape from this data set."),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the data set.")] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Names of the classes, which every site's are mapped to: a file with one in each "
            "line, or a,b,c."
        ),
    ] = None,
    classes_from: Annotated[
        Path | None,
        typer.Option(help="Take the names from the class folders of this folder's train."),
    ] = None,
    num_classes: Annotated[
        int | None,
        typer.Option(min=2, help="Number of classes, where nobody compares their names."),
    ] = None,
    image_shape: Annotated[
        str | None, typer.Option(help="Image shape that the model takes: CxHxW, such as 3x32x32.")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="Features of rows, for mlp:WIDTHxDEPTH, which every site's columns are mapped to: "
            "a file with one in each line, or age,sex=f|m,bmi with the categories of each that has "
            "some."
        ),
    ] = None,
    num_features: Annotated[
        int | None,
        typer.Option(min=1, help="Number of features, where nobody compares their names."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of training.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the initial shared weights.")] = 2022,
    preset: Annotated[
        str | None,
        typer.Option(help="Named set of hyperparameters: default, paper, or hyperfl's aligned."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE sets one hyperparameter, over --preset; repeatable."),
    ] = None,
    cohort_fraction: Annotated[
        float | None, typer.Option(help="Fraction of the clients to draw for each round.")
    ] = None,
    cohort_size: Annotated[
        int | None, typer.Option(help="Number of clients to draw for each round.")
    ] = None,
    minimum_updates: Annotated[
        int, typer.Option(help="Fewest updates for a round to commit; with fewer it fails.")
    ] = 1,
    deadline_seconds: Annotated[float, typer.Option(help="Longest duration of a round.")] = 3600.0,
    grace_seconds: Annotated[
        float | None,
        typer.Option(
            help="A round that has --minimum-updates waits this long for more, and not to its "
            "deadline."
        ),
    ] = None,
    lease_seconds: Annotated[
        float, typer.Option(help="Work is offered again after this long without a heartbeat.")
    ] = 120.0,
    aggregation: RuleOption = "mean",
    trim_fraction: TrimFractionOption = None,
    hostile_clients: HostileClientsOption = None,
    max_update_norm: MaxUpdateNormOption = None,
    on_excess: OnExcessOption = None,
    max_examples_weight: MaxExamplesWeightOption = None,
    encoding: EncodingOption = None,
    protection: ProtectionOption = "none",
    sum_bits: SumBitsOption = None,
    sum_bound: SumBoundOption = None,
    allow_separable: AllowSeparableOption = False,
    epsilon: EpsilonOption = None,
    delta: DeltaOption = None,
    privacy: PrivacyOption = None,
    backbone_weights: Annotated[
        str | None,
        typer.Option(help="Source of a frozen backbone's weights: hub (default), random or FILE."),
    ] = None,
    examples_per_client: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="For dp-fedavg, centaur and ppsgd: a client's number of training examples, which "
            "fixes one sample rate and noise multiplier for all clients. Without it, both follow "
            "from each client's own number.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="File to write; the default is stdout.", callback=dash_is_stdout),
    ] = None,
) -> None:
    """Write a federation's specification, for `hyperfl federation create`.

    Example: hyperfl worker specify hospitals --model cnn-cifar --classes mel,nv,bcc,akiec
    """
    with one_line_errors(*FAILURES):
        from worker.operations.specification import specify as build  # noqa: PLC0415 - torch

        configure_logging("warning")
        protected = protection_of(
            protection,
            sum_bits=sum_bits,
            sum_bound=sum_bound,
            allow_separable=allow_separable,
            epsilon=epsilon,
            delta=delta,
            privacy=privacy,
        )
        specification = build(
            SpecificationRequest(
                name=name,
                method=method,
                model=model,
                round_policy=RoundPolicy(
                    rounds=rounds,
                    cohort_fraction=cohort_fraction,
                    cohort_size=cohort_size,
                    minimum_updates=minimum_updates,
                    deadline_seconds=deadline_seconds,
                    grace_seconds=grace_seconds,
                    lease_seconds=lease_seconds,
                    **policy_caps(max_update_norm, on_excess, max_examples_weight),
                ),
                seed=seed,
                dataset=dataset,
                data_dir=data_dir,
                num_classes=num_classes,
                classes=classes,
                classes_from=classes_from,
                image_shape=image_shape,
                features=features,
                num_features=num_features,
                preset=preset,
                settings=settings or (),
                aggregation=aggregation_plan(aggregation, trim_fraction, hostile_clients),
                encoding=encoding_plan(encoding, protection, method),
                protection=protected.summed,
                privacy=protected.privacy,
                backbone_weights=backbone_weights,
                examples_per_client=examples_per_client,
            )
        )
        text = specification.model_dump_json(indent=1)
        if output is None:
            typer.echo(text)
        else:
            output.write_text(text + "\n")
