"""The figures of the study: interpolations, reliability, sharpness against error and certificate, learning curves."""

from experiments._sam_as_vi.figures.calibration import reliability
from experiments._sam_as_vi.figures.interpolations import accuracy_against_radius, curves
from experiments._sam_as_vi.figures.learning import learning_curves
from experiments._sam_as_vi.figures.sharpness import sharpness_scatter

__all__ = ["accuracy_against_radius", "curves", "learning_curves", "reliability", "sharpness_scatter"]
