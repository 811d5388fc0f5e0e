"""Checks of the exercises of chapter 09."""

import numpy as np

from ankle_lib.brain.signals import TISSUES, signal, with_agent
from ankle_lib.gadolinium.oracle import predictive_value as value_of
from ankle_lib.running.answers import exercise, expect, expect_function


@exercise
def exercise_1(predictive_value):
    """Check a function that returns the positive predictive value."""

    def right(sensitivity, specificity, prevalence, *, blind=False, turned=False):
        if blind:  # whoever forgets how rare it is
            prevalence = 0.5
        if turned:
            specificity = 1 - specificity
        return value_of(sensitivity, specificity, prevalence)

    cases = {"where few are active": (0.78, 0.73, 0.04), "where many are": (0.6, 0.9, 0.3)}
    mistakes = {
        "the prevalence does not count in it: where few are active most alarms are false": {
            "blind": True
        },
        "those wrongly called active are 1 - specificity of the others": {"turned": True},
    }
    expect_function(
        "predictive_value", predictive_value, right, cases, within=1e-3, mistakes=mistakes
    )
    return "Of nine lesions that a good reader calls active without agent, one is, at 4 %."


@exercise
def exercise_2(needed, *, concentrations):
    """Check the concentration at which an active lesion is as bright as white matter."""
    white, lesion = (TISSUES[name] for name in ("white matter", "active lesion"))

    def right(relaxivity=4.97, kind=lesion):
        levels = signal(with_agent(kind, concentrations, relaxivity), "T1w")
        enough = concentrations[levels >= signal(white, "T1w")]
        return float(enough[0]) if len(enough) else np.nan

    mistakes = {
        "that is with gadoterate, which has a smaller relaxivity": lambda: right(3.0),
        "that is what a chronic lesion would need": lambda: right(kind=TISSUES["chronic lesion"]),
    }
    expect("needed", needed, right(), within=1e-6, mistakes=mistakes)
    return "Less than a quarter of the 0.15 mmol/l that an active lesion typically has here."


@exercise
def exercise_3(epistemic):
    """Check a function that returns the epistemic part of an uncertainty."""

    def right(draws, *, total=False, aleatoric=False, bits=False):
        def entropy(p):
            return -p * np.log(p) - (1 - p) * np.log(1 - p)

        parts = entropy(draws.mean(0)), entropy(draws).mean(0)
        found = parts[0] if total else parts[1] if aleatoric else parts[0] - parts[1]
        return found / np.log(2) if bits else found

    rng = np.random.default_rng(0)
    cases = {
        "of five networks": (rng.uniform(0.05, 0.95, (5, 4)),),
        "of two that disagree": (np.array([[0.1, 0.4], [0.9, 0.6]]),),
    }
    mistakes = {
        "that is all of the uncertainty: what is so in each single draw is not taken off": {
            "total": True
        },
        "that is the aleatoric part, which all draws share": {"aleatoric": True},
        "those are bits: nats are asked for": {"bits": True},
    }
    expect_function("epistemic", epistemic, right, cases, within=1e-6, mistakes=mistakes)
    return "It is 0 where all agree, however unsure they are."


@exercise
def exercise_4(shapley_of_two):
    """Check a function that returns the Shapley values of two players."""

    def right(first, second, both, *, last=False, alone=False, empty=0.5):
        gains = np.array([first, second]) - empty
        if alone:
            return gains
        after = np.array([both - second, both - first])
        return after if last else (gains + after) / 2

    cases = {"where they overlap": (0.8, 0.78, 0.82), "where they help": (0.55, 0.6, 0.9)}
    mistakes = {
        "that is what each brings when it comes second": {"last": True},
        "that is what each brings when it comes first": {"alone": True},
        "without any sequence the AUC is 0.5, not 0": {"empty": 0.0},
    }
    expect_function("shapley_of_two", shapley_of_two, right, cases, within=1e-6, mistakes=mistakes)
    return "Together they are what both bring, and equals get equal shares."
