import warnings
from collections.abc import Sequence

import pytest

from asana_webhooks._vocabulary import (
    FIELDS,
    RESOURCE_TYPES,
    SUBTYPES,
    warn_about_filter,
    warn_about_pattern,
)


def warned(
    resource_type: str | None = None,
    subtype: str | None = None,
    fields: Sequence[str] | None = None,
) -> list[str]:
    """Return the warnings for a filter with these words."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        warn_about_filter(resource_type, subtype, fields)
    assert all(each.filename == __file__ for each in said)
    return [str(each.message) for each in said]


@pytest.mark.parametrize("resource_type", ["tsak", "taks", "Task", "TASK", "storys", "projects"])
def test_misspelt_type_of_a_filter_is_said(resource_type: str) -> None:
    (message,) = warned(resource_type)
    assert message.startswith(f"Asana has no resource type {resource_type!r}; did you mean '")


def test_each_misspelt_word_of_a_filter_is_said() -> None:
    assert warned("task", "milestones", ["name", "complete", "asignee"]) == [
        "Asana has no task of the subtype 'milestones'; did you mean 'milestone'?",
        "Asana has no task with a field 'complete'; did you mean 'completed'?",
        "Asana has no task with a field 'asignee'; did you mean 'assignee'?",
    ]


@pytest.mark.parametrize(
    ("resource_type", "subtype", "fields"),
    [
        pytest.param(None, None, None, id="nothing"),
        pytest.param("rocket", "launched", ["fuel"], id="new words"),
        pytest.param("story", "added_to_portfolio", None, id="new word that begins like another"),
        pytest.param("user", "milestones", ["complete"], id="type whose words are not known"),
    ],
)
def test_words_that_asana_may_have_are_not_warned_of(
    resource_type: str | None, subtype: str | None, fields: Sequence[str] | None
) -> None:
    assert warned(resource_type, subtype, fields) == []


@pytest.mark.parametrize(
    ("resource_type", "known"),
    [*SUBTYPES.items(), *FIELDS.items()],
    ids=[*(f"subtypes of {kind}" for kind in SUBTYPES), *(f"fields of {kind}" for kind in FIELDS)],
)
def test_every_known_word_is_taken_without_a_warning(
    resource_type: str, known: frozenset[str]
) -> None:
    assert resource_type in RESOURCE_TYPES
    for word in known:
        is_subtype = known is SUBTYPES.get(resource_type)
        subtype, field = (word, None) if is_subtype else (None, word)
        warn_about_pattern(resource_type, subtype, None, field)  # any warning fails the test
        warn_about_pattern(None, subtype, "changed", field)
