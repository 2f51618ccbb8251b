"""A backbone's weights: the federation's at every site, from wherever, or a clear refusal."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from structlog.testing import capture_logs

from tests.support.backbones import IMAGE_SHAPE, RESNET, VIT
from worker.errors import DownloadError, ModelError
from worker.models import backbone_weights
from worker.models.backbone_weights import BackboneSource, load_frozen_backbone, pin_backbone
from worker.models.backbones import find_backbone
from worker.models.registry import FeatureExtractor

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def published() -> Tensors:
    """A state dict as it is published, with a classifier."""
    torch.manual_seed(7)
    network = find_backbone(VIT).build(IMAGE_SHAPE, from_hub=False)
    return dict(network.state_dict()) | {"head.weight": torch.ones(9, 64)}


def load_from(
    file: Path, digest: str, source: BackboneSource = "file", *, with_adapters: bool = True
) -> FeatureExtractor:
    return load_frozen_backbone(
        VIT,
        IMAGE_SHAPE,
        source=source,
        expected_digest=digest,
        file=file,
        with_adapters=with_adapters,
    )


def write(folder: Path, tensors: object, suffix: str) -> Path:
    file = folder / f"weights{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(tensors, file)  # type: ignore[arg-type]
    else:
        torch.save(tensors, file)
    return file


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_file_is_used_and_its_classifier_is_not(
    tmp_path: Path, published: Tensors, suffix: str
) -> None:
    file = write(tmp_path, published, suffix)
    digest = pin_backbone(VIT, IMAGE_SHAPE, "file", file)
    assert digest != pin_backbone(VIT, IMAGE_SHAPE, "random", None)
    extractor = load_from(file, digest)
    parameters = dict(extractor.module.named_parameters())
    torch.testing.assert_close(
        parameters["network.patch_embed.proj.weight"].detach(),
        published["patch_embed.proj.weight"],
        rtol=0,
        atol=0,
    )


def test_both_kinds_of_file_have_the_same_digest(tmp_path: Path, published: Tensors) -> None:
    digests = {
        pin_backbone(VIT, IMAGE_SHAPE, "file", write(tmp_path, published, suffix))
        for suffix in (".safetensors", ".pt")
    }
    assert len(digests) == 1


def test_a_site_may_use_a_file_instead_of_the_hub(tmp_path: Path, published: Tensors) -> None:
    file = write(tmp_path, published, ".pt")
    digest = pin_backbone(VIT, IMAGE_SHAPE, "file", file)
    load_frozen_backbone(
        VIT, IMAGE_SHAPE, source="hub", expected_digest=digest, file=file, with_adapters=True
    )


def test_other_weights_than_the_federations_are_refused(tmp_path: Path, published: Tensors) -> None:
    digest = pin_backbone(VIT, IMAGE_SHAPE, "file", write(tmp_path, published, ".pt"))
    published["norm.bias"] = published["norm.bias"].clone()
    published["norm.bias"][0] += 1e-6
    file = write(tmp_path, published, ".pt")
    with pytest.raises(
        ModelError, match=rf"weights\.pt have the digest .* federation's have {digest}"
    ):
        load_frozen_backbone(
            VIT, IMAGE_SHAPE, source="file", expected_digest=digest, file=file, with_adapters=True
        )


def test_a_buffer_is_part_of_the_digest(tmp_path: Path) -> None:
    network = find_backbone(RESNET).build(IMAGE_SHAPE, from_hub=False)
    first = backbone_weights.backbone_digest(network)
    network.get_submodule("bn1").running_mean[3] += 1  # type: ignore[index, operator]
    assert backbone_weights.backbone_digest(network) != first


def test_the_first_three_differences_are_named(tmp_path: Path, published: Tensors) -> None:
    del published["cls_token"]
    published["pos_embed"] = torch.zeros(1, 2, 3)
    published["norm.bias"] = torch.zeros(5)
    published["another"] = torch.zeros(1)
    published["one_more"] = torch.zeros(1)
    file = write(tmp_path, published, ".safetensors")
    with pytest.raises(ModelError) as caught:
        pin_backbone(VIT, IMAGE_SHAPE, "file", file)
    assert str(caught.value) == (
        f"{file} does not fit the backbone: cls_token is missing; "
        "pos_embed has shape (1, 2, 3), not (1, 5, 64); "
        "norm.bias has shape (5,), not (64,); and 2 more"
    )


def test_a_file_without_counters_of_batches_is_used_as_torch_does(tmp_path: Path) -> None:
    state = find_backbone(RESNET).build(IMAGE_SHAPE, from_hub=False).state_dict()
    whole = pin_backbone(RESNET, IMAGE_SHAPE, "file", write(tmp_path, state, ".pt"))
    old = {name: one for name, one in state.items() if not name.endswith(".num_batches_tracked")}
    assert len(old) < len(state)
    file = write(tmp_path, old, ".safetensors")
    assert pin_backbone(RESNET, IMAGE_SHAPE, "file", file) == whole


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_a_checkpoints_state_dict_is_found(tmp_path: Path, published: Tensors, key: str) -> None:
    digest = pin_backbone(VIT, IMAGE_SHAPE, "file", write(tmp_path, published, ".pt"))
    file = write(tmp_path, {"epoch": 3, key: published, "optimizer": {}}, ".pth")
    assert pin_backbone(VIT, IMAGE_SHAPE, "file", file) == digest


def test_a_safetensors_file_of_another_name_is_read(tmp_path: Path, published: Tensors) -> None:
    file = write(tmp_path, published, ".safetensors")
    digest = pin_backbone(VIT, IMAGE_SHAPE, "file", file)
    assert pin_backbone(VIT, IMAGE_SHAPE, "file", file.rename(tmp_path / "weights.bin")) == digest


def test_a_file_of_something_else_is_refused(tmp_path: Path, published: Tensors) -> None:
    (tmp_path / "text.pt").write_text("not weights")
    (tmp_path / "text.safetensors").write_text("not weights")
    (tmp_path / "empty.pt").touch()
    whole = write(tmp_path, published, ".pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    nested = write(tmp_path, {"student": published, "epoch": 3}, ".pth")
    for file, message in [
        (tmp_path / "text.pt", "text.pt is neither a state dict saved by torch nor a safetensors"),
        (tmp_path / "empty.pt", "empty.pt is neither a state dict saved by torch nor"),
        (tmp_path / "half.pt", "half.pt is neither a state dict saved by torch nor"),
        (tmp_path / "text.safetensors", "text.safetensors is not a safetensors file"),
        (nested, "something other than tensors by name: entries 'student', 'epoch'; .* or model"),
    ]:
        with pytest.raises(ModelError, match=message) as caught:
            pin_backbone(VIT, IMAGE_SHAPE, "file", file)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_tensor_that_is_not_finite_is_named(
    tmp_path: Path, published: Tensors, value: float
) -> None:
    published["norm.bias"] = published["norm.bias"].clone()
    published["norm.bias"][3] = value
    file = write(tmp_path, published, ".pt")
    with pytest.raises(ModelError, match=r"weights\.pt .*: norm\.bias has NaN or infinite values"):
        load_from(file, "sha256:0")


class _Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run by loading a file",)


def test_a_file_that_would_run_code_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, {"norm.bias": _Harmful()}, ".pt")
    with pytest.raises(ModelError, match=r"neither a state dict .* could run code") as caught:
        pin_backbone(VIT, IMAGE_SHAPE, "file", file)
    assert "weights_only" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_a_missing_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    for name in ("missing.pt", "missing.safetensors"):
        with pytest.raises(FileNotFoundError):
            pin_backbone(VIT, IMAGE_SHAPE, "file", tmp_path / name)


def test_a_site_without_the_federations_file_is_told_what_to_say() -> None:
    with pytest.raises(ModelError, match="name this site's copy with backbone_weights_file"):
        load_frozen_backbone(
            VIT,
            IMAGE_SHAPE,
            source="file",
            expected_digest="sha256:0",
            file=None,
            with_adapters=False,
        )


def test_random_weights_are_the_same_each_time_and_said_loudly() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    with capture_logs() as logs:
        first, second = (pin_backbone(VIT, IMAGE_SHAPE, "random", None) for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)
    assert [(log["log_level"], log["model"]) for log in logs] == [("warning", VIT)] * 2
    assert "RANDOM" in logs[0]["event"]


def test_a_failed_download_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str, *, pretrained: bool, **__: object) -> None:
        assert pretrained
        raise OSError("no route to the hub")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(DownloadError, match=r"downloading model .* failed: no route to the hub"):
        pin_backbone(VIT, IMAGE_SHAPE, "hub", None)
