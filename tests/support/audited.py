"""A subject of an audit that is small: digits, and one linear layer."""

from __future__ import annotations

from typing import Any

from shared.federation.privacy_plan import PrivacyPlan
from shared.federation.protection_plan import ProtectionPlan
from shared.federation.specification import (
    EncodingPlan,
    FederationSpecification,
    RoundPolicy,
)
from tests.support.observed_rounds import CPU, LINEAR, LINEAR_SHAPE, digits, plan_of
from tests.support.random_clients import RESOURCES, TESTS_ALLOWED
from worker.audit.effort import Effort
from worker.audit.subject import Subject, divide_public
from worker.data.client_data import ClientData
from worker.data.loading import DatasetCache
from worker.data.source import DataSource
from worker.methods import build_method
from worker.methods.interface import Participant
from worker.site_policy import SitePolicy

SMALL = Effort("small", ((1, 1), (5, 1)), 2, 20, (3,), 1, 4, 2, (100.0,), ((5, 1), (50, 1)), 0)


def small_subject(
    *,
    clients: int = 4,
    protected: bool = False,
    privacy: PrivacyPlan | None = None,
    policy: SitePolicy | None = None,
    method: str = "hyperfl",
    model: str | None = None,
    **settings: Any,
) -> Subject:
    is_bias_alone = protected or privacy is not None
    if is_bias_alone:
        settings = {"shared_part": "output-bias"} | settings
    plan = plan_of(method, model or LINEAR, LINEAR_SHAPE, **settings)
    plan = plan.model_copy(update={"privacy": privacy})
    built = build_method(plan, CPU, RESOURCES)
    specification = FederationSpecification(
        name="small",
        parameters=built.parameters(3),
        training=plan,
        round_policy=RoundPolicy(
            rounds=3,
            cohort_size=clients,
            minimum_updates=clients,
            max_examples_weight=200 if protected else None,
        ),
        encoding=EncodingPlan(
            name="factored" if method == "hyperfl" and not is_bias_alone else "dense"
        ),
        protection=ProtectionPlan() if protected else None,
    )
    datasets = DatasetCache()

    def data_of(index: int) -> ClientData:
        source = DataSource(dataset="digits", partition="paper", num_clients=8, client_index=index)
        return datasets.client_data(source, LINEAR_SHAPE, 10)

    members = [
        Participant(f"client-{one}", data_of(one), built.initial_private(one), one, number=one)
        for one in range(clients)
    ]
    prior, candidates = divide_public(digits(LINEAR_SHAPE).test, members[0].data.train, 0)
    return Subject(
        specification=specification,
        weights=specification.parameters.initial_values(),
        client=members[0],
        others=members[1:],
        prior=prior,
        candidates=candidates,
        policy=policy or SitePolicy(),
        round_number=1,
        origin="a test",
        allowed_imports=TESTS_ALLOWED,
    )
