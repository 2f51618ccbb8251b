"""What is said of a model that cannot be used."""


class ModelError(ValueError):
    """A feature extractor that cannot be used: one line with what was expected and found."""
