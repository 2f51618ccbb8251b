import pytest
from pydantic import ValidationError

from worker.data.source import DataSource


def test_digits_need_nothing_else():
    source = DataSource(dataset="digits")
    assert (source.partition, source.num_clients, source.client_index) == ("none", 1, 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dataset": "mnist-c"}, "dataset"),
        ({"dataset": "emnist"}, "data_dir is required for dataset 'emnist'"),
        (
            {"dataset": "digits", "partition": "iid", "num_clients": 3, "client_index": 3},
            "client_index 3 is out of range: num_clients is 3",
        ),
        ({"dataset": "digits", "num_clients": 2}, "would give all 2 clients the same examples"),
        ({"dataset": "digits", "num_clients": 0}, "greater than or equal to 1"),
        ({"dataset": "digits", "client_index": -1}, "greater than or equal to 0"),
        ({"dataset": "digits", "train_examples": -5}, "greater than or equal to 1"),
        ({"dataset": "digits", "test_examples": 0}, "greater than or equal to 1"),
        ({"dataset": "digits", "seed": -1}, "greater than or equal to 0"),
        ({"dataset": "digits", "dirichlet_alpha": 0.0}, "greater than 0"),
        ({"dataset": "digits", "dirichlet_alpha": float("inf")}, "finite"),
        ({"dataset": "digits", "shuffle": True}, "Extra inputs are not permitted"),
    ],
)
def test_a_wrong_field_is_named(fields, message):
    with pytest.raises(ValidationError, match=message):
        DataSource.model_validate(fields)


def test_a_source_cannot_be_changed():
    source = DataSource(dataset="digits")
    with pytest.raises(ValidationError, match="frozen"):
        source.seed = 1
