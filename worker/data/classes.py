"""Which of a federation's classes a site's own names mean."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from shared.federation.class_names import normal_form
from worker.data.images import LabelledImages
from worker.errors import DataError

_SHOWN_NAMES = 20


@dataclass(frozen=True)
class AgreedClasses:
    """The classes of a federation, and what a site calls them.

    Attributes:
        names: of the federation, one for each label.
        local_names: the federation's name by the site's, where they differ.
    """

    names: tuple[str, ...]
    local_names: Mapping[str, str] = field(default_factory=dict)

    def labels_of(self, found: Sequence[str], where: Path | str) -> list[int]:
        """The label of each of a site's names. Several may mean the same class.

        Args:
            found: names of folders, or of a data set's classes.
            where: they were found, for the message.

        Raises:
            DataError: a name is none of the federation's, and the site's map does not say what it
                means; or the map names a class that the federation has not. Names all of them, each
                with the closest that there are.
        """
        label_of = {normal_form(name): label for label, name in enumerate(self.names)}
        meant = {normal_form(ours): normal_form(name) for ours, name in self.local_names.items()}
        if strange := [name for name in meant.values() if name not in label_of]:
            raise DataError(
                f"[clients.data.classes] names what is no class of the federation: "
                f"{self._with_closest(strange)}"
            )
        names = [meant.get(normal_form(name), normal_form(name)) for name in found]
        if unknown := [name for name in names if name not in label_of]:
            raise DataError(
                f"{where}: no class of the federation: {self._with_closest(unknown)}; "
                "say in [clients.data.classes] which class each is, or leave it out"
            )
        return [label_of[name] for name in names]

    def relabel(self, split: LabelledImages, where: Path | str) -> LabelledImages:
        """The same images with the federation's labels and names; raises as :meth:`labels_of`."""
        labels = torch.tensor(self.labels_of(split.class_names, where), dtype=torch.int64)
        return replace(split, labels=labels[split.labels], class_names=self.names)

    def _with_closest(self, unknown: Sequence[str]) -> str:
        by_folded = {name.casefold(): name for name in self.names}
        said = []
        for name in unknown[:_SHOWN_NAMES]:
            close = difflib.get_close_matches(name.casefold(), by_folded, n=3, cutoff=0.0)
            said.append(f"{name!r} (closest: {', '.join(by_folded[one] for one in close)})")
        rest = len(unknown) - _SHOWN_NAMES
        return "; ".join(said) + (f"; and {rest} more" if rest > 0 else "")
