"""The experiment on tiny networks: overrides, kept parts, claims, pictures, sizes."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import papers, tinymim
from experiments.command import parse_paper
from experiments.tinymim import Config, Finetuning, Network, PictureSet, Pretraining
from experiments.tinymim.arms import ABLATIONS, MAIN, ablation_arms, main_arm, overridden
from experiments.tinymim.claims import ablation_claims, chain_claim, size_claims
from experiments.tinymim.scale import full_size, model_sizes
from experiments.tinymim.study import study
from lab.errors import InvalidInputError
from lab.papers.tinymim import Distillation
from lab.report import FAILS, HOLDS, NOT_TESTED, VERDICTS, Run

TINY = Config(
    datasets=("shapes12",),
    shapes12=PictureSet(16, 4, 64, 40, 40),
    teacher=Network(16, 2, 4),
    student=Network(8, 2, 2),
    decoder=Network(8, 1, 2),
    distillation=Distillation(target_block=2),
    arms=("mae", "relation"),
    repeats=2,
    pretraining=Pretraining(batch_size=8, teacher_steps=7, mae_steps=6, distill_steps=6),
    finetuning=Finetuning(num_steps=4, batch_size=8, num_evaluations=2),
    ablations=(),
    timed_sizes=(),
    streamed_steps=0,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = Run.open(tmp_path_factory.mktemp("runs"), "tinymim", "quick", "tiny", TINY)
    return run, run.finish(tinymim.main(TINY, run))


def test_every_claim_of_the_paper_has_a_row(finished):
    _, result = finished
    ids = {claim.id.split()[0] for claim in result.claims}
    assert ids >= {f"C{i}" for i in range(1, 13)} | {f"S{i}" for i in range(1, 5)}
    assert all(claim.verdict in VERDICTS for claim in result.claims)
    judged = {claim.id for claim in result.claims if claim.verdict in (HOLDS, FAILS)}
    assert judged == {"C12 parameters", "C12 operations", "C12 exact", "S1"}


def test_the_run_folder_holds_tables_and_pictures(finished):
    run, result = finished
    names = {figure.path.split("/")[-1] for figure in result.figures}
    kinds = ("accuracy", "reconstruction", "relations", "rollout", "likeness", "losses")
    assert names == {f"{kind}-shapes12.png" for kind in kinds}
    assert all((run.folder / figure.path).stat().st_size > 5000 for figure in result.figures)
    table = json.loads(run.result_path.read_text())["tables"][0]
    assert table["rows"][0][0] == "none (random features)"
    stages = {line["stage"] for line in run.metrics()}
    assert stages == {"shapes12-teacher", "shapes12-mae", "shapes12-relation"}


def test_a_resumed_study_trains_nothing_again(finished):
    run, _ = finished
    parts = sorted(run.checkpoints.glob("*.json"))
    before = [path.stat().st_mtime_ns for path in parts]
    assert len(parts) == 5
    again = Run.open(run.folder.parents[1], "tinymim", "quick", "tiny", TINY, resume=True)
    found = study(TINY, again, "shapes12")
    assert [path.stat().st_mtime_ns for path in parts] == before
    assert found.students["relation"].losses["qk"].shape == (2, 6)
    assert found.students["relation"].encoder.heads == (2, 4)
    assert found.finetuned["relation"].shape == (2, 2)


def test_copies_differ_and_do_not_depend_on_how_many_there_are(finished):
    run, _ = finished
    found = study(TINY, run, "shapes12")
    first, second = (found.students["relation"].copy(i)["params"]["cls_token"] for i in (0, 1))
    assert not np.allclose(first, second)
    losses = found.students["relation"].losses["loss"]
    assert np.isfinite(losses).all()
    assert not np.allclose(losses[0], losses[1])


def test_overrides_reach_every_depth_and_are_checked():
    changed = overridden(Config(), {"distillation.target": "feature", "drop_path": 0.3})
    assert changed.distillation.target == "feature"
    assert changed.drop_path == 0.3
    with pytest.raises(InvalidInputError, match="Config has no 'dropp'"):
        overridden(Config(), {"dropp": 1})
    with pytest.raises(InvalidInputError, match="target is one of"):
        overridden(Config(), {"distillation.target": "logit"})
    with pytest.raises(InvalidInputError, match="an arm is one of"):
        main_arm(Config(), "moco")


def test_every_ablation_changes_something_and_only_the_chosen_are_run():
    rows = ablation_arms(dataclasses.replace(Config(), ablations=("C6", "C9")))
    assert [arm.claim for arm, _ in rows] == ["default", "C6", "C6", "C6", "C9", "C9"]
    configs = [config for _, config in ablation_arms(Config())]
    assert len(set(configs)) == len(configs) > 20
    assert {arm.claim for arm in ABLATIONS} == {
        "C4", "C5", "C6", "C7", "C9", "C10", "heads"
    }  # fmt: skip
    assert ablation_arms(dataclasses.replace(Config(), ablations=("C8",))) == []
    with pytest.raises(InvalidInputError, match="C99"):
        ablation_arms(dataclasses.replace(Config(), ablations=("C99",)))


@pytest.mark.parametrize("name", MAIN)
def test_every_arm_is_a_line_of_the_command_line(name):
    arguments = []
    for path, value in MAIN[name].items():
        arguments += [f"--{path.replace('_', '-')}", str(value)]
    experiment = papers.load("tinymim")
    config, _ = parse_paper(experiment, "tinymim", "quick", arguments)
    assert config == main_arm(experiment.PRESETS["quick"], name)


def test_ablations_are_reached_by_name_on_the_command_line():
    arguments = ["--distillation.no-softmax", "--distillation.relations", "qq", "kk", "vv",
                 "--distillation.target-block", "3", "--drop-path", "0.2"]  # fmt: skip
    config, _ = parse_paper(papers.load("tinymim"), "tinymim", "bench", arguments)
    assert config.distillation == Distillation(
        target_block=3, relations=("qq", "kk", "vv"), softmax=False
    )
    assert config.drop_path == 0.2


def test_full_size_models_have_the_official_counts():
    sizes = model_sizes()
    claims = {claim.id: claim for claim in size_claims(sizes)}
    assert all(claim.verdict == HOLDS for claim in claims.values())
    by_size = {row["size"]: row for row in sizes}
    assert by_size["B"]["classifier"] == 86_567_656 - 768 * 2 + 768 * 2
    assert round(by_size["B"]["mae"] / 1e6, 2) == 111.91
    assert round(by_size["S"]["multiply_adds"] / 1e9, 1) == 4.6
    changed = [row | {"encoder": row["encoder"] + (row["size"] == "S")} for row in sizes]
    assert size_claims(changed)[-1].verdict == FAILS


def test_a_full_size_step_costs_what_the_spec_says():
    # L -> B: the teacher is about half of 94 GMAC a picture
    full = full_size("B")
    assert 90e9 < full.multiply_adds < 100e9
    assert full.model.encoder.heads[-1] == 16
    with pytest.raises(InvalidInputError, match="a student is one of B, S, T"):
        full_size("L")


def test_the_chain_is_judged_by_its_falling_losses():
    rows = [{"first_loss": 1.0, "last_loss": end, "heads": [8, 8, 8]} for end in (0.2, 0.5)]
    assert chain_claim(rows).verdict == HOLDS
    assert chain_claim([*rows, rows[0] | {"last_loss": 1.5}]).verdict == FAILS
    assert chain_claim([]).verdict == NOT_TESTED


def test_ablation_claims_are_differences_of_points():
    def row(claim, name, accuracy):
        return {"claim": claim, "name": name, "probe": {"block3": [0.5], "block4": [accuracy]}}

    rows = [row("default", "default", 0.20), row("C9", "masked", 0.15)]
    claims = {claim.id: claim for claim in ablation_claims(rows)}
    assert claims["C9"].measured.mean == pytest.approx(5.0)
    assert claims["C7"].verdict == NOT_TESTED
