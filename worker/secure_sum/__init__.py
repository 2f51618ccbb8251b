"""A member's side of a secure sum: what it sends, once each, and what it refuses. No torch."""
