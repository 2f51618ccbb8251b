from __future__ import annotations

import pytest

from tests.support.sum_cohort import Cohort, Confirmed


@pytest.fixture
def confirmed() -> Confirmed:
    cohort = Cohort.of(5)
    names = list(cohort.members)
    joined = cohort.join(names)
    survivors = names[:4]
    for index, name in enumerate(survivors):
        cohort.mask(name, joined, index)
    confirmations = {name: cohort.confirm(name, survivors) for name in survivors}
    return Confirmed(cohort, joined, survivors, confirmations)
