"""Variables of commands to come, on the wire: their names come back, their values never do."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from terpd.api.schemas.shape import AnswerBody, RequestBody


class EnvChangeBody(RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"set": {"TOKEN": "…"}, "unset": ["OLD_TOKEN"]}]})

    to_set: dict[str, str] = Field({}, alias="set", description="256 variables and 64 KiB in all at most")
    to_unset: list[str] = Field([], alias="unset", description="Names; unknown ones are fine")


class EnvNamesBody(AnswerBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"names": ["TOKEN"]}]})

    names: list[str] = Field(description="Sorted")
