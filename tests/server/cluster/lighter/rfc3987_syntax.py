"""Stands before the package of this name: jsonschema, which each of Ray's processes imports, does without it.

Importing the package builds a parser, which takes a second; this is for the path of Ray's processes in tests.
"""

raise ImportError("not for Ray's processes")
