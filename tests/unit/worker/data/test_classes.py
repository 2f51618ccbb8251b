"""A site's names of classes, mapped to those that a federation agreed on."""

from __future__ import annotations

import unicodedata

import pytest
import torch

from worker.data.classes import AgreedClasses
from worker.data.images import LabelledImages
from worker.errors import DataError

NAMES = ("bénin", "malin", "Normal")


def test_names_are_mapped_whatever_their_order_and_number() -> None:
    assert AgreedClasses(NAMES).labels_of(["Normal", "bénin"], "here") == [2, 0]


def test_unicode_is_compared_in_one_normal_form() -> None:
    decomposed = unicodedata.normalize("NFD", "bénin")
    assert decomposed != "bénin"
    assert AgreedClasses(NAMES).labels_of([decomposed], "here") == [0]
    mapped = AgreedClasses(NAMES, {"b": decomposed})
    assert mapped.labels_of(["b"], "here") == [0]


def test_case_differs_only_if_the_map_says_so() -> None:
    with pytest.raises(DataError, match=r"^here: .*'normal' \(closest: Normal"):
        AgreedClasses(NAMES).labels_of(["normal"], "here")
    assert AgreedClasses(NAMES, {"normal": "Normal"}).labels_of(["normal"], "here") == [2]


def test_two_of_a_sites_classes_may_be_one_of_the_federations() -> None:
    mapped = AgreedClasses(NAMES, {"nevus": "bénin", "lentigo": "bénin"})
    assert mapped.labels_of(["lentigo", "malin", "nevus"], "here") == [0, 1, 0]


def test_all_unknown_names_are_said_with_the_closest() -> None:
    with pytest.raises(DataError) as caught:
        AgreedClasses(NAMES).labels_of(["MALIN", "malin", "benin"], "/data/train")
    said = str(caught.value)
    assert said.startswith("/data/train: no class of the federation: 'MALIN' (closest: malin, ")
    assert "'benin' (closest: bénin, " in said
    assert "[clients.data.classes]" in said


def test_a_map_to_no_class_of_the_federation_is_refused() -> None:
    with pytest.raises(DataError, match=r"classes\] names .* no class .*'Malin' \(closest: malin"):
        AgreedClasses(NAMES, {"x": "Malin"}).labels_of(["malin"], "here")


def test_many_unknown_names_do_not_fill_the_screen() -> None:
    with pytest.raises(DataError, match="; and 80 more; say in"):
        AgreedClasses(NAMES).labels_of([str(number) for number in range(100)], "here")


def test_a_data_sets_own_labels_are_moved() -> None:
    split = LabelledImages(torch.zeros(3, 1, 2, 2), torch.tensor([1, 0, 1]), ("Normal", "bénin"))
    moved = AgreedClasses(NAMES).relabel(split, "digits")
    assert moved.labels.tolist() == [0, 2, 0]
    assert moved.class_names == NAMES
