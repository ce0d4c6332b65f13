"""Pages of the Django project."""

import hashlib
import time
from collections.abc import Iterator

from django.contrib import admin
from django.contrib.auth.models import Group
from django.db import transaction
from django.http import FileResponse, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt


def visits(request: HttpRequest) -> HttpResponse:
    """Count the visits of a session, which is in the database."""
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JsonResponse({"visits": request.session["visits"]})


@csrf_exempt  # type: ignore[untyped-decorator]
def upload(request: HttpRequest) -> HttpResponse:
    """Hash an uploaded file, which Django keeps in a temporary file."""
    file = request.FILES["file"]
    digest = hashlib.sha256()
    for chunk in file.chunks():
        digest.update(chunk)
    return JsonResponse({"sha256": digest.hexdigest(), "kind": type(file).__name__, "note": request.POST["note"]})


def stream(request: HttpRequest) -> StreamingHttpResponse:
    """Send lines from a generator."""

    def lines() -> Iterator[bytes]:
        for number in range(5):
            yield b"line %d\n" % number

    return StreamingHttpResponse(lines(), content_type="text/plain")


def file(request: HttpRequest) -> FileResponse:
    """Send this file, by wsgi.file_wrapper."""
    return FileResponse(open(__file__, "rb"), content_type="text/x-python")


def transact(request: HttpRequest, name: str) -> HttpResponse:
    """Wait within a transaction that writes, and count what it sees."""
    with transaction.atomic():
        Group.objects.create(name=name)
        time.sleep(0.05)
        number = Group.objects.count()
    return JsonResponse({"number": number})


urlpatterns = [
    path("admin/", admin.site.urls),
    path("visits", visits),
    path("upload", upload),
    path("stream", stream),
    path("file", file),
    path("transact/<name>", transact),
]
