"""fedpac: heads that clients combine from a table, features that are aligned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from shared.federation.hyperparameters import FedPACPlan
from shared.federation.plans import TrainingPlan
from shared.federation.sharing import CLIENTS_TABLE
from shared.rest.declines import DeclineKind
from tests.support import extractors
from tests.support.plain_fedpac import PlainClient, PlainServer
from tests.support.plain_models import CPU, PlainModel
from tests.support.random_clients import IMAGE_SHAPE, NUM_CLASSES, RESOURCES, random_client_data
from worker.data.client_data import ClientData
from worker.methods import build_method
from worker.methods.fedpac import FedPAC
from worker.methods.interface import Participant, TrainingFailedError, TrainingResult
from worker.methods.local_round.random_streams import client_generator

SETTINGS = {"batch_size": 5, "epochs": 2, "alignment": 3.0, "max_clients": 5}
Weights = dict[str, np.ndarray]


def _fedpac(**hyperparameters: Any) -> FedPAC:
    plan = TrainingPlan(
        method="fedpac",
        model="tests.support.extractors:tiny",
        image_shape=IMAGE_SHAPE,
        num_classes=NUM_CLASSES,
        hyperparameters=SETTINGS | hyperparameters,
    )
    method = build_method(plan, CPU, RESOURCES)
    assert isinstance(method, FedPAC)
    return method


def _participant(method: FedPAC, number: int | None = 0, num_train: int = 13) -> Participant:
    seed = 100 + (number or 0)
    private = {
        name: one.double() if one.is_floating_point() else one
        for name, one in method.initial_private(seed).items()
    }
    data = random_client_data(seed, num_train)
    return Participant(f"client-{number}", data, private, seed, number)


def _weights(method: FedPAC) -> Weights:
    values = method.parameters(seed=3).initial_values()
    return {name: array.astype(np.float64) for name, array in values.items()}


def _train(method: FedPAC, one: Participant, weights: Weights, number: int = 1) -> TrainingResult:
    (result,) = method.train([one], weights, number, lambda: False)
    return result


def _mean(weights: Weights, results: list[TrainingResult]) -> Weights:
    total = sum(one.num_examples for one in results)
    return {
        name: before + sum(one.num_examples / total * one.deltas[name] for one in results)
        for name, before in weights.items()
    }


def _lacking(participant: Participant, label: int) -> Participant:
    train = participant.data.train
    kept = train.only((train.labels != label).nonzero().squeeze(1))
    return replace(participant, data=ClientData(kept, participant.data.test))


def _plain(participant: Participant, weights: Weights) -> PlainClient:
    model = PlainModel(*extractors.tiny(), NUM_CLASSES)
    given = {name: torch.tensor(one) for name, one in weights.items() if name != CLIENTS_TABLE}
    given |= {
        name.replace("buffers.", "extractor.", 1): one
        for name, one in participant.private.items()
        if name != "table.place"
    }
    model.load_state_dict(given, strict=True)
    return PlainClient(participant, model)


def test_rounds_of_changing_cohorts_equal_the_authors_loop() -> None:
    """One client is new in the second round; in the third one is back that was not in it."""
    method = _fedpac()
    weights = _weights(method)
    participants = {
        0: _lacking(_participant(method, 0), 2),
        2: _lacking(_participant(method, 2, num_train=9), 2),
        4: _participant(method, 4, num_train=17),
    }
    assert {int(one) for one in participants[4].data.train.labels} == {0, 1, 2}
    clients = {place: _plain(one, weights) for place, one in participants.items()}
    start = {
        name.removeprefix("extractor."): torch.tensor(one)
        for name, one in weights.items()
        if name != CLIENTS_TABLE
    }
    server = PlainServer(FedPACPlan.model_validate(SETTINGS), start)
    for round_number, cohort in enumerate([(0, 2), (0, 4), (2, 4), (0, 2, 4)], start=1):
        server.train({place: clients[place] for place in cohort}, round_number)
        results = [_train(method, participants[place], weights, round_number) for place in cohort]
        for place, result in zip(cohort, results, strict=True):
            expected = clients[place].model.state_dict()
            after = {
                name: torch.tensor(weights[name] + delta)
                for name, delta in result.deltas.items()
                if name != CLIENTS_TABLE
            } | {
                name.replace("buffers.", "extractor.", 1): one
                for name, one in result.private.items()
                if name != "table.place"
            }
            assert after.keys() == expected.keys()
            for name, tensor in expected.items():
                torch.testing.assert_close(after[name], tensor, rtol=1e-7, atol=1e-9, msg=name)
            participants[place].private = result.private
        weights = _mean(weights, results)
        table = weights[CLIENTS_TABLE]
        shares = [participants[place].data.train for place in cohort]
        total = sum(map(len, shares))
        np.testing.assert_allclose(table[list(cohort), 0], [len(one) / total for one in shares])
        absent = [place for place in range(5) if place not in cohort]
        np.testing.assert_allclose(table[absent], 0.0, atol=1e-12)
    for place, client in clients.items():
        server.begin(place, client)
        found = method.evaluate(participants[place], weights)
        test = participants[place].data.test
        images, labels = test.batch(torch.arange(len(test)), CPU)
        client.model.eval()
        with torch.no_grad():
            loss = float(cross_entropy(client.model(images), labels))
            logits = client.model(images)
            exported = method.personal_model(participants[place], weights)
            given = exported.head(exported.module(images.float()))
        assert found["loss"] == pytest.approx(loss, rel=1e-6)  # of float32
        torch.testing.assert_close(given.double(), logits, rtol=1e-5, atol=1e-6)
        again = _train(method, participants[place], weights, 9)
        assert again.metrics["loss_before"] == pytest.approx(loss, rel=1e-6)


def test_a_first_round_neither_combines_nor_aligns() -> None:
    method, without = _fedpac(), _fedpac(alignment=0.0)
    weights, participant = _weights(method), _participant(method)
    before = method.evaluate(participant, weights)
    aligned, plain = (_train(one, participant, weights) for one in (method, without))
    assert aligned.metrics["loss_before"] == pytest.approx(before["loss"], rel=1e-6)
    for name, delta in plain.deltas.items():
        np.testing.assert_array_equal(aligned.deltas[name], delta, name)


def test_what_is_sent_is_the_extractors_change_and_one_row_for_the_whole_table() -> None:
    method = _fedpac()
    weights, participant = _weights(method), _participant(method, 3)
    weights[CLIENTS_TABLE] += 0.5
    result = _train(method, participant, weights)
    assert result.deltas.keys() == weights.keys()
    after = weights[CLIENTS_TABLE] + result.deltas[CLIENTS_TABLE]
    assert not after[[0, 1, 2, 4]].any()
    labels = participant.data.train.labels
    np.testing.assert_allclose(after[3, 0], 1.0)
    np.testing.assert_allclose(
        after[3, 2 : 2 + NUM_CLASSES], torch.bincount(labels, minlength=NUM_CLASSES) / 13
    )
    np.testing.assert_allclose(after[3, -NUM_CLASSES:], result.private["head.bias"])
    method.check_private(result.private)
    assert int(result.private["table.place"]) == 3


@pytest.mark.parametrize(
    ("number", "reason", "kind"),
    [
        (None, "the coordinator gives clients no number", DeclineKind.OTHER),
        (5, "client number 5 .* max_clients is 5: .* max_clients of 6 or more", "no_place"),
    ],
)
def test_a_client_without_a_place_declines_with_the_reason(
    number: int | None, reason: str, kind: DeclineKind
) -> None:
    method = _fedpac()
    with pytest.raises(TrainingFailedError, match=reason) as caught:
        _train(method, _participant(method, number), _weights(method))
    assert caught.value.kinds == {f"client-{number}": kind}


@pytest.mark.parametrize(
    ("share", "rest"), [(0.0, 7.0), (-1.0, 1.0), (0.2, -1.0), (2.0, 2.0), (1e-30, 1e30), (0.2, 0.0)]
)
def test_a_damaged_table_is_no_traceback(share: float, rest: float) -> None:
    method, participant = _fedpac(), _participant(_fedpac())
    weights = _weights(method)
    weights[CLIENTS_TABLE][:, 0], weights[CLIENTS_TABLE][:, 1:] = share, rest
    participant.private = _train(method, participant, weights).private
    assert 0 <= method.evaluate(participant, weights)["accuracy"] <= 1
    method.personal_model(participant, weights)


def test_personalizing_fits_the_mixture_which_is_then_the_clients() -> None:
    """With one row in the table, the mixture is its head."""
    method = _fedpac()
    weights, late, other = _weights(method), _participant(method, 0), _participant(method, 1)
    told = _train(method, other, weights)
    weights = _mean(weights, [told])
    private = method.personalize(late, weights, 2, lambda: False)
    method.check_private(private)
    assert int(private["table.place"]) == -1

    plain = _plain(late, weights)
    head = {part: told.private[f"head.{part}"].clone() for part in ("weight", "bias")}
    plain.model.head.load_state_dict(head)
    rate, momentum, decay = 0.1, 0.5, 5e-4
    optimizer = torch.optim.SGD(
        plain.model.head.parameters(), lr=rate, momentum=momentum, weight_decay=decay
    )
    order = client_generator(late.seed, "batches", 0)
    plain.model.train()
    for _ in range(2):
        for images, labels in late.data.train.shuffled_batches(5, CPU, order):
            optimizer.zero_grad()
            cross_entropy(plain.model(images), labels).backward()
            optimizer.step()
    for name, one in plain.model.head.named_parameters():
        torch.testing.assert_close(private[f"head.{name}"], one.detach(), rtol=1e-7, atol=1e-9)
    fitted = replace(late, private=private)
    exported = method.personal_model(fitted, weights)
    for name, one in exported.head.named_parameters():
        torch.testing.assert_close(one.double(), private[f"head.{name}"], rtol=1e-6, atol=1e-7)


def test_a_head_for_which_no_weights_are_found_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    method = _fedpac()
    weights, one = _weights(method), _participant(method, 0)
    others = [_participant(method, number) for number in (1, 2)]
    weights = _mean(weights, [_train(method, other, weights) for other in others])

    def never_converges(*_: object) -> None:
        raise RuntimeError("Maximum number of iterations reached.")

    own = _fedpac(head_epochs=0)
    mixed = _train(own, one, weights).private
    monkeypatch.setattr("scipy.optimize.nnls", never_converges)
    alone = _train(own, one, weights).private
    torch.testing.assert_close(alone["head.weight"], one.private["head.weight"], rtol=0, atol=0)
    assert not torch.equal(mixed["head.weight"], one.private["head.weight"])
