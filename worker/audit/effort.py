"""How much an audit does: three sizes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """One size of an audit.

    Attributes:
        name: of the size.
        cases: images of a client, and epochs over them; the round as configured comes besides.
        images: of each case that are sought at least, in as many rounds as that takes.
        iterations: of a search over images.
        cohorts: sizes of the sums that are taken apart.
        draws: of cohorts of each size.
        shadows: clients that the attacker trains.
        rounds: whose sums are put together; 0 for none.
        epsilons: budgets that are tried beside the federation's, where it has one.
        chosen: images of a client, and epochs, at weights of the coordinator's choice; the round as
            configured comes besides.
        unrolled: images times steps, up to which a round's steps are simulated; 0 for none.
    """

    name: str
    cases: tuple[tuple[int, int], ...]
    images: int
    iterations: int
    cohorts: tuple[int, ...]
    draws: int
    shadows: int
    rounds: int
    epsilons: tuple[float, ...]
    chosen: tuple[tuple[int, int], ...]
    unrolled: int


QUICK = Effort(
    "quick",
    ((1, 1), (5, 1), (5, 10)),
    4,
    150,
    (3, 10),
    1,
    6,
    0,
    (1000.0,),
    ((5, 1),),
    0,
)
DEFAULT = Effort(
    "default",
    ((1, 1), (1, 5), (5, 1), (5, 4), (5, 10), (5, 20), (5, 50), (20, 1), (100, 1)),
    10,
    300,
    (3, 5, 10, 20),
    3,
    24,
    10,
    (1.0, 64.0, 1000.0),
    ((5, 1), (50, 1)),
    5,
)
THOROUGH = Effort(
    "thorough",
    (
        *((1, 1), (1, 5), (1, 20), (1, 100)),
        *((5, 1), (5, 2), (5, 4), (5, 10), (5, 20), (5, 50), (5, 100)),
        *((10, 1), (20, 1), (20, 5), (50, 1), (100, 1), (100, 5)),
    ),
    40,
    1000,
    (3, 5, 8, 10, 15, 20, 30),
    5,
    64,
    40,
    (1.0, 4.0, 16.0, 64.0, 256.0, 1000.0),
    ((5, 1), (50, 1)),
    50,
)
