import hashlib
import hmac
import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from asana_webhooks import protocol
from asana_webhooks.models import Route
from asana_webhooks.protocol import (
    MAX_BODY,
    REPLAYED_AFTER,
    Bury,
    Decision,
    Effect,
    Enqueue,
    NoteHeartbeat,
    Remember,
    Request,
    Response,
    decide,
    route_of,
    screen,
)
from asana_webhooks.signature import sign

NOW = datetime(2026, 7, 4, 12, tzinfo=UTC)
ID = "Route-of_this-webhook-0123456789"
SECRET = "b537207f20cbfa02357cf448134da559e8bd39d61597dcd5631b8012eae53e81"
OTHERS = ("first-candidate-of-a-stranger", "second-candidate-of-a-stranger", "a-third-stranger")


def route(**fields: Any) -> Route:
    return Route(id=ID, target=f"https://example.com/{ID}", resource="1", **fields)


RESERVED = route(candidates=(*OTHERS, SECRET))
NEW = route()
CONFIRMED = route(state="confirmed", gid="12", secret=SECRET)
RETIRED = route(state="retired", gid="12")


def events(*ages: timedelta) -> bytes:
    """Return a body with one event of each age."""
    times = ((NOW - age).isoformat() for age in ages)
    texts = (
        f'{{"created_at":"{time}","action":"changed","resource":{{"gid":"1"}}}}' for time in times
    )
    return f'{{"events":[{",".join(texts)}]}}'.encode()


EVENTS = events(timedelta(minutes=1))
HEARTBEAT = b'{"events":[]}'
OLD = timedelta(hours=26, milliseconds=1)


def post(body: bytes = b"", **fields: Any) -> Request:
    return Request(method="POST", route=ID, body=body, **fields)


def handshake(*values: str, **fields: Any) -> Request:
    return post(secrets=values, **fields)


def signed(body: bytes, secret: str = SECRET, **fields: Any) -> Request:
    return post(body, signatures=(sign(body, secret),), **fields)


def digest_of(body: bytes, secret: str = SECRET) -> bytes:
    return hmac.digest(secret.encode(), body, hashlib.sha256)


def echo(secret: str) -> tuple[tuple[str, str], ...]:
    return (("X-Hook-Secret", secret),)


def answer_to(request: Request, at: Route | None, **options: Any) -> tuple[int, Effect | None]:
    decision = decide(request, at, now=NOW, **options)
    return decision.response.status, decision.effect


# The table


ENQUEUED = Enqueue(digest_of(EVENTS))
HELD = Enqueue(digest_of(EVENTS), candidate=SECRET)
GOOD = sign(EVENTS, SECRET)


@pytest.mark.parametrize(
    ("request_", "at", "status", "effect"),
    [
        pytest.param(signed(EVENTS), None, 404, None, id="delivery, unknown"),
        pytest.param(handshake(SECRET), None, 404, None, id="secret, unknown"),
        pytest.param(signed(EVENTS), RETIRED, 404, None, id="delivery, retired"),
        pytest.param(handshake(SECRET), RETIRED, 404, None, id="secret, retired"),
        pytest.param(Request(method="GET", route=ID), CONFIRMED, 405, None, id="not POST"),
        pytest.param(Request(method="GET", route=ID), RESERVED, 405, None, id="not POST, reserved"),
        pytest.param(signed(EVENTS, encodings=("gzip",)), CONFIRMED, 415, None, id="encoded"),
        pytest.param(
            handshake(SECRET, encodings=("br",)), RESERVED, 415, None, id="secret, encoded"
        ),
        pytest.param(signed(EVENTS, transfers=("gzip, chunked",)), CONFIRMED, 501, None, id="gzip"),
        pytest.param(
            handshake(SECRET, transfers=("gzip", "chunked")),
            RESERVED,
            501,
            None,
            id="secret, coded",
        ),
        pytest.param(
            signed(EVENTS, transfers=(" Chunked",)),
            CONFIRMED,
            200,
            ENQUEUED,
            id="chunked, confirmed",
        ),
        pytest.param(post(length=MAX_BODY + 1), CONFIRMED, 413, None, id="too long"),
        pytest.param(
            handshake(SECRET, length=MAX_BODY + 1), RESERVED, 413, None, id="secret, long"
        ),
        pytest.param(handshake("short"), RESERVED, 400, None, id="bad secret, reserved"),
        pytest.param(handshake("short"), CONFIRMED, 400, None, id="bad secret, confirmed"),
        pytest.param(handshake(SECRET), NEW, 200, Remember(SECRET), id="secret, reserved"),
        pytest.param(
            handshake(SECRET), RESERVED, 200, Remember(SECRET), id="a candidate again, reserved"
        ),
        pytest.param(handshake(SECRET), CONFIRMED, 200, None, id="the stored secret, confirmed"),
        pytest.param(handshake(OTHERS[0]), CONFIRMED, 403, None, id="another secret, confirmed"),
        pytest.param(
            signed(EVENTS, secrets=(SECRET,)),
            CONFIRMED,
            200,
            ENQUEUED,
            id="both headers, confirmed",
        ),
        pytest.param(
            signed(EVENTS, secrets=("x" * 32,)), RESERVED, 200, HELD, id="both headers, reserved"
        ),
        pytest.param(
            signed(EVENTS, secrets=("", "odd")), CONFIRMED, 200, ENQUEUED, id="signed, odd secrets"
        ),
        pytest.param(
            handshake(SECRET, signatures=("",)), CONFIRMED, 401, None, id="both, not signed"
        ),
        pytest.param(
            handshake(SECRET, signatures=("0" * 64,)), NEW, 401, None, id="both, wrongly signed"
        ),
        pytest.param(post(EVENTS), CONFIRMED, 401, None, id="not signed, confirmed"),
        pytest.param(post(EVENTS), RESERVED, 401, None, id="not signed, reserved"),
        pytest.param(post(HEARTBEAT), CONFIRMED, 401, None, id="heartbeat, not signed"),
        pytest.param(post(), CONFIRMED, 401, None, id="nothing at all"),
        pytest.param(
            signed(EVENTS, OTHERS[0]), CONFIRMED, 401, None, id="signed by another, confirmed"
        ),
        pytest.param(
            signed(EVENTS, "nobody-we-know-of"),
            RESERVED,
            401,
            None,
            id="signed by another, reserved",
        ),
        pytest.param(signed(EVENTS), NEW, 401, None, id="signed before any handshake"),
        pytest.param(
            post(EVENTS + b" ", signatures=(GOOD,)), CONFIRMED, 401, None, id="another body"
        ),
        pytest.param(signed(HEARTBEAT), CONFIRMED, 200, NoteHeartbeat(), id="heartbeat, confirmed"),
        pytest.param(signed(HEARTBEAT), RESERVED, 200, NoteHeartbeat(), id="heartbeat, reserved"),
        pytest.param(signed(EVENTS), CONFIRMED, 200, ENQUEUED, id="events, confirmed"),
        pytest.param(signed(EVENTS), RESERVED, 200, HELD, id="events, reserved"),
        pytest.param(
            signed(b"[]"),
            CONFIRMED,
            200,
            Bury(digest_of(b"[]"), "not a delivery: Expected `object`, got `array`"),
            id="unreadable, confirmed",
        ),
        pytest.param(
            signed(b"[]"),
            RESERVED,
            200,
            Enqueue(digest_of(b"[]"), SECRET),
            id="unreadable, reserved",
        ),
        pytest.param(
            signed(events(OLD)),
            CONFIRMED,
            200,
            Bury(digest_of(events(OLD)), "older than 26 h: late or replayed", replay=True),
            id="replay, confirmed",
        ),
        pytest.param(
            signed(events(OLD)),
            RESERVED,
            200,
            Enqueue(digest_of(events(OLD)), SECRET),
            id="old, reserved",
        ),
    ],
)
def test_answer_and_effect_are_those_of_the_table(
    request_: Request, at: Route | None, status: int, effect: Effect | None
) -> None:
    assert answer_to(request_, at) == (status, effect)


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(signed(EVENTS), id="delivery"),
        pytest.param(handshake(SECRET), id="secret"),
        pytest.param(Request(method="GET", route=ID), id="not POST"),
    ],
)
def test_retired_route_is_gone_for_good_only_when_asked(request_: Request) -> None:
    assert answer_to(request_, RETIRED) == (404, None)
    assert answer_to(request_, RETIRED, answer_gone=True) == (410, None)


@pytest.mark.parametrize("at", [None, NEW, RESERVED, CONFIRMED])
def test_route_that_is_not_retired_is_never_gone(at: Route | None) -> None:
    for request in (signed(EVENTS), handshake(SECRET), post(), Request(method="GET", route=ID)):
        assert answer_to(request, at, answer_gone=True)[0] != 410


# Before the body is read


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "OPTIONS", "post", "POST ", "", "é"])
def test_method_other_than_post_is_refused_and_told_which_to_use(method: str) -> None:
    response = screen(Request(method=method, route=ID), CONFIRMED)
    assert response is not None
    assert (response.status, response.headers) == (405, (("Allow", "POST"),))


@pytest.mark.parametrize(
    ("encodings", "refused"),
    [
        pytest.param((), False, id="no header"),
        pytest.param(("identity",), False, id="identity"),
        pytest.param((" Identity ",), False, id="identity, otherwise written"),
        pytest.param(("identity", "identity"), False, id="identity twice"),
        pytest.param(("gzip",), True, id="gzip"),
        pytest.param(("identity", "gzip"), True, id="gzip in a second header"),
        pytest.param(("identity, gzip",), True, id="gzip in a list"),
        pytest.param(("",), True, id="empty header"),
        pytest.param(("\udcff",), True, id="undecodable"),
    ],
)
def test_encoded_body_is_refused_unread(encodings: tuple[str, ...], refused: bool) -> None:  # noqa: FBT001 - a column of the table
    response = screen(post(encodings=encodings), CONFIRMED)
    assert (response is not None and response.status == 415) == refused


@pytest.mark.parametrize(
    ("request_", "refused"),
    [
        pytest.param(post(length=None), False, id="chunked"),
        pytest.param(post(length=0), False, id="empty"),
        pytest.param(post(length=10), False, id="at the limit"),
        pytest.param(post(length=11), True, id="announced over the limit"),
        pytest.param(post(length=10**30), True, id="announced absurdly"),
        pytest.param(post(b"x" * 10), False, id="read up to the limit"),
        pytest.param(post(b"x" * 11), True, id="read over the limit"),
        pytest.param(post(b"x" * 11, length=3), True, id="longer than announced"),
    ],
)
def test_body_over_the_limit_is_refused(request_: Request, refused: bool) -> None:  # noqa: FBT001 - a column of the table
    response = screen(request_, CONFIRMED, max_body=10)
    assert (response is not None and response.status == 413) == refused
    assert (answer_to(request_, CONFIRMED, max_body=10)[0] == 413) == refused


def test_limits_are_those_that_are_documented() -> None:
    assert MAX_BODY == 2 * 1024 * 1024
    assert timedelta(hours=26) == REPLAYED_AFTER


# Handshakes


@pytest.mark.parametrize(
    "secret",
    [
        pytest.param(SECRET, id="as Asana sends it"),
        pytest.param("x" * 16, id="16 characters"),
        pytest.param("x" * 256, id="256 characters"),
        pytest.param("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", id="all punctuation"),
        pytest.param("A,B;C=D A".replace(" ", "") * 4, id="what looks like a list"),
    ],
)
@pytest.mark.parametrize(
    "at", [pytest.param(NEW, id="new"), pytest.param(RESERVED, id="with candidates")]
)
def test_secret_is_echoed_exactly_and_remembered(secret: str, at: Route) -> None:
    decision = decide(handshake(secret), at, now=NOW)
    assert decision.response.headers == echo(secret)
    assert decision.effect == Remember(secret)


def test_stored_secret_is_echoed_exactly() -> None:
    assert decide(handshake(SECRET), CONFIRMED, now=NOW).response.headers == echo(SECRET)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(("",), id="empty"),
        pytest.param(("x" * 15,), id="15 characters"),
        pytest.param(("x" * 257,), id="257 characters"),
        pytest.param(("x" * 100_000,), id="100,000 characters"),
        pytest.param((SECRET, SECRET), id="the same twice"),
        pytest.param((SECRET, OTHERS[0]), id="two"),
        pytest.param((SECRET, ""), id="two, one empty"),
        pytest.param((f"{SECRET} {SECRET}",), id="blank inside"),
        pytest.param((f" {SECRET}",), id="blank before"),
        pytest.param((f"{SECRET} ",), id="blank behind"),
        pytest.param((f"{SECRET}\n",), id="line break behind"),
        pytest.param((f"{SECRET}\r\nX-Evil: 1",), id="another header inside"),
        pytest.param((f"{SECRET}\t",), id="tab"),
        pytest.param((f"{SECRET}\x00",), id="NUL"),
        pytest.param((f"{SECRET}\x7f",), id="DEL"),
        pytest.param((f"{SECRET}é",), id="not ASCII"),
        pytest.param(("٣" * 32,), id="digits of another script"),
        pytest.param((f"{SECRET}\udcff",), id="undecodable byte"),
    ],
)
@pytest.mark.parametrize(
    "at", [pytest.param(NEW, id="reserved"), pytest.param(CONFIRMED, id="confirmed")]
)
def test_secret_of_another_shape_is_refused_without_an_echo(
    values: tuple[str, ...], at: Route
) -> None:
    decision = decide(handshake(*values), at, now=NOW)
    assert (decision.response.status, decision.response.headers) == (400, ())
    assert decision.effect is None


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(SECRET[:-1], id="shorter"),
        pytest.param(SECRET + "0", id="longer"),
        pytest.param(SECRET.upper(), id="upper case"),
        pytest.param("0" * 64, id="other"),
    ],
)
def test_foreign_secret_on_a_confirmed_route_is_neither_echoed_nor_kept(other: str) -> None:
    decision = decide(handshake(other), CONFIRMED, now=NOW)
    assert (decision.response.status, decision.response.headers) == (403, ())
    assert decision.effect is None


def test_body_of_a_handshake_does_not_matter() -> None:
    for body in (b"", b"{}", b"\xff", EVENTS):
        assert answer_to(post(body, secrets=(SECRET,)), NEW) == (200, Remember(SECRET))


# Deliveries


@pytest.mark.parametrize(
    "signatures",
    [
        pytest.param((), id="none"),
        pytest.param(("",), id="empty"),
        pytest.param((GOOD[:-1],), id="63 characters"),
        pytest.param((GOOD + "0",), id="65 characters"),
        pytest.param((GOOD[:-1] + "g",), id="not hex"),
        pytest.param((GOOD[:-1] + " ",), id="blank"),
        pytest.param(("sha256=" + GOOD,), id="prefixed"),
        pytest.param(("é" * 64,), id="not ASCII"),
        pytest.param(("\udcff" * 64,), id="undecodable bytes"),
        pytest.param((f"{GOOD},{GOOD}",), id="joined by a comma"),
        pytest.param((GOOD, GOOD), id="twice"),
        pytest.param((GOOD, ""), id="two, one empty"),
        pytest.param(("0" * 64,), id="wrong"),
        pytest.param((sign(EVENTS, ""),), id="made without a secret"),
        pytest.param((sign(EVENTS, "None"),), id="made with the text of no secret"),
    ],
)
@pytest.mark.parametrize(
    "at",
    [
        pytest.param(CONFIRMED, id="confirmed"),
        pytest.param(RESERVED, id="reserved"),
        pytest.param(NEW, id="new"),
    ],
)
def test_delivery_that_is_not_signed_once_and_rightly_is_refused(
    signatures: tuple[str, ...], at: Route
) -> None:
    assert answer_to(post(EVENTS, signatures=signatures), at) == (401, None)


def test_signature_in_upper_case_is_accepted() -> None:
    assert answer_to(post(EVENTS, signatures=(GOOD.upper(),)), CONFIRMED) == (200, ENQUEUED)


@pytest.mark.parametrize("secret", RESERVED.candidates)
def test_delivery_is_held_for_the_candidate_that_signed_it(secret: str) -> None:
    held = Enqueue(digest_of(EVENTS, secret), candidate=secret)
    assert answer_to(signed(EVENTS, secret), RESERVED) == (200, held)


def test_repeat_of_a_delivery_has_the_same_digest_in_either_case() -> None:
    upper = post(EVENTS, signatures=(GOOD.upper(),))
    assert decide(upper, CONFIRMED, now=NOW) == decide(signed(EVENTS), CONFIRMED, now=NOW)


def test_unreadable_body_is_refused_when_it_is_not_signed() -> None:
    assert answer_to(post(b"\xff", signatures=(GOOD,)), CONFIRMED) == (401, None)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="list"),
        pytest.param(b"null", id="null"),
        pytest.param(b'{"events":null}', id="null events"),
        pytest.param(EVENTS[:-1], id="truncated"),
        pytest.param(b'{"events":["\xff"]}', id="bad UTF-8"),
        pytest.param(b'{"events":[NaN]}', id="NaN"),
        pytest.param(b"9" * 5000, id="number of 5,000 digits"),
        pytest.param(b'{"events":' + b"[" * 100_000, id="nesting of 100,000"),
    ],
)
def test_signed_body_that_cannot_be_read_is_accepted_and_buried(body: bytes) -> None:
    status, effect = answer_to(signed(body), CONFIRMED)
    assert status == 200
    assert isinstance(effect, Bury)
    assert not effect.replay
    assert effect.digest == digest_of(body)
    assert effect.reason.startswith("not a delivery: ")
    assert answer_to(signed(body), RESERVED) == (200, Enqueue(digest_of(body), SECRET))


FRESH = timedelta(hours=26)


@pytest.mark.parametrize(
    ("body", "is_replay"),
    [
        pytest.param(events(OLD), True, id="older"),
        pytest.param(events(FRESH), False, id="of exactly 26 hours"),
        pytest.param(events(OLD, OLD, timedelta(days=4000)), True, id="all older"),
        pytest.param(events(OLD, FRESH), False, id="one fresh, at the end"),
        pytest.param(events(FRESH, OLD), False, id="one fresh, at the start"),
        pytest.param(events(timedelta(days=-4000)), False, id="from the future"),
        pytest.param(b'{"events":[1]}', False, id="odd event"),
        pytest.param(
            b'{"events":[{"created_at":"1999-01-01"}]}', False, id="odd event with a date"
        ),
        pytest.param(events(OLD).replace(b"]}", b",null]}"), False, id="older and odd"),
        pytest.param(HEARTBEAT, False, id="heartbeat"),
    ],
)
def test_delivery_of_old_events_alone_is_a_replay(body: bytes, is_replay: bool) -> None:  # noqa: FBT001 - a column of the table
    status, effect = answer_to(signed(body), CONFIRMED)
    assert status == 200
    assert (isinstance(effect, Bury) and effect.replay) == is_replay


# The path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param(f"/{ID}", ID, id="alone"),
        pytest.param(f"/asana/{ID}", ID, id="below a path"),
        pytest.param(f"/asana/{ID}/", ID, id="trailing slash"),
        pytest.param(f"/asana/{ID}//", "", id="two trailing slashes"),
        pytest.param(f"//{ID}", ID, id="double slash before"),
        pytest.param(f"/asana//{ID}", ID, id="double slash inside"),
        pytest.param(f"/{ID}?a=b", ID, id="query"),
        pytest.param(f"/{ID}/?a=/b/{ID[::-1]}", ID, id="query with a path"),
        pytest.param(f"/{ID}?", ID, id="empty query"),
        pytest.param(f"/?/{ID}", "", id="route in the query alone"),
        pytest.param(f"/{ID}#a", "", id="fragment"),
        pytest.param(f"/{ID}?a#b", "", id="query and fragment"),
        pytest.param(f"/#/{ID}", "", id="route in the fragment"),
        pytest.param(f"https://example.com/{ID}", ID, id="absolute form"),
        pytest.param(f"https://example.com?/{ID}", "", id="absolute form without a path"),
        pytest.param(f"/{ID[:-1]}", "", id="31 characters"),
        pytest.param(f"/{ID}0", "", id="33 characters"),
        pytest.param(f"/x{ID}", "", id="33 characters, one before"),
        pytest.param(ID, "", id="no slash"),
        pytest.param(f"/{ID}/other", "", id="not the last segment"),
        pytest.param(f"/{ID[:-3]}%2f", "", id="encoded slash inside"),
        pytest.param(f"/{ID}%2f", "", id="encoded slash behind"),
        pytest.param(f"%2f{ID}", "", id="encoded slash before"),
        pytest.param(f"/{ID}%00", "", id="encoded NUL"),
        pytest.param(f"/{ID}%0d%0a", "", id="encoded line break"),
        pytest.param(f"/%52{ID[1:]}", "", id="encoded letter"),
        pytest.param(f"/{ID}\r\n", "", id="line break"),
        pytest.param(f"/{ID}\n", "", id="newline"),
        pytest.param(f"/{ID}\x00", "", id="NUL"),
        pytest.param(f"/{ID} ", "", id="blank"),
        pytest.param(f"/{ID};a=b", "", id="parameter"),
        pytest.param(f"/{ID[:-1]}.", "", id="dot in it"),
        pytest.param(f"/{ID}/.", "", id="dot behind"),
        pytest.param(f"/{ID}/..", "", id="two dots behind"),
        pytest.param(f"/../{ID}", ID, id="two dots before"),
        pytest.param(f"/{ID[:-1]}é", "", id="not ASCII"),
        pytest.param(f"/{ID[:-1]}\udcff", "", id="undecodable"),
        pytest.param(f"/{'٣' * 32}", "", id="digits of another script"),
        pytest.param("/", "", id="root"),
        pytest.param("", "", id="empty"),
        pytest.param("*", "", id="asterisk form"),
        pytest.param("/healthz", "", id="probe"),
        pytest.param("/" * 100_000, "", id="100,000 slashes"),
        pytest.param("/" + "a" * 100_000, "", id="100,000 letters"),
    ],
)
def test_route_is_the_last_segment_as_it_came(path: str, expected: str) -> None:
    assert route_of(path) == expected


def test_route_of_every_new_target_is_found() -> None:
    for _ in range(100):
        route_id = secrets.token_urlsafe(24)
        assert route_of(f"/asana/{route_id}") == route_id


any_text = st.text(st.characters(exclude_categories=()), max_size=100)  # lone surrogates too


@given(any_text | st.builds("{}/{}{}".format, any_text, st.just(ID), any_text))
@settings(deadline=None)
def test_route_is_never_more_than_its_alphabet(path: str) -> None:
    found = route_of(path)
    assert found in path
    assert re.fullmatch(r"[A-Za-z0-9_-]{32}|", found, re.ASCII)


# Any request at all


CONSTANTS = [value for value in vars(protocol).values() if isinstance(value, Response)]
known_secrets = st.sampled_from((SECRET, *OTHERS))
some_secrets = known_secrets | any_text
signatures = st.sampled_from((EVENTS, HEARTBEAT, b"", b"[]")).flatmap(
    lambda body: some_secrets.map(lambda secret: sign(body, secret))
)
requests = st.builds(
    Request,
    method=st.just("POST") | any_text,
    route=st.just(ID) | any_text,
    secrets=st.lists(some_secrets, max_size=2).map(tuple),
    signatures=st.lists(signatures | any_text, max_size=2).map(tuple),
    encodings=st.lists(st.just("identity") | any_text, max_size=2).map(tuple),
    transfers=st.lists(st.just("chunked") | any_text, max_size=2).map(tuple),
    length=st.none() | st.integers(0, MAX_BODY) | st.integers(),
    body=st.sampled_from((EVENTS, HEARTBEAT, b"", b"[]", events(OLD))) | st.binary(),
)
routes = st.none() | st.builds(
    Route,
    id=st.just(ID) | any_text,
    target=any_text,
    resource=any_text,
    state=st.sampled_from(("reserved", "confirmed", "retired")),
    secret=st.none() | some_secrets,
    candidates=st.lists(some_secrets, max_size=4).map(tuple),
)
times = st.datetimes(timezones=st.just(UTC))


@pytest.mark.parametrize("state", ["reserved", "confirmed"])
def test_secret_that_no_header_could_carry_is_no_one_elses(state: str) -> None:
    odd = "\udcff\ud800" * 16
    at = route(state=state, secret=odd) if state == "confirmed" else route(candidates=(odd,))
    assert answer_to(handshake(SECRET), at)[0] == (403 if state == "confirmed" else 200)
    assert answer_to(signed(EVENTS), at) == (401, None)
    assert answer_to(signed(HEARTBEAT, odd), at) == (200, NoteHeartbeat())


@given(requests, routes, times, st.booleans())
@settings(deadline=None, max_examples=200)
def test_decide_is_total(
    request_: Request,
    at: Route | None,
    now: datetime,
    answer_gone: bool,  # noqa: FBT001 - drawn
) -> None:
    decision = decide(request_, at, now=now, answer_gone=answer_gone)
    status = decision.response.status
    assert status in (200, 400, 401, 403, 404, 405, 410, 413, 415, 501)
    assert decision.effect is None or status == 200
    assert decision == decide(request_, at, now=now, answer_gone=answer_gone)
    if status == 410:
        assert at is not None
        assert (at.state, answer_gone) == ("retired", True)


@given(requests, routes)
@settings(deadline=None, max_examples=200)
def test_nothing_is_accepted_that_is_neither_a_handshake_nor_signed(
    request_: Request, at: Route | None
) -> None:
    decision = decide(request_, at, now=NOW)
    if decision.response.status != 200:
        return
    assert at is not None
    if request_.signatures:
        own = [at.secret] if at.secret is not None else list(at.candidates)
        (signature,) = request_.signatures
        expected = [sign(request_.body, secret) for secret in own]
        assert signature.lower() in expected
        assert not isinstance(decision.effect, Remember)
    else:
        (secret,) = request_.secrets
        assert decision.effect == (Remember(secret) if at.secret is None else None)
        assert at.secret in (None, secret)


@given(requests, routes)
@settings(deadline=None, max_examples=200)
def test_answer_quotes_nothing_of_the_request_but_an_accepted_secret(
    request_: Request, at: Route | None
) -> None:
    response = decide(request_, at, now=NOW).response
    if response.headers and response.status == 200:
        assert response == Response(200, headers=echo(request_.secrets[0]))
    else:
        assert any(response is constant for constant in CONSTANTS)


@given(requests, routes)
@settings(deadline=None)
def test_what_is_screened_is_decided_alike(request_: Request, at: Route | None) -> None:
    if at is not None:
        refusal = screen(request_, at)
        if refusal is not None:
            assert decide(request_, at, now=NOW) == Decision(refusal)


# What is shown


HIDDEN = "hidden-from-every-reader"


@pytest.mark.parametrize("show", [repr, str, pretty_repr, lambda shown: repr([shown])])
@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(
            Request(
                method="POST",
                route=HIDDEN,
                secrets=(HIDDEN,),
                signatures=(HIDDEN,),
                body=HIDDEN.encode(),
            ),
            id="request",
        ),
        pytest.param(Response(200, headers=echo(HIDDEN)), id="response"),
        pytest.param(
            Decision(Response(200, headers=echo(HIDDEN)), Remember(HIDDEN)), id="decision"
        ),
        pytest.param(Remember(HIDDEN), id="remember"),
        pytest.param(Enqueue(HIDDEN.encode(), HIDDEN), id="enqueue"),
        pytest.param(Bury(HIDDEN.encode(), "odd"), id="bury"),
    ],
)
def test_nothing_secret_is_shown(shown: object, show: Any) -> None:
    assert HIDDEN not in show(shown)


def test_response_shows_its_status() -> None:
    assert repr(Response(401, "no")) == "<Response 401>"


def test_connection_is_closed_where_nobody_knows_when_the_request_ends() -> None:
    assert {constant.status for constant in CONSTANTS if constant.closes} == {413, 501}
