"""Who sends a request, and the secrets by which it is known."""
