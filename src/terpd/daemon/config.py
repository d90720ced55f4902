"""
Settings: a TOML file, over it TERP_* variables, over them flags. Nothing else in the server reads an environment.

    host = "127.0.0.1"
    data_dir = "/var/lib/terp"
    memory_cap_mib = 16384

    [sizes.small]
    vcpus = 1
    memory_mib = 1024

    [[pool]]
    template = "python-3.12"
    size = "small"
    count = 2
    network = true

A variable is TERP_ and the setting's name in capitals; the pool is written `python-3.12/small=2,debian-12/small+net=1`
and sizes `small=1x1024,medium=2x4096` (vCPUs x MiB); lists of names or addresses have commas.
docs/settings.md says what each is for.
"""

from __future__ import annotations

import ipaddress
import os
import platform
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from terpd.control.policy import MIN_TIMEOUT_S, Policy
from terpd.daemon.default_domains import DEFAULT_DOMAINS
from terpd.egress.upstream import Upstream
from terpd.model.names import normalise, parse_entry
from terpd.model.sandbox import Size

PREFIX = "TERP_"

_NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
_DEFAULT_SIZES = {"small": (1, 1024), "medium": (2, 4096), "large": (4, 8192)}


_LISTS = ("resolvers", "allow_addresses", "default_domains")  # in variables with commas


def _address(text: str) -> str:
    return str(ipaddress.ip_address(text))


def _cidr(text: str) -> str:
    return str(ipaddress.ip_network(text))


def _listed_domain(text: str) -> str:
    name, plain = parse_entry(text)
    return f"http://{name}" if plain else name


class ConfigError(Exception):
    """A setting is wrong; the message names it, its source and what would do."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SizeConfig(_Frozen):
    vcpus: Annotated[int, Field(ge=1, le=64)]
    memory_mib: Annotated[int, Field(ge=128, le=1024 * 1024)]


class PoolConfig(_Frozen):
    """*count* machines of this template and size are kept warm: for sandboxes with a network, or for those without."""

    template: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    size: str
    count: Annotated[int, Field(ge=0, le=1000)]
    network: bool = False


def default_home() -> Path:
    """Where templates live if TERP_HOME does not say: the system's place for root, the user's own otherwise."""
    if os.geteuid() == 0:
        return Path("/var/lib/terp")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "terp"


class Config(_Frozen):
    """
    Every setting of `terpd serve`. Directories: `data_dir` holds the records and what sandboxes own, `home` the
    kernels, templates and snapshots, which several servers may share.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 7070
    data_dir: Path = Field(default_factory=lambda: default_home() / "data")
    home: Path = Field(default_factory=default_home)
    region: Annotated[str, Field(pattern=_NAME)] = "local"
    region_label: str = "This server"
    node_id: Annotated[str, Field(pattern=_NAME)] = Field(default_factory=lambda: _node_id(platform.node()))
    sizes: dict[Annotated[str, Field(pattern=_NAME)], SizeConfig] = Field(
        default_factory=lambda: {
            name: SizeConfig(vcpus=vcpus, memory_mib=mib) for name, (vcpus, mib) in _DEFAULT_SIZES.items()
        },
        min_length=1,
    )
    max_concurrent: Annotated[int, Field(ge=1)] = 100  # sandboxes of one tenant that are not final
    memory_cap_mib: Annotated[int, Field(ge=128)] | None = None  # None: the node derives it from the host
    machines_cap: Annotated[int, Field(ge=1)] = 256
    uid_first: Annotated[int, Field(ge=1)] = 800_000  # host uids of machines, one each: see node/jail/uids.py
    uid_count: Annotated[int, Field(ge=2)] = 65_536
    pool: tuple[PoolConfig, ...] = ()
    max_timeout_s: Annotated[int, Field(ge=MIN_TIMEOUT_S, le=30 * 86400)] = 86400
    max_running_lifetime_s: Annotated[int, Field(ge=MIN_TIMEOUT_S)] | None = None
    max_paused_s: Annotated[int, Field(ge=MIN_TIMEOUT_S)] | None = None
    max_snapshots: Annotated[int, Field(ge=0)] = 50
    max_named_snapshots: Annotated[int, Field(ge=0)] = 50
    max_fork: Annotated[int, Field(ge=1, le=1000)] = 32
    max_volumes: Annotated[int, Field(ge=0)] = 100  # of one tenant
    key_file: Path | None = None  # None: see `server_key_file`
    disk_reserve_mib: Annotated[int, Field(ge=0)] = 1024
    s3_bucket: Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{1,254}$")] | None = None  # None: local disk
    s3_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9!_.*'()/-]{0,255}$")] = "terp/"
    s3_endpoint: Annotated[str, Field(pattern=r"^https?://")] | None = None
    s3_region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")] | None = None
    artifact_cache_mib: Annotated[int, Field(ge=0)] = 20 * 1024
    # May hold a password, so it is not shown where settings are.
    upstream_proxy: Annotated[str, Field(pattern=r"^http://[^\s/]+/?$")] | None = Field(None, repr=False)
    resolvers: tuple[Annotated[str, AfterValidator(_address)], ...] = ()
    allow_addresses: tuple[Annotated[str, AfterValidator(_cidr)], ...] = ()
    default_domains: tuple[Annotated[str, AfterValidator(_listed_domain)], ...] = tuple(DEFAULT_DOMAINS)
    max_connections: Annotated[int, Field(ge=1, le=4096)] = 64  # of one sandbox at the same time
    network_pool: Annotated[int, Field(ge=0, le=256)] = 4  # namespaces that are made before they are needed
    egress_retention_days: Annotated[int, Field(ge=1, le=3650)] = 30
    preview_base: Annotated[str, AfterValidator(normalise)] = "localhost"
    public_url: Annotated[str, Field(pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$")] | None = None
    webhook_allow_private: bool = False
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"
    log_json: bool = True

    @model_validator(mode="after")
    def _sizes_are_known(self) -> Self:
        unknown = sorted({entry.size for entry in self.pool} - set(self.sizes))
        if unknown:
            raise ValueError(f"pool names sizes that are not among sizes: {', '.join(unknown)}")
        return self

    @property
    def database(self) -> Path:
        return self.data_dir / "terp.db"

    @property
    def artifacts(self) -> Path:
        """Saved states, or with S3 the local copies of them; on the file system of the machines' disks."""
        return self.data_dir / "artifacts"

    @property
    def server_key_file(self) -> Path:
        return self.key_file or self.data_dir / "keys" / "server.key"

    def policy(self) -> Policy:
        return Policy(
            region=self.region,
            region_label=self.region_label,
            sizes={name: Size(name, size.vcpus, size.memory_mib) for name, size in self.sizes.items()},
            max_concurrent=self.max_concurrent,
            max_timeout_s=self.max_timeout_s,
            max_snapshots=self.max_snapshots,
            max_named_snapshots=self.max_named_snapshots,
            max_fork=self.max_fork,
            max_volumes=self.max_volumes,
            max_running_lifetime_s=self.max_running_lifetime_s,
            max_paused_s=self.max_paused_s,
            default_domains=self.default_domains,
            preview_base=self.preview_base,
            public_url=None if self.public_url is None else self.public_url.rstrip("/"),
            egress_retention_days=self.egress_retention_days,
        )

    def upstream(self) -> Upstream:
        return Upstream(
            proxy=self.upstream_proxy,
            resolvers=self.resolvers,
            allow_addresses=self.allow_addresses,
            default_domains=self.default_domains,
            max_connections=self.max_connections,
        )

    def pool_targets(self) -> dict[tuple[str, str, bool], int]:
        """How many machines to keep warm of each (template, size, with a network)."""
        return {(entry.template, entry.size, entry.network): entry.count for entry in self.pool}


def load(
    *, file: Path | None = None, environ: Mapping[str, str] | None = None, flags: Mapping[str, object] | None = None
) -> Config:
    """
    Read the settings.

    Args:
        file: A TOML file, or None for none; one that is named must exist.
        environ: The environment by default.
        flags: From the command line; None as a value means that it was not given.

    Raises:
        ConfigError: A file cannot be read, or a setting is unknown or out of bounds.
    """
    settings: dict[str, Any] = {}
    if file is not None:
        settings |= _from_file(file)
    settings |= _from_environ(os.environ if environ is None else environ)
    settings |= {name: value for name, value in (flags or {}).items() if value is not None}
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "settings"
        raise ConfigError(f"The setting {name} is wrong: {first['msg']}") from error


def _from_file(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"The settings file cannot be read: {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"The settings file is not valid TOML: {file}: {error}") from error


def _from_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for variable, value in environ.items():
        name = variable.removeprefix(PREFIX).lower()
        # Clients on the same host have TERP_ variables of their own (TERP_API_KEY): not ours to judge.
        if not variable.startswith(PREFIX) or name not in Config.model_fields:
            continue
        match name:
            case "pool":
                found[name] = parse_pool(value)
            case "sizes":
                found[name] = _sizes(value)
            case _ if name in _LISTS:
                found[name] = [entry.strip() for entry in value.split(",") if entry.strip()]
            case _:
                found[name] = value
    return found


def parse_pool(text: str) -> list[dict[str, object]]:
    """Read `python-3.12/small=2,debian-12/small+net=1`. Raises ConfigError."""
    entries = re.findall(r"([^/,=]+)/([^/,=+]+)(\+net)?=(\d+)(?:,|$)", text)
    if text and ",".join(f"{t}/{s}{net}={n}" for t, s, net, n in entries) != text:
        raise ConfigError(f"TERP_POOL must look like python-3.12/small=2,debian-12/small+net=1, not: {text}")
    return [{"template": t, "size": s, "count": int(n), "network": bool(net)} for t, s, net, n in entries]


def _sizes(text: str) -> dict[str, dict[str, int]]:
    entries = re.findall(r"([^,=]+)=(\d+)x(\d+)(?:,|$)", text)
    if ",".join(f"{name}={vcpus}x{mib}" for name, vcpus, mib in entries) != text:
        raise ConfigError(f"TERP_SIZES must look like small=1x1024,medium=2x4096, not: {text}")
    return {name: {"vcpus": int(vcpus), "memory_mib": int(mib)} for name, vcpus, mib in entries}


def _node_id(hostname: str) -> str:
    """The host's name as an id; it must stay the same over restarts, since records carry it."""
    cleaned = re.sub(r"[^a-z0-9._-]", "-", hostname.lower()).lstrip("._-")[:64]
    return cleaned or "node"
