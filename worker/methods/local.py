"""Local training: every client on its own; nothing is shared. What federating is compared with."""

from __future__ import annotations

from worker.methods.fedavg import FedAvg


class Local(FedAvg):
    """FedAvg's local round on a model that is the client's own from start to end."""

    shares_extractor = False
    shares_head = False
