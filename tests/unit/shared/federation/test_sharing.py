"""Which tensors a coordinator takes for a method: those that it shares, by name."""

from __future__ import annotations

import pytest

from shared.federation.sharing import HYPERNETWORK, KRONECKER_HYPERNETWORK, check_shared_names

CNN_EXTRACTOR = [
    f"extractor.{layer}.{part}"
    for layer in ("convolutions.0", "convolutions.1", "linear")
    for part in ("weight", "bias")
]


HEAD = ["head.weight", "head.bias"]


@pytest.mark.parametrize(
    ("method", "model", "names"),
    [
        ("hyperfl", "cnn-mnist", HYPERNETWORK),
        ("hyperfl", "radiology.models:extractor", HYPERNETWORK),
        ("hyperfl-plus", "cnn-mnist", KRONECKER_HYPERNETWORK),
        ("local", "cnn-mnist", []),
        ("dp-fedavg", "cnn-mnist", CNN_EXTRACTOR + HEAD),
        ("dp-fedavg", "radiology.models:extractor", ["extractor.w", *HEAD]),
        ("centaur", "cnn-mnist", CNN_EXTRACTOR),
        ("fedpac", "cnn-mnist", [*CNN_EXTRACTOR, "clients.table"]),
        ("centaur", "mlp:64x1", ["extractor.layers.0.weight", "extractor.layers.0.bias"]),
        ("fedavg-fixed", "vit:test_vit", HEAD),
        ("fedavg-fixed", "resnet18", [*HEAD, "head.hidden.weight", "head.hidden.bias"]),
        ("own.methods:mine", "cnn-mnist", ["anything"]),
    ],
)
def test_what_a_method_shares_is_taken(method: str, model: str, names: list[str]) -> None:
    check_shared_names(method, model, set(names))


@pytest.mark.parametrize(
    ("method", "model", "names", "message"),
    [
        ("hyperfl", "cnn-mnist", [*HYPERNETWORK, "embedding"], "tensor embedding is not shared"),
        ("hyperfl", "cnn-mnist", HYPERNETWORK[:3], r"tensor hypernetwork\.output\.bias, .*missing"),
        ("hyperfl-plus", "cnn-mnist", HYPERNETWORK, r"output\.bias is not shared by .* kronecker"),
        ("fedpac", "cnn-mnist", CNN_EXTRACTOR, r"clients\.table, which method fedpac .* missing"),
        ("fedpac", "a.b:c", ["extractor.w", "clients.table", "head.bias"], r"head\.bias is not"),
        ("local", "cnn-mnist", HEAD, r"head\.bias is not shared by .* nothing; nor are head\.wei"),
        ("centaur", "cnn-mnist", CNN_EXTRACTOR + HEAD, r"tensor head\.bias is not shared"),
        ("ppsgd", "a.b:c", ["extractor.w", "head.bias"], r"tensor head\.bias is not shared"),
        ("dp-fedavg", "cnn-mnist", HEAD, r"convolutions\.0\.bias, .* is missing; so are .* 2 more"),
        ("dp-fedavg", "a.b:c", HEAD, r"no extractor\.\* tensor"),
        ("fedavg", "a.b:c", ["extractor.w", "head.bias"], r"tensor head\.weight, .* missing"),
        ("fedavg", "a.b:c", ["extractor.w", *HEAD, "buffers.mean"], r"buffers\.mean is not shared"),
        ("fedavg-adapter", "resnet18", HEAD, r"tensor extractor\.network\.layer1\.adapter\."),
        ("fedavg-fixed", "resnet18", HEAD, r"tensor head\.hidden\.bias, .* is missing"),
    ],
)
def test_other_tensors_are_refused_by_name(
    method: str, model: str, names: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_shared_names(method, model, set(names))
