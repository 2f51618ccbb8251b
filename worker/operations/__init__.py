"""What a site can do besides taking part in rounds."""
