"""What `terpd state` says when it cannot do it: a sentence, and exit code 1."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from terpd.daemon.data_dir import only_one
from terpd.daemon.state_command import app

ID = "sbx_01J00000000000000000000000"


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    monkeypatch.setenv("TERP_DATA_DIR", str(tmp_path / "data"))
    return CliRunner()


def test_there_is_no_server(cli: CliRunner, tmp_path: Path) -> None:
    """No database is made where none was."""
    result = cli.invoke(app, ["export", ID, str(tmp_path / "usb")])

    assert result.exit_code == 1
    assert "No server has its data here" in result.stderr
    assert not (tmp_path / "data").exists()


def test_the_server_runs(cli: CliRunner, tmp_path: Path) -> None:
    """An import would be collected by it before it is recorded."""
    with only_one(tmp_path / "data"):
        result = cli.invoke(app, ["import", str(tmp_path / "usb")])

    assert result.exit_code == 1
    assert "stop it" in result.stderr


@pytest.mark.parametrize("command", ["export", "import"])
def test_help_says_what_is_needed(cli: CliRunner, command: str) -> None:
    result = cli.invoke(app, [command, "--help"])

    assert result.exit_code == 0
    said = " ".join(result.stdout.split())  # however wide the terminal is
    assert "server key that wrapped" in said
    assert f"Example: terpd state {command}" in said
