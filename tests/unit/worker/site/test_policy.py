"""What a site's policy makes of a federation."""

from __future__ import annotations

from typing import Any

import pytest

from shared.federation.specification import FederationSpecification, document_digest
from tests.support.private_sums import private_specification
from tests.support.specifications import tiny_specification
from worker.errors import ConfigError
from worker.site.policy import (
    Verdict,
    check_examples,
    check_specification,
    find,
    shown_metrics,
    steps_of_round,
)
from worker.site_policy import SitePolicy

DIGEST = "sha256:" + 64 * "a"
PRIVATE = {"method": "dp-fedavg", "hyperparameters": {"rounds": 2, "epsilon": 4.0}}
AGREED = {
    "method": "dp-fedavg",
    "hyperparameters": {"rounds": 2, "sample_rate": 0.25, "noise_multiplier": 5.0},
}
OWN = {"method": "own.methods:It", "model": "own.models:it", "hyperparameters": {}}
SUM = {"protection": {}, "round_policy": {"minimum_updates": 3, "max_examples_weight": 100}}


def federation(training: dict[str, Any] | None = None, **members: Any) -> FederationSpecification:
    """A tiny federation of which these members are others."""
    document = tiny_specification().document
    rounds = document["round_policy"] | members.pop("round_policy", {})
    if training is not None:
        document["training"] = document["training"] | {"hyperparameters": {}} | training
    if members.get("protection") is not None:
        document["training"]["hyperparameters"] |= {"shared_part": "output-bias"}
    return FederationSpecification.of_record(document | members | {"round_policy": rounds})


def verdict(policy: SitePolicy, specification: FederationSpecification, member: str) -> Verdict:
    return {one.member: one for one in find(policy, specification, DIGEST)}[member].verdict


def test_a_plain_federation_is_accepted_by_default() -> None:
    for specification in (federation(), federation(PRIVATE), federation(OWN)):
        check_specification(SitePolicy(), specification, DIGEST)
        assert {one.verdict for one in find(SitePolicy(), specification, DIGEST)} == {
            Verdict.ACCEPTED
        }


def test_every_member_has_a_finding_in_its_order() -> None:
    found = find(SitePolicy(), federation(), DIGEST)
    assert [one.member for one in found] == list(SitePolicy.model_fields)


@pytest.mark.parametrize(
    ("policy", "specification", "message"),
    [
        (
            {"methods": ["fedavg", "dp-*"]},
            federation(),
            "policy.methods is fedavg, dp-*, and federation tiny asks for method hyperfl",
        ),
        (
            {"models": ["cnn-*"]},
            federation(),
            "policy.models is cnn-*, and federation tiny asks for model tests.support.models:tiny",
        ),
        (
            {"require_protection": "secure-sum"},
            federation(),
            "policy.require_protection is secure-sum, and federation tiny asks for updates that "
            "its coordinator sees",
        ),
        (
            {"minimum_cohort": 2},
            federation(),
            "policy.minimum_cohort is 2, and federation tiny asks for weights made of 1 updates "
            "or more",
        ),
        (
            {"minimum_trusted_peers": 3},
            federation(**SUM | {"round_policy": SUM["round_policy"] | {"cohort_size": 3}}),
            "policy.minimum_trusted_peers is 3, and federation tiny asks for secure sums of 3 "
            "clients, this one among them",
        ),
        (
            {"minimum_steps": 5},
            federation(OWN),
            "policy.minimum_steps is 5, and federation tiny asks for as many steps as method "
            "own.methods:It makes",
        ),
        (
            {"minimum_steps": 21},
            federation(AGREED),
            "policy.minimum_steps is 21, and federation tiny asks for 20 steps a round",
        ),
        (
            {"maximum_epsilon": 8},
            federation(),
            "policy.maximum_epsilon is 8, and federation tiny asks for updates without noise of a "
            "known ε",
        ),
        (
            {"maximum_epsilon": 3.9},
            federation(PRIVATE),
            "policy.maximum_epsilon is 3.9, and federation tiny asks for ε 4 for one example",
        ),
        (
            {"rounds_in_all": 1},
            federation(),
            "policy.rounds_in_all is 1, and federation tiny asks for 2 rounds",
        ),
        (
            {"max_model_parameters": 19},
            federation(),
            "policy.max_model_parameters is 19, and federation tiny asks for 20 parameters",
        ),
        (
            {"approved_specifications": ["sha256:" + 64 * "b"]},
            federation(),
            f"policy.approved_specifications is sha256:{64 * 'b'}, and federation tiny asks for "
            f"specification {DIGEST}",
        ),
    ],
)
def test_what_a_policy_refuses_is_named_with_what_it_says_and_what_is_asked(
    policy: dict[str, Any], specification: FederationSpecification, message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        check_specification(SitePolicy.model_validate(policy), specification, DIGEST)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("policy", "specification"),
    [
        ({"methods": ["hyper*"], "models": ["tests.support.models:tiny"]}, federation()),
        ({"require_protection": "secure-sum", "minimum_cohort": 3}, federation(**SUM)),
        ({"maximum_epsilon": 4}, federation(PRIVATE)),
        ({"maximum_epsilon": 1}, federation({"method": "local"})),
        ({"minimum_steps": 20}, federation(AGREED)),
        ({"rounds_in_all": 2, "max_model_parameters": 20}, federation()),
        ({"approved_specifications": [DIGEST]}, federation()),
    ],
)
def test_what_a_policy_just_allows_is_accepted(
    policy: dict[str, Any], specification: FederationSpecification
) -> None:
    check_specification(SitePolicy.model_validate(policy), specification, DIGEST)


@pytest.mark.parametrize(("largest", "accepted"), [(14, True), (15, False)])
def test_a_secure_sum_of_a_known_cohort_needs_two_thirds_of_it(
    largest: int, accepted: bool
) -> None:
    rounds = SUM["round_policy"] | {"cohort_size": 20}
    specification = federation(**SUM | {"round_policy": rounds})
    found = verdict(SitePolicy(minimum_cohort=largest), specification, "minimum_cohort")
    assert (found is Verdict.ACCEPTED) == accepted


@pytest.mark.parametrize(
    ("policy", "member"),
    [
        ({}, "minimum_trusted_peers"),
        ({"minimum_examples": 2}, "minimum_examples"),
        ({"minimum_steps": 6}, "minimum_steps"),
        ({"rounds_per_day": 1}, "rounds_per_day"),
    ],
)
def test_what_depends_on_the_site_is_said_so(policy: dict[str, Any], member: str) -> None:
    found = verdict(SitePolicy.model_validate(policy), federation(**SUM), member)
    assert found is Verdict.DEPENDS


@pytest.mark.parametrize("cohort", [{"cohort_size": 3}, {"cohort_fraction": 0.5}])
def test_how_many_rounds_a_drawn_client_trains_is_seen_round_by_round(
    cohort: dict[str, Any],
) -> None:
    specification = federation(round_policy=cohort | {"rounds": 200})
    found = verdict(SitePolicy(rounds_in_all=100), specification, "rounds_in_all")
    assert found is Verdict.DEPENDS


def test_a_federation_without_secure_sums_needs_no_trusted_peers() -> None:
    assert verdict(SitePolicy(), federation(), "minimum_trusted_peers") is Verdict.ACCEPTED


@pytest.mark.parametrize(
    ("training", "num_examples", "steps"),
    [
        ({"hyperparameters": {"epochs": 3, "batch_size": 10}}, 1, 3),
        ({"hyperparameters": {"epochs": 3, "batch_size": 10}}, 10, 3),
        ({"hyperparameters": {"epochs": 3, "batch_size": 10}}, 11, 6),
        (AGREED, 1000, 20),
        (OWN, 1000, None),
    ],
)
def test_the_steps_of_a_round(
    training: dict[str, Any], num_examples: int, steps: int | None
) -> None:
    assert steps_of_round(federation(training).training, num_examples) == steps


@pytest.mark.parametrize("wanted", range(2, 40))
def test_the_examples_that_are_said_to_make_enough_steps_do(wanted: int) -> None:
    training = {"hyperparameters": {"epochs": 3, "batch_size": 7}}
    found = find(SitePolicy(minimum_steps=wanted), federation(training), DIGEST)
    (asks,) = (one.asks for one in found if one.member == "minimum_steps")
    needed = int(asks.rpartition(": ")[2].split()[0])
    enough = steps_of_round(federation(training).training, needed)
    fewer = steps_of_round(federation(training).training, needed - 1)
    assert enough is not None
    assert fewer is not None
    assert fewer < wanted <= enough


def test_too_few_examples_are_refused_with_the_clients_name() -> None:
    check_examples(SitePolicy(minimum_examples=5), "alice", 5)
    with pytest.raises(ConfigError, match="is 6, and client alice has 5 training examples"):
        check_examples(SitePolicy(minimum_examples=6), "alice", 5)


@pytest.mark.parametrize(
    ("policy", "shown"),
    [
        ({}, {"accuracy": 0.98765, "loss": 0.12345}),
        ({"metrics": "none"}, {}),
        ({"metrics": ["loss", "other"]}, {"loss": 0.12345}),
        ({"metrics": []}, {}),
        ({"metric_digits": 2}, {"accuracy": 0.99, "loss": 0.12}),
        ({"metrics": ["accuracy"], "metric_digits": 0}, {"accuracy": 1.0}),
    ],
)
def test_numbers_leave_as_the_policy_says(policy: dict[str, Any], shown: dict[str, float]) -> None:
    metrics = {"accuracy": 0.98765, "loss": 0.12345}
    assert shown_metrics(SitePolicy.model_validate(policy), metrics) == shown


def test_the_digest_that_is_approved_is_the_recorded_documents() -> None:
    specification = federation()
    digest = document_digest(specification.document)
    check_specification(SitePolicy(approved_specifications=(digest,)), specification, digest)


def test_noise_that_breaks_its_own_budget_is_refused_whatever_the_policy_says() -> None:
    little = private_specification({"noise_multiplier": 0.01, "epsilon": 0.5})
    with pytest.raises(ConfigError, match="asks for less noise than its own budget needs: eps"):
        check_specification(SitePolicy(maximum_epsilon=1.0), little, DIGEST)
    with pytest.raises(ConfigError, match=r"policy\.maximum_epsilon is unset"):
        check_specification(SitePolicy(), little, DIGEST)
    enough = private_specification({"epsilon": 8.0})
    check_specification(SitePolicy(maximum_epsilon=8.0, minimum_trusted_peers=0), enough, DIGEST)


def test_a_sum_that_does_not_fit_is_refused_whatever_the_policy_says() -> None:
    coarse = private_specification(protection={"bits": 8, "bound": 1.0})
    with pytest.raises(ConfigError, match=r"federation tiny: noise of .* units is too coarse"):
        check_specification(SitePolicy(), coarse, DIGEST)
