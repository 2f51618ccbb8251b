"""Rounds that a client sits out: it diverged, or its site's policy says so."""

from __future__ import annotations

import errno

import httpx
import pytest

from shared.rest.problems import ProblemType
from shared.rest.schema import TaskKind
from tests.support.fake_coordinator import Request, problem, unavailable
from tests.support.hosted_clients import read_update
from tests.support.round_bench import Bench, Killed
from worker.methods.interface import DIVERGED, Participant
from worker.site.round_ledger import load_ledger
from worker.site_policy import SitePolicy


async def test_a_diverged_client_sends_nothing_and_the_others_go_on(bench: Bench) -> None:
    held = {name: bench.held(name) for name in ("alice", "bob", "carol")}
    before = bench.file("bob")
    bench.method.diverging = {"bob"}
    await bench.round_work().do(list(held.values()))
    assert bench.coordinator.updates("bob") == []
    assert bench.file("bob") == before
    assert held["bob"].client.failed_in_round == 1
    assert bench.coordinator.declined() == [("bob", 1, DIVERGED)]
    assert bench.coordinator.decline_kinds() == ["divergence"]
    for name in ("alice", "carol"):
        assert len(bench.coordinator.updates(name)) == 1
        assert bench.on_disk(name).pending is None
        assert held[name].client.failed_in_round is None


async def test_a_full_disk_is_told_for_those_without_a_result_and_ends_the_work(
    bench: Bench,
) -> None:
    def fill_disk(participant: Participant) -> None:
        if participant.name == "bob":
            raise OSError(errno.ENOSPC, "No space left on device", "/srv/bob/state")

    bench.method.before_step = fill_disk
    held = [bench.held(name) for name in ("alice", "bob", "carol")]
    with pytest.raises(OSError, match="No space"):
        await bench.round_work().do(held)
    told = [(name, 1, "its disk is full") for name in ("bob", "carol")]
    assert bench.coordinator.declined() == told
    assert bench.coordinator.decline_kinds() == ["disk", "disk"]


async def test_a_client_that_is_shut_out_when_it_declines_is_done(bench: Bench) -> None:
    held = bench.held("alice")
    bench.method.diverging = {"alice"}
    bench.coordinator.answer("PUT", "/decline", problem(ProblemType.UNAUTHENTICATED, "revoked"))
    await bench.round_work().do([held])
    assert held.client.is_shut_out


async def test_a_decline_is_repeated_until_somebody_answers(bench: Bench) -> None:
    bench.method.diverging = {"alice"}
    bench.coordinator.answer("PUT", "/decline", unavailable(), httpx.ConnectError("away"))
    await bench.round_work().do([bench.held("alice")])
    assert bench.coordinator.declined() == [("alice", 1, DIVERGED)] * 3


async def test_a_client_that_its_sites_policy_excludes_declines_and_the_others_train(
    bench: Bench,
) -> None:
    bench.policy = SitePolicy(rounds_in_all=1)
    group = bench.round_work()
    await group.do([bench.held("alice", round_number=1)])
    await group.do([bench.held(name, round_number=2) for name in ("alice", "bob")])
    assert bench.method.trained == [("alice", 1), ("bob", 2)]
    assert bench.coordinator.declined() == [("alice", 2, "policy.rounds_in_all is 1")]
    assert bench.coordinator.decline_kinds() == ["policy"]


async def test_weights_that_break_a_clients_model_are_declined_and_leave_no_trace(
    bench: Bench,
) -> None:
    bench.policy = SitePolicy(maximum_accuracy_drop=0.25)
    bench.method.accuracy_before = {("alice", 1): 0.6, ("alice", 2): 0.8, ("alice", 3): 0.5}
    bench.method.accuracy_before |= {("alice", 4): 0.5, ("alice", 5): 0.56}
    group = bench.round_work()
    for number in (1, 2):
        await group.do([bench.held("alice", round_number=number)])
    before = bench.file("alice")
    held = [bench.held(name, round_number=3) for name in ("alice", "bob")]
    await group.do(held)
    assert bench.file("alice") == before
    rule = "policy.maximum_accuracy_drop is 0.25"
    assert bench.coordinator.declined() == [("alice", 3, rule)]
    assert bench.coordinator.decline_kinds() == ["policy"]
    assert len(bench.coordinator.updates("bob")) == 1
    await group.do([bench.held("alice", round_number=4)])
    assert bench.coordinator.declined()[1:] == [("alice", 4, rule)], "the refused one is no measure"
    await group.do([bench.held("alice", round_number=5)])
    assert len(bench.coordinator.updates("alice")) == 3


async def test_a_round_is_counted_before_it_is_trained_and_once(bench: Bench) -> None:
    counted: list[int] = []
    bench.policy = SitePolicy(rounds_per_day=1)
    bench.method.before_step = lambda participant: counted.append(
        load_ledger(bench.folder / participant.name).num_rounds
    )

    def kill_at_upload(request: Request) -> None:
        if request.method == "PUT":
            raise Killed

    bench.coordinator.receive = kill_at_upload
    held = bench.held("alice", round_number=1)
    with pytest.raises(Killed):
        await bench.round_work().do([held])
    held.client.discard_pending()
    bench.coordinator.receive = lambda _: None
    await bench.round_work().do([bench.restarted("alice")])
    assert counted == [1, 1]
    assert bench.coordinator.declined() == []


async def test_an_evaluation_is_no_round_of_training(bench: Bench) -> None:
    bench.policy = SitePolicy(rounds_in_all=1)
    group = bench.round_work()
    await group.do([bench.held("alice", round_number=1)])
    await group.do([bench.held("alice", round_number=2, kind=TaskKind.EVALUATE)])
    assert bench.coordinator.declined() == []


async def test_numbers_leave_only_as_the_policy_says(bench: Bench) -> None:
    bench.policy = SitePolicy(metrics=("accuracy_after", "accuracy"), metric_digits=1)
    group = bench.round_work()
    await group.do([bench.held("alice", round_number=1)])
    await group.do([bench.held("alice", round_number=2, kind=TaskKind.EVALUATE)])
    sent = [read_update(content)[1].metrics for content in bench.coordinator.updates()]
    assert sent == [{"accuracy_after": 0.5}, {"accuracy": 0.2}]
