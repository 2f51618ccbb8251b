"""What a coordinator refuses by name: methods, models, and tensors that a method does not share."""

from __future__ import annotations

import pytest

from shared.catalogue import (
    HYPERNETWORK,
    check_method,
    check_model,
    check_shared_names,
    is_import_path,
)
from shared.plans import PLANS, HyperFLPlan

CNN_EXTRACTOR = [
    f"extractor.{layer}.{part}"
    for layer in ("convolutions.0", "convolutions.1", "linear")
    for part in ("weight", "bias")
]
HEAD = ["head.weight", "head.bias"]
FITTING = {
    "cnn-mnist": {"hyperfl", "local", "fedavg", "dp-fedavg", "centaur", "ppsgd"},
    "radiology.models:extractor": {"hyperfl", "local", "fedavg", "dp-fedavg", "centaur", "ppsgd"},
    "vit:vit_small_patch16_384.augreg_in1k": {method for method in PLANS if "-" in method}
    - {"dp-fedavg"},
    "resnet152": {method for method in PLANS if "-" in method} - {"dp-fedavg"},
    "resnet:resnet26d": {method for method in PLANS if "-" in method} - {"dp-fedavg"},
}


@pytest.mark.parametrize("model", FITTING)
@pytest.mark.parametrize("method", PLANS)
def test_a_method_takes_the_models_it_can_train(method: str, model: str) -> None:
    if method in FITTING[model]:
        check_model(method, model)
    else:
        with pytest.raises(ValueError, match=f"method {method} .*(backbone|train it with)"):
            check_model(method, model)


@pytest.mark.parametrize(
    ("model", "closest"),
    [
        ("cnn-mnits", "the closest are cnn-mnist, cnn-cifar"),
        ("resnet81", "the closest are resnet18"),
        ("resnet26d", "the closest are resnet:resnet26d"),
        ("vit_small_patch16_384", "the closest are vit:vit_small_patch16_384"),
        ("vit:vit_smal_patch16_384", "the closest are vit:vit_small_patch16_384"),
        ("vit:gcvit_tiny", "blocks each have one MLP; the closest are vit:"),
        ("vit:vit_pwee_patch16_reg1_gap_256", "blocks each have one MLP; the closest are vit:vit_"),
        ("resnet:resnet19", "a ResNet of four stages; the closest are resnet:resnet1"),
        ("own models:tiny", "package.module:function"),
        ("", "the closest are"),
    ],
)
def test_an_unknown_model_gets_names_that_would_do(model: str, closest: str) -> None:
    for method in ("hyperfl", "hyperfl-lpm", "own.methods:mine"):
        with pytest.raises(ValueError, match=closest) as caught:
            check_model(method, model)
        assert "davit" not in str(caught.value)


def test_an_unknown_method_gets_the_closest_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="unknown method 'hyprfl'; the closest are hyperfl"):
        check_method("hyprfl")
    monkeypatch.setitem(PLANS, "fedavgg2", HyperFLPlan)
    with pytest.raises(ValueError, match="'fedavgg'; the closest are fedavgg2, fedavg, "):
        check_method("fedavgg")


def test_an_own_method_looks_like_an_import_path() -> None:
    check_method("nonsense:thing")
    check_method("hyperfl")
    for wrong in ("nonsense", "non sense:thing", "a:b:c", ":thing", "a.:b", "1a:b", "a:b\n"):
        assert not is_import_path(wrong)
        with pytest.raises(ValueError, match=r"unknown method .*package\.module:name"):
            check_method(wrong)


@pytest.mark.parametrize(
    ("method", "model", "names"),
    [
        ("hyperfl", "cnn-mnist", HYPERNETWORK),
        ("hyperfl", "radiology.models:extractor", HYPERNETWORK),
        ("local", "cnn-mnist", []),
        ("dp-fedavg", "cnn-mnist", CNN_EXTRACTOR + HEAD),
        ("dp-fedavg", "radiology.models:extractor", ["extractor.w", *HEAD]),
        ("centaur", "cnn-mnist", CNN_EXTRACTOR),
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
