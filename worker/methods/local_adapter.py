"""Adapters trained by every client on its own: what federating them is compared with."""

from __future__ import annotations

from worker.methods.backbone_method import BackboneMethod


class LocalAdapter(BackboneMethod):
    """Shares nothing: adapters, their statistics and the head are private.

    A local round is epochs of SGD on adapters and head together.
    """

    has_adapters = True
    shares_extractor = False
    shares_head = False
