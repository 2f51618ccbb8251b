"""What a process serves to Prometheus, read by the client library's own parser."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

Samples = dict[str, dict[tuple[str, ...], float]]


def samples(text: str) -> Samples:
    """Values by name and by the values of their labels, in the order of the labels' names."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[
                tuple(value for _, value in sorted(sample.labels.items()))
            ] = sample.value
    return found


def label_names(text: str) -> set[str]:
    """Names of all labels."""
    families = text_string_to_metric_families(text)
    return {name for family in families for sample in family.samples for name in sample.labels}
