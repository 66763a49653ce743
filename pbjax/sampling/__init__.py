"""Samplers over ladders of inverse temperatures: blackjax kernels, pilots, streamed statistics, diagnostics."""

from pbjax.sampling import importing as importing  # isort: skip  (before anything else that imports blackjax)
from pbjax.sampling import hmc
from pbjax.sampling.annealed_paths import init_paths, init_reverse_paths, path_chunk, path_sums
from pbjax.sampling.annealing import AnnealState, AnnealTrace, anneal_chunk, init_anneal
from pbjax.sampling.annealing_pilot import PilotState, init_pilot, pilot, pilot_chunk, provisional_ladder
from pbjax.sampling.diagnostics import Diagnostics, flag_rungs, summarise
from pbjax.sampling.exchange import EnergyState, ExchangeRecord, ExchangeSummary, summarise_exchange
from pbjax.sampling.ladder import (
    Draws,
    HMCSettings,
    LadderState,
    adapt_chunk,
    freeze,
    init_ladder,
    sample_chunk,
)
from pbjax.sampling.path_records import PathState, PathSums, PathTrace
from pbjax.sampling.pilot_schedule import (
    PilotPlan,
    PilotReport,
    PilotTrace,
    choose_schedule,
    plan_pilot,
    second_pass,
    usual_integration_steps,
)
from pbjax.sampling.schedule import AnnealingSchedule, make_schedule
from pbjax.sampling.statistics import (
    StreamedStatistics,
    autocovariance,
    init_statistics,
    mean,
    standard_error,
    update_statistics,
    variance,
)
from pbjax.sampling.summation import CompensatedSum, add_to_sum, init_sum, sum_value

__all__ = [
    "AnnealState",
    "AnnealTrace",
    "AnnealingSchedule",
    "CompensatedSum",
    "Diagnostics",
    "Draws",
    "EnergyState",
    "ExchangeRecord",
    "ExchangeSummary",
    "HMCSettings",
    "LadderState",
    "PathState",
    "PathSums",
    "PathTrace",
    "PilotPlan",
    "PilotReport",
    "PilotState",
    "PilotTrace",
    "StreamedStatistics",
    "adapt_chunk",
    "add_to_sum",
    "anneal_chunk",
    "autocovariance",
    "choose_schedule",
    "flag_rungs",
    "freeze",
    "hmc",
    "init_anneal",
    "init_ladder",
    "init_paths",
    "init_pilot",
    "init_reverse_paths",
    "init_statistics",
    "init_sum",
    "make_schedule",
    "mean",
    "path_chunk",
    "path_sums",
    "pilot",
    "pilot_chunk",
    "plan_pilot",
    "provisional_ladder",
    "sample_chunk",
    "second_pass",
    "standard_error",
    "sum_value",
    "summarise",
    "summarise_exchange",
    "update_statistics",
    "usual_integration_steps",
    "variance",
]
