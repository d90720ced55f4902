"""The HTTP API's reference, from its OpenAPI description."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

Json = Mapping[str, Any]

_REF = "#/components/schemas/"
_FORMATS = {"date-time": "time", "date": "date", "binary": "bytes"}
_WITHOUT_BODY = "NoBody"  # of calls that take none, and refuse any


def render(description: Json) -> str:
    """Return Markdown: a heading for each tag, below it each of its calls, and last what bodies are made of."""
    schemas = description["components"]["schemas"]
    usual = _usual_errors(description)
    by_tag: dict[str, list[str]] = {}
    for path, calls in description["paths"].items():
        for method, call in calls.items():
            by_tag.setdefault(call["tags"][0], []).append(_call(method, path, call, usual))
    lines = ["## Statuses\n", "What these mean unless a call says otherwise.\n", "| status | |\n|---|---|"]
    lines += [f"| {status} | {_cell(text)} |" for status, text in sorted(usual.items())]
    lines.append("")
    lines += [f"## {tag.capitalize()}\n\n" + "\n".join(calls) for tag, calls in by_tag.items()]
    lines.append("## Bodies\n")
    lines += [_schema(name, schema) for name, schema in sorted(schemas.items()) if name != _WITHOUT_BODY]
    return "\n".join(lines)


def _usual_errors(description: Json) -> Mapping[str, str]:
    """What each status means in most calls."""
    told: dict[str, Counter[str]] = {}
    for calls in description["paths"].values():
        for call in calls.values():
            for status, response in call["responses"].items():
                if status >= "400":
                    told.setdefault(status, Counter())[response["description"]] += 1
    return {status: texts.most_common(1)[0][0] for status, texts in told.items()}


def _call(method: str, path: str, call: Json, usual: Mapping[str, str]) -> str:
    parts = [f"### {call['summary']}\n", f"`{method.upper()} {path}`{'' if 'security' in call else ' (no key)'}\n"]
    if text := call.get("description"):
        parts.append(text + "\n")
    parts += _parameters([each for each in call.get("parameters", []) if each["in"] != "path"])
    for media, content in call.get("requestBody", {}).get("content", {}).items():
        if _WITHOUT_BODY not in str(content["schema"]):
            parts.append(f"Body: {_body(media, content)}\n")
    parts += _answers(call["responses"], usual)
    return "\n".join(parts)


def _parameters(parameters: list[Json]) -> Iterator[str]:
    if not parameters:
        return
    yield "| parameter | type | |\n|---|---|---|"
    for each in parameters:
        where = " (header)" if each["in"] == "header" else ""
        yield f"| `{each['name']}`{where} | {_type(each['schema'])} | {_said(each, required=each.get('required'))} |"
    yield ""


def _answers(responses: Json, usual: Mapping[str, str]) -> Iterator[str]:
    errors = []
    yield "| answer | |\n|---|---|"
    for status, response in sorted(responses.items()):
        text = response["description"]
        if text in {usual.get(status), "Validation Error"}:
            errors.append(status)
            continue
        body = "; ".join(
            _body(media, content)
            for media, content in response.get("content", {}).items()
            if not content.get("schema", {}).get("$ref", "").endswith(("ErrorBody", "HTTPValidationError"))
        )
        said = "" if text == "Successful Response" else _cell(text)
        yield f"| {status} | {'. '.join(filter(None, (body, said))) or 'Done; no body'} |"
    if errors:
        yield f"| {', '.join(errors)} | [as usual](#statuses) |"
    yield ""


def _body(media: str, content: Json) -> str:
    schema = content.get("schema", {})
    named = _type(schema) if schema else ""
    if media == "application/json":
        return named or "JSON"
    return f"`{media}`" + (f", {named}" if "$ref" in schema else "")


def _schema(name: str, schema: Json) -> str:
    required = set(schema.get("required", ()))
    lines = [f"### {name}\n"]
    if text := schema.get("description"):
        lines.append(text + "\n")
    lines.append("| field | type | |\n|---|---|---|")
    for field, value in schema.get("properties", {}).items():
        lines.append(f"| `{field}` | {_type(value)} | {_said(value, required=field in required)} |")
    return "\n".join([*lines, ""])


def _said(value: Json, *, required: bool | None) -> str:
    """What is known of a field besides its type."""
    schema = value.get("schema", value)
    told = [_cell(value.get("description", ""))]
    default = schema.get("default")
    if required:
        told.append("Required.")
    elif default not in (None, [], {}, ""):
        told.append(f"Default `{json.dumps(default)}`.")
    bounds = {"minimum": "≥", "maximum": "≤", "minLength": "length ≥", "maxLength": "length ≤", "maxItems": "items ≤"}
    told += [f"{sign} {schema[key]}." for key, sign in bounds.items() if key in schema]
    return " ".join(part if part.endswith(".") else f"{part}." for part in told if part)


def _type(schema: Json) -> str:  # noqa: PLR0911  one a form
    match schema:
        case {"$ref": ref}:
            name = ref.removeprefix(_REF)
            return f"[{name}](#{name.lower()})"
        case {"anyOf": several} | {"oneOf": several}:
            return " or ".join(_type(each) for each in several)
        case {"enum": values}:
            return ", ".join(f"`{value}`" for value in values)
        case {"const": value}:
            return f"`{value}`"
        case {"type": "array"}:
            return f"list of {_type(schema.get('items', {}))}"
        case {"type": "object", "additionalProperties": {} as values}:
            return f"object of {_type(values)}"
        case _:
            return str(_FORMATS.get(schema.get("format", ""), schema.get("type", "any")))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
