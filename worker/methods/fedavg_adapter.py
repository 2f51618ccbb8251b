"""FedAvg on adapters: what HyperFL-LPM is compared with when all share one model."""

from __future__ import annotations

from worker.methods.backbone_method import BackboneMethod


class FedAvgAdapter(BackboneMethod):
    """Shares the adapters and the head.

    Private are the adapters' batch statistics alone (a vision transformer's have none), for three
    reasons: HyperFL-LPM keeps them, so the two differ in what they share of the trained parameters
    and in nothing else; averages of unlike clients' statistics fit none of them (FedBN, see
    :mod:`worker.methods.model_method`); and a variance whose change was rounded or truncated on
    its way may become negative.

    A local round is epochs of SGD on adapters and head together.
    """

    has_adapters = True
    shares_extractor = True
    shares_head = True
