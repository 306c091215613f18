"""What every test needs: the repository root first on the path, repeatable arithmetic, sample data if it is there."""

import os
import sys
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # several test processes: together no more threads than cores; before torch starts
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, os.cpu_count() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))))

import torch  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("MPLBACKEND", "Agg")


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=1, help="how often tests/test_survival.py kills a run of each detector")


@pytest.fixture(autouse=True)
def fixed_seed():
    """Every test starts from the same global random state."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository root."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data and reference results to measure on; not part of the repository, so tests that need it may skip."""
    folder = Path(os.environ.get("DETECTION_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the reference data in {folder} (set DETECTION_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """16 + 6 drawn pictures in VOC layout."""
    from datasets.shapes import make_shapes  # once the repository root is on the path

    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", num_train=16, num_val=6)
