"""The figures of the study: loss against accuracy, within loss bands, by prompt class and arm, against sharpness."""

from experiments._rule_extrapolation.figures.bands import accuracy_within_bands
from experiments._rule_extrapolation.figures.comparisons import accuracy_by_arm, accuracy_by_kind
from experiments._rule_extrapolation.figures.masses import class_mass
from experiments._rule_extrapolation.figures.sharpness import sharpness_against_accuracy
from experiments._rule_extrapolation.figures.trajectories import loss_against_accuracy

__all__ = [
    "accuracy_by_arm",
    "accuracy_by_kind",
    "accuracy_within_bands",
    "class_mass",
    "loss_against_accuracy",
    "sharpness_against_accuracy",
]
