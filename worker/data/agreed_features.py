"""Which of a federation's features a site's own columns are."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from shared.federation.class_names import normal_form
from shared.federation.features import Feature
from worker.errors import DataError

_SHOWN_NAMES = 20


@dataclass(frozen=True)
class AgreedFeatures:
    """The features of a federation, and what a site calls them.

    Attributes:
        features: in the order of the federation.
        local_names: the federation's name by the site's, where they differ.
        are_named: whether the federation names them; else they are numbers without a name.
    """

    features: tuple[Feature, ...]
    local_names: Mapping[str, str] = field(default_factory=dict)
    are_named: bool = True

    @classmethod
    def unnamed(cls, count: int) -> Self:
        """So many numbers that nobody has named."""
        features = tuple(Feature(name=str(place)) for place in range(count))
        return cls(features, are_named=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the features, in order."""
        return tuple(feature.name for feature in self.features)

    def places_of(
        self, columns: Sequence[str], where: Path | str, passed_over: Collection[str] = ()
    ) -> dict[str, int]:
        """Where each feature lies among a site's columns, by the federation's name.

        Args:
            columns: the site's names.
            where: they were found, for the message.
            passed_over: columns that are no features, by the site's names or after the site's map.
                They are in the answer too, where they are found.

        Raises:
            DataError: a feature has no column or two, a column is no feature, or the site's map
                names what is none. Names all of them, each with the closest that there are.
        """
        known = [*self.names, *passed_over]
        meant = {normal_form(ours): normal_form(name) for ours, name in self.local_names.items()}
        if strange := [name for name in meant.values() if name not in known]:
            raise DataError(
                "[clients.data.features] names what is no feature of the federation: "
                f"{_with_closest(strange, known)}"
            )
        own = [normal_form(name.strip()) for name in columns]
        named = [meant.get(name, name) for name in own]
        faults = []
        if twice := [name for name, count in Counter(named).items() if count > 1 and name in known]:
            faults.append(f"more than one column is {', '.join(map(repr, twice))}")
        unknown = [ours for ours, name in zip(own, named, strict=True) if name not in known]
        if missing := [name for name in self.names if name not in named]:
            faults.append(f"no column for {_with_closest(missing, unknown)}")
        if unknown:
            faults.append(
                f"no feature of the federation: {_with_closest(unknown, missing or known)}; say in "
                "[clients.data.features] which feature each is, or in ignored_columns that it is "
                "none"
            )
        if faults:
            raise DataError(f"{where}: {'; '.join(faults)}")
        return {name: place for place, name in enumerate(named)}


def _with_closest(names: Sequence[str], known: Sequence[str]) -> str:
    by_folded = {name.casefold(): name for name in known}
    said = []
    for name in names[:_SHOWN_NAMES]:
        close = difflib.get_close_matches(name.casefold(), by_folded, n=3, cutoff=0.0)
        closest = ", ".join(by_folded[one] for one in close)
        said.append(f"{name!r} (closest: {closest})" if closest else repr(name))
    rest = len(names) - _SHOWN_NAMES
    return "; ".join(said) + (f"; and {rest} more" if rest > 0 else "")
