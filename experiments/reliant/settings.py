"""What each data set and framework is run with, fixed before the run."""

import dataclasses

from experiments.reliant import Config, Knobs
from lab.errors import require
from lab.papers.reliant import (
    RELIANT,
    FairGNNConfig,
    FairnessConfig,
    NIFTYConfig,
    PLPConfig,
    SGCConfig,
    StudentConfig,
    TeacherConfig,
)
from lab.papers.reliant.config import CPF_RELEASED

# The released hyper-parameters leave a reduced graph's student at the majority class (GraphAKD) or
# with dead outputs (CPF on binary features); these were chosen in an exploration with other seeds.
_GENTLE_PLP = PLPConfig(feat_drop=0.2)
_MINI_CPF = StudentConfig(
    "cpf",
    alpha=1000.0,
    plp=_GENTLE_PLP,
    learning_rate=0.005,
    proxy_learning_rate=0.005,
    max_epochs=100,
)
# GraphAKD's released rate leaves the student of any small graph at the majority class.
_SMALL_AKD = StudentConfig("akd", learning_rate=1e-2, max_epochs=250)
MINI = {
    ("credit", "akd"): StudentConfig("akd", alpha=10.0, learning_rate=1e-3, max_epochs=600),
    ("bail", "akd"): dataclasses.replace(_SMALL_AKD, alpha=100.0),
    ("german", "akd"): _SMALL_AKD,
    ("nba", "akd"): _SMALL_AKD,
    ("generated", "akd"): StudentConfig("akd", alpha=30.0, learning_rate=3e-3, max_epochs=200),
    ("credit", "cpf"): _MINI_CPF,
    ("bail", "cpf"): _MINI_CPF,
    ("german", "cpf"): _MINI_CPF,
    ("nba", "cpf"): _MINI_CPF,
    ("generated", "cpf"): dataclasses.replace(_MINI_CPF, alpha=100.0, max_epochs=60),
}
# Which epoch's student the claims are about, and which epoch's teacher it learns from. Credit's
# train set is balanced and its validation set is not, so that the lowest validation loss and the
# highest validation accuracy select almost untrained epochs.
RULES = {"credit": "last", "bail": "selected", "generated": "selected"}
# Largest ratio of the SP student's delta-SP to vanilla's, and what may be lost for it: with the GCN
# teacher, whose students the settings were explored with, and with any other, which must do what
# the paper says: 40 % less on Credit with GraphAKD, 10 % with CPF, and less on Recidivism.
BARS = {
    ("credit", "akd"): (0.6, "auc", 0.02),
    ("credit", "cpf"): (0.92, "auc", 0.02),
    ("bail", "cpf"): (0.7, "accuracy", 0.04),
    ("bail", "akd"): (0.85, "accuracy", 0.04),
}
BARS_OF_OTHERS = {
    ("credit", "akd"): (0.6, "auc", 0.02),
    ("credit", "cpf"): (0.9, "auc", 0.02),
    ("bail", "cpf"): (1.0, "auc", 0.02),
    ("bail", "akd"): (1.0, "auc", 0.02),
}
# CPF's loss is one norm over all nodes, so its weights live a hundred times higher.
CPF_ALPHA_SCALE = 100.0
# Of the released logs: accuracy, delta-SP, delta-EO of the teacher, then of the student trained for
# SP, then of the student trained for EO.
_LOGS = {
    ("bail", "cpf", "gcn"): ".9225 .0619 .0225 .8928 .0567 .0229 .8663 .0442 .0072",
    ("bail", "cpf", "sage"): ".9145 .0697 .0285 .8910 .0552 .0173 .8901 .0625 .0257",
    ("bail", "akd", "gcn"): ".9231 .0618 .0193 .8899 .0553 .0277 .8904 .0553 .0276",
    ("bail", "akd", "sage"): ".9147 .0679 .0312 .8978 .0649 .0350 .8965 .0565 .0317",
    ("credit", "cpf", "gcn"): ".7739 .1332 .1040 .7809 .1167 .0718 .7797 .1275 .0783",
    ("credit", "cpf", "sage"): ".7809 .1419 .1149 .7795 .0252 .0168 .7831 .0652 .0477",
    ("credit", "akd", "gcn"): ".7739 .1332 .1040 .7781 .0259 .0243 .7776 .0726 .0560",
    ("credit", "akd", "sage"): ".7809 .1419 .1149 .7807 .0116 .0095 .7792 .0753 .0565",
    ("dblp_small", "cpf", "gcn"): ".9222 .0676 .0182 .9303 .0217 .1029 .9329 .0766 .0345",
    ("dblp_small", "cpf", "sage"): ".9235 .0812 .0612 .9287 .0315 .0711 .9296 .0670 .0005",
    ("dblp_small", "akd", "gcn"): ".9204 .0733 .0370 .9189 .0581 .0030 .9173 .0695 .0370",
    ("dblp_small", "akd", "sage"): ".9236 .0805 .0530 .9209 .0589 .0025 .9226 .0775 .0485",
    ("dblp_medium", "cpf", "gcn"): ".9407 .0755 .0259 .9451 .0334 .0710 .9470 .0672 .0221",
    ("dblp_medium", "cpf", "sage"): ".9409 .0789 .0372 .9397 .0349 .0693 .9429 .0724 .0180",
    ("dblp_medium", "akd", "gcn"): ".9410 .0680 .0135 .9333 .0369 .0647 .9355 .0640 .0037",
    ("dblp_medium", "akd", "sage"): ".9406 .0747 .0207 .9363 .0320 .0805 .9382 .0570 .0157",
}
OFFICIAL = {
    key: tuple(tuple(map(float, text.split()[i : i + 3])) for i in (0, 3, 6))
    for key, text in _LOGS.items()
}
_OF_FAIRNESS = {f.name for f in dataclasses.fields(FairnessConfig)}
_OF_PLP = {f.name for f in dataclasses.fields(PLPConfig)}
_OF_SGC = {f.name for f in dataclasses.fields(SGCConfig)}


def student_config(config: Config, dataset: str, framework: str, teacher: str) -> StudentConfig:
    """The student of a data set, framework and teacher, the knobs applied."""
    accepted = ("akd", "cpf", "kd", "vani")
    require(framework in accepted, f"framework is {framework!r}; accepted: {', '.join(accepted)}")
    if config.settings == "released":
        chosen = _released(dataset, framework, teacher)
    elif framework in ("kd", "vani"):
        # The plain students are trained as long and as fast as GraphAKD's.
        akd = MINI.get((dataset, "akd"), StudentConfig("akd"))
        chosen = dataclasses.replace(akd, framework=framework)
    else:
        chosen = MINI.get((dataset, framework), StudentConfig(framework))
    return with_knobs(chosen, config.knobs)


def _released(dataset: str, framework: str, teacher: str) -> StudentConfig:
    if framework != "cpf":
        return StudentConfig(framework)
    num_layers, rate = CPF_RELEASED.get((teacher, dataset), (10, 0.01))
    fairness = dataclasses.replace(RELIANT, proxy_input="replace_last_two")
    return StudentConfig(
        "cpf",
        fairness,
        plp=PLPConfig(num_layers=num_layers),
        learning_rate=rate,
        proxy_learning_rate=rate,
    )


def with_knobs(student: StudentConfig, knobs: Knobs) -> StudentConfig:
    """A student's config with every knob that is not None in its place."""
    given = _given(knobs)
    if given.get("round_teacher") == -1:
        given["round_teacher"] = None
    parts = {}
    for part, names in (("fairness", _OF_FAIRNESS), ("plp", _OF_PLP), ("sgc", _OF_SGC)):
        chosen = {name: given.pop(name) for name in list(given) if name in names}
        parts[part] = dataclasses.replace(getattr(student, part), **chosen)
    return dataclasses.replace(student, **parts, **given)


def teacher_config(config: Config, dataset: str, architecture: str) -> TeacherConfig:
    """The teacher of a data set and an architecture, the knobs applied."""
    chosen = TeacherConfig(architecture, max_epochs=config.teacher_epochs)
    if config.settings == "mini" and RULES.get(dataset) == "last":
        # Credit's validation accuracy is highest before a teacher has learned anything.
        chosen = dataclasses.replace(chosen, select_by="last")
    return dataclasses.replace(chosen, **_given(config.teacher))


def peer_configs(config: Config, column: int | None) -> tuple[FairGNNConfig, NIFTYConfig]:
    """FairGNN and NIFTY, the knobs applied; column, of the sensitive attribute in the features."""
    given, configs = _given(config.peer), []
    for chosen in (FairGNNConfig(), NIFTYConfig(sensitive_column=column)):
        own = {field.name for field in dataclasses.fields(chosen)}
        mine = {name: value for name, value in given.items() if name in own}
        configs.append(dataclasses.replace(chosen, **mine))
    return tuple(configs)


def _given(knobs) -> dict:
    return {n: v for n, v in dataclasses.asdict(knobs).items() if v is not None}
