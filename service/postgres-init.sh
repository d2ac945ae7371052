#!/bin/sh
# Runs once, when PostgreSQL starts on an empty volume: a database and a user each for MLflow, its accounts and Optuna.
# Sourced or executed by the image's entrypoint, as the image likes.
set -eu

make_database() {
  psql --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
    --set name="$1" --set password="$2" <<'SQL'
create role :"name" login password :'password';
create database :"name" owner :"name" encoding 'UTF8' template template0;
revoke all on database :"name" from public;
SQL
}

make_database mlflow "$MLFLOW_DB_PASSWORD"
make_database mlflow_auth "$MLFLOW_AUTH_DB_PASSWORD"
make_database optuna "$OPTUNA_DB_PASSWORD"
