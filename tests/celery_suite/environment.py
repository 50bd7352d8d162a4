"""Where Celery's own tests run: the source of the installed version, and a Python of their own."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import celery

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "celery-suite"
VERSION = str(celery.__version__)
SOURCE = FOLDER / f"celery-{VERSION}"
PYTHON = FOLDER / "venv" / "bin" / "python"

TOOLS = (
    "pytest", "pytest-celery", "pytest-click", "pytest-order", "pytest-subtests", "pytest-timeout",
    "cryptography", "fakeredis[lua]", "freezegun", "msgpack", "pydantic", "pyyaml", "tblib",
)  # fmt: skip
"""Packages that Celery's tests need. Tests of backends that no governor meets (S3, MongoDB, …) fail
plain and governed alike."""


def prepare() -> None:
    """Fetch the source and install the tools, once for each version of Celery.

    Raises:
        subprocess.CalledProcessError: pip said no.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not SOURCE.exists():
        _fetch_source()
    stamp = FOLDER / "installed"
    if not stamp.exists() or stamp.read_text() != VERSION:
        _install()
        stamp.write_text(VERSION)


def _fetch_source() -> None:
    _pip(sys.executable, "download", "--no-binary", ":all:", "--no-deps", f"celery=={VERSION}",
         "--dest", str(FOLDER))  # fmt: skip
    # The tests alone: with its package beside them, they would test that instead of what is
    # installed.
    with tarfile.open(FOLDER / f"celery-{VERSION}.tar.gz") as archive:
        members = [m for m in archive if not m.name.startswith(f"celery-{VERSION}/celery")]
        archive.extractall(FOLDER, members, filter="data")


def _install() -> None:
    """Make an environment with the versions that are installed here, and the tools."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(PYTHON.parents[1])], check=True)
    freeze = [sys.executable, "-m", "pip", "freeze", "--exclude-editable"]
    constraints = FOLDER / "constraints.txt"
    constraints.write_text(
        subprocess.run(freeze, check=True, capture_output=True, text=True).stdout
    )
    _pip(str(PYTHON), "install", "--constraint", str(constraints),
         "--editable", f"{ROOT}[embedded]", *TOOLS)  # fmt: skip


def _pip(python: str, *arguments: str) -> None:
    subprocess.run(
        [python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True
    )
