"""What administrators and readers see in a browser: pages from operations, one file a subject."""
