"""A Django application: hello, a page of a template, and TechEmpower's tests of a database.

`BENCH_DATABASE` says how psycopg reaches PostgreSQL. `postgresql.py` fills the tables.
"""

from __future__ import annotations

import os
import random
from typing import Any

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import models
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template import engines
from django.urls import path

from postgresql import CLIENTS, FORTUNE, MOST_QUERIES, TEMPLATE, WORLDS

_known = dict(part.split("=", 1) for part in os.environ.get("BENCH_DATABASE", "").split())
settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": _known.get("host"),
            "USER": _known.get("user"),
            "NAME": _known.get("dbname", "postgres"),
            "OPTIONS": {"pool": {"min_size": 4, "max_size": CLIENTS}},
        }
    },
)
app = get_wsgi_application()
page = engines["django"].from_string(TEMPLATE)
LINES = [(number, f"<line> {number}") for number in range(12)]


class World(models.Model):  # type: ignore[misc]  # Django comes without types
    """A row with a random number."""

    randomnumber = models.IntegerField()

    class Meta:
        app_label, db_table, managed = "benches", "world", False


class Fortune(models.Model):  # type: ignore[misc]  # Django comes without types
    """A saying."""

    message = models.TextField()

    class Meta:
        app_label, db_table, managed = "benches", "fortune", False


def some_worlds(count: int) -> list[Any]:
    """Rows with random numbers of their own, by a query for each."""
    return [World.objects.get(id=number) for number in random.sample(range(1, WORLDS + 1), count)]


def as_dict(world: Any) -> dict[str, int]:
    """The row as TechEmpower spells it."""
    return {"id": world.id, "randomNumber": world.randomnumber}


def wanted(request: HttpRequest) -> int:
    """The number of queries, from 1 to 500."""
    text = request.GET.get("queries", "1")
    return min(max(int(text) if text.isdecimal() else 1, 1), MOST_QUERIES)


def updates(request: HttpRequest) -> HttpResponse:
    """Several rows, with new numbers."""
    worlds = some_worlds(wanted(request))
    for world in worlds:
        world.randomnumber = random.randint(1, WORLDS)
    # In one order, or two requests could wait for each other's rows.
    World.objects.bulk_update(sorted(worlds, key=lambda world: world.id), ["randomnumber"])
    return JsonResponse([as_dict(world) for world in worlds], safe=False)


def fortunes(request: HttpRequest) -> HttpResponse:
    """All fortunes and one more, in a page."""
    rows = [(fortune.id, fortune.message) for fortune in Fortune.objects.all()]
    return HttpResponse(page.render({"fortunes": sorted([*rows, (0, FORTUNE)], key=lambda row: row[1])}))


urlpatterns = [
    path("", lambda request: HttpResponse("Hello, world!")),
    path("page", lambda request: HttpResponse(page.render({"fortunes": LINES}))),
    path("db", lambda request: JsonResponse(as_dict(some_worlds(1)[0]))),
    path("queries", lambda request: JsonResponse([as_dict(w) for w in some_worlds(wanted(request))], safe=False)),
    path("updates", updates),
    path("fortunes", fortunes),
]
