"""``hyperfl privacy``: attack what a federation's updates show, before somebody else does."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from shared.federation.specification import RoundPolicy
from shared.terminal.logs import configure_logging
from worker.audit.effort import DEFAULT, QUICK, THOROUGH, Effort
from worker.commands.aggregation_options import MethodOption
from worker.commands.configuration import ConfigOption, JsonOption, failures, load
from worker.commands.protection_options import (
    AllowSeparableOption,
    DeltaOption,
    EncodingOption,
    EpsilonOption,
    PrivacyOption,
    ProtectionOption,
    encoding_plan,
    protection_of,
)
from worker.demo.defaults import default_model
from worker.errors import ConfigError
from worker.operations.specification_request import SpecificationRequest
from worker.site_policy import SitePolicy

if TYPE_CHECKING:
    from worker.audit.subject import Subject

privacy = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Attack what a federation's updates show, before somebody else does.",
)


@privacy.callback()
def _group() -> None:
    """Attack what a federation's updates show, before somebody else does."""


@privacy.command()
def audit(
    config: ConfigOption = None,
    client: Annotated[
        str | None, typer.Option(help="Which of the worker's clients; by default its first.")
    ] = None,
    specification: Annotated[
        Path | None,
        typer.Option(
            help="With --config: a specification as `worker specify` writes it. No coordinator is "
            "asked; the federation need not exist."
        ),
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Audit a federation of public data instead of a site.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="About two minutes.")] = False,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Hours; repeat the command to go on.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Folder to write.")] = Path("privacy-audit"),
    dataset: Annotated[
        str, typer.Option(help="With --demo: digits, fashion-mnist, emnist, cifar10 or cinic10.")
    ] = "digits",
    data_dir: Annotated[
        Path | None, typer.Option(help="With --demo: folder of the data set; digits needs none.")
    ] = None,
    method: MethodOption = "hyperfl",
    clients: Annotated[int, typer.Option(min=1, help="With --demo: number of clients.")] = 10,
    rounds: Annotated[
        int, typer.Option(min=0, help="With --demo: rounds before the audited one.")
    ] = 2,
    partition: Annotated[str, typer.Option(help="With --demo: paper, dirichlet or iid.")] = "paper",
    seed: Annotated[int, typer.Option(min=0, help="With --demo: seed of all draws.")] = 2022,
    encoding: EncodingOption = None,
    protection: ProtectionOption = "none",
    allow_separable: AllowSeparableOption = False,
    epsilon: EpsilonOption = None,
    delta: DeltaOption = None,
    privacy_settings: PrivacyOption = None,
    preset: Annotated[
        str | None,
        typer.Option(help="With --demo: named hyperparameters: default, paper or aligned."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="With --demo: KEY=VALUE sets a hyperparameter; repeatable."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Replay what a client would upload, attack it as a coordinator could, and report.

    Nothing is uploaded. The report, its pictures and its advice for a
    site's policy are written into a folder. If the command is killed, repeat it: it
    goes on where it was.

    Example: hyperfl privacy audit --config worker.toml --specification federation.json
    """
    with failures():
        from worker.audit.running import run_audit  # noqa: PLC0415 - torch

        configure_logging("warning")
        console = Console(stderr=True, soft_wrap=True)
        effort = _effort(quick=quick, thorough=thorough)
        if demo:
            if config is not None or client is not None or specification is not None:
                raise ConfigError("--demo takes no --config, --client or --specification")
            protected = protection_of(
                protection,
                sum_bits=None,
                sum_bound=None,
                allow_separable=allow_separable,
                epsilon=epsilon,
                delta=delta,
                privacy=privacy_settings,
            )
            request = SpecificationRequest(
                name="demo",
                method=method,
                model=default_model(dataset),
                round_policy=RoundPolicy(
                    rounds=max(rounds + 1, 1),
                    minimum_updates=clients,
                    cohort_size=clients,
                    max_examples_weight=None if protected.summed is None else _MANY,
                ),
                seed=seed,
                dataset=dataset,
                data_dir=data_dir,
                preset=preset,
                settings=settings or (),
                protection=protected.summed,
                privacy=protected.privacy,
                encoding=encoding_plan(encoding, protection, method),
            )
            subject = _demo(request, dataset, data_dir, partition, clients, rounds, seed, console)
        else:
            subject = _site(config, client, specification)
        document = run_audit(subject, effort, output, console)
    if as_json:
        typer.echo(json.dumps(document))
        return
    for line in document["advice"]:
        typer.echo(f"- {line}")
    typer.echo(f"the report is in {output / 'report.md'}")


@privacy.command()
def table(
    file: Annotated[Path, typer.Argument(help="The table's TOML file.")],
    data_dir: Annotated[
        Path, typer.Option(help="Folder that holds each data set in a folder of the same name.")
    ] = Path(),
    output: Annotated[
        Path | None,
        typer.Option(help="JSON file of the rows; the default is FILE with .json as its ending."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure one of the paper's tables of attacks, beside the paper's figures.

    Data sets that the folder has not are left out. Each row is kept as soon as it
    is made; the same command goes on from there.

    Example: hyperfl privacy table experiments/table3.toml --data-dir FOLDER
    """
    with failures():
        from worker.audit import table as tables  # noqa: PLC0415 - torch

        configure_logging("warning")
        loaded = tables.load_table(file)
        rows = tables.measure_table(
            loaded,
            data_dir,
            output or file.with_suffix(".json"),
            lambda row: typer.echo(row.key, err=True),
        )
    typer.echo(json.dumps(rows) if as_json else tables.write_table(loaded, rows))


_MANY = 1000
"""Scale of a demo's secure sum: no less than the examples of a client of the paper's partition."""


def _effort(*, quick: bool, thorough: bool) -> Effort:
    if quick and thorough:
        raise ConfigError("give --quick or --thorough, not both")
    return QUICK if quick else THOROUGH if thorough else DEFAULT


def _demo(
    request: SpecificationRequest,
    dataset: str,
    data_dir: Path | None,
    partition: str,
    clients: int,
    rounds: int,
    seed: int,
    console: Console,
) -> Subject:
    from worker.audit.demo_federation import demo_subject  # noqa: PLC0415 - torch
    from worker.operations.specification import specify  # noqa: PLC0415

    return demo_subject(
        specify(request),
        dataset=dataset,
        data_dir=data_dir,
        partition=partition,
        num_clients=clients,
        rounds=rounds,
        seed=seed,
        policy=SitePolicy(),
        on_round=lambda number: console.print(f"round {number} of {rounds} is trained"),
    )


def _site(config: Path | None, name: str | None, specification: Path | None) -> Subject:
    from worker.audit import site_federation  # noqa: PLC0415 - torch

    loaded, settings = load(config)
    client = loaded.clients[0] if name is None else loaded.only(name).clients[0]
    if specification is None:
        return asyncio.run(site_federation.online_subject(loaded, settings, client))
    return site_federation.offline_subject(
        loaded, client, site_federation.read_specification(specification)
    )
