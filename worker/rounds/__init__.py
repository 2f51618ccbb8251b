"""Taking part in rounds: poll, train together, upload."""
