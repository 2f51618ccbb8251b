"""Makes a federation's specification from a method, a model and a data set's shape."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from shared.federation.aggregation_plan import AggregationPlan
from shared.federation.features import Feature
from shared.federation.model_names import (
    check_input_shape,
    check_method,
    check_model,
    import_paths,
    is_backbone,
)
from shared.federation.plan_errors import fill_in
from shared.federation.plans import (
    KNOWN_METHODS,
    TrainingPlan,
    find_preset,
    plan_of,
    takes_backbone,
)
from shared.federation.privacy_plan import PrivacyPlan
from shared.federation.protection_kinds import with_shared_bias
from shared.federation.protection_plan import ProtectionPlan
from shared.federation.specification import (
    EncodingPlan,
    FederationSpecification,
    ParameterSpecification,
    RoundPolicy,
)
from shared.secure_sum.layout import check_sum_fits
from worker.data.images import ImageShape
from worker.data.loading import natural_image_shape
from worker.errors import ConfigError
from worker.methods import build_method
from worker.methods.interface import SiteResources
from worker.methods.whole_model.method import ModelMethod
from worker.models.allowed_imports import AllowedImports
from worker.models.backbone_weights import BackboneSource, pin_backbone
from worker.models.registry import default_image_shape
from worker.operations.agreed_noise import privacy_plan, with_agreed_noise
from worker.operations.key_values import parse_settings
from worker.operations.specification_request import SpecificationRequest
from worker.operations.specified_classes import choose_classes
from worker.operations.specified_features import choose_features


def specify(request: SpecificationRequest) -> FederationSpecification:
    """The specification that a person asks for.

    Raises:
        UnknownPresetError, DataError: and as :func:`build_specification`.
    """
    num_classes, class_names = choose_classes(request)
    rows = choose_features(request)
    if rows is None:
        shape = choose_image_shape(request.image_shape, request.model, request.dataset)
    return build_specification(
        request.name,
        method=request.method,
        model=request.model,
        image_shape=shape if rows is None else rows[0],
        num_classes=num_classes,
        class_names=class_names,
        features=None if rows is None else rows[1],
        hyperparameters=_with_shared_part(
            request,
            choose_hyperparameters(
                request.method, request.preset, request.settings, request.round_policy.rounds
            ),
        ),
        privacy=privacy_plan(request.privacy, request.round_policy),
        round_policy=request.round_policy,
        aggregation=request.aggregation,
        encoding=request.encoding,
        protection=request.protection,
        seed=request.seed,
        backbone_weights=request.backbone_weights,
        examples_per_client=request.examples_per_client,
    )


def build_specification(
    name: str,
    *,
    method: str,
    model: str,
    image_shape: ImageShape,
    num_classes: int,
    hyperparameters: dict[str, Any],
    round_policy: RoundPolicy,
    encoding: EncodingPlan,
    seed: int,
    class_names: tuple[str, ...] | None = None,
    features: tuple[Feature, ...] | None = None,
    aggregation: AggregationPlan | None = None,
    protection: ProtectionPlan | None = None,
    privacy: PrivacyPlan | None = None,
    backbone_weights: str | None = None,
    examples_per_client: int | None = None,
) -> FederationSpecification:
    """The specification whose tensors are those that the method shares for this model.

    ``class_names`` are what the sites agree on, by label; None leaves it to them. So are
    ``features``, for a model whose ``image_shape`` is a vector's.
    ``backbone_weights`` is ``hub``, ``random`` or the path of a file; for methods on a backbone.
    ``examples_per_client`` is for methods with a privacy budget; see :func:`with_agreed_noise`.

    Raises:
        pydantic.ValidationError, ModelError, MethodError, PrivacyBudgetError, ConfigError: a part
            of it cannot be.
        DownloadError: a hub did not give the backbone's weights.
    """
    check_names(method, model)
    try:
        check_input_shape(model, image_shape)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    file = None
    if takes_backbone(method):
        source, file = _parse_backbone_weights(backbone_weights or "hub")
        digest = pin_backbone(model, image_shape, source, file)
        hyperparameters = hyperparameters | {
            "backbone_weights": source,
            "backbone_digest": digest,
        }
    elif backbone_weights is not None:
        fitting = ", ".join(known for known in KNOWN_METHODS if takes_backbone(known))
        raise ConfigError(f"--backbone-weights is for the methods {fitting}, not for {method}")
    training = TrainingPlan(
        method=method,
        model=model,
        image_shape=image_shape,
        num_classes=num_classes,
        class_names=class_names,
        features=features,
        hyperparameters=with_agreed_noise(
            method, _with_rounds(method, hyperparameters, round_policy), examples_per_client
        ),
        privacy=privacy,
    )
    resources = SiteResources(
        backbone_weights_file=file,
        # Whoever specifies a federation has named them.
        allowed_imports=AllowedImports(import_paths(method, model)),
    )
    built = build_method(training, torch.device("cpu"), resources)
    if method not in KNOWN_METHODS and isinstance(built, ModelMethod):
        # Recorded, so that a site whose code has other defaults trains with these.
        filled = fill_in(built.plan_type, training.hyperparameters)
        training = TrainingPlan.model_validate(training.model_dump() | {"hyperparameters": filled})
    parameters: ParameterSpecification = built.parameters(seed)
    specification = FederationSpecification(
        name=name,
        parameters=parameters,
        training=training,
        round_policy=round_policy,
        encoding=encoding,
        aggregation=aggregation or AggregationPlan(),
        protection=protection,
    )
    try:
        check_sum_fits(specification)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return specification


def _with_shared_part(
    request: SpecificationRequest, hyperparameters: dict[str, Any]
) -> dict[str, Any]:
    """With the part of a hypernetwork that can be summed or noised, where that is asked for."""
    protection, privacy = request.protection, request.privacy
    is_inseparable = protection is not None and not protection.allow_separable
    is_noised = privacy is not None and privacy.get("unit", "example") == "example"
    if is_inseparable or is_noised:
        return with_shared_bias(request.method, hyperparameters)
    return hyperparameters


def check_names(method: str, model: str) -> None:
    """Raises ConfigError unless method and model are known, or import paths, and fit each other."""
    try:
        check_method(method)
        check_model(method, model)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _parse_backbone_weights(given: str) -> tuple[BackboneSource, Path | None]:
    if given == "hub":
        return "hub", None
    if given == "random":
        return "random", None
    file = Path(given)
    if not file.is_file():
        raise ConfigError(
            f"--backbone-weights must be hub, random or an existing file, not {given}"
        )
    return "file", file


def _with_rounds(
    method: str, hyperparameters: dict[str, Any], round_policy: RoundPolicy
) -> dict[str, Any]:
    """With the policy's rounds, where the method spreads a budget over them and none are given."""
    plan = plan_of(method)
    if plan is None or "rounds" not in plan.model_fields:
        return hyperparameters
    return {"rounds": round_policy.rounds} | hyperparameters


def choose_image_shape(given: str | None, model: str, dataset: str | None) -> ImageShape:
    """``CxHxW`` as given; else what the model asks for; else the data set's own."""
    if given is not None:
        sizes = given.split("x")
        if len(sizes) != 3 or not all(size.isascii() and size.isdigit() for size in sizes):
            raise ConfigError(f"--image-shape must be CxHxW, such as 3x32x32, not {given}")
        return int(sizes[0]), int(sizes[1]), int(sizes[2])
    shape = default_image_shape(model) or (natural_image_shape(dataset) if dataset else None)
    if shape is None:
        raise ConfigError(
            f"give the shape of the images that {model} takes with --image-shape"
            + (", or the features of rows with --features" if not is_backbone(model) else "")
        )
    return shape


def choose_hyperparameters(
    method: str, preset: str | None, settings: Sequence[str], rounds: int
) -> dict[str, Any]:
    """A preset's hyperparameters for so many rounds, ``key=value`` settings in their places."""
    chosen = {} if preset is None else find_preset(method, preset, rounds)
    return chosen | parse_settings(settings)
