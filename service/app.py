"""The service as a module for ASGI servers. Everything is in lending_club.serving.app.

    uvicorn service.app:app --http lending_club.serving.protocol:LimitedHttpProtocol

The protocol limits the heads of requests, as `lending-club serve` does; a server without it takes heads of any size."""

from lending_club.serving.app import create_app

app = create_app()
