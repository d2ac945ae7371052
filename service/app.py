"""The service as a module for ASGI servers: `uvicorn service.app:app`. Everything is in lending_club.serving.app."""

from lending_club.serving.app import create_app

app = create_app()
