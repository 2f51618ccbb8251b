"""``hyperfl worker specify``: what its options become, and the one line about each mistake."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from shared.federation.aggregation_plan import AggregationPlan
from shared.federation.specification import FederationSpecification
from worker.commands.worker import worker

PRIVATE = (
    "--method",
    "dp-fedavg",
    "--model",
    "tests.support.extractors:tiny_without_normalisation",
)


def specify_command(*options: str) -> Any:
    words = ["specify", "hospitals", "--model", "tests.support.extractors:tiny"]
    words += ["--num-classes", "3", "--image-shape", "1x4x4", "--minimum-updates", "5"]
    return CliRunner().invoke(worker, [*words, *options])


def test_the_command_takes_the_preset_default() -> None:
    done, plain = specify_command("--preset", "default"), specify_command()
    assert done.exit_code == 0, done.output
    assert done.stdout == plain.stdout


def test_the_command_agrees_on_noise() -> None:
    options = (*PRIVATE, "--minimum-updates", "1")
    done = specify_command(*options, "--examples-per-client", "100")
    assert done.exit_code == 0, done.output
    agreed = FederationSpecification.model_validate_json(done.stdout).training.hyperparameters
    assert agreed["sample_rate"] == 0.5
    assert float(agreed["noise_multiplier"]) > 1


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("epsilon=1e-6", "no amount of noise keeps to epsilon 1e-06 at delta 1e-05 in 200 steps"),
        ("epsilon=nan", "epsilon: Input should be a finite number"),
    ],
)
def test_the_command_says_what_is_wrong_with_a_budget(setting: str, words: str) -> None:
    options = (*PRIVATE, "--set", setting)
    done = specify_command(*options, "--examples-per-client", "100")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {words}")
    assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize(
    ("options", "plan"),
    [
        ((), {"rule": "mean"}),
        (("--aggregation", "median"), {"rule": "median"}),
        (
            ("--aggregation", "trimmed-mean", "--trim-fraction", "0.2"),
            {"rule": "trimmed-mean", "trim_fraction": 0.2},
        ),
        (
            ("--aggregation", "multi-krum", "--hostile-clients", "1"),
            {"rule": "multi-krum", "hostile_clients": 1},
        ),
    ],
)
def test_the_command_takes_a_rule_with_its_setting(
    options: tuple[str, ...], plan: dict[str, Any]
) -> None:
    done = specify_command(*options)
    assert done.exit_code == 0, done.output
    found = FederationSpecification.model_validate_json(done.stdout)
    assert found.aggregation == AggregationPlan.model_validate(plan)


def test_the_command_takes_caps() -> None:
    options = ("--max-update-norm", "2.5", "--on-excess", "reject", "--max-examples-weight", "600")
    policy = FederationSpecification.model_validate_json(
        specify_command(*options).stdout
    ).round_policy
    assert (policy.max_update_norm, policy.on_excess, policy.max_examples_weight) == (
        2.5,
        "reject",
        600,
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("--aggregation", "krum"),
            "--aggregation must be one of mean, median, trimmed-mean, multi-krum, not krum",
        ),
        (("--aggregation", "trimmed-mean"), "trimmed-mean needs trim_fraction"),
        (("--aggregation", "multi-krum"), "multi-krum needs hostile_clients"),
        (("--hostile-clients", "1"), "mean does not take hostile_clients"),
        (
            ("--aggregation", "trimmed-mean", "--trim-fraction", "0.5"),
            "trim_fraction: Input should be less than 0.5",
        ),
        (
            ("--aggregation", "multi-krum", "--hostile-clients", "2"),
            "aggregation multi-krum needs minimum_updates of at least 7, not 5",
        ),
        (
            ("--aggregation", "median", "--max-examples-weight", "9"),
            "median weighs all clients alike: leave out max_examples_weight",
        ),
        (("--max-update-norm", "0"), "max_update_norm: Input should be greater than 0"),
        (("--max-update-norm", "nan"), "max_update_norm"),
        (("--max-examples-weight", "0"), "max_examples_weight: Input should be greater"),
        (("--on-excess", "reject"), "--on-excess reject needs --max-update-norm"),
        (
            ("--max-update-norm", "1", "--on-excess", "drop"),
            "on_excess: Input should be 'clip' or 'reject'",
        ),
    ],
)
def test_the_command_says_what_is_wrong_with_a_rule_or_cap(
    options: tuple[str, ...], words: str
) -> None:
    done = specify_command(*options)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert words in done.stderr


def test_the_command_says_how_long_a_round_waits_after_its_quorum() -> None:
    done = specify_command("--grace-seconds", "0.5")
    assert done.exit_code == 0, done.output
    policy = FederationSpecification.model_validate_json(done.stdout).round_policy
    assert (policy.minimum_updates, policy.grace_seconds) == (5, 0.5)
    plain = FederationSpecification.model_validate_json(specify_command().stdout)
    assert plain.round_policy.grace_seconds is None


@pytest.mark.parametrize("grace", ["-1", "nan", "inf", "2592001"])
def test_the_command_refuses_a_grace_time_that_is_none(grace: str) -> None:
    done = specify_command("--grace-seconds", grace)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: grace_seconds: Input should be")
