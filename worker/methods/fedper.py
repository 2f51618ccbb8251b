"""FedPer (Arivazhagan et al., arXiv 1912.00818): share the extractor, keep the head."""

from __future__ import annotations

from worker.methods.fedavg import FedAvg


class FedPer(FedAvg):
    """FedAvg's local round, on a shared extractor and the client's own head together."""

    shares_head = False
