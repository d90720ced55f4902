"""Settings come from file, environment and flags, in that order, and are checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from terpd.daemon.config import ConfigError, load


def test_later_sources_win(tmp_path: Path) -> None:
    """Flags beat variables, variables beat the file, a flag that was not given beats nothing."""
    file = tmp_path / "terp.toml"
    file.write_text(
        'port = 1\nregion = "file"\nhost = "a"\n[[pool]]\ntemplate = "debian-12"\nsize = "small"\ncount = 2\n'
    )
    config = load(
        file=file,
        environ={"TERP_PORT": "2", "TERP_REGION": "env", "TERP_API_KEY": "x"},
        flags={"port": 3, "host": None},
    )
    assert (config.port, config.region, config.host) == (3, "env", "a")
    assert config.pool_targets() == {("debian-12", "small"): 2}


def test_lists_in_variables(tmp_path: Path) -> None:
    """Pools and sizes have a form of their own there."""
    config = load(
        environ={
            "TERP_DATA_DIR": str(tmp_path),
            "TERP_SIZES": "small=1x512,big=8x16384",
            "TERP_POOL": "python-3.12/small=2,debian-12/big=1",
        }
    )
    assert config.pool_targets() == {("python-3.12", "small"): 2, ("debian-12", "big"): 1}
    assert config.policy().sizes["big"].memory_mib == 16384
    assert config.database == tmp_path / "terp.db"


@pytest.mark.parametrize(
    ("environ", "word"),
    [
        ({"TERP_PORT": "70000"}, "port"),
        ({"TERP_POOL": "python"}, "TERP_POOL"),
        ({"TERP_POOL": "python/huge=1"}, "huge"),
        ({"TERP_SIZES": "small"}, "TERP_SIZES"),
        ({"TERP_MAX_TIMEOUT_S": "5"}, "max_timeout_s"),
        ({"TERP_LOG_LEVEL": "loud"}, "log_level"),
    ],
)
def test_wrong_settings_are_named(environ: dict[str, str], word: str) -> None:
    """The message says which setting it is."""
    with pytest.raises(ConfigError, match=word):
        load(environ=environ)


@pytest.mark.parametrize("text", ["port = ", "unknown_setting = 1"])
def test_wrong_files_are_refused(tmp_path: Path, text: str) -> None:
    """Broken TOML and unknown names; a named file must exist."""
    file = tmp_path / "terp.toml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        load(file=file, environ={})
    with pytest.raises(ConfigError, match="cannot be read"):
        load(file=tmp_path / "none.toml", environ={})
