"""Whatever a call gives, the local Asana answers it, and never with an error of its own."""

import random
import re
from typing import Any

import httpx
from support.plain_http import NO_TLS

from asana_webhooks.simulator.app import OPERATIONS
from asana_webhooks.simulator.operations import DESCRIBED
from asana_webhooks.simulator.threaded import ThreadedSimulator, threaded_simulator

CALLS = 1_000
WORDS = (
    *(
        None,
        7,
        1.5,
        True,
        -1,
        10**30,
        "x",
        "",
        "me",
        "now",
        "true",
        "approved",
        "enum",
        "milestone",
    ),
    *("2026-12-24", "2026-12-24T18:00:00Z", "<body>x</body>", "on_track", "\N{GRINNING FACE}"),
)


class Caller:
    """Makes calls at random, the same ones each time."""

    def __init__(self, asana: ThreadedSimulator) -> None:
        self.dice = random.Random(1)  # noqa: S311 - chance, not a secret
        self.known: dict[str, list[str]] = {}
        for gid, record in asana.snapshot().items():
            self.known.setdefault(record["resource_type"], []).append(gid)
        self.gids = [gid for gids in self.known.values() for gid in gids]

    def value(self, depth: int = 0) -> Any:
        """Return a gid, a word, or a list or an object of such."""
        kind = self.dice.random()
        if kind < 0.4:
            return self.dice.choice(self.gids)
        if kind < 0.8 or depth == 2:
            return self.dice.choice(WORDS)
        if kind < 0.9:
            return [self.value(depth + 1) for _ in range(self.dice.randrange(3))]
        return {self.dice.choice(self.gids): self.value(depth + 1)}

    def call(self) -> tuple[str, str, dict[str, Any], dict[str, Any]]:
        """Return the method, the path, the fields and the parameters of a call."""
        name = self.dice.choice(sorted(OPERATIONS))
        described, operation = DESCRIBED[name], OPERATIONS[name]
        given = {each: self.value() for each in operation.takes if self.dice.random() < 0.3}
        params: dict[str, Any] = {}
        if operation.shows is not None and self.dice.random() < 0.3:
            shown = self.dice.choice([*operation.shows.fields])
            params["opt_fields"] = self.dice.choice(
                [shown, f"{shown}.name", f"({shown}|x).a.b", "(("]
            )
        path = re.sub(r"{(\w+)_gid}", lambda found: self.gid(found[1]), described.path)
        return described.method, path, given, params

    def gid(self, kind: str) -> str:
        gids = self.known.get(kind, self.gids)
        return self.dice.choice([*gids, "me", "0"])


def test_no_call_is_answered_with_an_error_of_the_local_asana() -> None:
    headers = {"Authorization": "Bearer any"}
    statuses: dict[int, int] = {}
    with (
        threaded_simulator(system_stories=True) as asana,
        httpx.Client(base_url=asana.base_url, headers=headers, verify=NO_TLS, timeout=30) as http,
    ):
        asana.run(asana.seed({"tags": [{"name": "a"}], "portfolios": [{"name": "b"}]}))
        caller = Caller(asana)
        for _ in range(CALLS):
            method, path, given, params = caller.call()
            if method == "GET":
                params |= {name: str(value) for name, value in given.items()}
            body = {"data": given} if method in ("POST", "PUT") else None
            response = http.request(method, path, json=body, params=params)
            assert response.status_code in (200, 201, 400, 403, 404), (method, path, given, params)
            statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
    assert statuses[200] > CALLS / 20
