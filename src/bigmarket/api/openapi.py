"""Describes v1 in the OpenAPI document: bodies, envelopes, and an example of every code a call can answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from bigmarket.api.errors import INFO

_REF = "#/components/schemas/{name}"

#: When a v1 call answers a code, for the document's readers.
WHEN: dict[str, str] = {
    "0000": "It worked.",
    "0001": "No such activity or strategy.",
    "0002": "A field is missing, blank, of the wrong type or not known; `info` names the field and the rule.",
    "0003": "The requestId was used for a draw in another activity.",
    "0006": "Too many draws are waiting (HTTP 503); nothing was spent.",
    "0008": "No valid server key (HTTP 401).",
    "ERR_BIZ_002": "The activity is not armed.",
    "ERR_BIZ_003": "The activity is not open.",
    "ERR_BIZ_004": "Now lies outside the activity's window.",
    "ERR_BIZ_006": "No draw left in the account, or no account.",
    "ERR_BIZ_007": "No draw left this month.",
    "ERR_BIZ_008": "No draw left today.",
}

_UNREADABLE = {
    "400": "The body is not JSON that every reader takes alike, or a query parameter is missing or no number.",
    "401": "The server has keys and the caller showed none of them.",
    "413": "The body is too large.",
    "415": "The body is not declared as JSON.",
}

_OUTCOME = "Trouble of the machinery: never a losing ticket. The header Bigmarket-Outcome says what was spent."


def operation(
    *,
    summary: str,
    data: Any,
    example: Any,
    codes: Sequence[str],
    body: type | None = None,
    body_example: Mapping[str, Any] | None = None,
    query: Mapping[str, str] | None = None,
    response_headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """An OpenAPI operation of v1. ``codes`` are those beside 0000 that it can answer with HTTP 200."""
    examples = {"0000": {"summary": WHEN["0000"], "value": _envelope("0000", example)}}
    examples |= {code: {"summary": WHEN[code], "value": _envelope(code, None)} for code in codes}
    ok: dict[str, Any] = _content(_envelope_schema(data), examples)
    if response_headers:
        ok["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in response_headers.items()
        }
    described: dict[str, Any] = {
        "tags": ["v1"],
        "summary": summary,
        "responses": {"200": {"description": "Every outcome of the business; `code` says which.", **ok}, **_faults()},
    }
    if body is not None:
        content = {"schema": {"$ref": _REF.format(name=body.__name__)}, "example": body_example}
        described["requestBody"] = {"required": True, "content": {"application/json": content}}
    if query:
        described["parameters"] = [
            {"name": name, "in": "query", "required": True, "description": text, "schema": _INT64}
            for name, text in query.items()
        ]
    return described


def components(kinds: Sequence[type]) -> dict[str, Any]:
    """JSON schemas of the Structs that bodies and answers are made of."""
    return msgspec.json.schema_components(kinds, ref_template=_REF)[1]


_INT64 = {"type": "integer", "format": "int64"}


def _faults() -> dict[str, Any]:
    fault = _envelope_schema(None)
    found = {status: {"description": text, **_content(fault, {})} for status, text in _UNREADABLE.items()}
    headers = {
        "Bigmarket-Outcome": {"schema": {"enum": ["none", "unknown"]}, "description": "Whether anything was spent."},
        "Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait before the next try."},
    }
    unavailable = _content(fault, {"0006": {"summary": WHEN["0006"], "value": _envelope("0006", None)}})
    return {**found, "503": {"description": _OUTCOME, "headers": headers, **unavailable}}


def _envelope(code: str, data: Any) -> dict[str, Any]:
    return {"code": code, "info": INFO[code], "data": data}


def _content(schema: Mapping[str, Any], examples: Mapping[str, Any]) -> dict[str, Any]:
    media = {"schema": schema, "examples": examples} if examples else {"schema": schema}
    return {"content": {"application/json": media}}


def _envelope_schema(data: Any) -> dict[str, Any]:
    inner: dict[str, Any] = {"type": "null"}
    if data is not None:
        (found,), _ = msgspec.json.schema_components([data], ref_template=_REF)
        inner = {"anyOf": [found, inner]}
    return {
        "type": "object",
        "required": ["code", "info", "data"],
        "properties": {"code": {"enum": list(INFO)}, "info": {"type": "string"}, "data": inner},
    }
