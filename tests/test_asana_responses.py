import pickle
import socket
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import aiohttp
import httpx
import msgspec
import pytest
from aiohttp.client_reqrep import ConnectionKey
from hypothesis import given
from hypothesis import strategies as st

from asana_webhooks._asana_responses import (
    MAX_RETRY_AFTER,
    StaleSyncError,
    accept,
    decode_created,
    decode_events,
    decode_nothing,
    decode_webhook,
    decode_webhooks,
    decode_workspaces,
    is_untrusted,
    parse_retry_after,
    unanswered,
)
from asana_webhooks.errors import (
    ApiError,
    AuthenticationError,
    BadRequestError,
    DecodeError,
    DuplicateWebhookError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
)
from asana_webhooks.models import Resource, WebhookFilter

HELP = (
    "For more information on API status codes and how to handle them, read the docs on errors:"
    " https://developers.asana.com/docs/errors"
)
NO_HANDSHAKE = (
    "The remote server which is intended to receive the webhook did not respond with the"
    " handshake secret."
)
DUPLICATE = (
    "You already have an existing webhook for the given resource and target. Delete the old one"
    " before creating another."
)
SECRET = "b537207f20cbfa02357cf448134da559e8bd39d61597dcd5631b8012eae53e81"
CREATED_2021 = (
    b'{"data":{"gid":"1200000000000001","resource_type":"webhook","resource":{"gid":'
    b'"1100000000000001","resource_type":"workspace","name":"example.com"},"target":'
    b'"https://hooks.example.com/asana/projects","active":true,"created_at":'
    b'"2021-08-31T14:03:07.687Z","last_failure_at":null,"last_failure_content":"",'
    b'"last_success_at":"2021-08-31T14:03:09.022Z","filters":[{"resource_type":"project",'
    b'"resource_subtype":null,"action":"added","fields":null}]}}'
)


def said(*messages: str, **more: str) -> bytes:
    return msgspec.json.encode({"errors": [{"message": text, **more} for text in messages]})


def refusal(status: int, body: bytes = b"", retry_after: str | None = None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        accept(status, retry_after, body)
    return caught.value


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_success_gives_the_body(status: int) -> None:
    assert accept(status, None, b"{}") == b"{}"


def test_success_without_a_readable_body_is_not_asanas() -> None:
    with pytest.raises(DecodeError, match="too large or badly compressed"):
        accept(200, None, None)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (199, ApiError),
        (301, ApiError),
        (400, BadRequestError),
        (401, AuthenticationError),
        (402, ApiError),
        (403, PermissionDeniedError),
        (404, NotFoundError),
        (412, StaleSyncError),
        (418, ApiError),
        (429, RateLimitedError),
        (451, ApiError),
        (500, ServerError),
        (502, ServerError),
        (503, ServerError),
        (504, ServerError),
        (599, ServerError),
        (600, ApiError),
    ],
)
def test_each_status_has_its_error(status: int, expected: type[ApiError]) -> None:
    error = refusal(status, said("no", help=HELP))
    assert type(error) is expected
    assert (error.status, error.errors, error.help) == (status, ("no",), HELP)
    assert str(status) in str(error)


def test_unanswered_handshake_is_told_in_asanas_words() -> None:
    error = refusal(400, said(NO_HANDSHAKE, help=HELP))
    assert error.errors == (NO_HANDSHAKE,)
    assert (error.help, error.phrase) == (HELP, None)
    assert NO_HANDSHAKE in str(error)


@pytest.mark.parametrize("text", [DUPLICATE, DUPLICATE.upper()], ids=["as seen", "upper case"])
def test_duplicate_is_known_by_its_wording(text: str) -> None:
    assert type(refusal(403, said("first of two", text))) is DuplicateWebhookError


def test_wording_of_a_duplicate_counts_only_with_its_status() -> None:
    assert type(refusal(400, said(DUPLICATE))) is BadRequestError


def test_phrase_for_the_support_is_kept() -> None:
    error = refusal(500, said("Server Error", phrase="6 sad squid snuggle softly"))
    assert error.phrase == "6 sad squid snuggle softly"
    assert "6 sad squid" in str(error)


@pytest.mark.parametrize("status", [400, 404])
def test_refusal_without_an_explanation_is_not_taken_for_asanas(status: int) -> None:
    assert "check that base_url ends in /api/1.0" in str(refusal(status, b"<html>"))
    assert "base_url" not in str(refusal(status, said("no")))


def test_redirect_says_that_it_is_not_followed() -> None:
    assert "redirects are not followed" in str(refusal(302))
    assert "redirects" in str(pickle.loads(pickle.dumps(refusal(302))))  # noqa: S301 - our own


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"<html>token-in-a-page</html>", id="html"),
        pytest.param(b"", id="empty"),
        pytest.param(b'{"errors":[{"message":"token-', id="truncated"),
        pytest.param(b'{"errors":[{"message":"\xfftoken-in-a-page"}]}', id="not utf-8"),
        pytest.param(b"[" * 200_000, id="nested"),
        pytest.param(b'["token-in-a-page"]', id="list"),
        pytest.param(b'{"errors":"token-in-a-page"}', id="text for errors"),
        pytest.param(b'{"errors":["token-in-a-page",null]}', id="no objects"),
        pytest.param(b'{"errors":[{"message":{"token-in-a-page":1}}]}', id="no text"),
        pytest.param(b'{"errors":[{"message":""}]}', id="empty text"),
        pytest.param(b'{"error":"token-in-a-page"}', id="other key"),
    ],
)
def test_body_of_another_shape_leaves_the_error_without_words(body: bytes) -> None:
    error = refusal(502, body)
    assert type(error) is ServerError
    assert (error.errors, error.help, error.phrase) == ((), None, None)
    assert "token-" not in f"{error} {error!r}"


def test_what_is_readable_of_a_half_broken_body_is_kept() -> None:
    body = b'{"errors":[7,{"message":"one"},{"help":"read"},{"message":"two","phrase":5}]}'
    error = refusal(400, body)
    assert (error.errors, error.help, error.phrase) == (("one", "two"), "read", None)


def test_what_a_server_says_is_cut_and_stays_on_one_line() -> None:
    error = refusal(400, said("a\r\nb\x1b[2J\x00" + "x" * 5000, *["more"] * 50))
    assert error.errors[0].startswith("a  b [2J xxx")
    assert len(error.errors[0]) == 1000
    assert len(error.errors) == 10
    assert "\n" not in str(error)


def test_words_in_any_script_are_kept() -> None:
    assert refusal(400, said("Ungültig: プロジェクト")).errors == ("Ungültig: プロジェクト",)


@given(status=st.integers(300, 999), body=st.binary(), wait=st.none() | st.text())
def test_any_refusal_is_an_api_error(status: int, body: bytes, wait: str | None) -> None:
    assert refusal(status, body, wait).status == status


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        pytest.param(None, None, id="absent"),
        pytest.param("", None, id="empty"),
        pytest.param("30", 30.0, id="seconds"),
        pytest.param(" 1.5 ", 1.5, id="fraction"),
        pytest.param("0", 0.0, id="zero"),
        pytest.param("-5", 0.0, id="negative"),
        pytest.param("86400", MAX_RETRY_AFTER, id="a day"),
        pytest.param("9" * 5000, MAX_RETRY_AFTER, id="absurd"),
        pytest.param("soon", None, id="word"),
        pytest.param("nan", None, id="nan"),
        pytest.param("inf", None, id="inf"),
        pytest.param("1e3", None, id="exponent"),
        pytest.param("٣", None, id="digit of another script"),
        pytest.param("5, 10", None, id="two headers"),
        pytest.param("Fri, 31 Dec 1999 23:59:59 GMT", 0.0, id="past date"),
        pytest.param("Fri, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_AFTER, id="far date"),
        pytest.param("Fri, 31 Dec 9999 23:59:59 -0000", MAX_RETRY_AFTER, id="date without zone"),
        pytest.param("Fri, 99 Dec 1999 23:59:59 GMT", None, id="no such day"),
        pytest.param("Fri, 31 Dec 1999 23:59:59 +99999999999999", None, id="no such zone"),
    ],
)
def test_retry_after_is_read_leniently_and_capped(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value) == seconds


def test_retry_after_as_a_date_is_the_time_until_then() -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert parse_retry_after(at) == pytest.approx(100, abs=5)


@given(st.text())
def test_any_retry_after_is_none_or_bounded(value: str) -> None:
    seconds = parse_retry_after(value)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER


def test_rate_limit_carries_its_wait() -> None:
    error = refusal(429, said("slow down"), "17")
    assert isinstance(error, RateLimitedError)
    assert error.retry_after == 17.0


def test_created_webhook_of_2021_has_no_secret() -> None:
    webhook = decode_created(CREATED_2021)
    assert webhook.gid == "1200000000000001"
    assert webhook.resource == Resource(
        gid="1100000000000001", resource_type="workspace", name="example.com"
    )
    assert webhook.filters == (WebhookFilter(resource_type="project", action="added"),)
    assert webhook.created_at == datetime(2021, 8, 31, 14, 3, 7, 687000, UTC)
    assert webhook.last_failure_content == ""
    assert webhook.secret is None


def test_created_webhook_takes_its_secret_from_beside_the_data() -> None:
    today = CREATED_2021.replace(b'"active"', b'"is_workspace_webhook":false,"active"')
    webhook = decode_created(today[:-1] + b',"X-Hook-Secret":"%s"}' % SECRET.encode())
    assert webhook.secret == SECRET
    assert webhook.is_workspace_webhook is False
    assert SECRET not in repr(webhook)


@pytest.mark.parametrize("beside", [b"null", b'""'])
def test_empty_secret_is_none(beside: bytes) -> None:
    assert decode_created(b'{"data":{"gid":"1"},"X-Hook-Secret":%s}' % beside).secret is None


def test_secret_inside_the_data_of_a_create_call_is_not_believed() -> None:
    assert decode_created(b'{"data":{"gid":"1","secret":"planted"}}').secret is None


@pytest.mark.parametrize(
    ("next_page", "offset"),
    [
        pytest.param(b"", None, id="absent"),
        pytest.param(b',"next_page":null', None, id="null"),
        pytest.param(b',"next_page":{}', None, id="without offset"),
        pytest.param(b',"next_page":{"offset":""}', None, id="empty offset"),
        pytest.param(b',"next_page":{"offset":"eyJ","path":"/x","uri":"h"}', "eyJ", id="offset"),
    ],
)
def test_page_knows_its_next_offset(next_page: bytes, offset: str | None) -> None:
    page, odd = decode_webhooks(b'{"data":[{"gid":"1"},{"gid":"2"}]%s}' % next_page)
    assert odd == ()
    assert [webhook.gid for webhook in page] == ["1", "2"]
    assert page.offset == offset


def test_causes_that_go_in_a_circle_end() -> None:
    first, second = RuntimeError("first"), RuntimeError("second")
    first.__cause__, second.__cause__ = second, first
    assert "RuntimeError" in str(unanswered(first, method="GET", host="asana.example"))
    assert not is_untrusted(first)


def test_each_record_of_an_odd_shape_is_left_out_with_its_reason() -> None:
    deep = b'{"gid":"4","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    odd = b'{"gid":1},[],{"gid":"2","created_at":"yesterday"}'
    page, reasons = decode_webhooks(b'{"data":[{"gid":"1"},' + odd + b',{"gid":"3"}]}')
    assert [webhook.gid for webhook in page] == ["1", "3"]
    assert [reason.partition(" - at")[0] for reason in reasons] == [
        "Expected `str`, got `int`",
        "Expected `object`, got `array`",
        "Invalid RFC3339 encoded datetime",
    ]
    with pytest.raises(DecodeError, match="too deeply nested"):
        decode_webhooks(b'{"data":[' + deep + b"]}")


def test_workspaces_are_resources() -> None:
    body = b'{"data":[{"gid":"1","name":"example.com","resource_type":"workspace"}]}'
    (workspace,) = decode_workspaces(body).page
    assert workspace == Resource(gid="1", resource_type="workspace", name="example.com")


def test_deletion_answers_an_empty_object() -> None:
    decode_nothing(b'{"data":{}}')


@pytest.mark.parametrize(
    "decode", [decode_webhook, decode_created, decode_webhooks, decode_workspaces, decode_nothing]
)
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>hello</html>", id="html"),
        pytest.param(b'{"data":{"gid":"hel', id="truncated"),
        pytest.param(b"null", id="null"),
        pytest.param(b"{}", id="data missing"),
        pytest.param(b'{"data":null}', id="data null"),
        pytest.param(b'{"data":7}', id="data number"),
        pytest.param(b'{"data":\xff}', id="not utf-8"),
        pytest.param(b'{"data":{"gid":"\xff"}}', id="text not utf-8"),
        pytest.param(b'{"x":' + b"[" * 200_000, id="nested"),
    ],
)
def test_success_of_another_shape_is_a_decode_error(decode: object, body: bytes) -> None:
    assert callable(decode)
    with pytest.raises(DecodeError, match="documented shape") as caught:
        decode(body)
    assert "hel" not in str(caught.value)


@pytest.mark.parametrize(
    ("decode", "body"),
    [
        (decode_webhook, b'{"data":[]}'),
        (decode_webhook, b'{"data":{}}'),
        (decode_webhook, b'{"data":{"gid":5}}'),
        (decode_created, b'{"data":{"gid":"1"},"X-Hook-Secret":5}'),
        (decode_webhooks, b'{"data":{"gid":"1"}}'),
        (decode_webhooks, b'{"data":[{"gid":"1"}],"next_page":{"offset":5}}'),
        (decode_nothing, b'{"data":[]}'),
    ],
)
def test_data_of_another_shape_is_a_decode_error(decode: object, body: bytes) -> None:
    assert callable(decode)
    with pytest.raises(DecodeError, match="documented shape"):
        decode(body)


def after(error: Exception, *causes: Exception) -> Exception:
    """Return the error with the causes below it, as ``raise … from …`` leaves them."""
    link: BaseException = error
    for cause in causes:
        link.__cause__ = cause
        link = cause
    return error


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        pytest.param(
            after(httpx.ConnectTimeout("x"), ssl.SSLCertVerificationError("x")),
            "certificate is not trusted",
            id="certificate",
        ),
        pytest.param(after(httpx.ConnectError("x"), ssl.SSLError("x")), "TLS failed", id="tls"),
        pytest.param(httpx.ProxyError("x"), "the proxy", id="proxy"),
        pytest.param(
            after(httpx.ConnectError("x"), socket.gaierror("x")), "not resolved", id="dns"
        ),
        pytest.param(
            after(httpx.ConnectError("x"), ConnectionRefusedError("x")), "refused", id="refused"
        ),
        pytest.param(
            after(httpx.ConnectTimeout("x"), aiohttp.ServerDisconnectedError("x")),
            "hung up",
            id="hang-up that httpx-aiohttp calls a timeout",
        ),
        pytest.param(httpx.ReadError("x"), "hung up", id="cut"),
        pytest.param(httpx.RemoteProtocolError("x"), "hung up", id="hang-up in httpx"),
        pytest.param(httpx.ReadTimeout("x"), "in time", id="timeout"),
        pytest.param(TimeoutError("x"), "in time", id="deadline"),
        pytest.param(httpx.InvalidURL("x"), "InvalidURL", id="anything else"),
    ],
)
def test_failed_connection_names_host_kind_and_next_step(cause: Exception, kind: str) -> None:
    text = str(unanswered(cause, method="GET", host="app.asana.com"))
    assert text.startswith("no answer from app.asana.com: ")
    assert kind in text
    assert text.endswith(")")


def refused_by_aiohttp() -> Exception:
    key = ConnectionKey(
        host="h",
        port=443,
        is_ssl=True,
        ssl=True,
        proxy=None,
        proxy_auth=None,
        proxy_headers_hash=None,
    )
    return aiohttp.ClientConnectorError(key, ConnectionRefusedError("x"))


@pytest.mark.parametrize(
    ("cause", "sent"),
    [
        pytest.param(httpx.ConnectError("x"), False, id="refused"),
        pytest.param(httpx.ConnectTimeout("x"), False, id="no connection in time"),
        pytest.param(
            after(httpx.ConnectTimeout("x"), refused_by_aiohttp()),
            False,
            id="refused under aiohttp",
        ),
        pytest.param(
            after(httpx.ConnectTimeout("x"), aiohttp.ConnectionTimeoutError("x")),
            False,
            id="no connection in time under aiohttp",
        ),
        pytest.param(
            after(httpx.ConnectTimeout("x"), aiohttp.ServerDisconnectedError("x")),
            True,
            id="hang-up that httpx-aiohttp calls a timeout",
        ),
        pytest.param(httpx.ReadError("x"), True, id="cut"),
        pytest.param(httpx.ReadTimeout("x"), True, id="no answer in time"),
        pytest.param(TimeoutError("x"), True, id="deadline"),
    ],
)
def test_what_had_no_connection_was_not_sent(cause: Exception, *, sent: bool) -> None:
    error = unanswered(cause, method="POST", host="h")
    assert error.sent is sent
    assert ("whether the webhook was made is unknown" in str(error)) is sent


def test_failed_creation_says_that_its_outcome_is_unknown() -> None:
    failed = httpx.ReadError("x")
    assert "whether the webhook was made is unknown" in str(
        unanswered(failed, method="POST", host="h")
    )
    assert "unknown" not in str(unanswered(failed, method="DELETE", host="h"))


def test_refused_certificate_is_told_from_other_failures() -> None:
    refused = after(httpx.ConnectTimeout("x"), ssl.SSLCertVerificationError("x"))
    assert is_untrusted(after(unanswered(refused, method="GET", host="h"), refused))
    assert not is_untrusted(httpx.ConnectTimeout("x"))


# The events stream


@pytest.mark.parametrize(
    ("body", "sync"),
    [
        pytest.param(b'{"errors":[{"message":"too old"}],"sync":"abc"}', "abc", id="token"),
        pytest.param(b'{"errors":[{"message":"too old"}]}', "", id="no token"),
        pytest.param(b'{"sync":1}', "", id="another type"),
        pytest.param(b"<html>", "", id="no JSON"),
    ],
)
def test_refused_token_comes_with_one_to_go_on_with(body: bytes, sync: str) -> None:
    with pytest.raises(StaleSyncError) as caught:
        accept(412, None, body)
    assert caught.value.sync == sync
    assert sync not in repr(caught.value) or not sync


def test_page_of_a_stream_has_its_events_undecoded() -> None:
    page = decode_events(b'{"data":[{"a":1}],"sync":"next","has_more":true}')
    assert [bytes(each) for each in page.events] == [b'{"a":1}']
    assert (page.sync, page.has_more) == ("next", True)
    assert not decode_events(b'{"data":[],"sync":"next"}').has_more


@pytest.mark.parametrize("body", [b"{}", b'{"data":[]}', b'{"data":{},"sync":"a"}', b"<html>"])
def test_what_is_no_page_of_a_stream_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_events(body)
