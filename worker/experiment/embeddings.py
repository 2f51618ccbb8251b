"""Clients' embeddings, kept and drawn only where a user asks for it.

An embedding is private: it never leaves a client's worker. An experiment's clients are all on this
machine, so their private states can be read here once they have ended. Only the embeddings are
kept of them, in files that only their owner can read.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from shared.arrays import digest_bytes
from worker.errors import ExperimentError
from worker.experiment.drawing import describe_panel, new_figure, save
from worker.experiment.grid import Run
from worker.experiment.label_distribution import LabelDistribution
from worker.files import write_atomically
from worker.site.private_state import read_tensors

_EMBEDDING, _KEPT = "embedding", "embeddings"
_LEAST_CLIENTS = 5
_MOST_COLOURS = 10
_MOST_NAMES = 3


def keep_embeddings(run: Run, states: Path, folder: Path) -> None:
    """Copies the embeddings out of private states, if the run's method has any.

    Args:
        run: that has ended.
        states: folder with a private state's folder for each client, in the clients' order.
        folder: to keep them in; created for its owner only.

    Raises:
        PrivateStateError: a state is missing or damaged.
    """
    found = [read_tensors(state) for state in sorted(states.iterdir())]
    if not all(_EMBEDDING in tensors for tensors in found):
        return
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    stacked = np.stack([tensors[_EMBEDDING] for tensors in found])
    write_atomically(embeddings_file(run, folder), safetensors.numpy.save({_KEPT: stacked}))


def draw_embeddings(
    runs: Iterable[Run], kept: Path, labels: list[LabelDistribution], folder: Path
) -> list[tuple[Path, str]]:
    """Writes a t-SNE of every run whose embeddings are kept; the file, and what it shows.

    Of runs that differ only in their seed, the first is drawn. A client's colour is the class it
    has most examples of, where ``labels`` tell.

    Raises:
        ExperimentError: no run's embeddings are there, one's are damaged, or packages are missing.
    """
    chosen: dict[str, tuple[Run, NDArray[np.float32]]] = {}
    for run in runs:
        file = embeddings_file(run, kept)
        if run.cell in chosen or not file.exists() or run.clients < _LEAST_CLIENTS:
            continue
        try:
            chosen[run.cell] = (run, safetensors.numpy.load(file.read_bytes())[_KEPT])
        except (SafetensorError, KeyError) as error:
            raise ExperimentError(f"{file} holds no embeddings") from error
    if not chosen:
        raise ExperimentError(
            f"{kept} holds no embeddings of a finished run with {_LEAST_CLIENTS} clients or more: "
            "`hyperfl experiment run --keep-embeddings` keeps them"
        )
    figure, axes = new_figure(len(chosen), panel_height_inches=4.2)
    for axis, (run, embeddings) in zip(axes, chosen.values(), strict=True):
        places = _project(embeddings)
        counts = next((one for one in labels if _is_of(one, run)), None)
        for name, members in _by_class(counts, len(places)).items():
            axis.scatter(places[members, 0], places[members, 1], s=60, label=name, alpha=0.8)
        for number, place in enumerate(places):
            axis.annotate(str(number), place, ha="center", va="center", fontsize=6)
        variant = f" ({run.variant})" if run.variant else ""
        axis.set_title(f"{run.method}{variant}, {describe_panel(run)}", fontsize="medium")
        axis.set_xlabel("first t-SNE dimension")
        axis.set_ylabel("second t-SNE dimension")
        axis.grid(alpha=0.25)
        if counts is not None:
            axis.legend(title="most examples of", fontsize="small", title_fontsize="small")
    shown = "t-SNE of the clients' private embeddings; numbers are clients"
    figure.suptitle(shown, fontsize="medium")
    file = folder / "embeddings.png"
    save(figure, file)
    return [(file, shown)]


def embeddings_file(run: Run, folder: Path) -> Path:
    """Where in ``folder`` a run's embeddings are kept."""
    digest = digest_bytes(run.key.encode()).partition(":")[2][:16]
    return folder / f"{run.dataset}-{run.clients}-clients-seed-{run.seed}-{digest}.safetensors"


def _project(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Places (clients, 2) of embeddings (clients, e): van der Maaten and Hinton, JMLR 2008."""
    from sklearn.manifold import TSNE  # noqa: PLC0415 - slow to import

    # Perplexity is about how many neighbours count: a few of a few clients.
    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    places: NDArray[np.float32] = TSNE(
        perplexity=perplexity, init="pca", random_state=0, method="exact"
    ).fit_transform(embeddings)
    return places


def _is_of(labels: LabelDistribution, run: Run) -> bool:
    return (labels.dataset, len(labels.counts), labels.partition) == (
        run.dataset,
        run.clients,
        run.partition,
    )


def _by_class(counts: LabelDistribution | None, num_clients: int) -> dict[str, list[int]]:
    """Clients by the names of their most frequent classes, those half as frequent as the first."""
    if counts is None:
        return {"": list(range(num_clients))}
    frequent = [
        tuple(int(one) for one in np.flatnonzero(row >= row.max() / 2)) for row in counts.counts
    ]
    if len(set(frequent)) > _MOST_COLOURS:
        frequent = [(int(row.argmax()),) for row in counts.counts]
    members: dict[str, list[int]] = {}
    for client, classes in sorted(enumerate(frequent), key=lambda one: one[1]):
        name = ", ".join(counts.class_names[one] for one in classes[:_MOST_NAMES])
        more = ", …" if len(classes) > _MOST_NAMES else ""
        members.setdefault(name + more, []).append(client)
    return members
