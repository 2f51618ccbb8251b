"""Training methods: what each shares and how it trains locally."""

from worker.methods.registry import build_method

__all__ = ["build_method"]
