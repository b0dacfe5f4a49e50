"""Beside Flask, in the environment of service.py: gunicorn --workers 2 flask_app:app."""

import os

from flask import Flask
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from asana_webhooks import Event
from asana_webhooks.wsgi import WsgiClient

client = WsgiClient(public_url=os.environ["PUBLIC_URL"] + "/asana", serve=False)
client.keep(os.environ["ASANA_PROJECT"])
app = Flask(__name__)


@client.on("task", action="changed", field="completed")
def celebrate(event: Event) -> None:
    task = client.from_thread(client.fetch, event, opt_fields=["name"])
    print(f"task {event.resource.gid} was completed or reopened: {task}")


@app.get("/")
def hello() -> str:
    return "hello"


app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/asana": client.wsgi})  # type: ignore[method-assign]
client.start()
