"""Network policies, credentials, connections and previews on the wire."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, SecretStr

from terpd.api.respond import timestamp
from terpd.api.schemas.shape import AnswerBody, RequestBody
from terpd.control.credentials import CredentialRequest
from terpd.control.network import UNSET, NetworkChange
from terpd.model.network import EgressRecord, Traffic
from terpd.model.sandbox import Network, Sandbox

DecisionName = Literal["allowed", "reported", "blocked", "failed"]


class CredentialBody(RequestBody):
    """
    A secret that the sandbox uses without holding it: it has `placeholder`, and on the way to `hosts`, and to no other,
    the value is put in its place in `header`.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "OPENAI_API_KEY", "hosts": ["api.openai.com"], "value": "sk-…"}]  # no secret
        }
    )

    name: str = Field(description="1 to 64 of letters, digits, `_` and `-`")
    hosts: list[str] = Field(description="Exact names; 1 to 16")
    value: SecretStr = Field(description="Printable ASCII, 8 KiB at most. In the server's memory only")
    header: str = Field("authorization", description="The request header that carries it")
    placeholder: str | None = Field(None, description="Default: `terp-secret-` and the name in lower case")
    env: str | None = Field(
        None, description="Variable that holds the placeholder in the sandbox; default: the name. Empty: none"
    )

    def to_request(self) -> CredentialRequest:
        return CredentialRequest(
            name=self.name,
            hosts=self.hosts,
            value=self.value.get_secret_value(),
            header=self.header,
            placeholder=self.placeholder,
            env=self.env,
        )


class NetworkBody(RequestBody):
    """What is left out stays as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"allow_domains": ["example.com"]}]})

    network: Literal["restricted", "open"] | None = Field(
        None, description="Not for sandboxes whose network is `off`: they have no network device"
    )
    allow_domains: list[str] | None = Field(
        None, description="Replaces the list of `restricted`; null: the template's default list"
    )
    report_only: bool | None = Field(
        None, description="Let through, and report, what would be blocked for its name; not what its address forbids"
    )

    def to_change(self) -> NetworkChange:
        return NetworkChange(
            mode=None if self.network is None else Network(self.network),
            allow_domains=self.allow_domains if "allow_domains" in self.model_fields_set else UNSET,
            report_only=self.report_only,
        )


class NetworkAnswer(AnswerBody):
    network: Literal["off", "restricted", "open"]
    allow_domains: list[str] | None
    report_only: bool


class EgressBody(AnswerBody):
    """One connection when it was over, or one blocked question for a name."""

    id: str
    at: str
    protocol: Literal["tls", "http", "connect", "dns", "tcp"]
    name: str | None
    address: str | None = Field(description="What was dialled; null when nothing was")
    port: int
    decision: DecisionName
    reason: str
    bytes_out: int
    bytes_in: int
    duration_ms: int
    credential: str | None = Field(description="Name of the secret that was put in")


class TrafficBody(AnswerBody):
    bytes_out: int
    bytes_in: int
    connections: int
    blocked: int


class EgressPage(AnswerBody):
    connections: list[EgressBody]
    traffic: TrafficBody = Field(description="Since the sandbox was created, over pauses")
    next_cursor: str | None = Field(description="For the next page, with the same filters; null on the last one")


class HostBody(AnswerBody):
    host: str = Field(description="`<port>-<ulid>.<base>`, without a scheme")


def network_object(sandbox: Sandbox) -> dict[str, Any]:
    domains = sandbox.allow_domains
    return {
        "network": sandbox.network.value,
        "allow_domains": None if domains is None else list(domains),
        "report_only": sandbox.report_only,
    }


def egress_object(record: EgressRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "at": timestamp(record.at),
        "protocol": record.protocol.value,
        "name": record.name,
        "address": record.address,
        "port": record.port,
        "decision": record.decision.value,
        "reason": record.reason.value,
        "bytes_out": record.bytes_out,
        "bytes_in": record.bytes_in,
        "duration_ms": record.duration_ms,
        "credential": record.credential,
    }


def traffic_object(traffic: Traffic) -> dict[str, Any]:
    return {
        "bytes_out": traffic.bytes_out,
        "bytes_in": traffic.bytes_in,
        "connections": traffic.connections,
        "blocked": traffic.blocked,
    }
