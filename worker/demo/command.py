"""The command: a coordinator, a worker and a federation from nothing to its final evaluation."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from shared.plans import spreads_privacy_budget
from worker.aggregation_options import (
    HostileClientsOption,
    MaxExamplesWeightOption,
    MaxUpdateNormOption,
    OnExcessOption,
    RuleOption,
    TrimFractionOption,
    as_arguments,
)
from worker.data.source import DataSource
from worker.demo import report
from worker.demo.defaults import default_model
from worker.demo.processes import (
    BackgroundProcess,
    DemoError,
    run_in_background,
    run_step,
    stream_step,
)
from worker.errors import InvalidInput
from worker.failures import one_line_errors

_FEDERATION = "demo"
_READY_SECONDS = 600.0

demo = typer.Typer(add_completion=False)


@demo.command()
def run(
    dataset: Annotated[
        str, typer.Option(help="digits, fashion-mnist, emnist, cifar10, cinic10 or image-folder.")
    ] = "digits",
    model: Annotated[
        str | None,
        typer.Option(
            help="cnn-mnist, cnn-cifar or package.module:function; for hyperfl-lpm, *-adapter "
            "and *-fixed: vit:TIMM_NAME, resnet:TIMM_NAME, or torchvision's resnet18 to resnet152."
        ),
    ] = None,
    clients: Annotated[int, typer.Option(min=1, help="Clients, all hosted by one worker.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of training.")] = 10,
    method: Annotated[str, typer.Option(help="What is shared and how it is trained.")] = "hyperfl",
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything that is drawn.")] = 2022,
    partition: Annotated[str, typer.Option(help="paper, dirichlet or iid.")] = "paper",
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the data set; digits needs none.")
    ] = None,
    state_dir: Annotated[
        Path | None, typer.Option(help="Keeps database, private states and logs there.")
    ] = None,
    image_shape: Annotated[
        str | None, typer.Option(help="CxHxW that your own model takes, such as 3x32x32.")
    ] = None,
    encoding: Annotated[
        str, typer.Option(help="How updates are written: factored or dense.")
    ] = "factored",
    cohort_size: Annotated[
        int | None, typer.Option(min=1, help="Clients drawn for a round; else all of them.")
    ] = None,
    deadline_seconds: Annotated[
        float,
        typer.Option(help="Longest duration of a round; all its clients must be done by then."),
    ] = 3600.0,
    aggregation: RuleOption = "mean",
    trim_fraction: TrimFractionOption = None,
    hostile_clients: HostileClientsOption = None,
    max_update_norm: MaxUpdateNormOption = None,
    on_excess: OnExcessOption = None,
    max_examples_weight: MaxExamplesWeightOption = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Named hyperparameters: default, paper; --set replaces them."),
    ] = None,
    backbone_weights: Annotated[
        str | None, typer.Option(help="Of a frozen backbone: hub (default), random or FILE.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A hyperparameter, key=value; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    parent: Annotated[
        int | None, typer.Option(hidden=True, help="End when this process is no more the parent.")
    ] = None,
) -> None:
    """Train a federation on this machine through real processes, HTTP and a database.

    Example: hyperfl demo --dataset digits --clients 4 --rounds 10
    """
    # A termination unwinds, so that the demo's own processes end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console(stderr=as_json, soft_wrap=True)
    options = ["--method", method, "--model", model or default_model(dataset)]
    options += ["--encoding", encoding]
    options += ["--dataset", dataset, "--rounds", str(rounds), "--seed", str(seed)]
    # A cohort of everybody: the first round waits until all of them are enrolled.
    cohort_size = cohort_size or clients
    # The cohort is known to come: a mean over a part of it would be another experiment.
    options += ["--cohort-size", str(cohort_size), "--minimum-updates", str(cohort_size)]
    options += ["--deadline-seconds", str(deadline_seconds), "--aggregation", aggregation]
    options += as_arguments(
        trim_fraction=trim_fraction,
        hostile_clients=hostile_clients,
        max_update_norm=max_update_norm,
        on_excess=on_excess,
        max_examples_weight=max_examples_weight,
    )
    options += [] if data_dir is None else ["--data-dir", str(data_dir)]
    options += [] if image_shape is None else ["--image-shape", image_shape]
    options += [] if preset is None else ["--preset", preset]
    weights_file = None
    if backbone_weights is not None:
        if backbone_weights not in ("hub", "random"):
            weights_file = str(Path(backbone_weights).resolve())
        options += ["--backbone-weights", weights_file or backbone_weights]
    options += [part for setting in settings or [] for part in ("--set", setting)]
    agreed = any(setting.startswith("sample_rate=") for setting in settings or [])
    data = {"dataset": dataset, "partition": partition, "num_clients": clients, "seed": seed}
    if data_dir is not None:
        data["data_dir"] = str(data_dir.resolve())
    with one_line_errors():
        DataSource.model_validate(data)
        if cohort_size > clients:
            raise InvalidInput(f"--cohort-size {cohort_size} is more than --clients {clients}")
        if data_dir is not None and not data_dir.is_dir():
            raise InvalidInput(f"--data-dir {data_dir} is no folder")
        if backbone_weights == "random":
            console.print("The backbone's weights are RANDOM: for trials only.", style="bold red")
        if spreads_privacy_budget(method) and not agreed:
            from worker.demo.examples import examples_per_client  # noqa: PLC0415 - torch

            options += ["--examples-per-client", str(examples_per_client(data))]
        with _folder(state_dir) as folder:
            result = _run(
                console,
                folder,
                options,
                data,
                weights_file,
                clients,
                rounds,
                is_sampled=cohort_size < clients,
                parent=parent,
            )
    if as_json:
        typer.echo(json.dumps({"dataset": dataset} | result))


@contextmanager
def _folder(state_dir: Path | None) -> Iterator[Path]:
    if state_dir is None:
        with tempfile.TemporaryDirectory(prefix="hyperfl-demo-") as folder:
            yield Path(folder)
        return
    if state_dir.exists() and any(state_dir.iterdir()):
        raise InvalidInput(f"{state_dir} is not empty; a demo starts in a folder of its own")
    state_dir.mkdir(parents=True, exist_ok=True)
    yield state_dir.resolve()


def _run(
    console: Console,
    folder: Path,
    options: list[str],
    data: dict[str, Any],
    weights_file: str | None,
    num_clients: int,
    num_rounds: int,
    *,
    is_sampled: bool,
    parent: int | None,
) -> dict[str, Any]:
    serve = ("coordinator", "serve", "--data-dir", str(folder / "coordinator"), "--port", "0")
    with run_in_background("coordinator", folder, *serve) as coordinator:
        specification = str(folder / "federation.json")
        run_step("worker", "specify", _FEDERATION, *options, "--output", specification)
        address = coordinator.wait_for_event("listening")
        url = f"http://{address['host']}:{address['port']}"
        admin = ("--url", url, "--admin-token-file", str(folder / "coordinator" / "admin-token"))
        run_step("federation", "create", specification, *admin, "--json")
        names = [f"client-{index:0{len(str(num_clients - 1))}d}" for index in range(num_clients)]
        invited = run_step("client", "enroll", _FEDERATION, *names, *admin, "--json")
        config = folder / "worker.toml"
        config.write_text(_worker_config(url, invited, data, weights_file))
        with run_in_background(
            "worker", folder, "worker", "run", "--config", str(config)
        ) as worker:
            if is_sampled:
                # Cohorts are drawn from those who are enrolled, and runs are to repeat.
                worker.wait_for_event("worker ready", _READY_SECONDS)
            run_step("federation", "start", _FEDERATION, *admin, "--json")
            console.print(
                f"coordinator at {url}; worker with {num_clients} clients; logs in {folder}",
                style="dim",
            )
            train_rounds = _watch(console, num_rounds, admin, worker, parent)
        return _report(console, admin, train_rounds)


def _worker_config(
    url: str, invited: list[dict[str, Any]], data: dict[str, Any], weights_file: str | None
) -> str:
    """The worker's TOML file. JSON's strings and numbers are TOML's, too."""
    lines = [f"coordinator_url = {json.dumps(url)}", f'federation = "{_FEDERATION}"']
    if weights_file is not None:
        lines.append(f"backbone_weights_file = {json.dumps(weights_file)}")
    for index, client in enumerate(invited):
        lines += [
            "",
            "[[clients]]",
            f"name = {json.dumps(client['name'])}",
            f"state_dir = {json.dumps('state/' + client['name'])}",
            f"enrolment_token = {json.dumps(client['enrolment_token'])}",
            f"seed = {data['seed'] * 1_000_003 + index}",
            "[clients.data]",
            *(f"{key} = {json.dumps(value)}" for key, value in data.items()),
            f"client_index = {index}",
        ]
    return "\n".join(lines) + "\n"


def _watch(
    console: Console,
    num_rounds: int,
    admin: tuple[str, ...],
    worker: BackgroundProcess,
    parent: int | None,
) -> list[dict[str, Any]]:
    """Shows progress until the federation ends; returns the committed training rounds."""
    rounds: list[dict[str, Any]] = []
    columns = (
        TextColumn("round {task.completed}/{task.total}"),
        BarColumn(bar_width=30),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("training", total=num_rounds)
        for line in stream_step("round", "watch", _FEDERATION, *admin, "--json"):
            worker.check_alive()
            # Its round would wait for the deadline, since it needs the whole cohort.
            failed = worker.find_event("training failed, no update is sent")
            if failed is not None:
                raise DemoError(f"{failed['client']}, round {failed['round']}: {failed['reason']}")
            if parent is not None and os.getppid() != parent:
                raise DemoError("the process that started this demo was killed")
            if line is None:
                continue
            if "federation" in line:
                ended = line["federation"]
                break
            round_ = line["round"]
            if round_["phase"] == "failed":
                raise DemoError(f"round {round_['number']} failed: {round_['reason']}")
            if round_["kind"] == "train":
                rounds.append(round_)
                progress.update(bar, completed=len(rounds), description=_describe(round_))
        else:
            raise DemoError("the coordinator went away")
    if ended["state"] != "finished" or len(rounds) != num_rounds:
        raise DemoError(f"the federation is {ended['state']}: {ended['reason']}")
    return rounds


def _describe(round_: dict[str, Any]) -> str:
    accuracy = 100 * round_["metrics"]["accuracy_after"]
    up, down = (report.format_bytes(round_[key]) for key in ("bytes_up", "bytes_down"))
    return f"accuracy {accuracy:.2f} %  up {up}  down {down}"


def _report(
    console: Console, admin: tuple[str, ...], train_rounds: list[dict[str, Any]]
) -> dict[str, Any]:
    federation = run_step("federation", "show", _FEDERATION, *admin, "--json")
    last_number = train_rounds[-1]["number"]
    last_round, final_round = (
        run_step("round", "show", _FEDERATION, str(number), *admin, "--json")
        for number in (last_number, last_number + 1)
    )
    if missing := report.without_accuracy(final_round):
        raise DemoError(f"the final evaluation lacks {', '.join(missing)}")
    result = report.summarise(federation, train_rounds, last_round, final_round)
    report.print_table(console, last_round, final_round, result)
    console.print(f"weights {result['weights_digest']}", style="dim")
    return result
