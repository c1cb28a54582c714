"""What is published: an sdist and the wheel made from it, installed into an empty environment and used outside the
repository."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parent.parent
TRACKED = ("*.py", "*.yaml", "*.md", "*.html", "*.j2", "*.css", "*.js", "*.json", "*.jsonl", "*.jinja", "py.typed")
pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """A command that has to end with 0, without the paths of this repository."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "HOME": str(cwd), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(sdist, wheel made from the sdist), by the back end that pyproject.toml names."""
    folder = tmp_path_factory.mktemp("dist")
    copy = folder / "source"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    build = "import sys; from setuptools import build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"
    run(sys.executable, "-c", build, "build_sdist", folder, cwd=copy)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    run(sys.executable, "-c", build, "build_wheel", folder, cwd=unpacked)
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that sees the packages of this one, but not this saccade."""
    folder = tmp_path_factory.mktemp("empty")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    site = next((folder / "venv" / "lib").glob("python*")) / "site-packages"
    (site / "packages.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder


def test_the_wheel_holds_every_file_of_the_package(published: tuple[Path, Path]) -> None:
    found = {path.relative_to(ROOT / "src").as_posix() for kind in TRACKED for path in (ROOT / "src").rglob(kind)}
    with ZipFile(published[1]) as archive:
        assert {name for name in found if ".egg-info" not in name} - set(archive.namelist()) == set()


@pytest.mark.parametrize("kind", [0, 1], ids=["sdist", "wheel"])
def test_it_installs_and_works_outside_the_repository(kind: int, published: tuple[Path, Path], empty: Path) -> None:
    python, folder = empty / "venv" / "bin" / "python", empty / ("sdist", "wheel")[kind]
    folder.mkdir()
    options = ("--no-index", "--no-deps", "--no-build-isolation", "--force-reinstall", "--quiet")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, published[kind], cwd=folder)
    saccade = empty / "venv" / "bin" / "saccade"
    where = run(python, "-c", "import saccade; print(saccade.__file__)", cwd=folder).stdout
    assert where.startswith(str(empty))
    assert "Cold start, SFT and GRPO" in run(saccade, "demo", "--help", cwd=folder).stdout
    (folder / "rows.csv").write_text("question,answer\n" + "".join(f"What is {n} + {n}?,{2 * n}\n" for n in range(8)))
    assert "rows.csv" in run(saccade, "new", "rl", "--from", "rows.csv", "--model", "base", cwd=folder).stdout
    assert "safe to train" in run(saccade, "check", "rows.csv", cwd=folder).stdout
    small = ("num_steps=2", "prompts_per_step=2", "stages.0.max_new_tokens=8", "stages.0.group_size=2")
    run(saccade, "rl", "rows_rl.yaml", *small, "--out", "run", cwd=folder)
    assert len((folder / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    assert run(saccade, "report", "run", cwd=folder).stdout.strip() == "run/report.html"
    assert run(saccade, "plan", "rows_rl.yaml", cwd=folder).stdout
