"""The worker: trains hosted clients where their data lies and uploads deltas only."""
