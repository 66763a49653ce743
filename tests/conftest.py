"""What every test runs under: float64, four fake CPU devices, strict promotion, checked annotations, fixed examples."""

import os
from pathlib import Path

# Read by jax when it is first imported or first asks for devices, so they come before every other import.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4".strip()
os.environ.setdefault("MPLBACKEND", "agg")

import hypothesis
import jax
import jaxtyping
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Annotations are checked in tests only; users of the package pay nothing for them.
jaxtyping.install_import_hook("pbjax", "beartype.beartype")

# The same examples on every run and machine: a red test is a change in the code, not in the dice.
hypothesis.settings.register_profile(
    "pbjax", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("pbjax")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--run-slow"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What passed tests have measured, `record_property("measured", text)`, at the end of the log."""
    for report in terminalreporter.stats.get("passed", []):
        for name, text in getattr(report, "user_properties", ()):
            if name == "measured":
                terminalreporter.write_line(f"{report.nodeid}: {text}")


@pytest.fixture(scope="session")
def tfds_data_dir() -> Path:
    """The folder of prepared data sets named by TFDS_DATA_DIR; without one, the test is skipped."""
    named = os.environ.get("TFDS_DATA_DIR")
    if not named:
        pytest.skip("TFDS_DATA_DIR is not set, so there are no prepared data sets to read")
    folder = Path(named).expanduser()
    if not folder.is_dir():
        pytest.skip(f"TFDS_DATA_DIR names {str(folder)!r}, which is not a folder")
    return folder
