"""Batches: up to ten calls in one, carried out in their order.

Source: https://developers.asana.com/reference/createbatchrequest
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from ..call import ApiCall, Operation
from ..input import Inputs, names_of_fields
from ..responses import Refused, answer

__all__ = ["Action", "BatchCalls"]

MOST = 10


class Action(msgspec.Struct):
    """One call of a batch; ``relative_path`` is below the API."""

    relative_path: str
    method: str
    data: dict[str, Any] = {}
    options: dict[str, Any] = {}

    @property
    def inputs(self) -> Inputs:
        """The inputs of the call."""
        fields = self.options.get("fields") or []
        names = fields if isinstance(fields, str) else ",".join(map(str, fields))
        return Inputs(self.data, names_of_fields(names))


Dispatch = Callable[[ApiCall, Action], Awaitable[web.Response]]
"""Carries out an action as a call of whoever makes the batch; raises Refused as that would."""


class BatchCalls:
    """Answers batches, whose actions ``dispatch`` carries out."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch

    def operations(self) -> Mapping[str, Operation]:
        """Return what is served, by the names of Asana's operations."""
        return {"createBatchRequest": Operation(self.answer, ["actions"])}

    async def answer(self, call: ApiCall) -> web.Response:
        """Carry out all actions, and show what each was answered."""
        try:
            actions = msgspec.convert(call.given.get("actions"), list[Action])
        except msgspec.ValidationError as error:
            raise Refused(400, f"actions: {error}") from None
        if not 1 <= len(actions) <= MOST:
            raise Refused(400, f"actions: There must be between 1 and {MOST} actions")
        return answer({"data": [await self._result(call, action) for action in actions]})

    async def _result(self, call: ApiCall, action: Action) -> dict[str, Any]:
        try:
            response = await self._dispatch(call, action)
        except Refused as refusal:
            response = refusal.answer()
        body = response.body
        assert isinstance(body, bytes)  # noqa: S101 - the API answers with JSON only
        headers = {
            name: response.headers[name] for name in ("Location",) if name in response.headers
        }
        return {
            "status_code": response.status,
            "headers": {name.lower(): value for name, value in headers.items()},
            "body": msgspec.json.decode(body),
        }
