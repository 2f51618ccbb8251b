"""How weights and updates are written to bytes, and read back."""
