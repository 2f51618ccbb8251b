"""A whole audit of a small subject."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from shared.federation.privacy_plan import PrivacyPlan
from tests.support.audited import SMALL, small_subject
from worker.audit.measuring import KEPT
from worker.audit.running import run_audit
from worker.audit.subject import Subject
from worker.errors import AuditError
from worker.site_policy import SitePolicy


def audited(subject: Subject, folder: Path) -> tuple[dict[str, object], str]:
    with (folder.parent / "said").open("w") as stream:
        document = run_audit(subject, SMALL, folder, Console(file=stream))
    return document, (folder.parent / "said").read_text()


def test_plain_hyperfl_gives_images_away_and_the_report_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    policy = SitePolicy(minimum_examples=2)
    document, said = audited(small_subject(policy=policy), folder)
    assert "measurements are to be made, in about" in said
    one, five, _ = document["images"]
    assert (one["images"], one["says"]) == (1, "recovered")
    assert one["policy"] == "minimum_examples = 2"
    assert five["policy"] is None
    text = (folder / "report.md").read_text()
    assert "refuses: minimum_examples = 2" in text
    assert "**An attack that failed proves nothing.**" in text
    assert (
        "theorem"
        not in text.partition("## Images")[0]
        .partition("| statement")[2]
        .partition("Only the theorems")[0]
    )
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(document))
    assert (folder / one["picture"]).read_bytes().startswith(b"\x89PNG")
    assert folder.stat().st_mode & 0o077 == 0, "it has pictures of a site's images"
    assert document["cohorts"][0]["comes_apart"]
    assert document["cohorts"][0]["steered"]["worst"] > 0.95
    assert document["chosen"][0]["says"] == "recovered"
    assert "## Weights of the coordinator's choice" in text
    assert (folder / document["chosen"][0]["picture"]).exists()


def test_a_protected_one_is_attacked_as_a_sum(tmp_path: Path) -> None:
    document, _ = audited(small_subject(protected=True), tmp_path / "audit")
    assert {row["cohort"] for row in document["images"]} == {4}
    (row,) = document["cohorts"]
    assert "blind" not in row
    assert not row["comes_apart"]
    assert [(one["clients"], one["rounds"]) for one in document["rounds"]] == [(4, 2), (4, 2)]
    text = (tmp_path / "audit" / "report.md").read_text()
    assert "theorem (Bonawitz et al., 2017)" in text
    assert "| half of the clients, drawn anew each time | 4 | 2 |" in text


@pytest.mark.parametrize("protected", [False, True])
def test_with_noise_budgets_are_compared_and_the_theorem_is_said(
    tmp_path: Path, *, protected: bool
) -> None:
    noise = PrivacyPlan(rounds=3, noise_multiplier=2.0, epsilon=8.0)
    document, _ = audited(small_subject(privacy=noise, protected=protected), tmp_path / "audit")
    budgets = {(row["images"], row["epsilon"], row["steps"]) for row in document["images"]}
    own = len(small_subject().client.data.train)
    assert budgets == {(1, 8.0, 1), (5, 8.0, 1), (own, 8.0, 1), (1, 100.0, 1)}
    assert document["cohorts"] == []
    text = (tmp_path / "audit" / "report.md").read_text()
    assert "(8, 1e-05)-private for each example" in text
    assert ("if as many clients are honest" in text) == protected
    assert "| ε |" in text


def test_fedpac_tells_the_classes_and_no_attack_is_needed(tmp_path: Path) -> None:
    document, _ = audited(small_subject(method="fedpac"), tmp_path / "audit")
    assert document["images"][0]["says"] == "recovered"
    assert [round(row["label_distance"], 6) for row in document["inference"]] == [0.0, 0.0]
    assert (
        "head, class means and class shares | how the method works |"
        in (tmp_path / "audit" / "report.md").read_text()
    )


@pytest.mark.parametrize("method", ["pfedhn", "fedbn"])
def test_what_a_method_generates_or_keeps_back_hides_no_image(tmp_path: Path, method: str) -> None:
    model = {"fedbn": "tests.support.extractors:normalised_on_digits"}.get(method)
    document, _ = audited(small_subject(method=method, model=model), tmp_path / "audit")
    assert document["images"][0]["says"] == "recovered"
    assert not any("refused" in row for row in document["inference"])


@pytest.mark.parametrize("protected", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_noise_for_whole_clients_covers_rounds_of_several_steps(
    tmp_path: Path, *, protected: bool
) -> None:
    noise = PrivacyPlan(rounds=3, noise_multiplier=2.0, epsilon=8.0, unit="client")
    document, _ = audited(small_subject(privacy=noise, protected=protected), tmp_path / "audit")
    assert max(row["steps"] for row in document["images"]) > 1
    assert {row["says"] for row in document["images"] if row["epsilon"] == 8.0} == {"gains nothing"}
    text = (tmp_path / "audit" / "report.md").read_text()
    assert "(8, 1e-05)-private for each client" in text


def test_an_audit_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    first, _ = audited(small_subject(), folder)
    kept = json.loads((folder / KEPT).read_text())
    removed = kept["measured"].pop("images-5-epochs-1")
    (folder / KEPT).write_text(json.dumps(kept))
    again, said = audited(small_subject(), folder)
    assert "1 of 9 measurements" in said
    assert again["inference"] == first["inference"]
    (made,) = (row for row in again["images"] if row["images"] == 5)
    assert made["attacks"] == removed["attacks"]
    _, said = audited(small_subject(policy=SitePolicy(minimum_steps=2)), folder)
    assert "9 of 9 measurements" in said, "another policy is another audit"


def test_a_method_that_shares_nothing_has_nothing_to_audit(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="local cannot be audited"):
        audited(small_subject(method="local"), tmp_path / "audit")
