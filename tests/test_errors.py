import copy
import pickle
import re
import traceback
from collections.abc import Callable

import pytest

from asana_webhooks import errors
from asana_webhooks.errors import (
    ApiError,
    AsanaWebhooksError,
    AuthenticationError,
    BadRequestError,
    ConnectionFailedError,
    DecodeError,
    DuplicateWebhookError,
    HandshakeMismatchError,
    HandshakeMissingError,
    LoginRequiredError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
    SignatureError,
    StoreError,
)
from asana_webhooks.models import decode_event, split_events
from asana_webhooks.signature import sign, verify_signature

SECRET = "b537207f20cbfa02357cf448134da559e8bd39d61597dcd5631b8012eae53e81"
BODY = b'{"events":"the body of a delivery"}'
NO_HANDSHAKE = "The remote server did not respond with the handshake secret."


def drawn_tree() -> dict[str, str]:
    """Return the parent of each class in the drawing of the module's docstring."""
    parents: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        node = re.match(r"(?P<branch>    [│├└─ ]*)(?P<name>[A-Z]\w+Error)\b", line)
        if node is None:
            continue
        depth = len(node["branch"])
        while path and path[-1][0] >= depth:
            path.pop()
        parents[node["name"]] = path[-1][1] if path else "Exception"
        path.append((depth, node["name"]))
    return parents


def classes() -> list[type[BaseException]]:
    found = [value for value in vars(errors).values() if isinstance(value, type)]
    return [cls for cls in found if issubclass(cls, BaseException)]


def test_the_drawn_tree_is_the_tree_of_the_classes() -> None:
    assert drawn_tree() == {cls.__name__: cls.__mro__[1].__name__ for cls in classes()}


def test_every_error_is_public_and_has_the_base_error() -> None:
    assert sorted(errors.__all__) == sorted(cls.__name__ for cls in classes())
    assert all(issubclass(cls, AsanaWebhooksError) for cls in classes())


def test_every_error_says_what_it_means() -> None:
    assert all(cls.__doc__ for cls in classes())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        pytest.param(
            ApiError(402, ("Payment Required",)),
            "Asana answered 402: Payment Required",
            id="without a hint",
        ),
        pytest.param(
            AuthenticationError(401, ("Not Authorized",)),
            "Asana answered 401: Not Authorized"
            " (check the access token, or make a new one in Asana's developer console)",
            id="with a hint",
        ),
        pytest.param(
            PermissionDeniedError(403, ("Forbidden", "Not yours")),
            "Asana answered 403: Forbidden; Not yours"
            " (check the token's scopes and its user's access to the resource)",
            id="several messages",
        ),
        pytest.param(
            LoginRequiredError(401, ("nobody is logged in",)),
            "nobody is logged in (log in again)",
            id="not of Asana",
        ),
        pytest.param(LoginRequiredError(400), "the access is over (log in again)", id="no reason"),
        pytest.param(
            ServerError(502),
            "Asana answered 502: no explanation in the body (try again later)",
            id="nothing said",
        ),
        pytest.param(
            ServerError(500, ("Server Error",), help="support", phrase="6 sad squid"),
            "Asana answered 500: Server Error [phrase: 6 sad squid] (try again later)",
            id="with a phrase",
        ),
    ],
)
def test_message_holds_status_and_asanas_words_and_the_next_step(
    error: ApiError, message: str
) -> None:
    assert str(error) == message


@pytest.mark.parametrize(
    "cls",
    [
        AuthenticationError,
        BadRequestError,
        DuplicateWebhookError,
        LoginRequiredError,
        NotFoundError,
        PermissionDeniedError,
        RateLimitedError,
        ServerError,
    ],
)
def test_refusal_that_the_caller_can_do_something_about_says_what(cls: type[ApiError]) -> None:
    assert cls.hint
    assert str(cls(400)).endswith(f"({cls.hint})")


def test_fields_hold_what_asana_sent() -> None:
    error = ServerError(500, ("Server Error",), help="support", phrase="6 sad squid")
    assert (error.status, error.errors) == (500, ("Server Error",))
    assert (error.help, error.phrase) == ("support", "6 sad squid")


def test_fields_are_empty_when_asana_sent_nothing() -> None:
    error = ApiError(404)
    assert (error.errors, error.help, error.phrase) == ((), None, None)
    assert RateLimitedError(429).retry_after is None


def rate_limited() -> ApiError:
    error = RateLimitedError(429, ("slow",), help="support", phrase="6 sad squid")
    error.retry_after = 30.0
    error.add_note("while listing webhooks")
    return error


@pytest.mark.parametrize("copied", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])  # noqa: S301 - our own bytes
@pytest.mark.parametrize(
    "error",
    [
        pytest.param(rate_limited(), id="a refusal with every field"),
        pytest.param(NotFoundError(404), id="a refusal without words"),
        pytest.param(
            HandshakeMissingError("no handshake", asana=("400",), seen=("one",)), id="handshake"
        ),
        pytest.param(HandshakeMismatchError("two secrets"), id="mismatch"),
        pytest.param(ConnectionFailedError("no answer"), id="connection"),
        pytest.param(StoreError("full"), id="store"),
    ],
)
def test_copy_of_an_error_keeps_its_fields(
    error: Exception, copied: Callable[[Exception], Exception]
) -> None:
    twin = copied(error)
    assert type(twin) is type(error)
    assert twin.args == error.args
    assert vars(twin) == vars(error)
    assert str(twin) == str(error)


def test_missing_handshake_says_what_both_sides_saw() -> None:
    error = HandshakeMissingError("check the tunnel", asana=(NO_HANDSHAKE,), seen=("one",))
    assert (error.asana, error.seen) == ((NO_HANDSHAKE,), ("one",))
    assert str(error) == "check the tunnel"
    assert HandshakeMissingError("nothing came").seen == ()


@pytest.mark.parametrize(
    ("fail", "cls"),
    [
        pytest.param(
            lambda: verify_signature(BODY, sign(b"", SECRET), SECRET), SignatureError, id="wrong"
        ),
        pytest.param(
            lambda: verify_signature(BODY, "sha256=" + sign(BODY, SECRET), SECRET),
            SignatureError,
            id="malformed",
        ),
        pytest.param(lambda: split_events(BODY), DecodeError, id="not a delivery"),
        pytest.param(lambda: split_events(BODY + b"\xff"), DecodeError, id="not UTF-8"),
        pytest.param(lambda: split_events(BODY[:-3]), DecodeError, id="truncated"),
        pytest.param(lambda: decode_event(BODY), DecodeError, id="not an event"),
    ],
)
def test_report_of_an_error_shows_no_secret_signature_or_body(
    fail: Callable[[], object], cls: type[Exception]
) -> None:
    with pytest.raises(cls) as caught:
        fail()
    report = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    for hidden in (SECRET, sign(BODY, SECRET), sign(b"", SECRET), "the body of a delivery"):
        assert hidden not in report
