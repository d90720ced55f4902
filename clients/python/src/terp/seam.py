"""Where httpx ends: its exceptions become ours, so that none escapes, and its client is set up in one way."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator

import httpx

from terp.errors import BadReply, ConnectionFailed, InvalidRequest, RequestTimeout
from terp.protocol.settings import Settings

# Below the 5 s after which many servers, uvicorn among them, close an idle connection: a request sent into such a
# close is lost, and an exec cannot be sent twice.
IDLE_CONNECTION_S = 4.0
CONNECT_TIMEOUT_S = 10.0


@contextlib.contextmanager
def translated(settings: Settings) -> Iterator[None]:
    """
    Raises:
        ConnectionFailed, RequestTimeout, BadReply, InvalidRequest: In place of whatever httpx raises inside.
    """
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        failed = ConnectionFailed(f"No connection to {settings.base_url} ({_reason(error)}). Is terpd running there?")
        failed.sent = False
        raise failed from error
    except httpx.TimeoutException as error:
        raise RequestTimeout(f"{settings.base_url} was silent for too long; it may have done what was asked") from error
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.LocalProtocolError) as error:
        raise InvalidRequest(f"This request cannot be sent: {_reason(error)}") from error
    except httpx.DecodingError as error:
        raise BadReply(f"The reply of {settings.base_url} is damaged: {_reason(error)}") from error
    except (httpx.HTTPError, httpx.StreamError) as error:
        raise ConnectionFailed(f"The connection to {settings.base_url} broke ({_reason(error)})") from error


def timeouts(seconds: float) -> httpx.Timeout:
    """Each read and write may take *seconds*; the server sends a sign of life at least twice a minute."""
    return httpx.Timeout(seconds, connect=min(seconds, CONNECT_TIMEOUT_S), pool=None)


def limits() -> httpx.Limits:
    """No cap on connections: a hundred commands may stream at once."""
    return httpx.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=IDLE_CONNECTION_S)


def trust(settings: Settings) -> ssl.SSLContext | bool:
    """
    Whom to trust over TLS: the environment (`SSL_CERT_FILE`, `SSL_CERT_DIR`), else httpx' CAs.

    For a loopback address nobody: loading CAs takes longer than a request, and no TLS is spoken there.
    """
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if settings.is_loopback else True


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
