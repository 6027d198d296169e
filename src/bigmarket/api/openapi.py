"""Describes v1 in the OpenAPI document: bodies, envelopes, and an example of every code a call can answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from inspect import cleandoc
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
    "0004": "Draws are switched off for now; nothing was spent.",
    "0005": "The user or the address calls too often; nothing was spent. Retry-After says when the next may come.",
    "0006": "Too many requests are waiting (HTTP 503); nothing was spent.",
    "0008": "No valid server key, or app token (HTTP 401); or no user's business (HTTP 403).",
    "0009": "No valid user token (HTTP 401); or another user's (HTTP 403).",
    "ERR_BIZ_002": "The activity is not armed.",
    "ERR_BIZ_003": "The activity is not open.",
    "ERR_BIZ_004": "Now lies outside the activity's window.",
    "ERR_BIZ_005": "The sku is sold out.",
    "ERR_BIZ_006": "No draw left in the account, or no account.",
    "ERR_BIZ_007": "No draw left this month.",
    "ERR_BIZ_008": "No draw left today.",
    "ERR_CREDIT_001": "Not enough credits.",
}

_UNREADABLE = {
    "400": "The body is not JSON that every reader takes alike, or a query parameter is missing or no number.",
    "401": "No valid server key (0008), or no valid user token (0009).",
    "403": "The user's token does not open this (0008), or it is another user's (0009).",
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
    description: str | None = None,
    body: type | None = None,
    body_example: Mapping[str, Any] | None = None,
    query: type | None = None,
    when: Mapping[str, str] | None = None,
    by_token: bool = False,
    response_headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """An OpenAPI operation of v1. ``codes`` are those beside 0000 that it can answer with HTTP 200.

    ``query`` is a Struct whose fields are query parameters; ``when`` says of a code what it means here; ``by_token``
    that the caller shows a user's token.
    """
    texts = {**WHEN, **(when or {})}
    examples = {"0000": {"summary": texts["0000"], "value": _envelope("0000", example)}}
    examples |= {code: {"summary": texts[code], "value": _envelope(code, None)} for code in codes}
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
    if query is not None:
        described["parameters"] = list(_parameters(query))
    if description is not None:
        described["description"] = cleandoc(description)
    if by_token:
        described["security"] = [{"userToken": []}]
    return described


def components(kinds: Sequence[type]) -> dict[str, Any]:
    """JSON schemas of the Structs that bodies and answers are made of."""
    return msgspec.json.schema_components(kinds, ref_template=_REF)[1]


def _parameters(query: type) -> Iterator[dict[str, Any]]:
    """The fields of a Struct as query parameters."""
    ((_,), defined) = msgspec.json.schema_components([query], ref_template=_REF)
    schema = defined[query.__name__]
    for name, field in schema["properties"].items():
        found = {"name": name, "in": "query", "required": name in schema["required"]}
        text = {"description": field["description"]} if "description" in field else {}
        yield {**found, **text, "schema": {key: value for key, value in field.items() if key != "description"}}


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
