"""One rule for cores: affinity, the cgroup's quota, OMP_NUM_THREADS."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.settings import from_environment
from detector.cores import cgroup_quota, thread_count, usable_cores
from tests.conftest import ROOT


def machine(root: Path, cgroups: str, **files: str) -> Path:
    """A root folder with /proc/self/cgroup and files below /sys/fs/cgroup; __ stands for /, and _ for a point."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroups)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_the_quota_of_a_container_and_of_every_cgroup_above_counts(tmp_path: Path) -> None:
    assert cgroup_quota(tmp_path) is None
    container = machine(tmp_path / "container", "0::/\n", **{"cpu.max": "150000 100000\n"})
    assert cgroup_quota(container) == 1.5
    unlimited = machine(tmp_path / "unlimited", "0::/\n", **{"cpu.max": "max 100000\n"})
    assert cgroup_quota(unlimited) is None
    slices = {"a.slice__cpu.max": "200000 100000\n", "a.slice__b__cpu.max": "max 100000\n"}
    assert cgroup_quota(machine(tmp_path / "slices", "0::/a.slice/b\n", **slices)) == 2
    first = {"cpu__docker__x__cpu.cfs_quota_us": "50000\n", "cpu__docker__x__cpu.cfs_period_us": "100000\n"}
    first |= {"cpu__docker__y__cpu.cfs_quota_us": "10000\n", "cpu__docker__y__cpu.cfs_period_us": "100000\n"}
    groups = "4:memory:/docker/y\n2:cpu,cpuacct:/docker/x\n1:cpuset:/\n"
    assert cgroup_quota(machine(tmp_path / "first", groups, **first)) == 0.5
    none = {"cpu__cpu.cfs_quota_us": "-1\n", "cpu__cpu.cfs_period_us": "100000\n"}
    assert cgroup_quota(machine(tmp_path / "none", "2:cpu:/docker/x\n", **none)) is None
    assert cgroup_quota(machine(tmp_path / "odd", "0::/\n", **{"cpu.max": "what?\n"})) is None


def test_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.cores.cgroup_quota", lambda: 0.5)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert len(usable_cores()) == thread_count() == from_environment().threads == 1
    for given, threads in (("3", 3), ("4,2", 4), ("0", 1), ("many", 1)):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert thread_count() == from_environment().threads == threads
    monkeypatch.setenv("SERVE_THREADS", "7")
    assert from_environment().threads == 7


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_the_service_starts_no_threads_for_cores_that_it_may_not_use() -> None:
    code = "from app.settings import from_environment as f; print(f().threads)"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    core = min(os.sched_getaffinity(0))
    said = subprocess.run(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{core}}}); {code}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "1\n"
