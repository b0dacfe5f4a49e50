"""The operations that are served, a module for each group of them.

A module has four parts, in this order: the tables of its records (``Kind``); what users do to them
and to nothing else, as functions that take ``UserActions`` first; the answers to calls, as
functions that take an ``ApiCall``; and two tables, ``KINDS`` with the records that it owns and
``OPERATIONS`` with what is served, by the names of Asana's description. Most answers are made by
``crud.py``. An ``Operation`` names what it takes of a call; whatever else a call gives is said to
be ignored. ``tags.py`` is a short one to begin from. A new module is named in ``app.SERVED``.
"""
