"""From a run's stages to its figures, by hand; records on disk; figures over several runs."""

from pathlib import Path

import pytest

from lpi.errors import CheckpointError, DataError
from lpi.evaluation.figures import FIGURES, columns, csv_table, frozen_row, latex, row_of
from lpi.evaluation.records import (
    METRICS,
    FrozenRecord,
    Parameters,
    Routing,
    RunRecord,
    Seconds,
    StageRecord,
    read_record,
    summarise,
    write_record,
)

RETRIEVAL, GROUNDING = METRICS["retrieval"], METRICS["grounding"]


def recall(t2i, i2t):
    """Recalls: recall at 5 is 0.1, and at 10 is 0.15, above recall at 1."""
    return {
        f"{name}_r{k}": [value + by for value in values]
        for name, values in (("t2i", t2i), ("i2t", i2t))
        for k, by in ((1, 0.0), (5, 0.1), (10, 0.15))
    }


def one(value):
    return {name: values[0] for name, values in recall([value], [value]).items()}


def stage(t2i, i2t, *, oracle=None, following=None, held_out=None, routing=None):
    return StageRecord(
        stage=len(t2i) - 1,
        task="abcdef"[len(t2i) - 1],
        seen=recall(t2i, i2t),
        oracle=None if oracle is None else recall(oracle, oracle),
        next=None if following is None else one(following),
        held_out=None if held_out is None else one(held_out),
        everything=None if held_out is None else one(held_out / 2),
        routing=routing,
    )


def test_the_summary_of_a_run():
    routing = {
        "vision": Routing(0.9, [[9, 1, 0], [1, 9, 0]]),
        "text": Routing(0.7, [[7, 3, 0], [3, 7, 0]]),
    }
    stages = [
        stage([0.5], [0.7], following=0.35, held_out=0.4),
        stage([0.3, 0.4], [0.7, 0.6], oracle=[0.6, 0.7], held_out=0.36, routing=routing),
    ]
    frozen = [stage([0.2], [0.4], following=0.3), stage([0.1, 0.2], [0.3, 0.4], held_out=0.4)]
    result = summarise(stages, frozen, RETRIEVAL)
    assert result.frozen["r1"] == pytest.approx(0.25)
    assert result.held_out_frozen["r1"] == pytest.approx(0.4)
    assert result.final["r1"] == pytest.approx(0.5)
    assert result.final["r5"] == pytest.approx(0.6)
    assert result.final["r10"] == pytest.approx(0.65)
    assert result.final["t2i_r1"] == pytest.approx(0.35)
    assert result.final["i2t_r1"] == pytest.approx(0.65)
    assert result.held_out["r1"] == pytest.approx(0.36)
    assert result.average["r1"] == pytest.approx((0.55 + 0.5) / 2)
    assert result.forgetting["r1"] == pytest.approx(-0.1)
    assert result.forgetting["t2i_r1"] == pytest.approx(-0.2)
    assert result.bwt["i2t_r1"] == pytest.approx(0.0)
    assert result.fwt["r1"] == pytest.approx(0.05)
    assert result.retention == result.retention_everything == pytest.approx(0.9)
    assert result.routing_accuracy == pytest.approx({"vision": 0.9, "text": 0.7, "both": 0.8})
    assert result.oracle["r1"] == pytest.approx(0.65)


def test_a_figure_that_can_not_be_computed_is_none():
    stages = [stage([0.5], [0.7])]
    result = summarise(stages, stages, RETRIEVAL)
    for name in ("fwt", "retention", "routing_accuracy", "oracle", "held_out", "forgetting_fixed", "peak_mb"):
        assert getattr(result, name) is None, name
    assert summarise(stages, None, RETRIEVAL).frozen is None


def test_a_summary_needs_stages_and_as_many_of_the_frozen_model():
    with pytest.raises(DataError, match="at least one stage"):
        summarise([], [], RETRIEVAL)
    with pytest.raises(DataError, match="the frozen model has 0 stages; the run has 1"):
        summarise([stage([0.5], [0.7])], [], RETRIEVAL)


def test_joint_training_has_a_final_figure_and_nothing_to_forget():
    frozen = [stage([0.2], [0.4]), stage([0.1, 0.2], [0.3, 0.4])]
    result = summarise([stage([0.5, 0.6], [0.7, 0.8])], frozen, RETRIEVAL)
    assert result.joint
    assert result.frozen["r1"] == pytest.approx(0.25)
    assert result.final["r1"] == result.average["r1"] == pytest.approx(0.65)
    assert result.final["i2t_r1"] == pytest.approx(0.75)
    assert result.forgetting["r1"] == result.bwt["r1"] == 0.0
    with pytest.raises(DataError, match="no stage of 3 tasks"):
        summarise([stage([0.5, 0.6, 0.7], [0.7, 0.8, 0.9])], frozen, RETRIEVAL)


def test_the_frozen_model_may_know_of_later_stages():
    frozen = [stage([0.2], [0.4]), stage([0.1, 0.2], [0.3, 0.4])]
    assert summarise([stage([0.5], [0.7])], frozen, RETRIEVAL).frozen["r1"] == pytest.approx(0.3)


def test_the_summary_of_a_run_on_expressions():
    def precision(*values):
        return {f"p{k}": [min(1.0, value * k) for value in values] for k in (1, 5, 10)}

    stages = [
        StageRecord(0, "a", precision(0.5), next={"p1": 0.3, "p5": 1.0, "p10": 1.0}),
        StageRecord(
            1,
            "b",
            precision(0.4, 0.6),
            oracle=precision(0.5, 0.7),
            held_out={"p1": 0.2, "p5": 0.4, "p10": 0.5},
            routing={"both": Routing(0.75, [[3, 1, 0], [1, 3, 0]])},
        ),
    ]
    frozen = [
        StageRecord(0, "a", precision(0.2), next={"p1": 0.1, "p5": 0.5, "p10": 1.0}),
        StageRecord(1, "b", precision(0.2, 0.1), held_out={"p1": 0.4, "p5": 0.4, "p10": 0.5}),
    ]
    found = summarise(stages, frozen, GROUNDING)
    assert found.frozen["p1"] == pytest.approx(0.15)
    assert found.final == {"p1": 0.5, "p5": 1.0, "p10": 1.0}
    assert found.held_out["p1"] == 0.2
    assert found.average["p1"] == pytest.approx((0.45 + 0.6) / 2)
    assert found.forgetting["p1"] == pytest.approx(-0.1)
    assert found.fwt["p1"] == pytest.approx(0.2)
    assert found.retention == pytest.approx(0.5)
    assert found.oracle["p1"] == pytest.approx(0.6)
    assert found.routing_accuracy["both"] == 0.75
    together = summarise(stages[1:], frozen, GROUNDING)
    assert together.final["p1"] == 0.5
    assert together.forgetting["p1"] == 0.0


def costly(t2i, train):
    return StageRecord(
        **{
            **vars(stage(t2i, t2i)),
            "seconds": Seconds(train, 1.0),
            "peak_mb": 100.0,
            "parameters": Parameters(7, 9, 36),
        }
    )


def test_figures_over_several_runs_are_means_and_sample_deviations():
    runs = [
        summarise([costly([0.5], train), costly([value, 0.6], train)], None, RETRIEVAL)
        for value, train in ((0.3, 2.0), (0.4, 4.0))
    ]
    row = row_of(runs, "retrieval")
    assert row["final_r1"] == pytest.approx(47.5)
    assert row["final_r1_std"] == pytest.approx(5 / 2**0.5, abs=1e-3)
    assert row["forgetting_r1"] == pytest.approx(-15)
    assert (row["trainable_per_task"], row["stored_numbers"], row["stored_bytes"]) == (7, 9, 36)
    assert (row["train_seconds"], row["seconds_per_stage"], row["seconds"]) == (6.0, 3.0, 8.0)
    assert "trainable_per_task_std" not in row
    assert "oracle_r1" not in row
    assert row_of(runs[:1], "retrieval")["final_r1_std"] == 0
    assert frozen_row(runs[0], "retrieval").keys() == {
        "forgetting_r1",
        *(f"final_{name}" for name in RETRIEVAL.names),
    }


def test_every_figure_has_one_name_and_every_column_says_what_it_means():
    for problem, figures in FIGURES.items():
        names = [figure.name for figure in figures]
        assert len(set(names)) == len(names)
        for where in ("run", "compare", "report"):
            shown = columns(problem, where)
            assert len({column.head for column in shown}) == len(shown)
        assert all(any(figure.explanation for figure in column.figures) for column in columns(problem, "compare"))


def test_tables_leave_as_csv_and_latex():
    rows = {"lpi": {"final_r1": 54.7, "final_r1_std": 0.3}, "zero_shot": {"final_r1": 16.2}}
    assert csv_table(rows, "retrieval") == "variant,final_r1,final_r1_std\nlpi,54.7,0.3\nzero_shot,16.2,\n"
    assert r"lpi\_best & 54.7 $\pm$ 0.3 \\" in latex(["", "R@1"], [["lpi_best", "54.7 ± 0.3"]])


def test_records_come_back_from_disk_as_they_were(tmp_path: Path):
    whole = stage([0.5, 0.6], [0.7, 0.8], oracle=[0.1, 0.2], following=0.3, routing={"text": Routing(1.0, [[1, 0]])})
    result = summarise([costly([0.5], 1.5)], None, RETRIEVAL)
    for record in (whole, FrozenRecord([whole]), result):
        write_record(tmp_path / "record.json", record)
        assert read_record(type(record), tmp_path / "record.json") == record
    write_record(tmp_path / "record.json", result)
    with pytest.raises(CheckpointError, match=r'record\.json: "stages": Field required; got nothing'):
        read_record(FrozenRecord, tmp_path / "record.json")
    (tmp_path / "record.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"record\.json: "):
        read_record(RunRecord, tmp_path / "record.json")
