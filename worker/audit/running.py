"""One audit from its subject to its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from shared.federation.specification import document_digest
from worker.audit.advice import advise
from worker.audit.effort import Effort
from worker.audit.measuring import Kept, Measurement, plan_measurements
from worker.audit.pictures import draw_curves
from worker.audit.report import write_markdown
from worker.audit.subject import Subject
from worker.files import write_atomically

Json = dict[str, Any]
_CURVES = "curves.png"


def run_audit(subject: Subject, effort: Effort, folder: Path, console: Console) -> Json:
    """Measures what is missing in ``folder``, writes the report there, and returns it.

    Raises:
        WorkerError: the subject cannot be audited.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    measurements = plan_measurements(subject, effort, folder)
    kept = Kept(folder, subject, effort)
    missing = [one for one in measurements if not kept.has(one)]
    seconds = sum(one.seconds for one in missing)
    console.print(
        f"{len(missing)} of {len(measurements)} measurements are to be made, in about "
        f"{_spoken(seconds)}; each is kept in {folder}, and the same command goes on from there"
    )
    measured = _measure(measurements, kept, console)
    document = _document(subject, effort, measured)
    curves = draw_curves(document["images"], document["cohorts"], folder / _CURVES)
    document["curves"] = _CURVES if curves else None
    if not curves:
        console.print(
            "no curves: matplotlib is not installed (pip install 'hyperfl[worker,experiments]')"
        )
    write_atomically(folder / "report.json", json.dumps(document, indent=1).encode())
    write_atomically(folder / "report.md", write_markdown(document).encode())
    return document


def _measure(measurements: list[Measurement], kept: Kept, console: Console) -> dict[str, Json]:
    columns = (
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:3.0f} %"),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    measured = {}
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=sum(max(one.seconds, 0.1) for one in measurements))
        for one in measurements:
            progress.update(bar, description=one.says)
            measured[one.name] = kept.get(one)
            progress.advance(bar, max(one.seconds, 0.1))
    return measured


def _document(subject: Subject, effort: Effort, measured: dict[str, Json]) -> Json:
    specification, training = subject.specification, subject.specification.training
    images = [row for name, row in measured.items() if name.startswith("images-")]
    chosen = [row for name, row in measured.items() if name.startswith("chosen-")]
    inference = [row for name, row in measured.items() if name.startswith("inference-")]
    cohorts = measured.get("cohorts", {}).get("rows", [])
    rounds = measured.get("rounds", {}).get("rows", [])
    is_protected = specification.protection is not None
    privacy = subject.privacy
    return {
        "subject": {
            "federation": specification.name,
            "specification": document_digest(specification.document),
            "method": training.method,
            "model": training.model,
            "encoding": specification.encoding.name,
            "protection": _protection(subject),
            "client": subject.client.name,
            "training images": len(subject.client.data.train),
            "round": subject.round_number,
            "from": subject.origin,
            "public images": f"{len(subject.prior)} for attacks, {len(subject.candidates)} to "
            "compare with",
            "size of the audit": effort.name,
        },
        "is_protected": is_protected,
        "privacy": None if privacy is None else privacy.model_dump(mode="json"),
        "images": images,
        "chosen": chosen,
        "inference": inference,
        "cohorts": cohorts,
        "rounds": rounds,
        "advice": advise(
            subject.policy, images, inference, cohorts, rounds, chosen, is_protected=is_protected
        ),
        "policy": subject.policy.model_dump(mode="json"),
    }


def _protection(subject: Subject) -> str:
    summed, privacy = subject.specification.protection, subject.privacy
    parts: list[str] = [] if summed is None else [summed.kind]
    if privacy is not None:
        parts.append(
            f"dp, ε {privacy.epsilon:g} for each {privacy.unit} in {privacy.rounds} rounds"
        )
    return " + ".join(parts) or "none"


def _spoken(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes"
