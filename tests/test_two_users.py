"""Programs with tokens of two users on one store: neither takes what is the other's."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import until

from asana_webhooks import EstablishmentError, WebhooksClient
from asana_webhooks.simulator import AsanaSimulator
from asana_webhooks.stores import Store
from asana_webhooks.testing import advance

MakeStore = Callable[[], Store]


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("valkey", marks=pytest.mark.servers),
        pytest.param("postgres", marks=pytest.mark.servers),
    ]
)
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    """Return what opens one store again and again."""
    from support.replicas import shared_place_of  # it loads the servers

    return shared_place_of(request.param, tmp_path).store


def has_cause(client: WebhooksClient) -> bool:
    """Return whether a client knows why the first webhook that it keeps is not there."""
    return bool(client._configured().accounts.get("").desired._pending()[0].cause)


async def test_token_of_another_user_takes_no_webhook_of_a_store_whatever_it_tries(
    asana: AsanaSimulator, make_store: MakeStore, free_port: int
) -> None:
    ours = await asana.add_user("ours", token="token-of-ours")
    theirs = await asana.add_user("theirs", token="token-of-theirs")
    shared = await asana.create_project("shared", user=ours, members=[theirs])
    own = await asana.create_project("own", user=theirs, members=[])
    options: dict[str, Any] = {
        "public_url": f"http://127.0.0.1:{free_port}/hooks",
        "base_url": asana.base_url,
        "reconcile": None,
    }
    store = make_store()
    first = WebhooksClient("token-of-ours", port=free_port, store=store, **options)
    seen: list[str] = []

    @first.on("task", action="added")
    async def note(event: Any) -> None:
        seen.append(event.resource.gid)

    first.keep(shared)
    async with first.running():
        await first.kept()
        (webhook,) = asana.webhooks
        for _ in range(2):  # the second time as a process that starts anew
            second = WebhooksClient("token-of-theirs", serve=False, store=make_store(), **options)
            second.keep(shared)
            async with second:
                await until(partial(has_cause, second))
                with pytest.raises(TimeoutError, match=f"is user {ours}'s"):
                    await second.kept(timeout=0.01)
                for attempt in (second.ensure(shared), second.leave(shared)):
                    with pytest.raises(EstablishmentError, match=f"is user {ours}'s"):
                        await attempt
                await second.ensure(own)
                await second.prune()
                await advance(asana, 1000, client=second)
                await second.leave(own)
        assert set(asana.webhooks) == {webhook}
        (route,) = await store.list_routes()
        assert (route.gid, route.state, route.leaving, route.user) == (
            *(webhook, "confirmed", False, ours),
        )
        task = await asana.create_task("Fix it", project=shared)
        await until(lambda: task in seen)
