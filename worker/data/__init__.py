"""A client's examples: data sets, how they are divided among clients, and batches of them."""
