"""Small changes of the code, one at a time: the share that the tests find, and those that they do not.

    python benchmarks/mutation.py --part losses            # every mutant of one part
    python benchmarks/mutation.py --sample 50 --seed 1     # 50 mutants of each part, drawn by a seed

`mutants.py` says what a mutant is; `equivalent_mutants.py` lists those that change nothing that a test could see.

The tests of a part, without the slow ones, are collected once, on a copy of the package. The process that holds them
forks for each run. The first run is of all tests, under coverage. In each other run, functions get the code of a
mutant, and the tests that run its lines follow, those of the file named like the module first and short ones first,
until one fails. A mutant is killed if a test fails or takes too long. A mutant that is left, or whose code runs when
a module is imported, is written into the copy, and its tests are collected again.
"""

import argparse
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import coverage
import pytest
import torch
from equivalent_mutants import EQUIVALENT
from hypothesis import HealthCheck, Phase, settings
from mutants import Codes, Mutant, changed_code, functions_in, mutants, mutated

ROOT = Path(__file__).resolve().parents[1]
STORE = ["strfnet/weights/store.py", "strfnet/weights/file.py"]
# By part: its files or folders, and the tests that hold it.
PARTS: dict[str, tuple[list[str], list[str]]] = {
    "losses": (["strfnet/losses"], ["losses", "robustness/test_arguments_of_constructors.py"]),
    "layers": (["strfnet/layers"], ["layers", "test_clip.py", "robustness/test_arguments_of_constructors.py"]),
    "inflation": (
        ["strfnet/inflation"],
        [f"test_{name}.py" for name in ("inflation", "splicing", "tokens", "extension", "ragged", "running_clips")]
        + ["test_any_network.py", "models/test_options.py"],
    ),
    "evaluation": (
        ["strfnet/evaluation"],
        [f"test_{name}.py" for name in ("ranking", "distances", "evaluation", "reranking", "verification", "nearest")]
        + ["data/test_clothes_and_platforms.py", "robustness/test_rows_of_lists.py"],
    ),
    "store": (
        STORE,
        ["test_store.py", "test_checkpoints.py", "test_files_of_0_1.py"]
        + [
            f"robustness/test_{name}.py" for name in ("files_of_strangers", "full_disks", "misread_values", "outputs")
        ],
    ),
}
SECONDS = 30  # of computing, beside five times the seconds of the tests
MEMORY = 16 << 30  # bytes of addresses, so that a mutant cannot take the machine's memory
OPTIONS = ["-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow"]


class Place(NamedTuple):
    """A mutant of a file, by its number there."""

    file: Path
    number: int
    mutant: Mutant


class Recorder:
    """A plugin of pytest: the seconds of each test, and the tests that run each line, in a file of coverage."""

    def __init__(self, folder: Path) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.coverage = coverage.Coverage(folder / "lines", config_file=False, source=[f"{folder}/strfnet"])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration


class Chosen:
    """A plugin of pytest: calls a function with the session instead of running its tests.

    Hypothesis does not look for a smaller example that fails.
    """

    def __init__(self, work: Callable[[pytest.Session], None]) -> None:
        self.work = work

    def pytest_collection(self) -> None:
        phases, checks = (Phase.explicit, Phase.generate), [*HealthCheck]
        quick = settings.get_profile("quick")
        settings.register_profile("mutants", quick, phases=phases, suppress_health_check=checks)
        settings.load_profile("mutants")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.work(session)
        return True


class Suite:
    """The tests of a part, on the package in a folder."""

    def __init__(self, folder: Path, tests: list[str]) -> None:
        self.folder, self.tests = folder, [f"tests/{test}" for test in tests]
        self.seconds: dict[str, float] = {}
        self.lines = coverage.CoverageData()

    def record(self, session: pytest.Session) -> None:
        """Runs all tests. Raises: ValueError if one fails."""
        recorder = Recorder(self.folder)

        def recorded() -> bool:
            session.config.pluginmanager.register(recorder)
            recorder.coverage.start()
            passed = run(session, session.items)
            recorder.coverage.stop()
            recorder.coverage.save()
            files = {name: getattr(module, "__file__", None) or "" for name, module in sys.modules.items()}
            modules = [name for name, file in files.items() if file and not file.startswith(str(self.folder))]
            (self.folder / "recorded.json").write_text(json.dumps([recorder.seconds, modules]))
            return passed

        if not passes(recorded, 600):
            raise ValueError("a test fails without a mutant")
        self.read()

    def read(self) -> list[str]:
        """Reads what `record` has found. Returns the names of the modules outside the package that tests import."""
        self.lines = coverage.CoverageData(str(self.folder / "lines"))  # one of another process erases the file
        self.lines.read()
        self.seconds, modules = json.loads((self.folder / "recorded.json").read_text())
        return list(modules)

    def of(self, place: Place) -> list[str]:
        """The tests that run a statement, or for none any of a file, those that find a fault soonest first."""
        found, statement = self.lines.contexts_by_lineno(str(place.file)), place.mutant.statement
        tests = {test for line, tests in found.items() if not statement or line in statement for test in tests}
        own = f"test_{place.file.stem}"
        return sorted(tests & self.seconds.keys(), key=lambda test: (own not in test, self.seconds[test]))

    def time_of(self, tests: list[str]) -> float:
        return sum(self.seconds[test] for test in tests)

    def tried(self, places: list[Place], seconds: float) -> list[bool]:
        """Whether each mutant is killed where functions get its code, of as many as there is time for."""
        kept = self.folder / "killed.json"

        def work(session: pytest.Session) -> None:
            self.record(session)
            items = {item.nodeid: item for item in session.items}
            functions = {file: functions_in(file) for file in {place.file for place in places}}
            end, killed = time.monotonic() + seconds, []
            for place in places:
                if time.monotonic() > end:
                    break
                tests, file = self.of(place), place.file
                changes = changed_code(file, place.number)

                def with_change(tests: list[str] = tests, file: Path = file, changes: Codes = changes) -> bool:
                    for old, new in changes.items():
                        for function in functions[file].get(old, ()):
                            function.__code__ = new
                    return run(session, [items[test] for test in tests])

                killed.append(bool(changes) and not passes(with_change, self.time_of(tests)))
                print(f"{len(killed)} of {len(places)} tried", file=sys.stderr, end="\r", flush=True)
            kept.write_text(json.dumps(killed))

        kept.unlink(missing_ok=True)
        status = in_fork(lambda: self.collect(self.tests, work), None)
        if not kept.exists():
            raise RuntimeError(f"pytest ends with {status}:\n{(self.folder / 'output').read_text()[-2000:]}")
        found: list[bool] = json.loads(kept.read_text())
        return found

    def kills(self, place: Place) -> bool:
        """Whether a test fails or takes too long where a mutant is written into the copy."""
        tests, source = self.of(place), place.file.read_text()
        place.file.write_text(mutated(source, place.number))
        try:
            for some in (tests[:8], tests[8:]):  # seldom more than the first files are collected
                files = sorted({test.split("::")[0] for test in some})

                def work(session: pytest.Session, some: list[str] = some) -> None:
                    items = {item.nodeid: item for item in session.items}
                    if not run(session, [items[test] for test in some if test in items]):
                        os._exit(1)

                if some and not passes(lambda: self.collect(files, work) in (0, 5), self.time_of(some)):  # noqa: B023
                    return True
            return False
        finally:
            place.file.write_text(source)

    def collect(self, files: list[str], work: Callable[[pytest.Session], None]) -> int:
        """Collects the tests of files in the copy, and calls ``work`` with them."""
        os.chdir(self.folder)
        sys.path[:0] = [str(self.folder)]
        sys.dont_write_bytecode = True
        with (self.folder / "output").open("w") as output:
            os.dup2(output.fileno(), 1)
            return int(pytest.main([*OPTIONS, f"--basetemp={self.folder}/tmp", *files], [Chosen(work)]))


def run(session: pytest.Session, items: list[pytest.Item]) -> bool:
    """Runs tests until one fails. Returns whether none does, nor failed as it was collected."""
    for item, following in zip(items, [*items[1:], None], strict=False):
        if not session.testsfailed:
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
    return not session.testsfailed


def passes(body: Callable[[], bool], seconds: float) -> bool:
    """Whether ``body`` returns True in a fork, in five times some seconds and without too much memory."""
    return in_fork(lambda: int(not body()), SECONDS + 5 * int(seconds)) == 0


def in_fork(body: Callable[[], int], most: int | None) -> int:
    """The exit status of ``body`` in a fork, which ends by a signal after ``most`` seconds of computing."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if most is not None:
                resource.setrlimit(resource.RLIMIT_CPU, (most, most))
                resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
                signal.alarm(10 * most)
            code = body()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_of(part: str, sample: int | None, seed: int, seconds: float) -> tuple[int, int, int]:
    """How many mutants of a part are killed, how many of the others are equivalent, and how many were tried."""
    paths, tests = PARTS[part]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for inner in ("strfnet", "tests", "benchmarks"):
            shutil.copytree(ROOT / inner, folder / inner, ignore=shutil.ignore_patterns("__pycache__"))
        for file_of_settings in ("pyproject.toml", "setup.cfg"):
            shutil.copy(ROOT / file_of_settings, folder / file_of_settings)
        files = [file for path in paths for file in sorted(folder.glob(path if "." in path else f"{path}/*.py"))]
        places = [Place(file, *one) for file in files for one in enumerate(mutants(file.read_text()))]
        if sample is not None:
            places = random.Random(seed).sample(places, min(sample, len(places)))
        suite = Suite(folder, tests)
        found = suite.tried(places, seconds)
        for module in suite.read():
            with suppress(Exception):
                importlib.import_module(module)
        equivalent = 0
        for number, place in enumerate(places[: len(found)]):
            if not found[number]:
                found[number] = suite.kills(place)
            if not found[number]:
                inner = str(place.file.relative_to(folder))
                code = place.file.read_text().splitlines()[place.mutant.line - 1].strip()
                why = EQUIVALENT.get((inner, code, place.mutant.what))
                equivalent += why is not None
                tests_of_it = f"{len(suite.of(place))} tests" if why is None else f"for {why}"
                print(f"survives {tests_of_it}: {inner}:{place.mutant.line} {place.mutant.what}: {code}", flush=True)
    return sum(found), equivalent, len(found)


def main() -> int:
    """Runs the parts that the command line names. Returns 1 if less than 92 % of the mutants are killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="parts to try (default: all)")
    parser.add_argument("--sample", type=int, help="mutants of each part, drawn by the seed (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="time for each part, then it ends")
    call = parser.parse_args()
    torch.set_num_threads(1)
    low = False
    for part in call.part or PARTS:
        killed, equivalent, tried = killed_of(part, call.sample, call.seed, call.seconds)
        share = 100 * killed / max(tried, 1)
        low = low or share < 92
        print(f"{part}: {killed} of {tried} mutants killed ({share:.1f} %)", end="")
        share = 100 * killed / max(tried - equivalent, 1)
        print(f", {killed} of {tried - equivalent} without those that are equivalent ({share:.1f} %)", flush=True)
    return int(low)


if __name__ == "__main__":
    sys.exit(main())
