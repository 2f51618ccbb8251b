"""What a policy should say, of what was measured."""

from __future__ import annotations

from typing import Any

from worker.audit.advice import advise
from worker.site_policy import SitePolicy


def row(images: int, steps: int, says: str, policy: str | None = None) -> dict[str, Any]:
    return {
        "images": images,
        "steps": steps,
        "says": says,
        "policy": policy,
        "is_configured": False,
    }


def said(*rows: dict[str, Any], is_protected: bool = False) -> str:
    return "\n".join(advise(SitePolicy(), rows, [], [], [], [], is_protected=is_protected))


def test_the_smallest_round_that_held_is_the_policy() -> None:
    text = said(
        row(1, 1, "recovered"),
        row(5, 4, "gains"),
        row(5, 20, "gains nothing"),
        row(600, 60, "gains nothing"),
    )
    assert "`minimum_examples = 5` and `minimum_steps = 20`" in text
    assert 'require_protection = "secure-sum"' in text


def test_a_round_that_held_below_one_that_did_not_is_no_advice() -> None:
    text = said(row(5, 4, "gains nothing"), row(5, 20, "gains"), row(100, 60, "gains nothing"))
    assert "`minimum_examples = 100` and `minimum_steps = 60`" in text
    assert "neither" in said(row(5, 4, "gains nothing"), row(5, 20, "gains"))


def test_what_the_policy_refuses_needs_no_advice() -> None:
    text = said(row(1, 1, "recovered", "minimum_steps = 20"), row(50, 20, "gains nothing"))
    assert "your policy refuses 1 of them" in text
    assert "Set" not in text


def test_where_nothing_was_found_it_says_that_this_proves_nothing() -> None:
    assert "proves nothing" in said(row(600, 60, "gains nothing"))


def test_membership_labels_and_sums_are_spoken_of() -> None:
    inference = {
        "images": 50,
        "steps": 1,
        "auc": 0.9,
        "auc_low": 0.8,
        "label_distance": 0.2,
        "blind_label_distance": 0.5,
        "label_chance": 0.001,
    }
    cohorts = [
        {"cohort": 3, "comes_apart": True},
        {"cohort": 5, "comes_apart": True},
        {"cohort": 20, "comes_apart": False},
    ]
    text = "\n".join(advise(SitePolicy(), [], [inference], cohorts, [], [], is_protected=False))
    assert "AUC 0.90" in text
    assert "How many examples of each class" in text
    inference |= {"auc_low": 0.45, "label_chance": 0.2}
    assert "How many" not in "\n".join(
        advise(SitePolicy(), [], [inference], [], [], [], is_protected=False)
    )
    assert "The sum of 3 and 5 clients' updates comes apart" in text


def test_sums_of_many_rounds_that_give_parts_away_are_named() -> None:
    row = {"rounds": 40, "cohorts": "half of the clients, drawn anew each time"}
    kept, apart = ({**row, "comes_apart": one} for one in (False, True))
    assert "maximum_cohorts" not in "".join(
        advise(SitePolicy(), [], [], [], [kept], [], is_protected=True)
    )
    assert "set `maximum_cohorts = 1`" in "".join(
        advise(SitePolicy(), [], [], [], [kept, apart], [], is_protected=True)
    )


def test_weights_of_the_coordinators_choice_are_spoken_of_where_images_come_out() -> None:
    recovered = row(50, 1, "recovered", "minimum_steps = 20")
    accuracies = {"accuracy": 0.8, "accuracy_chosen": 0.3}
    failed = row(600, 60, "gains nothing") | accuracies
    refused = {**row(5, 1, ""), "refused": "an error"}
    del refused["says"]
    text = "".join(
        advise(
            SitePolicy(),
            [],
            [],
            [],
            [],
            [recovered | accuracies, failed, refused],
            is_protected=True,
        )
    )
    assert "rounds of 50 images in 1 step; your policy allows 0 of these" in text
    assert "`maximum_epsilon`" in text
    assert "falls from 80% to 30%" in text
    assert "own choice" not in "".join(
        advise(SitePolicy(), [], [], [], [], [failed], is_protected=True)
    )
