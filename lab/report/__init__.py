'''Claims, measurements, results, run folders, figures and the report page.

How an experiment uses them, `experiments/<paper>.py` in short:

    TITLE = "Graph unlearning"
    SUMMARY = "Deletes nodes from a trained graph model by retraining one shard of it."

    @dataclasses.dataclass(frozen=True)
    class Config:
        """Graph unlearning on one data set."""

        num_steps: int = 100
        """Steps of training."""

    PRESETS = {"quick": Config(), "bench": Config(num_steps=1000)}

    def main(config: Config, run: Run) -> Result:
        data = lab.data.load("karate", data_dir=run.data_dir)
        with run.progress("train shards", config.num_steps) as task:
            for step, (state, metrics) in enumerate(train(data, config, run.checkpoints)):
                task.advance(1, loss=metrics["loss"])
                run.log(step, loss=metrics["loss"])
        fig, axes = figures.new()
        figures.bars(axes, ["mean", "majority"], [mean_f1, majority_f1])
        picture = run.figure("f1", fig, caption="F1 a method", alt="Mean beats majority by 0.2.")
        claim = Claim(
            id="C1",
            statement="unlearning is faster than retraining from scratch",
            paper="2.06x to 35.94x",
            measured=Measurement.of(scratch_seconds / shard_seconds, unit="x"),
            holds=lambda measured: measured.mean > 2.0,
        )
        untested = Claim("C2", "the ratio grows with the graph", "35.94x", measured=None)
        table = Table("F1", ["method", "F1"], [["mean", Measurement.of(mean_f1)]])
        return Result(TITLE, SUMMARY, claims=[claim, untested], tables=[table], figures=[picture])

    if __name__ == "__main__":
        raise SystemExit(command.paper_main("graph_unlearning"))  # experiments.command

The command line opens the run, calls `main`, and calls `run.finish(result)`, which adds paper,
preset, configuration, duration, machine, commit and date and writes `result.json`. From Python:
`run = Run.open("runs", "graph_unlearning", "quick", "mine", config)`, then
`run.finish(main(config, run))`. `run.resumed` says whether there may be checkpoints to go on from.
'''

from lab.report.claims import (
    FAILS,
    HOLDS,
    NOT_TESTED,
    REPORTED,
    VERDICTS,
    Claim,
    Measurement,
    format_number,
)
from lab.report.provenance import commit_in_words, machine_in_words
from lab.report.result import Figure, Result, Table
from lab.report.run import Run

__all__ = [
    "FAILS",
    "HOLDS",
    "NOT_TESTED",
    "REPORTED",
    "VERDICTS",
    "Claim",
    "Figure",
    "Measurement",
    "Result",
    "Run",
    "Table",
    "commit_in_words",
    "format_number",
    "machine_in_words",
]
