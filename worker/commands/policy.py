"""``hyperfl worker policy``: what a site takes part in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from shared.terminal.logs import configure_logging
from shared.terminal.tables import print_table
from worker.commands.configuration import (
    ConfigOption,
    JsonOption,
    dash_is_stdout,
    failures,
    load,
    write_new,
)
from worker.settings import WorkerSettings
from worker.site_policy import SitePolicy

policy = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Write a site's policy; see what it makes of a federation.",
)


@policy.command()
def init(
    output: Annotated[
        Path | None,
        typer.Option(
            help="File to write, which must not exist; the default is stdout.",
            callback=dash_is_stdout,
        ),
    ] = None,
) -> None:
    """Write the table `policy` for worker.toml: every member, its meaning, its default.

    Example: hyperfl worker policy init >> worker.toml
    """
    with failures():
        from worker.operations.policy import policy_table  # noqa: PLC0415 - the worker's packages

        text = policy_table()
        if output is None:
            typer.echo(text, nl=False)
            return
        write_new(output, text)


@policy.command()
def explain(
    specification: Annotated[
        Path, typer.Option(help="The federation's specification, as `worker specify` writes it.")
    ],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a site's policy makes of a federation, line by line; exit with 1 if it refuses.

    Without a TOML file it takes the policy's defaults. What depends on the site's
    data, or on how often rounds come, is seen when the worker runs.

    Example: hyperfl worker policy explain --specification federation.json --config worker.toml
    """
    with failures():
        from worker.operations import policy as operation  # noqa: PLC0415 - the worker's packages
        from worker.site.policy import Verdict  # noqa: PLC0415

        configure_logging("warning")
        said = SitePolicy()
        allowed_imports: tuple[str, ...] = ()
        if config is not None or WorkerSettings().worker_config is not None:
            loaded, _ = load(config)
            said, allowed_imports = loaded.policy, loaded.allowed_imports
        digest, findings = operation.explain(said, allowed_imports, specification)
    rows = [
        {
            "verdict": one.verdict.value,
            "member": one.member,
            "policy says": one.says,
            "federation asks for": one.asks,
        }
        for one in findings
    ]
    if as_json:
        named = [
            {"verdict": one.verdict, "member": one.member, "says": one.says, "asks": one.asks}
            for one in findings
        ]
        typer.echo(json.dumps({"specification_digest": digest, "findings": named}))
    else:
        print_table(rows, tuple(rows[0]))
    if any(one.verdict is Verdict.REFUSED for one in findings):
        raise typer.Exit(1)
