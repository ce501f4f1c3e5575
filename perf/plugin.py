"""The pytest plugin adds the options, parametrises the tests, and shows the clock's samples and the table.

It costs a run that measures nothing only its options: torch is imported when a test carries the
marker `workloads`, or a `--perf-` option is given.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from perf.run import options
from perf.run.items import workload_of
from perf.system import exit_codes
from perf.system.tools import first_line
from perf.workloads.families import family
from perf.workloads.ids import parse
from perf.workloads.workload import FIELDS, Workload

if TYPE_CHECKING:
    from perf.run.replay import Script
    from perf.run.session import Session

HERE = Path(__file__).parent
settings_key: pytest.StashKey[options.Settings] = pytest.StashKey()
session_key: pytest.StashKey[Session] = pytest.StashKey()
script_key: pytest.StashKey[Script] = pytest.StashKey()

# What asks for pytest-benchmark's own table; without any of these only the project's is shown.
TABLE_OPTIONS = ("compare", "compare_fail", "histogram", "csv", "cprofile", "verbose")
# Not asked for: no columns (pytest-benchmark 5.3), or all of them, which was the option's default before.
ALL_COLUMNS = ["min", "max", "mean", "stddev", "median", "iqr", "outliers", "ops", "rounds", "iterations"]

# A wrong variant leaves its benchmark unused on purpose; what torch deprecates within itself is not ours.
QUIET = ("ignore:Benchmark fixture was not used at all", "ignore::DeprecationWarning:torch",
         "ignore:torch.quantize_per_tensor:UserWarning:torch")


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add(parser)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "workloads(family): parametrise with the workloads of a model family, "
                                       '"attention" for bare kernels, "other_models" for all others')
    if options.several(config):
        from perf.run import workers

        workers.install(config, lambda: _settings(config))
    if options.any_value(config):
        settings = _settings(config)  # an impossible option stops the run before anything is collected
        if settings.compares:
            from perf.run import against as pytest_against

            config.stash[settings_key] = pytest_against.install(config, settings)
        elif settings.shard:
            from perf.run import shard

            shard.install(config, settings)


def _benchmark_only(config: pytest.Config) -> bool:
    return bool(config.getoption("benchmark_only", False))


def _settings(config: pytest.Config) -> options.Settings:
    if settings_key not in config.stash:
        config.stash[settings_key] = options.settings(config)
    return config.stash[settings_key]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out the harness's own tests, which are no benchmarks, and a study that is not named."""
    if collection_path == HERE / "tests" and _benchmark_only(config):
        return True
    if collection_path == HERE / "studies":
        paths = (config.invocation_params.dir / argument.partition("::")[0] for argument in config.args)
        if not any(collection_path in (path, *path.parents) for path in paths):
            return True
    return None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("workloads")
    if marker is None:
        return
    workloads = [w for w in _settings(metafunc.config).workloads if family(w.model).test == marker.args[0]]
    metafunc.parametrize(FIELDS, [tuple(getattr(w, field) for field in FIELDS) for w in workloads],
                         ids=[w.id for w in workloads])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Gives each workload the timer that plays its samples, and drops the families without workloads."""
    benchmarks = [item for item in items
                  if isinstance(item, pytest.Function) and item.get_closest_marker("workloads")]
    if not benchmarks:
        return
    from perf.run.replay import Script

    config.stash[script_key] = script = Script()
    empty = [item for item in benchmarks if not isinstance(item.callspec.params["n"], int)]
    if _benchmark_only(config):
        if len(empty) == len(benchmarks):
            raise pytest.UsageError("perf: the options leave the tests named no workload; drop some options")
        if config.option.verbose == 0 and config.pluginmanager.has_plugin("perf_against"):
            config.option.verbose = 1  # a line a workload, with its verdict
        elif config.option.verbose == 0:
            from perf.run.progress import Progress

            config.pluginmanager.register(Progress(config, {item.nodeid for item in benchmarks if item not in empty}),
                                          "perf_progress")
    for item in benchmarks:
        item.add_marker(pytest.mark.benchmark(timer=script))
        for warning in QUIET:
            item.add_marker(pytest.mark.filterwarnings(warning))
    items[:] = [item for item in items if item not in empty]
    config.hook.pytest_deselected(items=empty)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: Sequence[str]) -> None:
    """Refuses workers of xdist: there pytest-benchmark times nothing, and under --benchmark-skip says no word."""
    if _benchmark_only(node.config) and any(map(parse, ids)):
        raise pytest.UsageError("perf: these workers time nothing, for pytest-benchmark measures in one process; give "
                                "-n alone, or measure a part on each GPU by --perf-shard (docs/several-machines.md)")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Keeps to the rows that are left, so that no other is compiled ahead, and checks that the profiler can do what is
    asked of it."""
    if not (left := [w for item in session.items if (w := workload_of(item))]):
        return
    settings = session.config.stash[settings_key] = replace(_settings(session.config), workloads=left)
    if settings.profile is None:
        return
    from perf.bench.profile import check

    try:
        check(settings.profile, settings.device, [w.id for w in left])
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.fixture
def workload(model: str, function: str, backend: str, phase: str, causal: bool, batch: int, heads: int,
             kv_heads: int, n: int, m: int, head_dim: int, dtype: str, quantization: str,
             compiled: bool) -> Workload:
    """Makes the workload of this item; its fields are the item's parameters, one by one."""
    return Workload(model, function, backend, phase, causal, batch, heads, kv_heads, n, m, head_dim, dtype,
                    quantization, compiled)


@pytest.fixture
def measure(workload: Workload, benchmark: Any, request: pytest.FixtureRequest) -> Any:
    """Returns what checks and times the workload when it is called: a skip, a failure, or evidence."""
    stash, settings = request.config.stash, _settings(request.config)
    if against := request.config.pluginmanager.get_plugin("perf_against"):
        return lambda: against.report(workload, benchmark, stash[script_key], request.node)
    if settings.profile:
        return lambda: _profile(workload, settings)
    if session_key not in stash:
        from perf.run.session import Session

        try:
            shard = request.config.pluginmanager.get_plugin("perf_shard")
            stash[session_key] = Session(settings, stash[script_key], shard.shard if shard else None)
        except ValueError as error:
            pytest.exit(f"perf: {error}", returncode=pytest.ExitCode.USAGE_ERROR)
        if workers := request.config.pluginmanager.get_plugin("perf_workers"):
            stash[session_key].before = workers.rows
    session = stash[session_key]

    def measure_once() -> None:
        try:
            session.measure(workload, benchmark)
        finally:
            if session.patience.hopeless:
                request.session.shouldstop = f"perf: {session.patience.hopeless}"

    return measure_once


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Writes the history, and sets the exit code. A machine that was never fit decides nothing: CI may try another."""
    run = session.config.stash.get(session_key, None)
    if run and run.settings.history and not _write_history(run) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if run and run.patience.hopeless:
        session.exitstatus = exit_codes.UNFIT


def _write_history(session: Session) -> bool:
    """Writes the evidence into the history, and notes what becomes of it; False if it could not."""
    from perf.history.results import write
    from perf.measure import machine

    folder = session.settings.history
    assert folder is not None
    try:
        written = write(session.rows, folder, machines={machine.identity(): machine.fingerprint()}, root=Path.cwd(),
                        dirty=session.settings.history_dirty)
    except (ValueError, OSError) as error:
        session.notes.append(f"no history: {error}; add it later: python -m perf history add "
                             f"{session.settings.evidence}")
        return False
    session.notes += [f"history: {written.numbers} numbers in {folder}", *written.notes]
    return True


def _profile(w: Workload, settings: options.Settings) -> None:
    from perf.bench.profile import profile

    try:
        path = profile(w, settings.profile or "", settings.device, folder=settings.evidence.parent / "profiles")
    except (ValueError, ImportError, RuntimeError) as error:  # a torch.OutOfMemoryError among them
        pytest.fail(first_line(error), pytrace=False)
    pytest.skip(f"profiled, not timed: {path}")


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: pytest.TestReport, config: pytest.Config) -> tuple[str, str, str] | None:
    """Makes the time of a measured workload its word."""
    if report.when == "call" and report.passed and (session := config.stash.get(session_key, None)):
        from perf.report.units import seconds

        row = session.rows[-1] if session.rows else None
        if row and row.median and report.nodeid.endswith(f"[{row.workload.id}]"):
            return "passed", ".", seconds(row.median)
    return None


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_benchmark_group_stats(config: pytest.Config) -> list | None:
    """Gives no groups, hence no table of pytest-benchmark's own, unless its options ask for it."""
    table = (config.option.benchmark_group_by != "group" or config.option.benchmark_sort != "min"
             or config.option.benchmark_columns not in (None, ALL_COLUMNS)
             or any(config.getoption(f"benchmark_{name}", None) for name in TABLE_OPTIONS))
    ours = session_key in config.stash or config.pluginmanager.has_plugin("perf_against")
    return None if table or not ours else []


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    if session_key in config.stash:
        from perf.measure import machine

        output_json["perf"] = {"machine": machine.fingerprint(), "revision": machine.revision()}


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    session = config.stash.get(session_key, None)
    if session is None or not session.rows:
        return
    from perf.run.ending import ending

    terminalreporter.section(f"perf: {session.settings.grid} grid on {session.settings.device}")
    for line in ending(session, config.invocation_params.args, config.invocation_params.dir,
                       verbose=config.option.verbose > 0):
        terminalreporter.write_line(line)
