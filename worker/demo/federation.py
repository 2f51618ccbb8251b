"""A federation on this machine, from nothing to its final evaluation, through real processes."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from shared.federation.model_names import import_paths
from shared.validation import InvalidInput
from worker.demo import report
from worker.demo.processes import (
    BackgroundProcess,
    fork_in_background,
    run_in_background,
    stream_step,
)
from worker.demo.steps import call, run_step
from worker.errors import DemoError
from worker.operations.specification_request import SpecificationRequest

_READY_SECONDS = 600.0
_LOOK_SECONDS = 0.5
_ENDS_A_CLIENTS_ROUND = (
    "training failed, no update is sent",
    "secure sum refused, round skipped",
    "the site's policy refuses, round skipped",
    "update refused, round skipped",
)


@dataclass(frozen=True)
class Demo:
    """What is to be run.

    Attributes:
        request: the federation.
        data: what every client's ``[clients.data]`` says.
        num_clients: all hosted by one worker.
        parent: the process that this one ends with, if any.
        serve_page: whether to say how the coordinator's page is seen, and serve it after the end.
    """

    request: SpecificationRequest
    data: dict[str, Any]
    num_clients: int
    parent: int | None = None
    serve_page: bool = False

    @property
    def client_names(self) -> list[str]:
        """Of equal length, so that they sort as they are counted."""
        digits = len(str(self.num_clients - 1))
        return [f"client-{index:0{digits}d}" for index in range(self.num_clients)]

    @property
    def is_sampled(self) -> bool:
        """Whether a round takes some of the clients only."""
        return (self.request.round_policy.cohort_size or self.num_clients) < self.num_clients

    @property
    def weights_file(self) -> str | None:
        """The file with the frozen backbone's weights, where they come from one."""
        given = self.request.backbone_weights
        return None if given in (None, "hub", "random") else str(Path(str(given)).resolve())


def run_demo(demo: Demo, state_dir: Path | None, console: Console) -> dict[str, Any]:
    """Runs the federation to its end; returns what it measured, and prints it.

    Raises:
        InvalidInput: ``state_dir`` is not empty, or the federation cannot be specified so.
        DemoError: a process ended, or a round failed.
    """
    with _folder(state_dir) as folder:
        return _run(demo, folder, console)


def _run(demo: Demo, folder: Path, console: Console) -> dict[str, Any]:
    name = demo.request.name
    serve = ("coordinator", "serve", "--data-dir", str(folder / "coordinator"), "--port", "0")
    with run_in_background("coordinator", folder, *serve) as coordinator:
        # Imported while the coordinator starts, with all that the forks need.
        from worker.data.public_datasets import find_public  # noqa: PLC0415 - torch
        from worker.operations.specification import specify  # noqa: PLC0415 - torch
        from worker.rounds import loop  # noqa: F401, PLC0415 - torch

        find_public(demo.data["dataset"], demo.request.data_dir)
        file = folder / "federation.json"
        file.write_text(call(specify, demo.request).model_dump_json(indent=1) + "\n")
        address = coordinator.wait_for_event("listening")
        url = f"http://{address['host']}:{address['port']}"
        admin = ("--url", url, "--admin-token-file", str(folder / "coordinator" / "admin-token"))
        run_step("federation", "create", str(file), *admin, "--json")
        invited = run_step("client", "enroll", name, *demo.client_names, *admin, "--json")
        config = folder / "worker.toml"
        config.write_text(_worker_config(demo, url, invited))
        with fork_in_background(
            "worker", folder, "worker", "run", "--config", str(config)
        ) as worker:
            if demo.is_sampled:
                # Cohorts are drawn from those who have asked for work, and runs are to repeat.
                worker.wait_for_event("worker ready", _READY_SECONDS)
                while any(
                    one["last_seen_at"] is None
                    for one in run_step("client", "list", name, *admin, "--json")
                ):
                    worker.check_alive()
            if demo.serve_page:
                _show_page(console, url, admin)
            run_step("federation", "start", name, *admin, "--json")
            console.print(
                f"coordinator at {url}; worker with {demo.num_clients} clients; logs in {folder}",
                style="dim",
            )
            train_rounds = _watch(demo, console, admin, worker)
        result = _report(name, console, admin, train_rounds)
        if demo.serve_page:
            _serve_on(demo, console, url, coordinator)
        return result


def _show_page(console: Console, url: str, admin: tuple[str, ...]) -> None:
    made = run_step("token", "create", "page", "--scope", "read-only", *admin, "--json")
    console.print(f"page at {url}/ for the read-only token {made['token']}", highlight=False)


def _serve_on(demo: Demo, console: Console, url: str, coordinator: BackgroundProcess) -> None:
    """Until the user interrupts, or the process that this one ends with is gone."""
    console.print(f"page still at {url}/ until Ctrl-C")
    with suppress(KeyboardInterrupt):
        while demo.parent is None or os.getppid() == demo.parent:
            coordinator.check_alive()
            time.sleep(_LOOK_SECONDS)


@contextmanager
def _folder(state_dir: Path | None) -> Iterator[Path]:
    if state_dir is None:
        with tempfile.TemporaryDirectory(prefix="hyperfl-demo-") as folder:
            yield Path(folder)
        return
    if state_dir.exists() and any(state_dir.iterdir()):
        raise InvalidInput(f"--state-dir {state_dir} is not empty; give a new or empty folder")
    state_dir.mkdir(parents=True, exist_ok=True)
    yield state_dir.resolve()


def _worker_config(demo: Demo, url: str, invited: list[dict[str, Any]]) -> str:
    """The worker's TOML file. JSON's strings and numbers are TOML's, too."""
    lines = [
        f"coordinator_url = {json.dumps(url)}",
        f"federation = {json.dumps(demo.request.name)}",
        # Whoever started the demo has named them.
        f"allowed_imports = {json.dumps(import_paths(demo.request.method, demo.request.model))}",
    ]
    # The data are public, and whoever tries things out wants to see them.
    policy = 'metrics = "all"'
    if demo.request.protection is not None:
        # All clients are of one machine: there is nobody to compare fingerprints with.
        policy += ", minimum_trusted_peers = 0"
    lines.append(f"policy = {{ {policy} }}")
    if demo.weights_file is not None:
        lines.append(f"backbone_weights_file = {json.dumps(demo.weights_file)}")
    for index, client in enumerate(invited):
        lines += [
            "",
            "[[clients]]",
            f"name = {json.dumps(client['name'])}",
            f"state_dir = {json.dumps('state/' + client['name'])}",
            f"enrolment_token = {json.dumps(client['enrolment_token'])}",
            f"seed = {demo.request.seed * 1_000_003 + index}",
            "[clients.data]",
            *(f"{key} = {json.dumps(value)}" for key, value in demo.data.items()),
            f"client_index = {index}",
        ]
    return "\n".join(lines) + "\n"


def _watch(
    demo: Demo, console: Console, admin: tuple[str, ...], worker: BackgroundProcess
) -> list[dict[str, Any]]:
    """Shows progress until the federation ends; returns the committed training rounds."""
    num_rounds = demo.request.round_policy.rounds
    rounds: list[dict[str, Any]] = []
    columns = (
        TextColumn("round {task.completed}/{task.total}"),
        BarColumn(bar_width=30),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("training", total=num_rounds)
        for line in stream_step("round", "watch", demo.request.name, *admin, "--json"):
            worker.check_alive()
            # Its round would wait for the deadline, since it needs the whole cohort.
            failed = next(filter(None, map(worker.find_event, _ENDS_A_CLIENTS_ROUND)), None)
            if failed is not None:
                raise DemoError(f"{failed['client']}, round {failed['round']}: {failed['reason']}")
            if demo.parent is not None and os.getppid() != demo.parent:
                raise DemoError("the process that started this demo was killed")
            if line is None:
                continue
            if "federation" in line:
                ended = line["federation"]
                if ended["state"] != "running":
                    break
            if "round" not in line:
                continue
            round_ = line["round"]
            if round_["phase"] == "failed":
                raise DemoError(f"round {round_['number']} failed: {round_['reason']}")
            if round_["kind"] == "train":
                rounds.append(round_)
                progress.update(bar, completed=len(rounds), description=_describe(round_))
        else:
            raise DemoError("the coordinator stopped answering")
    if ended["state"] != "finished" or len(rounds) != num_rounds:
        raise DemoError(f"the federation is {ended['state']}: {ended['reason']}")
    return rounds


def _describe(round_: dict[str, Any]) -> str:
    accuracy = 100 * round_["metrics"]["accuracy_after"]
    up, down = (report.format_bytes(round_[key]) for key in ("bytes_up", "bytes_down"))
    return f"accuracy {accuracy:.2f} %  up {up}  down {down}"


def _report(
    name: str, console: Console, admin: tuple[str, ...], train_rounds: list[dict[str, Any]]
) -> dict[str, Any]:
    federation = run_step("federation", "show", name, *admin, "--json")
    last_number = train_rounds[-1]["number"]
    last_round, final_round = (
        run_step("round", "show", name, str(number), *admin, "--json")
        for number in (last_number, last_number + 1)
    )
    if missing := report.without_accuracy(federation, final_round):
        raise DemoError(f"the final evaluation has no result of {', '.join(missing)}")
    result = report.summarise(federation, train_rounds, last_round, final_round)
    report.print_table(console, last_round, final_round, result)
    console.print(f"weights {result['weights_digest']}", style="dim")
    return result
