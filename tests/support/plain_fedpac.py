"""FedPAC as its authors write it: clients in a loop, a server that knows everybody's statistics."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from shared.federation.hyperparameters import FedPACPlan
from tests.support.plain_models import CPU, PlainModel
from worker.data.client_data import Examples
from worker.methods.interface import Participant
from worker.methods.local_round.random_streams import client_generator

Head = dict[str, torch.Tensor]


def least_on_simplex(matrix: np.ndarray) -> np.ndarray:
    """α ≥ 0 of sum 1 with the least αᵀPα: the best of those that are positive on some support."""
    size = len(matrix)
    best, least = np.zeros(size), np.inf
    for count in range(1, size + 1):
        for chosen in map(list, itertools.combinations(range(size), count)):
            part = np.linalg.pinv(matrix[np.ix_(chosen, chosen)]).sum(1)
            if part.sum() <= 0 or (part < 0).any():
                continue
            alpha = np.zeros(size)
            alpha[chosen] = part / part.sum()
            if (value := alpha @ matrix @ alpha) < least:
                best, least = alpha, value
    return best


@dataclass
class Told:
    """What a client told in a round."""

    means: torch.Tensor
    variance: float
    head: Head
    counts: torch.Tensor
    centroids: torch.Tensor
    extractor: Head


@dataclass
class PlainClient:
    participant: Participant
    model: PlainModel
    has_trained: bool = False


@dataclass
class PlainServer:
    plan: FedPACPlan
    extractor: Head
    told: dict[int, Told] = field(default_factory=dict)

    def head_for(self, place: int, client: PlainClient) -> Head:
        """The combination that a client begins with; the client's model has the new extractor."""
        own = {name: one.detach().clone() for name, one in client.model.head.state_dict().items()}
        if not self.told:
            return own
        candidates = [(one.means, one.variance, one.head) for one in self.told.values()]
        if place in self.told:
            target = self.told[place].means
        else:
            target, variance = self._statistics(client)
            if client.has_trained:
                candidates.append((target, variance, own))
        matrix = np.diag([variance for _, variance, _ in candidates])
        for i, j in np.ndindex(*matrix.shape):
            first, second = target - candidates[i][0], target - candidates[j][0]
            matrix[i, j] += float((first * second).sum())
        alpha = least_on_simplex(matrix)
        return {
            name: sum(
                (float(a) * head[name] for a, (_, _, head) in zip(alpha, candidates, strict=True)),
                torch.zeros_like(own[name]),
            )
            for name in own
        }

    def begin(self, place: int, client: PlainClient) -> None:
        """Gives the client the shared extractor and its head."""
        client.model.extractor.load_state_dict(self.extractor, strict=False)
        client.model.head.load_state_dict(self.head_for(place, client))

    def train(self, clients: dict[int, PlainClient], round_number: int) -> None:
        told = {}
        for place, client in clients.items():
            self.begin(place, client)
            means, variance = self._statistics(client)
            self._train_one(client, round_number)
            model, labels = client.model, client.participant.data.train.labels
            features = _features(model, client.participant.data.train)
            counts = torch.bincount(labels, minlength=means.shape[0]).double()
            centroids = torch.stack(
                [
                    features[labels == one].sum(0) / max(1.0, counts[one])
                    for one in range(len(means))
                ]
            )
            extractor = {
                name: one.detach().clone() for name, one in model.extractor.named_parameters()
            }
            head = {name: one.detach().clone() for name, one in model.head.state_dict().items()}
            told[place] = Told(means, variance, head, counts, centroids, extractor)
            client.has_trained = True
        self.told = told
        total = sum(float(one.counts.sum()) for one in told.values())
        self.extractor = {
            name: sum(
                (one.extractor[name] * (float(one.counts.sum()) / total) for one in told.values()),
                torch.zeros_like(tensor),
            )
            for name, tensor in self.extractor.items()
        }

    def _statistics(self, client: PlainClient) -> tuple[torch.Tensor, float]:
        examples = client.participant.data.train
        features, labels = _features(client.model, examples), examples.labels
        means = torch.zeros(client.model.head.out_features, features.shape[1]).double()
        variance = 0.0
        for one in labels.unique():
            of_class = features[labels == one]
            share = len(of_class) / len(labels)
            means[one] = share * of_class.mean(0)
            variance += share * float(of_class.square().sum(1).mean())
            variance -= share**2 * float(of_class.mean(0).square().sum())
        return means, variance / len(labels)

    def _train_one(self, client: PlainClient, round_number: int) -> None:
        plan, model, train = self.plan, client.model, client.participant.data.train
        order = client_generator(client.participant.seed, "batches", round_number)
        counts: torch.Tensor = sum(one.counts for one in self.told.values()) + torch.zeros(
            model.head.out_features
        )
        sums = sum(one.counts[:, None] * one.centroids for one in self.told.values())
        model.train()
        optimizer = _sgd(model.head, plan.head_learning_rate, plan)
        for images, labels in train.shuffled_batches(plan.batch_size, CPU, order):
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
        optimizer = _sgd(model.extractor, plan.learning_rate, plan)
        for _ in range(plan.epochs):
            for images, labels in train.shuffled_batches(plan.batch_size, CPU, order):
                features = model.extractor(images.double())
                distances = [
                    (one - sums[label] / counts[label]).square().sum()
                    for one, label in zip(features, labels.tolist(), strict=True)
                    if counts[label]
                ]
                pull = sum(distances, torch.zeros(()).double()) / features.numel()
                optimizer.zero_grad()
                (cross_entropy(model.head(features), labels) + plan.alignment * pull).backward()
                optimizer.step()


def _features(model: PlainModel, examples: Examples) -> torch.Tensor:
    model.eval()
    images, _ = examples.batch(torch.arange(len(examples)), CPU)
    with torch.no_grad():
        features: torch.Tensor = model.extractor(images.double())
    return features


def _sgd(module: nn.Module, rate: float, plan: FedPACPlan) -> torch.optim.SGD:
    return torch.optim.SGD(
        module.parameters(), lr=rate, momentum=plan.momentum, weight_decay=plan.weight_decay
    )
