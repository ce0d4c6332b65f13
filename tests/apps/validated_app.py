"""The application that uses everything in PEP 3333, watched from both sides by the standard library's validator."""

from __future__ import annotations

from wsgiref.validate import validator

from wsgi_app import exercise

app = validator(exercise)
