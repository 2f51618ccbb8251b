"""What a site should write into its policy, of what was measured. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from worker.site_policy import SitePolicy

Json = dict[str, Any]
NOTHING = "gains nothing"
_SIGNIFICANCE = 0.025


def advise(
    policy: SitePolicy,
    images: Sequence[Json],
    inference: Sequence[Json],
    cohorts: Sequence[Json],
    rounds: Sequence[Json],
    chosen: Sequence[Json],
    *,
    is_protected: bool,
) -> list[str]:
    """Sentences, each with the policy's line where there is one."""
    measured = [row for row in images if "says" in row]
    found = [*_images(policy, measured, is_protected), *_inference(inference)]
    found += _chosen(chosen)
    apart = [row["cohort"] for row in cohorts if row["comes_apart"]]
    if apart:
        found.append(
            f"The sum of {_listed(apart)} clients' updates comes apart into the clients' parts, "
            "if all tensors are summed: use `shared_part = output-bias` where they are summed."
        )
    found += [
        f"The sums of {row['rounds']} rounds, of {row['cohorts']}, give a client's part away. An "
        "honest coordinator sums the same clients each time: set `maximum_cohorts = 1`."
        for row in rounds
        if row["comes_apart"]
    ]
    return found or [
        "Nothing was found that the policy should forbid. A failed attack proves nothing."
    ]


def _images(policy: SitePolicy, rows: Sequence[Json], is_protected: bool) -> list[str]:
    leaking = [row for row in rows if row["says"] != NOTHING]
    found = []
    allowed = [row for row in leaking if row["policy"] is None]
    if not leaking:
        return []
    stopped = len(leaking) - len(allowed)
    found.append(
        f"{len(leaking)} of {len(rows)} kinds of rounds gave images away; your policy refuses "
        f"{stopped} of them."
    )
    if any(row["is_configured"] for row in leaking):
        found.append("**The round as this federation makes it is one of them.**")
    if not allowed:
        return found
    safest = _smallest_that_held(rows)
    if safest is None:
        found.append(
            "No number of images and steps that was tried kept images back together with all "
            "larger ones, so neither `minimum_examples` nor `minimum_steps` helps by itself."
        )
    else:
        images, steps = safest
        found.append(
            f"Of the rounds that were tried, none of {_plural(images, 'image')} and "
            f"{_plural(steps, 'step')} or more gave images away. Your policy allows "
            f"{policy.minimum_examples} and {policy.minimum_steps}. Set "
            f"`minimum_examples = {max(images, policy.minimum_examples)}` and "
            f"`minimum_steps = {max(steps, policy.minimum_steps)}`."
        )
    if not is_protected:
        found.append(
            'The coordinator need not see single updates. Set `require_protection = "secure-sum"`.'
        )
    return found


def _inference(rows: Sequence[Json]) -> list[str]:
    found = []
    for row in rows:
        what = f"{_plural(row['images'], 'image')} and {_plural(row['steps'], 'step')}"
        if row.get("auc_low", 0.0) > 0.5:
            found.append(
                f"Who was in a round of {what} can be told better than by chance (AUC "
                f"{row['auc']:.2f}). No line of the policy stops that but `maximum_epsilon`."
            )
        is_near = row.get("label_distance", 1.0) < row.get("blind_label_distance", 0.0)
        if is_near and row["label_chance"] < _SIGNIFICANCE:
            found.append(
                "How many examples of each class a client has can be told from a round of "
                f"{what}. Take part only where that is no secret."
            )
    return found


def _chosen(rows: Sequence[Json]) -> list[str]:
    leaking = [row for row in rows if row.get("says", NOTHING) != NOTHING]
    if not leaking:
        return []
    kinds = ", ".join(
        f"{_plural(row['images'], 'image')} in {_plural(row['steps'], 'step')}" for row in leaking
    )
    allowed = sum(row["policy"] is None for row in leaking)
    before, after = leaking[0]["accuracy"], leaking[0]["accuracy_chosen"]
    shows = (
        f" At such weights the client's accuracy falls from {before:.0%} to {after:.0%}: "
        f"`maximum_accuracy_drop` refuses a round that begins so, though not weights that hide it."
    )
    return [
        "A coordinator that publishes weights of its own choice sees images of rounds of "
        f"{kinds}; your policy allows {allowed} of these. "
        "`minimum_examples` and `minimum_steps` refuse such rounds, and `maximum_epsilon` is the "
        "line that holds whatever the weights are." + (shows if after < before else "")
    ]


def _smallest_that_held(rows: Sequence[Json]) -> tuple[int, int] | None:
    """Images and steps of a case that held, as did every one with no fewer of both."""
    leaking = [(row["images"], row["steps"]) for row in rows if row["says"] != NOTHING]
    held = [
        (row["images"], row["steps"])
        for row in rows
        if row["says"] == NOTHING
        and not any(images >= row["images"] and steps >= row["steps"] for images, steps in leaking)
    ]
    return min(held, default=None)


def _plural(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _listed(numbers: Sequence[int]) -> str:
    head = ", ".join(map(str, numbers[:-1]))
    return f"{head} and {numbers[-1]}" if head else str(numbers[-1])
