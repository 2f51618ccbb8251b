"""Secure sums: what sites and coordinator say to each other, and the arithmetic that both do."""
