"""What clients of FedPAC tell each other, and what a client makes of it."""
