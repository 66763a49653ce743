"""Running experiments: command line, run directory, checkpoints and resuming, host loop, progress, mesh, figures."""

from pbjax.runs.checkpoint import Checkpoint, CheckpointStore
from pbjax.runs.config import NOT_HASHED, Configs, RunOptions, config_hash, load_configs, parse
from pbjax.runs.directory import MetricsLog, RunDirectory
from pbjax.runs.errors import Interrupted, RunError, command_line_errors
from pbjax.runs.loop import Phase, Phases, run_chunks
from pbjax.runs.provenance import provenance
from pbjax.runs.results import ROW_FIELDS, Field, check_rows, is_flagged

__all__ = [
    "NOT_HASHED",
    "ROW_FIELDS",
    "Checkpoint",
    "CheckpointStore",
    "Configs",
    "Field",
    "Interrupted",
    "MetricsLog",
    "Phase",
    "Phases",
    "RunDirectory",
    "RunError",
    "RunOptions",
    "check_rows",
    "command_line_errors",
    "config_hash",
    "is_flagged",
    "load_configs",
    "parse",
    "provenance",
    "run_chunks",
]
