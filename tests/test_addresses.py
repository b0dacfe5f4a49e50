import pytest

from asana_webhooks._addresses import is_loopback, is_public


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "asana.localhost", "localhost."]
)
def test_this_machine_is_loopback_and_not_public(host: str) -> None:
    assert is_loopback(host)
    assert not is_public(host)


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.1",
        "192.168.1.1",
        "169.254.1.1",
        "fd00::1",
        "intranet",
        "nas.local",
        "nas.local.",
        "intranet.",
        ".",
        "",
    ],
)
def test_private_host_is_neither(host: str) -> None:
    assert not is_loopback(host)
    assert not is_public(host)


@pytest.mark.parametrize(
    "host", ["8.8.8.8", "2606:4700::1111", "hooks.example.com", "hooks.example.com."]
)
def test_other_host_may_be_public(host: str) -> None:
    assert not is_loopback(host)
    assert is_public(host)
