import itertools
import json
import pickle
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import force_setattr
from rich.pretty import pretty_repr

from asana_webhooks.errors import DecodeError
from asana_webhooks.models import (
    Change,
    Claim,
    DeadLetter,
    Delivery,
    Event,
    Page,
    Progress,
    Resource,
    Retry,
    Route,
    Settlement,
    Source,
    State,
    Webhook,
    WebhookFilter,
    check_gid,
    decode_event,
    read_event,
    split_events,
)

NOW = datetime(2026, 7, 4, 10, 11, 12, 345000, UTC)

# Bodies as Asana sent them, ids and names replaced.

CREATED_2021 = b"""\
{"data":{"gid":"1200000000000001","resource_type":"webhook","resource":{"gid":"1100000000000001",\
"resource_type":"workspace","name":"example.com"},"target":\
"https://hooks.example.com/asana/projects","active":true,"created_at":"2021-08-31T14:03:07.687Z",\
"last_failure_at":null,"last_failure_content":"","last_success_at":"2021-08-31T14:03:09.022Z",\
"filters":[{"resource_type":"project","resource_subtype":null,"action":"added","fields":null}]}}"""

CREATED_2024 = CREATED_2021.replace(
    b'"active":true', b'"active":true,"is_workspace_webhook":false'
).replace(b"]}}", b']},"X-Hook-Secret":"b537207f20cbfa02357cf448134da559"}')

CHANGED_2019 = b"""\
{"events":[{"action":"changed","created_at":"2019-12-21T03:33:19.007Z","parent":null,"resource":\
{"gid":"1150000000000001","resource_subtype":"default_task","resource_type":"task"},"user":\
{"gid":"55000000000001","resource_type":"user"}}]}"""

COMPLETED = b"""\
{"events":[{"user":{"gid":"1201","resource_type":"user"},"created_at":"2026-07-04T10:11:12.345Z",\
"action":"changed","resource":{"gid":"1301","resource_type":"task","resource_subtype":\
"default_task"},"parent":null,"change":{"field":"completed","action":"changed"}},{"user":{"gid":\
"1201","resource_type":"user"},"created_at":"2026-07-04T10:11:12.345Z","action":"changed",\
"resource":{"gid":"1301","resource_type":"task","resource_subtype":"default_task"},"parent":null,\
"change":{"field":"completed_at","action":"changed"}}]}"""

CREATED_IN_PROJECT = b"""\
{"events":[{"user":{"gid":"1201","resource_type":"user"},"created_at":"2026-07-04T10:12:00.101Z",\
"action":"added","resource":{"gid":"1302","resource_type":"task","resource_subtype":\
"default_task"},"parent":{"gid":"8675309","resource_type":"project"}},{"user":{"gid":"1201",\
"resource_type":"user"},"created_at":"2026-07-04T10:12:00.114Z","action":"added","resource":\
{"gid":"1302","resource_type":"task","resource_subtype":"default_task"},"parent":{"gid":"1400",\
"resource_type":"section"}},{"user":null,"created_at":"2026-07-04T10:12:03.000Z","action":"added",\
"resource":{"gid":"1501","resource_type":"story","resource_subtype":"comment_added"},"parent":\
{"gid":"1302","resource_type":"task","resource_subtype":"default_task"}},{"user":{"gid":"1201",\
"resource_type":"user"},"created_at":"2026-07-04T10:12:05.500Z","action":"changed","resource":\
{"gid":"1302","resource_type":"task","resource_subtype":"default_task"},"parent":null,"change":\
{"field":"custom_fields","action":"changed","new_value":{"gid":"1601","resource_type":\
"custom_field","resource_subtype":"enum","enum_value":{"gid":"1602","resource_type":\
"enum_option"}}}}]}"""

HEARTBEAT = b'{"events":[]}'

USER = Resource(gid="1201", resource_type="user")
TASK = Resource(gid="1302", resource_type="task", resource_subtype="default_task")


def events_of(body: bytes) -> list[Event]:
    return [decode_event(text) for text in split_events(body)]


def event_text(**fields: Any) -> bytes:
    """Return the JSON of an event; a field given as ... is left out."""
    event = {
        "user": {"gid": "1201", "resource_type": "user"},
        "created_at": "2026-07-04T10:11:12.345Z",
        "action": "changed",
        "resource": {"gid": "1301", "resource_type": "task"},
        "parent": None,
        "change": {"field": "name", "action": "changed"},
        **fields,
    }
    return json.dumps({name: value for name, value in event.items() if value is not ...}).encode()


def event(**fields: Any) -> Event:
    return decode_event(event_text(**fields))


# What Asana really sends


class _Answer(msgspec.Struct):
    data: Webhook


@pytest.mark.parametrize(
    ("body", "added_since"),
    [
        pytest.param(CREATED_2021, {}, id="2021"),
        pytest.param(CREATED_2024, {"is_workspace_webhook": False}, id="2024"),
    ],
)
def test_record_of_a_new_webhook_decodes(body: bytes, added_since: dict[str, Any]) -> None:
    assert msgspec.json.decode(body, type=_Answer).data == Webhook(
        gid="1200000000000001",
        resource=Resource(gid="1100000000000001", resource_type="workspace", name="example.com"),
        target="https://hooks.example.com/asana/projects",
        active=True,
        created_at=datetime(2021, 8, 31, 14, 3, 7, 687000, UTC),
        last_failure_at=None,
        last_failure_content="",
        last_success_at=datetime(2021, 8, 31, 14, 3, 9, 22000, UTC),
        filters=(WebhookFilter(resource_type="project", action="added"),),
        **added_since,
    )


def test_heartbeat_has_no_events() -> None:
    assert split_events(HEARTBEAT) == []


def test_changed_without_a_change_decodes() -> None:
    (event,) = events_of(CHANGED_2019)
    assert event.action == "changed"
    assert event.change is None
    assert event.created_at == datetime(2019, 12, 21, 3, 33, 19, 7000, UTC)
    assert event.resource == Resource(
        gid="1150000000000001", resource_type="task", resource_subtype="default_task"
    )
    assert event.user == Resource(gid="55000000000001", resource_type="user")


def test_completed_task_is_two_events_of_one_instant() -> None:
    first, second = events_of(COMPLETED)
    assert first.created_at == second.created_at == NOW
    assert first.change == Change(field="completed", action="changed")
    assert second.change == Change(field="completed_at", action="changed")
    assert first.key != second.key


def test_task_created_in_a_project_is_added_to_project_and_section() -> None:
    to_project, to_section, *_ = events_of(CREATED_IN_PROJECT)
    assert to_project.resource == to_section.resource == TASK
    assert to_project.parent == Resource(gid="8675309", resource_type="project")
    assert to_section.parent == Resource(gid="1400", resource_type="section")


def test_change_by_asana_itself_has_no_user() -> None:
    comment = events_of(CREATED_IN_PROJECT)[2]
    assert comment.user is None
    assert comment.resource.resource_subtype == "comment_added"
    assert comment.parent == TASK


def test_value_of_an_enum_field_is_kept_whole() -> None:
    change = events_of(CREATED_IN_PROJECT)[3].change
    assert change is not None
    assert (change.field, change.action) == ("custom_fields", "changed")
    assert change.new_value == {
        "gid": "1601",
        "resource_type": "custom_field",
        "resource_subtype": "enum",
        "enum_value": {"gid": "1602", "resource_type": "enum_option"},
    }


# Lenient where Asana may add, strict where nothing could be made of it


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"colour": "blue"}, id="field of the event"),
        pytest.param({"resource": {"gid": "1", "html": "<b>"}}, id="field of the resource"),
        pytest.param({"user": {"gid": "1", "email": None}}, id="field of the user"),
        pytest.param({"change": {"field": "name", "why": [1]}}, id="field of the change"),
        pytest.param({"(json)": "e30="}, id="our own name for the text"),
        pytest.param({"type": "task"}, id="deprecated type"),
        pytest.param({"emoji": "😀 \ud83d\ude00 \x00"}, id="any text"),
    ],
)
def test_unknown_field_is_kept_in_raw(fields: dict[str, Any]) -> None:
    text = event_text(**fields)
    decoded = decode_event(text)
    assert decoded.raw == text
    assert decoded.json() == json.loads(text)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"action": "archived"}, {"action": "archived"}, id="unknown action"),
        pytest.param({"action": ""}, {"action": ""}, id="empty action"),
        pytest.param(
            {"resource": {"gid": "1", "resource_type": "rocket"}},
            {"resource": Resource(gid="1", resource_type="rocket")},
            id="unknown type",
        ),
        pytest.param(
            {"resource": {"gid": "1"}}, {"resource": Resource(gid="1")}, id="no type at all"
        ),
        pytest.param(
            {"resource": {"gid": "1", "resource_type": None, "name": None}},
            {"resource": Resource(gid="1")},
            id="explicit nulls",
        ),
        pytest.param({"user": None}, {"user": None}, id="null user"),
        pytest.param({"user": ...}, {"user": None}, id="no user"),
        pytest.param({"parent": ...}, {"parent": None}, id="no parent"),
        pytest.param({"change": ...}, {"change": None}, id="no change"),
        pytest.param({"change": None}, {"change": None}, id="null change"),
        pytest.param({"change": {}}, {"change": Change()}, id="empty change"),
        pytest.param(
            {"change": {"field": "f", "new_value": 10**30}},
            {"change": Change(field="f", new_value=10**30)},
            id="number as a value",
        ),
        pytest.param(
            {"change": {"field": "f", "added_value": ["a", {"b": None}]}},
            {"change": Change(field="f", added_value=["a", {"b": None}])},
            id="list as a value",
        ),
        pytest.param(
            {"change": {"field": "f", "removed_value": False}},
            {"change": Change(field="f", removed_value=False)},
            id="boolean as a value",
        ),
        pytest.param({"type": "task"}, {"type": "task"}, id="deprecated type"),
    ],
)
def test_odd_but_readable_event_is_decoded(
    fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    decoded = event(**fields)
    assert {name: getattr(decoded, name) for name in expected} == expected


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"1", id="number"),
        pytest.param(b"null", id="null"),
        pytest.param(b'"text"', id="text"),
        pytest.param(b"[]", id="list"),
        pytest.param(b"{}", id="empty object"),
        pytest.param(b"", id="nothing"),
        pytest.param(event_text()[:-1], id="truncated"),
        pytest.param(event_text() * 2, id="two"),
        pytest.param(event_text(created_at=...), id="without a time"),
        pytest.param(event_text(created_at=None), id="null for a time"),
        pytest.param(event_text(created_at="2026-07-04T10:11:12.345"), id="naive time"),
        pytest.param(event_text(created_at="2026-07-04"), id="day for a time"),
        pytest.param(event_text(created_at=1_783_159_872), id="number for a time"),
        pytest.param(event_text(created_at="0000-00-00T00:00:00Z"), id="no real time"),
        pytest.param(event_text(action=...), id="without an action"),
        pytest.param(event_text(action=None), id="null for an action"),
        pytest.param(event_text(resource=...), id="without a resource"),
        pytest.param(event_text(resource=None), id="null for a resource"),
        pytest.param(event_text(resource="1301"), id="text for a resource"),
        pytest.param(event_text(resource={}), id="resource without a gid"),
        pytest.param(event_text(resource={"gid": 1301}), id="number for a gid"),
        pytest.param(event_text(user="1201"), id="text for a user"),
        pytest.param(event_text(parent=[]), id="list for a parent"),
        pytest.param(event_text(change="name"), id="text for a change"),
        pytest.param(event_text(change={"field": 1}), id="number for a field"),
        pytest.param(event_text(change={"new_value": float("nan")}), id="NaN as a value"),
        pytest.param(event_text(unknown=float("nan")), id="NaN in an unknown field"),
        pytest.param(
            event_text(change={"new_value": 0}).replace(b"0}", b"9" * 5000 + b"}"),
            id="number of 5,000 digits as a value",
        ),
        pytest.param(
            event_text(unknown=0).replace(b"0}", b"[" * 100_000 + b"]" * 100_000 + b"}"),
            id="nesting of 100,000",
        ),
        pytest.param(event_text(action="\ud800"), id="half of a surrogate pair"),
        pytest.param(event_text(action="x").replace(b'"x"', b'"\xff"'), id="not UTF-8"),
    ],
)
def test_event_of_another_shape_raises_decode_error(text: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^not an event: .{5,100}$"):
        decode_event(text)


RECEIVED_AT = datetime(2026, 7, 4, 10, 12, tzinfo=UTC)


def read(**fields: Any) -> Event:
    return read_event(event_text(**fields), received_at=RECEIVED_AT)


NOT_A_GID: list[Any] = [{}, {"gid": None}, {"gid": 1201}, "1201", [], 0, {"name": "Ann"}]


@pytest.mark.parametrize("name", ["user", "parent"])
@pytest.mark.parametrize("odd", NOT_A_GID, ids=repr)
def test_odd_user_or_parent_costs_that_field_alone(name: str, odd: object) -> None:
    fields = {"parent": {"gid": "1", "resource_type": "project"}, name: odd}
    expected = msgspec.structs.replace(event(**(fields | {name: None})), raw=event_text(**fields))
    assert read(**fields) == expected


@pytest.mark.parametrize(
    ("odd", "change"),
    [
        pytest.param("name", None, id="text"),
        pytest.param([], None, id="list"),
        pytest.param({"field": 1, "action": "changed"}, Change(action="changed"), id="its field"),
        pytest.param({"field": "name", "action": {}}, Change(field="name"), id="its action"),
    ],
)
def test_odd_change_costs_the_odd_part_alone(odd: object, change: Change | None) -> None:
    assert read(change=odd).change == change
    assert read(change=odd).user == Resource(gid="1201", resource_type="user")


def test_value_that_python_cannot_hold_costs_that_value_alone() -> None:
    text = event_text(change={"field": "number", "new_value": 0})
    text = text.replace(b"0}", b"9" * 5000 + b"}")
    assert read_event(text, received_at=RECEIVED_AT).change == Change(field="number")


@pytest.mark.parametrize("name", ["resource_type", "resource_subtype", "name"])
def test_odd_part_of_a_resource_costs_that_part_alone(name: str) -> None:
    decoded = read(resource={"gid": "1301", "resource_type": "task"} | {name: 1})
    assert decoded.resource == Resource(
        gid="1301", resource_type=None if name == "resource_type" else "task"
    )


@pytest.mark.parametrize(
    "created_at",
    [
        pytest.param(..., id="missing"),
        pytest.param(None, id="null"),
        pytest.param("2026-07-04T10:11:12.345", id="naive"),
        pytest.param("2026-07-04", id="day"),
        pytest.param(1_783_159_872, id="number"),
        pytest.param("0000-00-00T00:00:00Z", id="no real time"),
    ],
)
def test_event_without_a_readable_time_has_that_of_its_receipt(created_at: object) -> None:
    decoded = read(created_at=created_at)
    assert decoded.created_at == RECEIVED_AT
    assert decoded.change == Change(field="name", action="changed")
    assert decoded.key == read(created_at=created_at).key


@pytest.mark.parametrize("odd", [*NOT_A_GID, None, ...], ids=repr)
def test_event_without_a_usable_resource_is_none(odd: object) -> None:
    with pytest.raises(DecodeError, match="not an event"):
        read(resource=odd)


@pytest.mark.parametrize("odd", [..., None, 1, {}, "\ud800"], ids=ascii)
def test_event_without_a_usable_action_is_none(odd: object) -> None:
    with pytest.raises(DecodeError, match="not an event"):
        read(action=odd)


@pytest.mark.parametrize("text", [b"", b"1", b"null", b"[]", b"{}", b'{"action":"changed"'])
def test_text_that_is_no_object_is_no_event(text: bytes) -> None:
    with pytest.raises(DecodeError, match="not an event"):
        read_event(text, received_at=RECEIVED_AT)


def test_event_that_is_as_we_know_it_is_read_as_it_is() -> None:
    for text in split_events(CREATED_IN_PROJECT):
        assert read_event(text, received_at=RECEIVED_AT) == decode_event(text)


@pytest.mark.parametrize("value", [{"gid": "1", "enum_value": {"gid": "2"}}, [1, {}], 1.5, None])
def test_every_event_has_a_hash_and_equal_ones_the_same(value: object) -> None:
    change = {"field": "name", "action": "changed", "new_value": value}
    one, other = event(change=change), event(change=change)
    assert hash(one) == hash(other)
    assert hash(one.change) == hash(other.change)
    assert {one: "seen"}[other] == "seen"


def test_one_odd_event_does_not_spoil_its_neighbours() -> None:
    good, odd = event_text(), event_text(resource=None)
    first, second, third = split_events(b'{"events":[%b,%b,%b]}' % (good, odd, good))
    assert decode_event(first) == decode_event(third) == decode_event(good)
    with pytest.raises(DecodeError):
        decode_event(second)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            event_text(unknown=0).replace(b"0}", b"9" * 5000 + b"}"), id="number of 5,000 digits"
        ),
        pytest.param(event_text(unknown=0).replace(b"0}", b"1e999}"), id="endless number"),
    ],
)
def test_unknown_field_that_python_cannot_hold_spoils_raw_alone(text: bytes) -> None:
    decoded = decode_event(text)
    assert decoded.key == event().key
    with pytest.raises(DecodeError, match="out of range"):
        _ = decoded.json()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("2026-07-04T10:11:12.345Z", NOW, id="milliseconds"),
        pytest.param("2026-07-04T10:11:12Z", NOW.replace(microsecond=0), id="seconds"),
        pytest.param("2026-07-04T12:11:12.345+02:00", NOW, id="another zone"),
        pytest.param(
            "2026-07-04T10:11:12.345678901Z", NOW.replace(microsecond=345679), id="nanoseconds"
        ),
    ],
)
def test_times_are_aware(text: str, expected: datetime) -> None:
    created_at = event(created_at=text).created_at
    assert created_at.tzinfo is not None
    assert created_at == expected


# The key of an event


KEYS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "time": {"created_at": "2026-07-04T10:11:12.346Z"},
    "action": {"action": "added"},
    "gid of the resource": {"resource": {"gid": "1302", "resource_type": "task"}},
    "type of the resource": {"resource": {"gid": "1301", "resource_type": "story"}},
    "user": {"user": {"gid": "1202", "resource_type": "user"}},
    "no user": {"user": None},
    "parent": {"parent": {"gid": "1", "resource_type": "project"}},
    "gid of the parent": {"parent": {"gid": "2", "resource_type": "project"}},
    "type of the parent": {"parent": {"gid": "1", "resource_type": "section"}},
    "no change": {"change": None},
    "field of the change": {"change": {"field": "notes", "action": "changed"}},
    "action of the change": {"change": {"field": "name", "action": "added"}},
    **{
        f"{name} {gid}": {"change": {"field": "name", "action": "changed", name: {"gid": gid}}}
        for name in ("new_value", "added_value", "removed_value")
        for gid in ("1", "2")
    },
    "type of a value": {
        "change": {
            "field": "name",
            "action": "changed",
            "new_value": {"gid": "1", "resource_type": "user"},
        }
    },
}


def test_key_differs_with_each_part_that_identifies_the_change() -> None:
    keys = {name: event(**fields).key for name, fields in KEYS.items()}
    same = [
        (one, other) for one, other in itertools.combinations(keys, 2) if keys[one] == keys[other]
    ]
    assert same == []


@pytest.mark.parametrize("fields", [pytest.param(fields, id=name) for name, fields in KEYS.items()])
def test_key_is_equal_for_a_repeat(fields: dict[str, Any]) -> None:
    assert event(**fields).key == event(**fields).key


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"parent": ..., "x": 1}, id="null left out, unknown field"),
        pytest.param({"created_at": "2026-07-04T12:11:12.345+02:00"}, id="another zone"),
        pytest.param(
            {"resource": {"resource_subtype": "milestone", "resource_type": "task", "gid": "1301"}},
            id="subtype of the resource",
        ),
        pytest.param(
            {"change": {"action": "changed", "field": "name", "new_value": None}}, id="null value"
        ),
        *(
            pytest.param(
                {"change": {"action": "changed", "field": "name", "new_value": value}},
                id=f"no object of Asana: {value!r}",
            )
            for value in ("new", 5, True, ["1"], {}, {"gid": 1}, {"name": "x"})
        ),
        pytest.param({"type": "task"}, id="deprecated type"),
        pytest.param(
            {"user": {"gid": "1201", "resource_type": "user", "name": "Robin Example"}},
            id="compact user",
        ),
    ],
)
def test_key_is_equal_for_one_change_told_in_two_ways(fields: dict[str, Any]) -> None:
    assert event(**fields).key == event().key


@pytest.mark.parametrize("name", ["new_value", "added_value", "removed_value"])
def test_key_is_equal_where_the_stream_says_more_of_a_value_than_a_webhook(name: str) -> None:
    value = {"gid": "1601", "resource_type": "custom_field"}
    compact = value | {"name": "Size", "enum_value": {"gid": "1602", "name": "large"}}
    change = {"field": "custom_fields", "action": "changed"}
    assert event(change=change | {name: value}).key == event(change=change | {name: compact}).key


def test_value_whose_type_is_no_text_has_a_key() -> None:
    change = {"field": "name", "action": "changed"}
    odd = event(change=change | {"new_value": {"gid": "1", "resource_type": [5]}})
    assert odd.key == event(change=change | {"new_value": {"gid": "1"}}).key


def test_key_never_changes_between_releases_because_programs_store_it() -> None:
    assert [event.key for event in events_of(CREATED_IN_PROJECT)] == [
        "441d45c678d36d6b393a2aa4545ca405",
        "1e8426bfab9d77bb181e0b430029d3f8",
        "133ad9c4de0671f6240b9c0bec7e531f",
        "0f267a9be88a4a9c3150e4397f789507",
    ]


# The source of an event

SOURCE = Source(webhook="1700", resource="1400", account="acme", received_at=RECEIVED_AT)


def test_event_knows_the_source_that_it_was_decoded_for() -> None:
    assert decode_event(event_text(), source=SOURCE).source is SOURCE
    whole, mended = event_text(), event_text(parent=5)
    for text in (whole, mended):
        assert read_event(text, received_at=RECEIVED_AT, source=SOURCE).source is SOURCE


@pytest.mark.parametrize("change", [None, 5], ids=["well formed", "odd"])
def test_source_is_never_what_the_json_says(change: object) -> None:
    forged = {"(source)": {"webhook": "1", "resource": "2"}, "(raw)": "eA==", "change": change}
    decoded = read(**forged)
    assert decoded.source == Source(webhook="", resource="")
    assert decoded.raw == event_text(**forged)


def test_source_is_no_part_of_what_makes_events_equal() -> None:
    delivered, bare = decode_event(event_text(), source=SOURCE), event()
    assert delivered == bare
    assert hash(delivered) == hash(bare)
    assert delivered.key == bare.key
    assert delivered != event(action="deleted")
    assert delivered != "an event"


def test_echo_is_no_part_of_what_makes_events_equal_and_is_shown() -> None:
    echo, bare = event(), event()
    force_setattr(echo, "echo", True)  # noqa: FBT003 - the value of a field
    assert echo == bare
    assert (hash(echo), echo.key) == (hash(bare), bare.key)
    assert "echo=True" in repr(echo)
    assert "echo" not in repr(bare)


def test_echo_is_never_taken_from_asana() -> None:
    assert not decode_event(event_text(**{"echo": True, "(echo)": True})).echo


def test_source_is_shown() -> None:
    shown = repr(decode_event(event_text(), source=SOURCE))
    assert "source=Source(webhook='1700', resource='1400', account='acme', via='webhook'" in shown
    assert "Source" not in repr(event())


# Any bytes at all


HOSTILE = [
    pytest.param(b"", id="empty"),
    pytest.param(b"[]", id="list"),
    pytest.param(b"null", id="null"),
    pytest.param(b"0", id="number"),
    pytest.param(b'"events"', id="text"),
    pytest.param(b"{}", id="without events"),
    pytest.param(b'{"Events":[]}', id="another name"),
    pytest.param(b'{"events":null}', id="null events"),
    pytest.param(b'{"events":{}}', id="object of events"),
    pytest.param(b'{"events":"[]"}', id="text of events"),
    pytest.param(b'{"events":[', id="truncated"),
    pytest.param(COMPLETED[:-1], id="truncated by a byte"),
    pytest.param(HEARTBEAT + HEARTBEAT, id="two bodies"),
    pytest.param(b'{"events":[{"a":"\xff"}]}', id="bad UTF-8"),
    pytest.param(b'{"\xc3":1,"events":[]}', id="bad UTF-8 in a name"),
    pytest.param(b'{"events":["\xed\xa0\x80"]}', id="surrogate in UTF-8"),
    pytest.param(b"\xef\xbb\xbf" + HEARTBEAT, id="byte order mark"),
    pytest.param(HEARTBEAT.decode().encode("utf-16"), id="UTF-16"),
    pytest.param(b'{"events":[NaN]}', id="NaN"),
    pytest.param(b'{"events":[Infinity]}', id="infinity"),
    pytest.param(b"9" * 5000, id="number of 5,000 digits"),
    pytest.param(b'{"events":' + b"9" * 5000 + b"}", id="number of 5,000 digits for events"),
    pytest.param(b"[" * 100_000, id="nesting of 100,000, open"),
    pytest.param(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, id="objects nested 100,000 deep"),
    pytest.param(
        b'{"events":' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="events nested 100,000 deep"
    ),
    pytest.param(b"\x00" * 100, id="zeros"),
]


@pytest.mark.parametrize("body", HOSTILE)
def test_body_of_another_shape_raises_decode_error(body: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^not a delivery: .{5,100}$"):
        split_events(body)


def read_all_of(body: bytes) -> None:
    """Use whatever can be read of a body; nothing but DecodeError may be raised on the way."""
    texts: list[msgspec.Raw] = []
    with suppress(DecodeError):
        texts = split_events(body)
    for text in texts:
        with suppress(DecodeError):
            decoded = read_event(text, received_at=NOW)
            assert hash(decoded) is not None
            assert len(decoded.key) == 32
            assert decoded.created_at.tzinfo is not None
            assert str(decoded).startswith("Event(")
            assert decoded.raw == bytes(text)
            assert decoded.json()["action"] == decoded.action


VALID = (CHANGED_2019, COMPLETED, CREATED_IN_PROJECT, HEARTBEAT, b'{"events":[1,{}]}')
PIECES = [b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"null", b"-", b"1e999", b"\\ud800"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=10,
)
odd_events = st.fixed_dictionaries(
    {},
    optional={
        "created_at": st.just("2026-07-04T10:11:12.345Z") | st.datetimes().map(str) | json_values,
        "action": st.just("changed") | json_values,
        "resource": st.just({"gid": "1"}) | json_values,
        "user": json_values,
        "parent": json_values,
        "change": st.fixed_dictionaries({}, optional={"field": st.text(), "new_value": json_values})
        | json_values,
        "(json)": json_values,
    },
)


@given(st.binary())
@settings(deadline=None)
def test_reading_is_total_for_any_bytes(body: bytes) -> None:
    read_all_of(body)
    read_all_of(b'{"events":[%b]}' % body)


@given(st.lists(odd_events | json_values, max_size=4))
@settings(deadline=None)
def test_reading_is_total_for_any_events(events: list[Any]) -> None:
    read_all_of(json.dumps({"events": events}).encode())
    read_all_of(json.dumps({"events": events}, ensure_ascii=False).encode())


@given(st.sampled_from(VALID), st.data())
@settings(deadline=None)
def test_reading_is_total_for_mutated_bodies(body: bytes, data: st.DataObject) -> None:
    mutated = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated)))
        until = data.draw(st.integers(at, min(at + 20, len(mutated))))
        mutated[at:until] = data.draw(st.binary(max_size=4) | st.sampled_from(PIECES))
    read_all_of(bytes(mutated))


@given(st.sampled_from(VALID[:3]), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_key_does_not_depend_on_the_order_of_names(body: bytes, random: Any) -> None:
    def shuffled(value: Any) -> Any:
        if not isinstance(value, dict):
            return [shuffled(item) for item in value] if isinstance(value, list) else value
        names = list(value)
        random.shuffle(names)
        return {name: shuffled(value[name]) for name in names}

    other = json.dumps(shuffled(json.loads(body)), indent=1).encode()
    assert [event.key for event in events_of(other)] == [event.key for event in events_of(body)]


# What is shown

HIDDEN = "hidden-from-every-reader"
DELIVERY = Delivery(
    route=HIDDEN, body=HIDDEN.encode(), digest=HIDDEN.encode(), received_at=NOW, id="7", attempts=2
)


@pytest.mark.parametrize("show", [repr, str, format, pretty_repr, lambda shown: repr([shown])])
@pytest.mark.parametrize(
    ("shown", "visible"),
    [
        pytest.param(
            Webhook(gid="12", target=f"https://example.com/{HIDDEN}", active=True, secret=HIDDEN),
            ("Webhook", "gid='12'", "active=True"),
            id="webhook",
        ),
        pytest.param(
            Page(data=(Webhook(gid="12", target=HIDDEN, secret=HIDDEN),)),
            ("Page", "gid='12'"),
            id="page of webhooks",
        ),
        pytest.param(
            Route(
                id=HIDDEN,
                target=f"https://example.com/{HIDDEN}",
                resource="1204619",
                state="confirmed",
                secret=HIDDEN,
                candidates=(HIDDEN,),
            ),
            ("Route", "resource='1204619'", "state='confirmed'"),
            id="route",
        ),
        pytest.param(DELIVERY, ("Delivery", "id='7'", "attempts=2"), id="delivery"),
        pytest.param(
            Claim(route=HIDDEN, fence=3, deliveries=(DELIVERY,)),
            ("Claim", "fence=3", "id='7'"),
            id="claim",
        ),
        pytest.param(
            DeadLetter(
                route=HIDDEN, body=HIDDEN.encode(), reason="odd", received_at=NOW, buried_at=NOW
            ),
            ("DeadLetter", "reason='odd'"),
            id="dead letter",
        ),
        pytest.param(
            Settlement(
                removed=("7",), kept=(DELIVERY,), retries=(Retry(delivery=DELIVERY, delay=2.5),)
            ),
            ("Settlement", "'7'", "delay=2.5"),
            id="settlement",
        ),
        pytest.param(
            State(scope="acme/12", version=3, text=HIDDEN),
            ("State", "scope='acme/12'", "version=3"),
            id="state",
        ),
        pytest.param(
            event(unknown=HIDDEN), ("Event", "action='changed'", "gid='1301'"), id="event"
        ),
    ],
)
def test_nothing_secret_is_shown(shown: object, visible: Sequence[str], show: Any) -> None:
    text = show(shown)
    assert HIDDEN not in text
    assert [part for part in visible if part not in text] == []


def test_what_is_not_set_is_not_shown() -> None:
    assert repr(Webhook(gid="12")) == "Webhook(gid='12', resource_type='webhook')"


def test_delivery_shows_how_large_it_is() -> None:
    assert f"{len(HIDDEN)} bytes" in repr(DELIVERY)


# How far a delivery has come


PROGRESS = Progress(
    upto=2, done=(4, 7), partly={3: ("app.tasks:celebrate",), 5: ("é:f", "b")}, pending=("m:a.b",)
)


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        pytest.param(Progress(), "", id="beginning"),
        pytest.param(Progress(upto=3), '{"upto":3}', id="upto"),
        pytest.param(Progress(done=(1, 2)), '{"done":[1,2]}', id="done"),
        pytest.param(Progress(partly={4: ("a", "b")}), '{"partly":{"4":["a","b"]}}', id="partly"),
        pytest.param(Progress(pending=("a",)), '{"pending":["a"]}', id="pending"),
        pytest.param(
            PROGRESS,
            '{"upto":2,"done":[4,7],"partly":{"3":["app.tasks:celebrate"],"5":["é:f","b"]},'
            '"pending":["m:a.b"]}',
            id="all",
        ),
    ],
)
def test_progress_is_a_text_that_stores_keep_for_days(progress: Progress, text: str) -> None:
    assert progress.encode() == text
    assert Progress.decode(text) == progress


def test_text_of_a_progress_may_say_more_than_is_known_here() -> None:
    assert Progress.decode('{"upto":1,"since":{"deep":[1]}}') == Progress(upto=1)
    assert Progress.decode("{}") == Progress()


DAMAGED = [
    "{",
    "[]",
    "null",
    "7",
    " ",
    '{"upto":-1}',
    '{"upto":1.5}',
    '{"upto":true}',
    '{"upto":"1"}',
    '{"upto":null}',
    '{"done":[0,-4]}',
    '{"done":3}',
    '{"partly":{"x":["a"]}}',
    '{"partly":{"-1":["a"]}}',
    '{"partly":{"1":"a"}}',
    '{"pending":"a"}',
    '{"pending":[1]}',
    '{"pending":["\udcff"]}',
    '{"upto":1}}',
    '{"x":' * 100_000,
]


@pytest.mark.parametrize("text", DAMAGED, ids=lambda text: text[:24])
def test_damaged_progress_raises_decode_error_and_is_not_quoted(text: str) -> None:
    with pytest.raises(DecodeError, match="not a delivery's progress: ") as caught:
        Progress.decode(text.replace('"a"', '"a b c"'))
    assert "a b c" not in str(caught.value)


@given(st.text())
def test_reading_of_a_progress_is_total(text: str) -> None:
    with suppress(DecodeError):
        Progress.decode(text)


counts = st.integers(0, 10_000)
names = st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=3).map(tuple)


@given(
    st.builds(
        Progress,
        upto=counts,
        done=st.lists(counts).map(tuple),
        partly=st.dictionaries(counts, names),
        pending=names,
    )
)
def test_progress_comes_back_as_it_was(progress: Progress) -> None:
    assert Progress.decode(progress.encode()) == progress


@pytest.mark.parametrize(
    ("progress", "handlers"),
    [
        pytest.param("", (), id="none"),
        pytest.param('{"upto":1}', (), id="all that want it"),
        pytest.param('{"pending":["app:f","app:g"]}', ("app:f", "app:g"), id="some"),
        pytest.param('{"pending":[1]}', (), id="damaged"),
        pytest.param("{", (), id="no JSON"),
    ],
)
def test_dead_letter_names_the_handlers_that_failed(
    progress: str, handlers: tuple[str, ...]
) -> None:
    letter = DeadLetter(
        route="r", body=b"", reason="odd", received_at=NOW, buried_at=NOW, progress=progress
    )
    assert letter.handlers == handlers


def test_settlement_is_empty_until_something_is_said() -> None:
    nothing = Settlement()
    assert (nothing.removed, nothing.kept, nothing.retries, nothing.letters) == ((), (), (), ())
    assert (nothing.scope, nothing.events) == ("", b"")


# The models as values


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        pytest.param(WebhookFilter(), "{}", id="nothing set"),
        pytest.param(
            WebhookFilter(resource_type="task"), '{"resource_type":"task"}', id="one field"
        ),
        pytest.param(
            WebhookFilter(
                resource_type="task",
                resource_subtype="milestone",
                action="changed",
                fields=["name", "notes"],
            ),
            '{"resource_type":"task","resource_subtype":"milestone","action":"changed",'
            '"fields":["name","notes"]}',
            id="every field",
        ),
        pytest.param(WebhookFilter(fields=[]), '{"fields":[]}', id="no fields"),
    ],
)
def test_filter_is_sent_without_what_is_not_set(wanted: WebhookFilter, text: str) -> None:
    assert msgspec.json.encode(wanted).decode() == text
    assert msgspec.json.decode(text, type=WebhookFilter) == wanted


def test_filter_with_explicit_nulls_is_the_one_without() -> None:
    text = b'{"resource_type":"task","resource_subtype":null,"action":null,"fields":null}'
    assert msgspec.json.decode(text, type=WebhookFilter) == WebhookFilter(resource_type="task")


@pytest.mark.parametrize(
    "fields", [["a", "b"], ("a", "b"), deque(["a", "b"]), {"a": 1, "b": 2}.keys()]
)
def test_filter_takes_any_sequence_of_fields(fields: Any) -> None:
    wanted = WebhookFilter(action="changed", fields=fields)
    assert wanted.fields == ("a", "b")
    assert wanted == WebhookFilter(action="changed", fields=("a", "b"))
    assert hash(wanted) == hash(WebhookFilter(action="changed", fields=("a", "b")))


def test_filters_that_differ_are_not_equal() -> None:
    assert len({WebhookFilter(), WebhookFilter(action="added"), WebhookFilter(fields=())}) == 3


def test_one_name_for_the_fields_of_a_filter_is_refused() -> None:
    with pytest.raises(ValueError, match="list of names"):
        WebhookFilter(action="changed", fields="completed")
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"fields":"completed"}', type=WebhookFilter)


@pytest.mark.parametrize(
    ("name", "value"),
    [("fields", value) for value in (5, [1], ["a", None], b"ab", True)]
    + [
        (name, value)
        for name in ("resource_type", "resource_subtype", "action")
        for value in (5, ["task"], b"task")
    ],
)
def test_filter_with_a_value_of_another_type_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"a filter's {name} (is|are) a "):
        WebhookFilter(**{name: value})


def test_page_is_a_sequence_of_what_it_holds() -> None:
    page = Page(data=("a", "b"), offset="next")
    assert (list(page), len(page), page.offset) == (["a", "b"], 2, "next")
    assert not Page(data=())
    assert Page(data=()).offset is None


def test_new_route_is_reserved_now_and_has_no_secrets() -> None:
    route = Route(id="r", target="t", resource="1")
    assert (route.state, route.secret, route.candidates) == ("reserved", None, ())
    assert route.created_at.tzinfo is UTC
    assert abs(datetime.now(UTC) - route.created_at) < timedelta(minutes=1)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(event(), id="event"),
        pytest.param(Webhook(gid="1"), id="webhook"),
        pytest.param(WebhookFilter(fields=("a",)), id="filter"),
        pytest.param(Route(id="r", target="t", resource="1"), id="route"),
        pytest.param(DELIVERY, id="delivery"),
        pytest.param(PROGRESS, id="progress"),
        pytest.param(Settlement(kept=(DELIVERY,)), id="settlement"),
        pytest.param(Retry(delivery=DELIVERY, delay=1.0), id="retry"),
        pytest.param(State(scope="/12", text="{}"), id="state"),
    ],
)
def test_models_are_values_that_cannot_be_changed(value: msgspec.Struct) -> None:
    with pytest.raises(AttributeError):
        setattr(value, value.__struct_fields__[0], "other")
    assert pickle.loads(pickle.dumps(value)) == value  # noqa: S301 - our own bytes


def test_key_is_that_of_the_instant_whatever_the_zone() -> None:
    east = timezone(timedelta(hours=14))
    first_instants = event(created_at=datetime(1, 1, 1, tzinfo=east).isoformat())
    assert len(first_instants.key) == 32


@pytest.mark.parametrize("gid", ["1204619", "0"])
def test_gid_is_a_text_of_digits(gid: str) -> None:
    assert check_gid("resource", gid) == gid


@pytest.mark.parametrize("gid", ["", "12a", "me", "-1", "1 2", "1/2", "٣", "12\n", 12, None])
def test_gid_that_is_no_text_of_digits_is_refused_by_name(gid: Any) -> None:
    with pytest.raises(ValueError, match="^resource must be a gid: a text of digits"):
        check_gid("resource", gid)
