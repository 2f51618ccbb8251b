"""What a federation is: its specification, its plans, and the names they may use."""
