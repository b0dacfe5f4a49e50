"""The words of Asana's events and projects, and a warning for one that is misspelt.

Asana adds words, so none is refused. The warning points to the line that called this package.

Source: Asana's OpenAPI description, https://developers.asana.com/docs/webhooks-guide
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable

__all__ = ["ACTIONS", "warn_about_filter", "warn_about_pattern", "warn_about_project_field"]

ACTIONS = ("added", "changed", "removed", "deleted", "undeleted")

OTHER_TYPES = {"comment": "'story', subtype='comment_added'"}
OTHER_ACTIONS = {
    "created": "added",
    "updated": "changed",
    "modified": "changed",
    "edited": "changed",
    "moved": "added",
    "restored": "undeleted",
}
"""Words that people and other services have, and what Asana has instead."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


RESOURCE_TYPES = _words(
    """
    access_request agent allocation attachment budget custom_field custom_field_membership
    custom_field_setting custom_type custom_type_membership custom_type_status_option enum_option
    export_request goal goal_membership goal_relationship graph_export job membership ooo_entry
    organization_export portfolio portfolio_membership project project_brief project_membership
    project_portfolio_setting project_status project_template rate role section status_update story
    tag task task_template team team_membership time_period time_tracking_category
    time_tracking_entry timesheet_approval_status user user_task_list webhook workspace
    workspace_membership
    """
)

SUBTYPES = {
    "attachment": _words("asana box dropbox external gdrive onedrive vimeo"),
    "custom_field": _words("date enum multi_enum number people reference text"),
    "goal_relationship": _words("subgoal supporting_work"),
    "status_update": _words("goal_status_update portfolio_status_update project_status_update"),
    "story": _words(
        """
        added_to_project added_to_tag added_to_task approval_status_changed approved assigned
        attachment_added changes_requested comment_added comment_liked completion_liked
        date_custom_field_changed dependency_added dependency_due_date_changed dependency_duplicated
        dependency_marked_complete dependency_marked_incomplete dependency_removed dependent_added
        dependent_removed due_date_changed due_today duplicate_merged duplicate_unmerged duplicated
        enum_custom_field_changed follower_added follower_removed marked_complete marked_duplicate
        marked_incomplete mentioned message_added multi_enum_custom_field_changed name_changed
        notes_changed number_custom_field_changed people_custom_field_changed rejected
        removed_from_project removed_from_tag removed_from_task reset_approval_status
        resource_subtype_changed section_changed start_date_changed story_reaction_added
        story_reaction_removed task_hearted text_custom_field_changed unassigned unmarked_duplicate
        """
    ),
    "task": _words("approval custom default_task milestone"),
}

FIELDS = {
    "attachment": _words("name parent"),
    "goal": _words(
        """
        current_status_update custom_field_settings custom_fields default_access_level due_on
        followers html_notes is_workspace_level liked likes metric name notes num_likes owner
        privacy_setting start_on status team time_period workspace
        """
    ),
    "portfolio": _words(
        """
        archived color current_status_update custom_field_settings custom_fields
        default_access_level due_on members name owner privacy_setting project_templates public
        start_on workspace
        """
    ),
    "project": _words(
        """
        archived color completed completed_at completed_by current_status current_status_update
        custom_field_settings custom_fields default_access_level default_view due_at due_date due_on
        followers html_notes icon members minimum_access_level_for_customization
        minimum_access_level_for_sharing modified_at name notes owner privacy_setting project_brief
        public start_at start_on team workspace
        """
    ),
    "section": _words("name project"),
    "story": _words(
        """
        hearted hearts html_text is_edited is_pinned liked likes num_hearts num_likes text
        """
    ),
    "tag": _words("color followers name notes"),
    "task": _words(
        """
        actual_time_minutes approval_status assigned_by assignee assignee_section assignee_status
        attachments completed completed_at completed_by custom_fields custom_type
        custom_type_status_option dependencies dependents due_at due_on external followers hearted
        hearts html_notes is_rendered_as_separator liked likes memberships modified_at name notes
        num_hearts num_likes num_subtasks parent projects resource_subtype start_at start_on stories
        subtasks tags workspace
        """
    ),
    "team": _words("description html_description name visibility"),
    "workspace": _words("email_domains is_organization name"),
}

PROJECT_RECORD = _words("created_at created_from_template gid permalink_url resource_type")
"""The fields of a project's record that no event names."""

ALIKE = 0.75
"""How much of a word must be as in another one, from 0 to 1, to be taken for that misspelt."""

LESS_ALIKE = 0.65
"""The same, to suggest one for a word that is wrong in any case."""


def warn_about_pattern(
    resource_type: str | None, subtype: str | None, action: str | None, field: str | None
) -> None:
    """Warn of words of a handler's pattern for which there will be no event."""
    if resource_type is not None and resource_type not in RESOURCE_TYPES:
        _warn("resource type", resource_type, _meant_type(resource_type))
    if action is not None and action not in ACTIONS:
        others = f"its actions are {', '.join(ACTIONS)}"
        _warn("action", action, _meant_action(action, resource_type) or others)
    elif field is not None and action not in (None, "changed"):
        _say(f"no event of the action {action!r} has a field; did you mean action='changed'?")
    _warn_about_subtype(resource_type, subtype)
    _warn_about_field(resource_type, field)


def warn_about_filter(
    resource_type: str | None, subtype: str | None, fields: Iterable[str] | None
) -> None:
    """Warn of words of a webhook's filter that look misspelt."""
    if resource_type is not None and resource_type not in RESOURCE_TYPES:
        meant = _near(resource_type, RESOURCE_TYPES)
        if meant is not None:
            _warn("resource type", resource_type, _did_you_mean(repr(meant)))
    _warn_about_subtype(resource_type, subtype)
    for field in fields or ():
        _warn_about_field(resource_type, field)


def warn_about_project_field(field: str) -> None:
    """Warn of a field that projects are chosen by and that looks misspelt."""
    if field not in PROJECT_RECORD:
        _warn_about_field("project", field)


def _warn_about_subtype(resource_type: str | None, subtype: str | None) -> None:
    known = _of(SUBTYPES, resource_type)
    if subtype is not None and subtype not in known and (meant := _near(subtype, known)):
        _warn(f"{_noun(resource_type)} of the subtype", subtype, _did_you_mean(repr(meant)))


def _warn_about_field(resource_type: str | None, field: str | None) -> None:
    known = _of(FIELDS, resource_type)
    if field is not None and field not in known and (meant := _near(field, known)):
        _warn(f"{_noun(resource_type)} with a field", field, _did_you_mean(repr(meant)))


def _noun(resource_type: str | None) -> str:
    return resource_type if resource_type in RESOURCE_TYPES else "resource"


def _of(words: dict[str, frozenset[str]], resource_type: str | None) -> frozenset[str]:
    """Return the words of a type; those of all when it is None or not known."""
    if resource_type in RESOURCE_TYPES:
        return words.get(resource_type, frozenset())
    return frozenset().union(*words.values())


def _meant_type(word: str) -> str:
    near = _near(word, (*RESOURCE_TYPES, *OTHER_TYPES), LESS_ALIKE)
    if near is not None:
        return _did_you_mean(OTHER_TYPES.get(near, repr(near)))
    subtypes = {subtype: kind for kind, words in SUBTYPES.items() for subtype in words}
    near = _near(word, subtypes, LESS_ALIKE)
    return "" if near is None else _did_you_mean(f"{subtypes[near]!r}, subtype={near!r}")


def _meant_action(word: str, resource_type: str | None) -> str:
    fields = _of(FIELDS, resource_type)
    near = None if word in fields else _near(word, (*ACTIONS, *OTHER_ACTIONS), LESS_ALIKE)
    if near is not None:
        return _did_you_mean(f"action={OTHER_ACTIONS.get(near, near)!r}")
    near = _near(word, fields)
    return "" if near is None else _did_you_mean(f"action='changed', field={near!r}")


def _did_you_mean(meant: str) -> str:
    return f"did you mean {meant}?"


def _near(word: str, known: Iterable[str], alike: float = ALIKE) -> str | None:
    import difflib  # only for a word that is not known

    found = difflib.get_close_matches(word.lower(), sorted(known), n=1, cutoff=alike)
    return found[0] if found else None


def _warn(what: str, word: str, rest: str) -> None:
    _say(f"Asana has no {what} {word!r}" + (f"; {rest}" if rest else ", as far as is known"))


def _say(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=_outside())


def _outside() -> int:
    """Return the stack level, for ``_say``, of the first caller that is not of this package."""
    package = f"{__package__}."
    level, frame = 0, sys._getframe(1)
    while f"{frame.f_globals.get('__name__')}.".startswith(package) and frame.f_back is not None:
        level, frame = level + 1, frame.f_back
    return level + 1
