"""Running experiments: command line, run directory, checkpoints, host loop, progress, mesh, statistics, figures."""

from pbjax.runs import comparing, figures, launching, sweep
from pbjax.runs.checkpoint import Checkpoint, CheckpointStore
from pbjax.runs.command_line import parse, parse_options
from pbjax.runs.config import HASHED_IF_CHANGED, NOT_HASHED, Configs, RunOptions, config_hash, load_configs
from pbjax.runs.directory import RunDirectory
from pbjax.runs.errors import Interrupted, RunError, command_line_errors
from pbjax.runs.loop import LoopTiming, inside_share, run_chunks
from pbjax.runs.mesh import lay_out_replicas, replica_mesh, replicate, shard_data, shard_replicas, use_cores
from pbjax.runs.metrics import MetricsLog
from pbjax.runs.networks import Network, keep_networks, load
from pbjax.runs.phases import Phase, Phases
from pbjax.runs.progress import Progress
from pbjax.runs.provenance import provenance, shown_command
from pbjax.runs.results import ROW_FIELDS, Field, check_rows, is_flagged
from pbjax.runs.starting import start
from pbjax.runs.statistics import (
    MeanDifference,
    RankCorrelation,
    difference_of_means,
    holm,
    mean_and_error,
    rank_correlation,
    sign_flip,
)
from pbjax.runs.tables import format_value, markdown_table, print_results
from pbjax.runs.validation import require, require_at_least, require_positive, require_seeds

__all__ = [
    "HASHED_IF_CHANGED",
    "NOT_HASHED",
    "ROW_FIELDS",
    "Checkpoint",
    "CheckpointStore",
    "Configs",
    "Field",
    "Interrupted",
    "LoopTiming",
    "MeanDifference",
    "MetricsLog",
    "Network",
    "Phase",
    "Phases",
    "Progress",
    "RankCorrelation",
    "RunDirectory",
    "RunError",
    "RunOptions",
    "check_rows",
    "command_line_errors",
    "comparing",
    "config_hash",
    "difference_of_means",
    "figures",
    "format_value",
    "holm",
    "inside_share",
    "is_flagged",
    "keep_networks",
    "launching",
    "lay_out_replicas",
    "load",
    "load_configs",
    "markdown_table",
    "mean_and_error",
    "parse",
    "parse_options",
    "print_results",
    "provenance",
    "rank_correlation",
    "replica_mesh",
    "replicate",
    "require",
    "require_at_least",
    "require_positive",
    "require_seeds",
    "run_chunks",
    "shard_data",
    "shard_replicas",
    "shown_command",
    "sign_flip",
    "start",
    "sweep",
    "use_cores",
]
