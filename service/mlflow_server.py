"""Start MLflow's server: its accounts and the registry's webhook as the environment names them, then the server.

Passwords reach neither a command line nor a URI: libpq reads PGPASSFILE, MLflow its auth file, both written to /tmp.
At every start the accounts get the passwords of the environment, so changing one means changing .env and `make up`.
"""

import configparser
import logging
import os
import sys
from pathlib import Path

# before mlflow is imported, which reads some of these at once
DATABASES = {"mlflow": "MLFLOW_DB_PASSWORD", "mlflow_auth": "MLFLOW_AUTH_DB_PASSWORD"}  # also the names of their users
ACCOUNTS = {"admin": "MLFLOW_ADMIN_PASSWORD", "pipeline": "MLFLOW_PIPELINE_PASSWORD", "api": "MLFLOW_API_PASSWORD"}
WEBHOOK = "lending-club-api"

log = logging.getLogger("mlflow_server")


def database_uri(name: str) -> str:
    return f"postgresql+psycopg://{name}@{os.environ.get('POSTGRES_HOST', 'postgres')}:5432/{name}"


def write_secret_file(path: Path, text: str):
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def set_up_environment(folder: Path = Path("/tmp")):
    "Files that hold what must not be seen in a list of processes, and the variables that name them."
    quoted = {name: os.environ[variable].replace("\\", r"\\").replace(":", r"\:") for name, variable in DATABASES.items()}
    write_secret_file(folder / "pgpass", "".join(f"*:*:{name}:{name}:{word}\n" for name, word in quoted.items()))
    os.environ["PGPASSFILE"] = str(folder / "pgpass")
    auth = configparser.ConfigParser(interpolation=None)
    auth["mlflow"] = {
        "default_permission": "READ",
        "database_uri": database_uri("mlflow_auth"),
        "admin_username": "admin",
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        # a request costs a slow hash otherwise; a changed password holds within this time, or at once after a restart
        "auth_cache_ttl_seconds": "60",
    }
    with (folder / "auth.ini").open("w") as file:
        auth.write(file)
    os.environ["MLFLOW_AUTH_CONFIG_PATH"] = str(folder / "auth.ini")
    os.environ["MLFLOW_AUTH_ADMIN_PASSWORD"] = os.environ[ACCOUNTS["admin"]]


def keep_accounts():
    "Accounts with the environment's passwords; only `admin` may do everything, the others what they are granted."
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore()
    store.init_db(database_uri("mlflow_auth"))
    for name, variable in ACCOUNTS.items():
        password = os.environ[variable]
        if not store.has_user(name):
            store.create_user(name, password, is_admin=name == "admin")
            log.info("account %s created", name)
        elif not store.authenticate_user(name, password):
            store.update_user(name, password=password)
            log.info("account %s has the environment's password again", name)
    store.engine.dispose()


def keep_webhook(url: str, secret: str):
    "The webhook that tells the API of a moved alias; made anew, since address, secret or key may be others."
    from mlflow.entities.webhook import WebhookAction, WebhookEntity, WebhookEvent
    from mlflow.store.model_registry.dbmodels.models import SqlWebhook, SqlWebhookEvent
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking

    Tracking(database_uri("mlflow"), "mlflow-artifacts:/")  # makes the tables at first start
    registry = Registry(database_uri("mlflow"))
    with registry.ManagedSessionMaker() as session:
        known = [row.webhook_id for row in session.query(SqlWebhook.webhook_id).filter(SqlWebhook.name == WEBHOOK)]
        for table in (SqlWebhookEvent, SqlWebhook):
            session.query(table).filter(table.webhook_id.in_(known)).delete(synchronize_session=False)
    if secret:
        event = WebhookEvent(WebhookEntity.MODEL_VERSION_ALIAS, WebhookAction.CREATED)
        registry.create_webhook(WEBHOOK, url, [event], "an alias was set: the API looks at once", secret=secret)


def main():
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    set_up_environment()
    keep_accounts()
    keep_webhook(os.environ.get("WEBHOOK_URL", ""), os.environ.get("WEBHOOK_SECRET", ""))
    from mlflow.cli import cli

    sys.argv[1:] = [
        "server",
        "--app-name",
        "basic-auth",
        "--host",
        "0.0.0.0",
        "--port",
        "5000",
        "--backend-store-uri",
        database_uri("mlflow"),
        "--serve-artifacts",
        "--artifacts-destination",
        f"s3://{os.environ['S3_BUCKET']}",
    ]
    cli(prog_name="mlflow")


if __name__ == "__main__":
    main()
