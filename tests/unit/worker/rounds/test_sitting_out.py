"""What the coordinator is told of a round that a client takes no part in."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from shared.rest.declines import DECLINE_WORDS, MAX_REASON, DeclineKind
from shared.rest.problems import ProblemType
from shared.rest.schema import TaskKind
from shared.secure_sum.cards import SiteKeys
from shared.secure_sum.messages import ExchangeView, Terms
from tests.support.fake_coordinator import FakeCoordinator, problem
from tests.support.hosted_clients import hosted_client
from tests.support.specifications import tiny_specification
from tests.support.waiting import RecordedSleep
from worker.errors import DataError, PolicyRefused, SumRefused
from worker.remote.patience import Patience
from worker.rounds.exchange_work import ExchangeWork
from worker.rounds.held_task import HeldTask
from worker.rounds.policy_gate import PolicyGate
from worker.rounds.sitting_out import break_down, give_up, leave_out, refuse_by_policy, refuse_sum
from worker.secure_sum.member import Member
from worker.site_policy import SitePolicy

PATIENCE = Patience(60.0, RecordedSleep())


class Bench:
    """A client with keys, and its task."""

    def __init__(self, folder: Path) -> None:
        self.coordinator = FakeCoordinator(tiny_specification())
        self.client = hosted_client(self.coordinator, folder, "alice")
        keys = SiteKeys.generate()
        self.member = Member(
            keys, keys.card("tiny", "alice"), self.coordinator.specification_digest, 3
        )
        self.others = [SiteKeys.generate().card("tiny", name) for name in ("bob", "carol")]

    def held(
        self,
        kind: TaskKind = TaskKind.TRAIN,
        exchange: ExchangeView | None = None,
        number: int = 5,
    ) -> HeldTask:
        task = self.coordinator.add_task("alice", number, kind=kind, exchange=exchange)
        return HeldTask(self.client, task)

    def reasons(self) -> list[str]:
        return [reason for _, _, reason in self.coordinator.declined()]

    async def join(self, policy: SitePolicy, kind: str = "train", number: int = 5) -> None:
        """Asks the client to join a round of this kind, with two others."""
        terms = Terms.model_validate(
            {
                "federation": "tiny",
                "specification_digest": self.coordinator.specification_digest,
                "round_number": number,
                "kind": kind,
                "base_version": 0,
                "base_digest": self.coordinator.digest(0),
                "threshold": 3,
                "cohort": [self.member.card, *self.others],
            }
        )
        self.client.member = self.member
        self.coordinator.answer("PUT", "/exchange/join", problem(ProblemType.ROUND_CLOSED))
        gate = PolicyGate(policy, self.coordinator.specification.training)
        held = self.held(TaskKind.JOIN, ExchangeView(terms=terms), number)
        await ExchangeWork(PATIENCE, gate).do([held])


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_a_refused_sum_is_declined_with_its_reason(bench: Bench) -> None:
    await refuse_sum(bench.held(), SumRefused("2 clients have joined, 3 are needed"), PATIENCE)
    assert bench.coordinator.declined() == [("alice", 5, "2 clients have joined, 3 are needed")]
    assert bench.client.failed_in_round == 5


async def test_a_reason_is_one_short_line_whatever_was_wrong(bench: Bench) -> None:
    await refuse_sum(bench.held(), SumRefused("two\nlines " + 500 * "x"), PATIENCE)
    (reason,) = bench.reasons()
    assert reason.startswith("two\\nlines x")
    assert len(reason) == MAX_REASON


async def test_the_sites_own_numbers_stay_in_its_log(bench: Bench) -> None:
    refusal = PolicyRefused("policy.minimum_steps is 20", "client alice makes 5 steps in a round")
    await refuse_by_policy(bench.held(), refusal, PATIENCE)
    assert bench.reasons() == ["policy.minimum_steps is 20"]


async def test_why_training_failed_leaves_a_site_only_where_updates_do(bench: Bench) -> None:
    reason = "its privacy budget was made for 70 training examples, not for 71"
    await give_up(bench.held(), DeclineKind.PRIVACY, reason, PATIENCE)
    bench.client.member = bench.member
    await give_up(bench.held(), DeclineKind.PRIVACY, reason, PATIENCE)
    assert bench.reasons() == [reason, DECLINE_WORDS[DeclineKind.PRIVACY]]
    assert bench.coordinator.decline_kinds() == ["privacy", "privacy"]


async def test_what_a_method_of_its_own_writes_stays_at_the_site(bench: Bench) -> None:
    await give_up(bench.held(), DeclineKind.OTHER, "/data/alice/7.png is grey", PATIENCE)
    assert bench.reasons() == ["training failed, no update is sent"]


async def test_a_site_that_switches_text_off_says_the_kind_alone(bench: Bench) -> None:
    bench.client.tells_why = False
    await refuse_by_policy(bench.held(), PolicyRefused("policy.x is 1", "it has 2"), PATIENCE)
    await leave_out(bench.held(), "a tensor is missing", PATIENCE)
    assert bench.coordinator.decline_kinds() == ["policy", "update_refused"]
    assert bench.reasons() == [
        "the site's policy excludes the round",
        "the coordinator refuses its update",
    ]


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (OSError(errno.ENOSPC, "No space", "/srv/alice"), "disk", "its disk is full"),
        (OSError(errno.EIO, "broken", "/srv/alice"), "disk", DECLINE_WORDS[DeclineKind.DISK]),
        (MemoryError(), "memory", "its memory is too small"),
        (torch.OutOfMemoryError("at 0x7f"), "memory", "its memory is too small"),
        (DataError("/srv/alice/7.png: no image"), "data", "its data cannot be read"),
    ],
)
async def test_an_error_of_the_machine_is_said_without_what_it_names(
    bench: Bench, error: Exception, kind: str, reason: str
) -> None:
    await break_down([bench.held()], error, PATIENCE)
    assert (bench.coordinator.decline_kinds(), bench.reasons()) == ([kind], [reason])


async def test_an_error_of_the_code_is_no_reason(bench: Bench) -> None:
    await break_down([bench.held()], RuntimeError("line 7 of /srv/x.py"), PATIENCE)
    assert bench.reasons() == []


@pytest.mark.parametrize("kind", [ProblemType.ROUND_CLOSED, ProblemType.LEASE_LOST])
async def test_a_decline_that_nobody_wants_ends_nothing(bench: Bench, kind: ProblemType) -> None:
    bench.coordinator.answer("PUT", "/decline", problem(kind))
    await give_up(bench.held(), DeclineKind.OTHER, "why", PATIENCE)
    assert not bench.client.is_done


async def test_a_round_that_the_policy_excludes_is_declined_before_it_is_joined(
    bench: Bench,
) -> None:
    await bench.join(SitePolicy(minimum_steps=1000))
    assert bench.reasons() == ["policy.minimum_steps is 1000"]
    assert bench.coordinator.asked("PUT", "/exchange/join") == []
    assert bench.client.state.sums.generation == 0


async def test_an_evaluation_is_joined_whatever_the_policy_says_of_training(bench: Bench) -> None:
    await bench.join(SitePolicy(minimum_steps=1000), kind="evaluate")
    assert bench.reasons() == []
    assert len(bench.coordinator.asked("PUT", "/exchange/join")) == 1


async def test_a_round_before_one_that_was_joined_is_declined_with_the_number_of_that(
    bench: Bench,
) -> None:
    await bench.join(SitePolicy(minimum_trusted_peers=0), number=7)
    await bench.join(SitePolicy(minimum_trusted_peers=0), number=5)
    (decline,) = bench.coordinator.asked("PUT", "/decline")
    assert json.loads(decline.content) == {
        "reason": "this client has joined round 7 before",
        "kind": "secure_sum",
        "joined_round": 7,
    }


async def test_a_join_without_enough_trusted_peers_is_declined(bench: Bench) -> None:
    bench.member = replace(bench.member, minimum_trusted=2)
    await bench.join(SitePolicy())
    (reason,) = bench.reasons()
    assert "this site trusts 0, and policy.minimum_trusted_peers is 2" in reason
