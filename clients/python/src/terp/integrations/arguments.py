"""The arguments that a model gave a tool. What does not fit is told to it, and never reaches a sandbox."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from terp.errors import InvalidRequest


def parsed(text: str) -> object:
    """
    Return the arguments that came as JSON text.

    Raises:
        InvalidRequest: It is not JSON.
    """
    try:
        return json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The arguments are not JSON: {error}") from error


def checked(schema: Mapping[str, Any], arguments: object) -> Mapping[str, Any]:
    """
    Return all that *schema* names: what was given, else its default, else None. An optional null counts as not given.

    Raises:
        InvalidRequest: Something is missing, unknown, of another type or out of bounds; says what would do.
    """
    if not isinstance(arguments, Mapping):
        raise InvalidRequest("The arguments must be an object")
    properties: Mapping[str, Mapping[str, Any]] = schema["properties"]
    if unknown := [str(name)[:64] for name in arguments if name not in properties]:
        raise InvalidRequest(f"No such argument: {', '.join(unknown)}. There are {', '.join(properties)}")
    values = {}
    for name, wanted in properties.items():
        value = arguments.get(name)
        if value is None:
            if name in schema["required"]:
                raise InvalidRequest(f"{name} is missing: {wanted['description']}")
            value = wanted.get("default")
        elif not _fits(wanted, value):
            raise InvalidRequest(f"{name} must be {_described(wanted)}")
        values[name] = value
    return values


def _fits(wanted: Mapping[str, Any], value: object) -> bool:
    return _FITS[wanted["type"]](wanted, value)


def _is_integer(wanted: Mapping[str, Any], value: object) -> bool:
    if not isinstance(value, int) or isinstance(value, bool):  # a boolean is an int in Python alone
        return False
    return bool(wanted.get("minimum", value) <= value <= wanted.get("maximum", value))


def _is_array(wanted: Mapping[str, Any], value: object) -> bool:
    if not isinstance(value, list) or not wanted["minItems"] <= len(value) <= wanted["maxItems"]:
        return False
    return all(_fits(wanted["items"], each) for each in value)


def _is_object(_: Mapping[str, Any], value: object) -> bool:
    return isinstance(value, Mapping) and all(_is_text(each) for item in value.items() for each in item)


def _is_string(wanted: Mapping[str, Any], value: object) -> bool:
    return _is_text(value) and value in wanted.get("enum", [value])


def _is_text(value: object) -> bool:
    """Tell whether it is a string that can be sent: JSON may hold half a surrogate pair, UTF-8 cannot."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


_FITS: Mapping[str, Callable[[Mapping[str, Any], object], bool]] = {
    "array": _is_array,
    "boolean": lambda _, value: isinstance(value, bool),
    "integer": _is_integer,
    "object": _is_object,
    "string": _is_string,
}


def _described(wanted: Mapping[str, Any]) -> str:
    if "enum" in wanted:
        return "one of " + ", ".join(wanted["enum"])
    if wanted["type"] == "integer":
        upper = f" and at most {wanted['maximum']}" if "maximum" in wanted else ""
        return f"an integer of at least {wanted['minimum']}{upper}"
    if wanted["type"] == "array":
        return f"{wanted['minItems']} integers"
    return {"boolean": "a boolean", "object": "an object of strings"}.get(wanted["type"], "a string of Unicode text")
