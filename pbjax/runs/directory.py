"""A run directory: config.json, metrics.jsonl, results.json, results.parquet, figures/ and checkpoints/."""

import errno
import fcntl
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from pbjax.runs import hosts
from pbjax.runs.atomic import json_bytes, remove_temporary_files, write_file, write_files
from pbjax.runs.config import config_hash, hashed_fields
from pbjax.runs.errors import RunError
from pbjax.runs.metrics import MetricsLog
from pbjax.runs.mirrors import check_mirrors, open_mirror
from pbjax.runs.provenance import provenance
from pbjax.runs.results import RECORDS, ROW_FIELDS, Field, check_rows, parquet_bytes, split_records

_OWN_NAMES = {
    "config.json",
    "metrics.jsonl",
    "results.json",
    "results.parquet",
    "figures",
    "checkpoints",
    "tensorboard",
    "profile",
    "model.json",
    "network",
}


class RunDirectory:
    """Where one run of one config keeps everything; held by one process at a time.

    Use it as a context manager, so that the lock is released. Opening it does not touch earlier results. In a run of
    several processes, process 0 holds it. To the others `path` is a temporary folder, so that only checkpoints, which
    every process has a part of, are written by all.

    Args:
      path: the directory; made when missing.
      experiment: name of the experiment.
      config: frozen dataclass instance.
      data: name -> checksum of the data sets that the run reads, such as `{dataset.name: dataset.checksum}`; they stand
        in the provenance of its results.

    Attributes:
      path: the directory.
      home: the directory in every process; what all write together, a `CheckpointStore`, goes there.
      experiment: name of the experiment.
      config_hash: 12 hexadecimal digits.
      profile: whether every phase writes a trace of one of its chunks to profile/<phase>.
      expected_memory: phase -> expected peak of the process in bytes, of the phases that ran here.
      devices: phase -> number of devices that its loop ran on, likewise.
      metrics: the `MetricsLog` of metrics.jsonl.

    Raises:
      RunError: the directory belongs to another config, to another process or to something that is no run.
      OSError: it cannot be made or written.

    Example:
      >>> import dataclasses, tempfile
      >>> @dataclasses.dataclass(frozen=True)
      ... class Example:
      ...     delta: float = 0.05
      >>> with RunDirectory(Path(tempfile.mkdtemp()) / "run", experiment="demo", config=Example()) as run:
      ...     run.metrics.append({"chunk": 0, "loss": 0.5})
      ...     [line["loss"] for line in run.metrics]
      [0.5]
    """

    def __init__(
        self, path: str | Path, *, experiment: str, config: Any, data: Mapping[str, str] | None = None
    ) -> None:
        self.path = Path(path)
        self._data = dict(data or {})
        self._opened, self._earlier, self._device = time.perf_counter(), 0.0, 0.0
        self.experiment = experiment
        self.config_hash = config_hash(config)
        self.profile = bool(getattr(config, "profile", False))
        self.expected_memory: dict[str, int] = {}
        self.devices: dict[str, int] = {}
        check_mirrors(getattr(config, "mirror", ()))
        self._data_shards = int(getattr(config, "data_shards", 1))
        self.home = self.path
        if not hosts.is_leader():
            hosts.from_leader(None)  # process 0 holds the directory; if it cannot, this process ends with it
            self._scratch = tempfile.TemporaryDirectory(prefix="pbjax-")
            self.path = Path(self._scratch.name)
        self._refuse_foreign(config)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = self._take_lock()
        try:
            remove_temporary_files(self.path)
            if not (self.path / "config.json").exists():
                record = {"experiment": experiment, "config_hash": self.config_hash, "config": hashed_fields(config)}
                write_file(self.path / "config.json", json_bytes(record))
            kinds = getattr(config, "mirror", ()) if hosts.is_leader() else ()
            about: Any = {"experiment": experiment, "name": self.config_hash, "fields": hashed_fields(config)}
            mirrors = [open_mirror(kind, self.path, **about) for kind in kinds]
            self.metrics = MetricsLog(self.path / "metrics.jsonl", mirrors=mirrors)
        except BaseException:
            self.close()
            raise
        if hosts.is_leader():
            hosts.from_leader(None)

    def _refuse_foreign(self, config: Any) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"--out {self.path} is a file; give a directory")
        if not self.path.exists():
            return
        stored = self.path / "config.json"
        if not stored.exists():
            foreign = [entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")]
            if foreign:
                kind = "parts of a run" if set(foreign) <= _OWN_NAMES else f"other files ({sorted(foreign)[0]}, ...)"
                raise RunError(f"--out {self.path} holds {kind} but no config.json; give another --out")
            return
        try:
            record = json.loads(stored.read_bytes())
            theirs, fields, experiment = record["config_hash"], record["config"], record["experiment"]
        except (ValueError, KeyError, TypeError):
            raise RunError(f"{stored} cannot be read as a run's config; give another --out or remove it") from None
        if experiment != self.experiment:
            raise RunError(
                f"--out {self.path} holds a run of {experiment}, not of {self.experiment}; give another --out"
            )
        if theirs != self.config_hash:
            ours = hashed_fields(config)
            different = [name for name in {**fields, **ours} if fields.get(name) != ours.get(name)]
            raise RunError(
                f"--out {self.path} holds a run of config {theirs}, and this is config {self.config_hash} "
                f"(they differ in {', '.join(different) or 'the version of their fields'}); give another --out"
            )

    def _take_lock(self) -> IO[str]:
        lock = open(self.path / ".lock", "a")  # noqa: SIM115  (held for the life of the run)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                lock.close()
                raise RunError(
                    f"--out {self.path} is in use by another process; wait for it, stop it, or give another --out"
                ) from None
            # A file system without locks: run without that protection rather than not at all.
        return lock

    def close(self) -> None:
        """Releases the directory to other processes."""
        if hasattr(self, "metrics"):
            self.metrics.close()
        self._lock.close()
        if self.path != self.home:
            self._scratch.cleanup()

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def note_seconds(self, *, earlier: float = 0.0, device: float = 0.0) -> None:
        """Adds to the time that the results will say they took.

        Args:
          earlier: wall time of a phase that an earlier process finished · seconds.
          device: time inside compiled loops · seconds.
        """
        self._earlier += earlier
        self._device += device

    def _seconds(self) -> dict[str, float]:
        # What a kill lost, the chunks since the last finished phase of an earlier process, is not in it.
        return {"wall": time.perf_counter() - self._opened + self._earlier, "device": self._device}

    @property
    def figures(self) -> Path:
        """The folder of figures; made on first use."""
        folder = self.path / "figures"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints, one subfolder a phase; made on first use."""
        folder = self.home / "checkpoints"
        if hosts.is_leader():
            folder.mkdir(exist_ok=True)
        return folder

    @property
    def finished(self) -> bool:
        """Whether results.json of this config stands there."""
        return (self.home / "results.json").exists()

    def write_results(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        fields: Mapping[str, Field] = ROW_FIELDS,
        sections: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes results.json and results.parquet; a failure leaves the earlier pair as it was.

        Args:
          rows: mappings from column to value; `check_rows` says what is required. The entry "record" of a row, the
            `record()` of its certificate, is no column: it goes to the section "records", from which `pbjax verify`
            recomputes the certificate.
          fields: the required columns.
          sections: further top-level entries of results.json, say {"ladder": [...]}.

        Raises:
          ValueError: a row lacks a column or has a wrong type, or a section has a reserved name.
          OSError: the files cannot be written.
        """
        rows, records = split_records(rows)
        checked = check_rows(rows, fields=fields)
        made = {**provenance(), "data": self._data, "seconds": self._seconds()}
        made["memory"]["expected_host_peak_bytes"] = dict(self.expected_memory)
        made["device"] |= {"data_shards": self._data_shards, "phases": dict(self.devices)}
        record = {"experiment": self.experiment, "config_hash": self.config_hash, "provenance": made}
        reserved = {*record, RECORDS, "rows"} & set(sections or {})
        if reserved:
            raise ValueError(f"sections may not be called {', '.join(sorted(reserved))}; choose other names")
        more = {**dict(sections or {}), **({} if records is None else {RECORDS: records})}
        metadata = {"experiment": self.experiment, "config_hash": self.config_hash}
        write_files(
            {
                self.path / "results.json": json_bytes({**record, **more, "rows": checked}),
                self.path / "results.parquet": parquet_bytes(checked, fields=fields, metadata=metadata),
            }
        )
