"""The fields of the flatness experiment; every one is a flag of its command line."""

from __future__ import annotations

import dataclasses

from pbjax.runs import RunOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flatness(RunOptions):
    """Minima of a two-dimensional loss under mean-field noise, exact SAM and one-step SAM."""

    radius: float = 8.0
    """rho: radius of SAM's disc, and sqrt(2) times the noise's standard deviation."""
    grid: tuple[int, int] = (400, 400)
    """Points of the grid along theta_0 in [-30, 40] and theta_1 in [0, 45]."""
    nodes: int = 400
    """Nodes on either axis of the quadrature for mean-field noise."""

    def validate(self) -> None:
        """Refuses values that no run could use."""
        if not 0 < self.radius < 20:
            raise ValueError(f"radius = {self.radius}: must lie in (0, 20), the window is 70 by 45")
        if min(self.grid) < 20:
            raise ValueError(f"grid = {self.grid}: needs at least 20 points on either axis to tell basins apart")
        # The trapezium of a Gaussian is exact to 1e-8 only with a node or more for every deviation.
        if self.nodes < 100:
            raise ValueError(f"nodes = {self.nodes}: must be at least 100")
