"""Settings come from file, environment and flags, in that order, and are checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from terpd.daemon.config import ConfigError, load
from terpd.daemon.default_domains import DEFAULT_DOMAINS


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
    assert config.pool_targets() == {("debian-12", "small", False): 2}


def test_lists_in_variables(tmp_path: Path) -> None:
    """Pools and sizes have a form of their own there."""
    config = load(
        environ={
            "TERP_DATA_DIR": str(tmp_path),
            "TERP_SIZES": "small=1x512,big=8x16384",
            "TERP_POOL": "python-3.12/small=2,debian-12/big+net=1",
        }
    )
    assert config.pool_targets() == {("python-3.12", "small", False): 2, ("debian-12", "big", True): 1}
    assert config.policy().sizes["big"].memory_mib == 16384
    assert config.database == tmp_path / "terp.db"


def test_limits_reach_the_policy() -> None:
    """Of pauses, snapshots and forks; without a word there is no end to a paused time."""
    policy = load(
        environ={
            "TERP_MAX_SNAPSHOTS": "1",
            "TERP_MAX_NAMED_SNAPSHOTS": "2",
            "TERP_MAX_FORK": "3",
            "TERP_MAX_RUNNING_LIFETIME_S": "40",
        }
    ).policy()

    assert (policy.max_snapshots, policy.max_named_snapshots, policy.max_fork) == (1, 2, 3)
    assert (policy.max_running_lifetime_s, policy.max_paused_s) == (40, None)


def test_the_key_itself_is_no_setting(tmp_path: Path) -> None:
    """TERP_KEY is read elsewhere, so that nobody who prints settings prints it."""
    config = load(environ={"TERP_KEY": "c2VjcmV0", "TERP_DATA_DIR": str(tmp_path)})

    assert "c2VjcmV0" not in repr(config)
    assert load(environ={"TERP_DATA_DIR": str(tmp_path)}).server_key_file == tmp_path / "keys/server.key"
    assert load(environ={"TERP_KEY_FILE": "/run/key"}).server_key_file == Path("/run/key")


@pytest.mark.parametrize(
    ("environ", "word"),
    [
        ({"TERP_PORT": "70000"}, "port"),
        ({"TERP_POOL": "python"}, "TERP_POOL"),
        ({"TERP_POOL": "python/huge=1"}, "huge"),
        ({"TERP_SIZES": "small"}, "TERP_SIZES"),
        ({"TERP_MAX_TIMEOUT_S": "5"}, "max_timeout_s"),
        ({"TERP_LOG_LEVEL": "loud"}, "log_level"),
        ({"TERP_MAX_FORK": "0"}, "max_fork"),
        ({"TERP_MAX_SNAPSHOTS": "-1"}, "max_snapshots"),
        ({"TERP_MAX_PAUSED_S": "forever"}, "max_paused_s"),
        ({"TERP_S3_BUCKET": "a/b"}, "s3_bucket"),
        ({"TERP_S3_ENDPOINT": "minio:9000"}, "s3_endpoint"),
        ({"TERP_DISK_RESERVE_MIB": "-1"}, "disk_reserve_mib"),
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


def test_network_settings() -> None:
    """Lists in variables have commas; names and networks come in one form; the proxy's password is not shown."""
    config = load(
        environ={
            "TERP_UPSTREAM_PROXY": "http://user:hunter2@proxy.example:3128",
            "TERP_RESOLVERS": "192.0.2.53, 2001:DB8::53",
            "TERP_ALLOW_ADDRESSES": "10.1.0.0/16",
            "TERP_DEFAULT_DOMAINS": "Example.COM,http://mirror.example",
            "TERP_PREVIEW_BASE": "Previews.Example",
            "TERP_PUBLIC_URL": "https://terp.example/base/",
            "TERP_EGRESS_RETENTION_DAYS": "7",
        }
    )
    upstream, policy = config.upstream(), config.policy()
    assert upstream.proxy == "http://user:hunter2@proxy.example:3128"
    assert upstream.resolvers == ("192.0.2.53", "2001:db8::53")
    assert upstream.allow_addresses == ("10.1.0.0/16",)
    assert upstream.default_domains == policy.default_domains == ("example.com", "http://mirror.example")
    assert (policy.preview_base, policy.egress_retention_days) == ("previews.example", 7)
    assert policy.public_url == "https://terp.example/base"
    assert "hunter2" not in repr(config)
    assert load(environ={"TERP_DEFAULT_DOMAINS": ""}).policy().default_domains == ()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TERP_PUBLIC_URL", "terp.example"),
        ("TERP_PUBLIC_URL", "https://terp.example/?a"),
        ("TERP_UPSTREAM_PROXY", "https://proxy.example"),
        ("TERP_RESOLVERS", "dns.example"),
        ("TERP_ALLOW_ADDRESSES", "10.1.2.3/16"),
        ("TERP_DEFAULT_DOMAINS", "*.example.com"),
        ("TERP_DEFAULT_DOMAINS", "192.0.2.1"),
        ("TERP_PREVIEW_BASE", "https://x.example"),
        ("TERP_MAX_CONNECTIONS", "0"),
    ],
)
def test_network_settings_that_cannot_be(variable: str, value: str) -> None:
    """They are refused by name."""
    with pytest.raises(ConfigError, match=variable.removeprefix("TERP_").lower()):
        load(environ={variable: value})


def test_shipped_domains_are_in_the_form_that_lists_have() -> None:
    """So that what the settings show is what is compared."""
    assert load(environ={}).policy().default_domains == tuple(DEFAULT_DOMAINS)
