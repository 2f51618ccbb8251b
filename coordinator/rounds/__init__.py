"""What moves rounds: the loop that decides when, and every transition it may write."""
