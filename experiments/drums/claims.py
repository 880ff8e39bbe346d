"""The paper's claims, judged by what a run measured."""

from collections.abc import Mapping, Sequence

from experiments.drums import Config
from experiments.drums.study import Study
from lab.report import Claim, Measurement

# Recomputed with the released code from the released files (test set of 37 grooves).
PAPER_STRUCTURE = {
    "human": (5.0792, 10.007, 1.411),
    "random": (40.3803, 5.705, 1.240),
    "repeat": (0.0, 0.0, 0.0),
    "davinci": (3.0393, 6.856, 0.605),
    "ada": (3.4499, 7.175, 0.774),
}
# Repeats within pieces, copies (shares of measures that are new), and well-formed lines.
PAPER_COPIES = {
    "human": {"to_previous": 0.261, "to_prompt": 0.154, "vs_train": 0.797, "generated": 0.809},
    "davinci": {
        "to_previous": 0.400,
        "to_prompt": 0.242,
        "vs_train": 0.853,
        "generated": 0.869,
        "vs_test": 0.626,
        "validity": 0.9991,
    },
    "ada": {
        "to_previous": 0.465,
        "to_prompt": 0.232,
        "vs_train": 0.801,
        "generated": 0.808,
        "vs_test": 0.617,
        "validity": 0.9995,
    },
}
TEMPERATURE = "0.9"


def all_claims(config: Config, study: Study) -> list[Claim]:
    """A row for every claim, tested or not."""
    real = study.texts is not None
    return [
        *_pipeline(study),
        *_structure(study, real),
        *_pretraining(study),
        *_repeats(study),
        _annotations(config),
        *_copying(study, real),
        *_size(study),
        *_product(study),
    ]


def _pipeline(study: Study) -> list[Claim]:
    texts = study.texts or {}
    note = "the released texts are not here" if texts and texts["identical_texts"] is None else ""
    return [
        Claim(
            "C1-texts",
            "463 MIDI files give these texts, byte for byte",
            "457",
            texts.get("identical_texts"),
            lambda m: m.mean == 457,
            note,
        ),
        Claim(
            "C1-rows",
            "prompt and completion pairs equal the released ones",
            "456",
            texts.get("identical_rows"),
            lambda m: m.mean == 456,
            note,
        ),
    ]


def _structure(study: Study, real: bool) -> list[Claim]:
    found = []
    for system, (mean, gap, within) in PAPER_STRUCTURE.items():
        here = study.systems.get(system) if real else None
        for name, value, measured in (
            ("mean stability", mean, here and here["mean"]),
            ("centre gap", gap, here and here["exact"][0]),
            ("within-cluster distance", within, here and here["exact"][1]),
        ):
            found.append(
                Claim(
                    f"C2-{system}-{name.split()[0]}",
                    f"{name} of {system}",
                    value,
                    measured,
                    lambda m, value=value: abs(m.mean - value) < 6e-4,
                    "exact 2-means" if name != "mean stability" else "",
                )
            )
    means = [row["mean"] for row in study.scratch["sweep"].get(TEMPERATURE, [])]
    human, random = (study.systems[s]["mean"] for s in ("human", "random"))
    found.append(
        Claim(
            "C2-model",
            "a model lies strictly between repeat and random, nearer to human than to random",
            f"human {human:.3g}, random {random:.3g}; davinci 3.04, ada 3.45",
            means or None,
            lambda m: 0 < m.mean < random and abs(m.mean - human) < abs(m.mean - random),
            "from random weights, temperature 0.9; the mean alone does not tell models apart",
        )
    )
    gaps = [row["gap"] for row in study.scratch["sweep"].get(TEMPERATURE, [])]
    human_gap, random_gap = (study.systems[s]["exact"][0] for s in ("human", "random"))
    found.append(
        Claim(
            "C2-gap",
            "centre gap: human > model > random > 0",
            "human 10.0 > davinci 6.86, ada 7.18 > random 5.71",
            gaps or None,
            lambda m: human_gap > m.mean > random_gap > 0,
            "from random weights, temperature 0.9",
        )
    )
    return found


def _pretraining(study: Study) -> list[Claim]:
    small, large = study.transfer or {}, study.pretrained or {}
    ratio = None
    if "test" in small:
        by_kind = _by_kind(small["kinds"], small["test"])
        pairs = zip(by_kind["random"], by_kind["english"], strict=True)
        ratio = [random / english for random, english in pairs]
    large_ratio = None
    if large:
        pairs = zip(large["after"]["random"], large["after"]["pretrained"], strict=True)
        large_ratio = [random / english for random, english in pairs]
    statement = "English pre-training lowers the held-out loss on drums under one budget"
    return [
        Claim(
            "C3-small",
            f"{statement}: a small model pre-trained here (nats of random start / pre-trained)",
            "claimed, no number released",
            ratio,
            lambda m: m.mean - (m.std or 0) > 1,
            "test windows of four measures; above 1: pre-training helps",
        ),
        Claim(
            "C3-smollm2",
            f"{statement}: SmolLM2-135M (nats of random start / pre-trained)",
            "claimed, no number released; the spec's trial: more than 3x after 20 steps",
            large_ratio,
            lambda m: m.mean > 3,
            "development windows of four measures",
        ),
        *_free_lines(large),
    ]


def _free_lines(large: Mapping) -> list[Claim]:
    """Claims on what SmolLM2 writes without the grammar."""
    words = {"untuned": "not tuned", "pretrained": "tuned", "random": "tuned from random weights"}
    composed = large.get("composed", {})
    return [
        Claim(
            f"C3-lines-{kind}",
            f"SmolLM2 {name}: well-formed lines without the grammar",
            "davinci 0.9991, ada 0.9995",
            [one["free"] for one in composed.get(kind, []) if "free" in one] or None,
            note="temperature 0.9",
        )
        for kind, name in words.items()
    ]


def _by_kind(kinds: Sequence[str], values: Sequence) -> dict[str, list]:
    found: dict[str, list] = {}
    for kind, value in zip(kinds, values, strict=True):
        found.setdefault(kind, []).append(value)
    return found


def _repeats(study: Study) -> list[Claim]:
    rows = study.scratch["sweep"]
    usual, greedy = rows.get(TEMPERATURE, []), rows.get("0.0", [])
    return [
        Claim(
            "C3-greedy",
            "without pre-training a model gets no further than repeating the measure before",
            "claimed; identical to the measure before: human 0.261, davinci 0.400, ada 0.465",
            [row["to_previous"] for row in greedy] or None,
            note="greedy decoding of the model from random weights",
        ),
        Claim(
            "C3-repeat",
            "share of composed measures identical to the one before",
            "human 0.261, davinci 0.400, ada 0.465",
            [row["to_previous"] for row in usual] or None,
            note="from random weights, temperature 0.9",
        ),
        Claim(
            "C3-prompt",
            "share of composed measures identical to one of the prompt's",
            "human 0.154, davinci 0.242, ada 0.232",
            [row["to_prompt"] for row in usual] or None,
            note="from random weights, temperature 0.9",
        ),
        Claim(
            "C3-validity",
            "composed lines that are well formed, without the grammar",
            "davinci 0.9991, ada 0.9995",
            [row["validity"] for row in usual] or None,
            lambda m: m.mean > 0.99,
            "a token a line cannot be malformed",
        ),
    ]


def _annotations(config: Config) -> Claim:
    measured, note = None, "only on paper; name the sheet with --annotations to tally it"
    if config.annotations is not None:
        from lab.papers.drums import read_annotations, tally

        davinci = tally(read_annotations(config.annotations)).get("davinci")
        note = "tallied from the sheet" if davinci else "the sheet has no rows of davinci"
        measured = davinci and davinci.pattern.get("consistent", 0)
    return Claim(
        "C4",
        "an expert finds these patterns of davinci's consistent",
        "29 of 35 (human 33 of 37, ada 18 of 35)",
        measured,
        (lambda m: m.mean == 29) if measured is not None else None,
        note,
    )


def _deviation(copied: Mapping, paper: Mapping[str, float]) -> float:
    """The largest difference from the paper's values."""
    names = {"generated": "generated_vs_train"}
    return max(abs(copied[names.get(key, key)] - value) for key, value in paper.items())


def _copying(study: Study, real: bool) -> list[Claim]:
    known = study.copying if real else {}
    rows = study.scratch["sweep"].get(TEMPERATURE, [])
    return [
        *(
            Claim(
                f"C5-{system}",
                f"copies and repeats of {system} ({', '.join(paper)}): largest deviation",
                ", ".join(str(value) for value in paper.values()),
                _deviation(known[system], paper) if system in known else None,
                lambda m: m.mean < 6e-4,
                "the paper's values are rounded to three or four digits",
            )
            for system, paper in PAPER_COPIES.items()
        ),
        Claim(
            "C5-model",
            "most composed measures are new (occur nowhere in the training texts)",
            "davinci 0.869, ada 0.808, human 0.809",
            [row["new_share"] for row in rows] or None,
            lambda m: m.mean > 0.5,
            "from random weights, temperature 0.9, without the given measures",
        ),
    ]


def _size(study: Study) -> list[Claim]:
    small = study.small
    ratio = None
    if small is not None:
        by_label = _by_kind(small["labels"], small["test"])["full"]
        mean = sum(study.scratch["test"]) / len(study.scratch["test"])
        ratio = [value / mean for value in by_label]
    return [
        Claim(
            "C6",
            "a larger model is better (nats of the small one / the large one)",
            "davinci better than ada in the expert's eyes: consistent 29 against 18",
            ratio,
            lambda m: m.mean > 1,
            "analogue: widths of the model from random weights, test nats a line",
        )
    ]


def _product(study: Study) -> list[Claim]:
    samples, speed = study.scratch["samples"], study.speed or {}
    rates: Mapping = speed.get("tokens_per_second", {})
    sizes = sorted(map(int, rates))
    ratio = rates[str(sizes[-1])] / rates[str(sizes[0])] if len(sizes) > 1 else None
    return [
        Claim(
            "P1",
            f"grooves of {samples['samples']:,} drawn along the grammar with exactly the asked "
            "bars, meter and tempo",
            "none released",
            Measurement.of(100 * samples["good"] / samples["samples"], "%"),
            lambda m: m.mean == 100,
        ),
        *(
            Claim(
                f"P2-share-{dtype}",
                f"share of the memory bandwidth that SmolLM2 reads its {dtype} weights with, one "
                "prompt",
                "60 % is within reach",
                Measurement.of(100 * speed["bandwidth_share"][dtype], "%") if speed else None,
                lambda m: m.mean >= 60,
                "bandwidth measured by summing 256 MiB",
            )
            for dtype in ("float32", "bfloat16")
        ),
        Claim(
            "P2-batch",
            f"all {sizes[-1] if sizes else 37} prompts at once against one prompt (tokens a "
            "second)",
            "one request a prompt",
            Measurement.of(ratio, "x") if ratio else None,
            lambda m: m.mean > 1,
        ),
        Claim(
            "P2-programs",
            "programs compiled after the first call of a shape",
            "none",
            speed.get("new_programs"),
            lambda m: m.mean == 0,
        ),
    ]
