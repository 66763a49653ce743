"""Samplers over ladders of inverse temperatures: blackjax kernels, pilots, streamed statistics, diagnostics."""

from pbjax.sampling import hmc
from pbjax.sampling.annealing import AnnealState, AnnealTrace, anneal_chunk, init_anneal
from pbjax.sampling.diagnostics import Diagnostics, flag_rungs, summarise
from pbjax.sampling.ladder import (
    Draws,
    HMCSettings,
    LadderState,
    adapt_chunk,
    freeze,
    init_ladder,
    sample_chunk,
)
from pbjax.sampling.statistics import (
    StreamedStatistics,
    autocovariance,
    init_statistics,
    mean,
    standard_error,
    update_statistics,
    variance,
)

__all__ = [
    "AnnealState",
    "AnnealTrace",
    "Diagnostics",
    "Draws",
    "HMCSettings",
    "LadderState",
    "StreamedStatistics",
    "adapt_chunk",
    "anneal_chunk",
    "autocovariance",
    "flag_rungs",
    "freeze",
    "hmc",
    "init_anneal",
    "init_ladder",
    "init_statistics",
    "mean",
    "sample_chunk",
    "standard_error",
    "summarise",
    "update_statistics",
    "variance",
]
