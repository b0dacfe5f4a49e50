"""A client for one test: its port is its own, and a synchronous test is told what to do."""

import socket

import pytest

from asana_webhooks import testing as module
from asana_webhooks.simulator import AsanaSimulator
from asana_webhooks.testing import local_client


async def test_port_is_kept_until_the_client_takes_it(asana: AsanaSimulator) -> None:
    with local_client(asana.base_url) as client:
        assert client.port
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", client.port))
        async with client:
            assert (await client.ensure(asana.project)).secret
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", client.port))


async def test_clients_of_one_test_have_ports_of_their_own(asana: AsanaSimulator) -> None:
    with local_client(asana.base_url) as one, local_client(asana.base_url) as other:
        async with one, other:
            assert one.port != other.port
            first, second = await one.ensure(asana.project), await other.ensure(asana.project)
    assert list(asana.webhooks) == [first.gid, second.gid]


async def test_port_is_free_where_ports_cannot_be_shared(
    asana: AsanaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CAN_SHARE", False)
    with local_client(asana.base_url) as client:
        async with client:
            assert (await client.ensure(asana.project)).secret


async def test_options_are_those_of_the_client(asana: AsanaSimulator, free_port: int) -> None:
    with local_client(asana.base_url, port=free_port, store="memory:") as client:
        async with client:
            await client.ensure(asana.project)
    (webhook,) = asana.webhooks.values()
    assert webhook.target.startswith(f"http://127.0.0.1:{free_port}/asana/")


async def test_client_with_port_0_has_a_free_one(asana: AsanaSimulator) -> None:
    with local_client(asana.base_url, port=0) as client:
        async with client:
            assert (await client.ensure(asana.project)).secret


async def test_client_with_a_token_of_its_own_is_another_app(asana: AsanaSimulator) -> None:
    with local_client(asana.base_url) as one, local_client(asana.base_url, token="else") as other:
        async with one, other:
            await one.ensure(asana.project)
            assert [each async for each in other.iter_webhooks(asana.workspace)] == []


def test_synchronous_test_is_told_what_to_do() -> None:
    with (
        local_client("http://127.0.0.1:9/api/1.0") as client,
        pytest.raises(TypeError, match="enter it with `async with`, in an async test"),
        client,
    ):
        pytest.fail("entered")
