"""What a federation asks of a site's examples: what every kind of data source is read for."""

from __future__ import annotations

from dataclasses import dataclass

from worker.data.agreed_features import AgreedFeatures
from worker.data.classes import AgreedClasses
from worker.data.images import ImageShape


@dataclass(frozen=True)
class Wanted:
    """What a data set is read for.

    Attributes:
        image_shape: (C, H, W) of the model's input, C 1 (grey) or 3 (RGB); or (W,) of a model that
            takes rows of features.
        agreed: the federation's classes, which the data's own names are mapped to; the data may
            lack some. None where the federation names none.
        num_classes: classes of a federation that names none: the data must have as many. None,
            without ``agreed`` too: nobody knows the federation yet, and whatever classes the data
            has are right.
        max_bytes: of a split's images at the model's size.
        features: what the federation agreed on of its rows; None where it takes images, or names
            no features.
    """

    image_shape: ImageShape
    agreed: AgreedClasses | None = None
    num_classes: int | None = None
    max_bytes: int | None = None
    features: AgreedFeatures | None = None

    @property
    def is_known(self) -> bool:
        """Whether it is a federation's, and not a look at what there is."""
        return self.agreed is not None or self.num_classes is not None

    @property
    def takes_rows(self) -> bool:
        """Whether the model takes rows of features, and no images."""
        return len(self.image_shape) == 1
