"""The service as a module for ASGI servers: `uvicorn service.app:app`. Everything is in lending_club.api."""

from lending_club.api import create_app

app = create_app()
