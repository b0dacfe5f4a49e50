"""The settings, and the one page, of a Django project."""

from django.http import HttpRequest, HttpResponse
from django.urls import path

ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = __name__
SECRET_KEY = "of a test"


def hello(_request: HttpRequest) -> HttpResponse:
    return HttpResponse("hello")


urlpatterns = [path("", hello)]
