"""The report as somebody reads it."""

from __future__ import annotations

from tests.support.experiment_results import RESULTS, RUNS, result, run_of
from worker.experiment.paper import Figure, PaperTable
from worker.experiment.report import write_markdown
from worker.experiment.summary import summarise

PAPER = PaperTable(
    rounds=200,
    figures=(
        Figure(method="hyperfl", dataset="digits", clients=4, accuracy=88.28),
        Figure(method="local", dataset="digits", clients=4, seconds=37.0),
    ),
)


def row_of(text: str, heading: str, method: str) -> dict[str, str]:
    """One row of the table under a heading, by column."""
    lines = text.split(f"## {heading}\n")[1].split("\n## ", maxsplit=1)[0].splitlines()
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    assert len({len(cells) for cells in table}) == 1
    (row,) = (cells for cells in table[2:] if cells[0] == method)
    return dict(zip(table[0], row, strict=True))


def test_accuracies_stand_beside_the_papers_with_the_rounds_of_both() -> None:
    text = write_markdown("Quick", summarise(RUNS, RESULTS, PAPER), RUNS[3:])
    assert text.startswith("# Quick\n\n3 of 4 runs are finished.\n")
    assert row_of(text, "Accuracy", "hyperfl") == {
        "method": "hyperfl",
        "data set": "digits",
        "clients": "4",
        "seeds": "2",
        "rounds": "2",
        "before %": "70.00 ± 14.14",
        "after %": "80.00 ± 14.14",
        "final %": "92.00 ± 2.83",
        "paper %": "88.28",
        "paper's rounds": "200",
    }
    local = row_of(text, "Accuracy", "local")
    assert (local["seeds"], local["paper %"], local["paper's rounds"]) == ("1 of 2", "–", "–")
    assert "**The paper trained for a different number of rounds than shown here.**" in text
    assert "- local on digits, 4 clients, 2 rounds, seed 2\n" in text


def test_nothing_is_said_of_the_papers_rounds_when_they_are_the_same() -> None:
    paper = PAPER.model_copy(update={"rounds": 2})
    text = write_markdown("Quick", summarise(RUNS, RESULTS, paper), [])
    assert "a different number of rounds" not in text


def test_private_methods_have_a_table_of_their_budgets() -> None:
    assert "## Privacy" not in write_markdown("Quick", summarise(RUNS, RESULTS, PAPER), [])
    runs = [run_of("dp-fedavg", seed) for seed in (1, 2)]
    results = {
        run.key: result(90.0, 1.0, [50.0, 70.0])
        | {
            "privacy": {
                "epsilon": 4.0,
                "delta": 1e-5,
                "noise_multiplier": sigma,
                "sample_rate": 0.125,
            }
        }
        for run, sigma in zip(runs, (1.0, 2.0), strict=True)
    }
    text = write_markdown("Quick", summarise([*RUNS, *runs], RESULTS | results, PAPER), [])
    row = row_of(text, "Privacy", "dp-fedavg")
    found = [row[name] for name in ("ε", "δ", "σ", "sample rate")]
    assert found == ["4", "1e-05", "1.5", "0.125"]
    assert "hyperfl" not in text.split("## Privacy")[1].split("##")[0]


def test_what_it_costs_stands_beside_the_papers() -> None:
    text = write_markdown("Quick", summarise(RUNS, RESULTS, PAPER), [])
    hyperfl, local = (row_of(text, "Cost", method) for method in ("hyperfl", "local"))
    assert (hyperfl["s/round"], hyperfl["paper s/round"]) == ("2.00 ± 0.71", "–")
    assert (hyperfl["up"], hyperfl["down"]) == ("1.0 kB", "2.0 MB")
    assert (local["s/round"], local["paper s/round"]) == ("1.50", "37")


def test_rounds_that_were_asked_for_have_columns_before_and_after_and_of_what_they_made() -> None:
    runs = [*RUNS, run_of("dp-fedavg", 1)]
    results = RESULTS | {runs[-1].key: result(50.0, 1.0, [20.0, 30.0])}
    text = write_markdown(
        "Quick", summarise(runs, results, checkpoints=(1, 2)), [], checkpoints=(1, 2)
    )
    whens = ("before", "after", "final")
    names = [f"round {number}: {when} %" for number in (1, 2) for when in whens]
    local, private = (row_of(text, "Accuracy by round", one) for one in ("local", "dp-fedavg"))
    assert [local[name] for name in names] == ["30.00", "40.00", "35.00", "35.00", "45.00", "80.00"]
    assert [private[name] for name in names] == ["–", "–", "–", "20.00", "30.00", "50.00"]
    assert "Accuracy by round" not in write_markdown("Quick", summarise(runs, results), [])


def test_the_commands_are_ones_to_copy_and_the_plots_are_shown() -> None:
    text = write_markdown(
        "Quick",
        summarise(RUNS, RESULTS),
        [],
        commands=[["hyperfl", "experiment", "run", "my grid.toml", "--data-dir", "FOLDER"]],
        plots=[("accuracy.png", "Test accuracy")],
    )
    assert "```bash\nhyperfl experiment run 'my grid.toml' --data-dir FOLDER\n```" in text
    assert "## Plots\n\n![Test accuracy](accuracy.png)\n" in text


def test_settings_and_a_rounds_cohort_are_told() -> None:
    run = run_of("hyperfl", 1, cohort_size=2, preset="paper", settings={"epochs": 2})
    text = write_markdown("Quick", summarise([run], {run.key: result(9.0, 1.0, [1.0, 2.0])}), [])
    row = row_of(text, "Accuracy", "hyperfl")
    assert (row["settings"], row["clients"]) == ("preset paper, epochs=2", "4 (2 a round)")
    assert "over that round's clients only" in text
