"""The published test vectors are what this code computes, byte for byte."""

from __future__ import annotations

import json

from shared.secure_sum.cards import to_bytes
from shared.secure_sum.messages import JoinedMember, Terms
from tests.support.sum_vectors import FILE, make_vectors


def test_the_published_vectors_are_what_is_computed() -> None:
    published = json.loads(FILE.read_text())
    assert published == json.loads(json.dumps(make_vectors()))


def test_the_published_messages_are_valid() -> None:
    published = json.loads(FILE.read_text())
    terms = Terms.model_validate(published["terms"])
    assert terms.digest == published["terms_digest"]
    for joined in published["joined"]:
        assert JoinedMember.model_validate(joined).is_signed_under(terms)


def test_the_published_sum_is_that_of_the_published_values() -> None:
    """In plain integers, without any of the code: no mask is left in the sum."""
    published = json.loads(FILE.read_text())
    point, values = published["fixed_point"], published["fixed_point"]["values"]
    levels = ((1 << point["bits"]) - 1) // 2 // len(published["terms"]["cohort"])
    units = [[int(v / point["bound"] * levels) for v in client] for client in values]
    assert len(to_bytes(published["sum"]["packed"])) == 8
    for position, total in enumerate(published["sum"]["values"]):
        signed = total - (1 << point["bits"]) if total >> (point["bits"] - 1) else total
        assert abs(signed - sum(client[position] for client in units)) <= len(units)
    assert published["sum"]["counts"] == [60]
