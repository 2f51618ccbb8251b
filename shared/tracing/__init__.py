"""Spans of rounds for an OpenTelemetry collector, where the settings ask for them."""
