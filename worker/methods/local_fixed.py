"""A head over fixed features, trained by every client on its own."""

from __future__ import annotations

from worker.methods.backbone_method import BackboneMethod


class LocalFixed(BackboneMethod):
    """Shares nothing: the head is private, and the backbone has no part that changes.

    A local round is epochs of SGD on the head.
    """

    has_adapters = False
    shares_extractor = False
    shares_head = False
