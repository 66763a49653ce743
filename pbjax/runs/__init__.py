"""Running experiments: command line, run directory, checkpoints and resuming, host loop, progress, mesh, figures."""

from pbjax.runs import figures
from pbjax.runs.checkpoint import Checkpoint, CheckpointStore
from pbjax.runs.config import NOT_HASHED, Configs, RunOptions, config_hash, load_configs, parse
from pbjax.runs.directory import MetricsLog, RunDirectory
from pbjax.runs.errors import Interrupted, RunError, command_line_errors
from pbjax.runs.loop import LoopTiming, Phase, Phases, run_chunks
from pbjax.runs.mesh import over_replicas, replica_mesh, replicate, shard_replicas
from pbjax.runs.progress import Progress
from pbjax.runs.provenance import provenance
from pbjax.runs.results import ROW_FIELDS, Field, check_rows, is_flagged
from pbjax.runs.tables import markdown_table, print_results
from pbjax.runs.validation import require, require_at_least, require_positive, require_seeds

__all__ = [
    "NOT_HASHED",
    "ROW_FIELDS",
    "Checkpoint",
    "CheckpointStore",
    "Configs",
    "Field",
    "Interrupted",
    "LoopTiming",
    "MetricsLog",
    "Phase",
    "Phases",
    "Progress",
    "RunDirectory",
    "RunError",
    "RunOptions",
    "check_rows",
    "command_line_errors",
    "config_hash",
    "figures",
    "is_flagged",
    "load_configs",
    "markdown_table",
    "over_replicas",
    "parse",
    "print_results",
    "provenance",
    "replica_mesh",
    "replicate",
    "require",
    "require_at_least",
    "require_positive",
    "require_seeds",
    "run_chunks",
    "shard_replicas",
]
