"""Training of a hypernetwork: exact factored steps, clients in lock step."""
