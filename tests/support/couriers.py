"""Couriers that post nowhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from terpd.model.ports import Posted


class SilentCourier:
    """Takes any address, and all that is posted is answered with 204."""

    async def check(self, url: str) -> None:
        pass

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Posted:
        return Posted(status=204)


@dataclass(frozen=True)
class Post:
    url: str
    body: bytes
    headers: Mapping[str, str]


@dataclass
class RecordingCourier(SilentCourier):
    """Keeps what is posted; `answer` says what comes of it, by default 204."""

    posts: list[Post] = field(default_factory=list)
    answer: Callable[[Post], Posted] = lambda _: Posted(status=204)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Posted:
        post = Post(url, body, dict(headers))
        self.posts.append(post)
        return self.answer(post)
