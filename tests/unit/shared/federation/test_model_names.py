"""What a coordinator refuses by name: methods, models, and what does not go together."""

from __future__ import annotations

import pytest

from shared.federation.model_names import check_method, check_model, is_import_path
from shared.federation.plans import KNOWN_METHODS

ON_CNNS = {
    "hyperfl",
    "local",
    "fedavg",
    "fedprox",
    "fedper",
    "ditto",
    "fedpac",
    "pfedhn",
    "hyperfl-plus",
} | {*("dp-fedavg", "centaur", "ppsgd")}
ON_BACKBONES = {"hyperfl-lpm", "fedavg-adapter", "local-adapter", "fedavg-fixed", "local-fixed"}
FITTING = {
    "cnn-mnist": ON_CNNS,
    "mlp:64x2": ON_CNNS,
    "radiology.models:extractor": ON_CNNS | {"fedbn"},
    "vit:vit_small_patch16_384.augreg_in1k": ON_BACKBONES,
    "resnet152": ON_BACKBONES,
    "resnet:resnet26d": ON_BACKBONES,
}


@pytest.mark.parametrize("model", FITTING)
@pytest.mark.parametrize("method", KNOWN_METHODS)
def test_a_method_takes_the_models_it_can_train(method: str, model: str) -> None:
    if method in FITTING[model]:
        check_model(method, model)
    else:
        with pytest.raises(ValueError, match=r"(backbone|train it with|has no batch norm)"):
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


def test_an_unknown_method_gets_the_closest_names() -> None:
    with pytest.raises(ValueError, match="unknown method 'hyprfl'; the closest are hyperfl"):
        check_method("hyprfl")
    with pytest.raises(ValueError, match="closest are fedavg-fixed, "):
        check_method("fedavg-fix")
    with pytest.raises(ValueError, match="'fedavgg'; the closest are fedavg, "):
        check_method("fedavgg")


@pytest.mark.parametrize("model", ["mlp:64", "mlp:0x2", "mlp:64x17", "mlp:9000x2", "mlp:ax2"])
def test_a_perceptron_has_a_width_and_a_depth(model: str) -> None:
    check_model("hyperfl", "mlp:64x2")
    with pytest.raises(ValueError, match=r"expected mlp:WIDTHxDEPTH, such as mlp:64x2"):
        check_model("hyperfl", model)
    with pytest.raises(ValueError, match="trains on a frozen backbone, which 'mlp:64x2' is not"):
        check_model("hyperfl-lpm", "mlp:64x2")


def test_an_own_method_looks_like_an_import_path() -> None:
    check_method("nonsense:thing")
    check_method("hyperfl")
    for wrong in ("nonsense", "non sense:thing", "a:b:c", ":thing", "a.:b", "1a:b", "a:b\n"):
        assert not is_import_path(wrong)
        with pytest.raises(ValueError, match=r"unknown method .*package\.module:name"):
            check_method(wrong)
