"""What every local round is made of: clients, extractors, heads, batches, SGD."""
