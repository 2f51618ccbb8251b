"""The REST interface's messages and problem types."""
