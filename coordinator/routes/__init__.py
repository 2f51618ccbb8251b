"""Thin handlers: parse, one call, reply."""
