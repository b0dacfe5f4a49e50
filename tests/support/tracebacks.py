"""Reports of errors with the values of names, as Sentry and rich show them."""

import traceback


def shown_by(error: BaseException) -> str:
    """Return the text of an error, and the values in all frames but those of tests."""
    shown = "".join(traceback.TracebackException.from_exception(error).format())
    seen: BaseException | None = error
    while seen is not None:
        for frame, _ in traceback.walk_tb(seen.__traceback__):
            if not frame.f_globals["__name__"].startswith("test_"):
                shown += repr(frame.f_locals)
        seen = seen.__cause__ or seen.__context__
    return shown
