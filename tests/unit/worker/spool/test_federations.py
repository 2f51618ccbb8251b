"""Which of a federation's times are too short for a queue."""

from __future__ import annotations

from shared.federation.specification import RoundPolicy
from worker.spool.federations import too_short


def test_times_that_are_shorter_than_a_job_are_named_in_a_line_each() -> None:
    policy = RoundPolicy(rounds=1, lease_seconds=60.0, deadline_seconds=3600.0)
    assert too_short("tiny", policy, 60.0) == []
    (lease,) = too_short("tiny", policy, 3600.0)
    assert "leases of federation tiny last 60 s" in lease
    assert "lease_seconds of 3600 or more" in lease
    deadline, _ = too_short("tiny", policy, 7200.0)
    assert "ends a round after 3600 s" in deadline
    assert "deadline_seconds of 7200 or more" in deadline
