"""FedAvg on a head over fixed features."""

from __future__ import annotations

from worker.methods.backbone_method import BackboneMethod


class FedAvgFixed(BackboneMethod):
    """Shares the head; nothing is private, since the backbone has no part that changes.

    A local round is epochs of SGD on the head.
    """

    has_adapters = False
    shares_extractor = False
    shares_head = True
