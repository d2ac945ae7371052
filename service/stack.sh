#!/bin/sh
# What `make up`, `down`, `logs`, `backup` and `restore` do. Needs Docker with Compose, nothing else.
set -eu
cd "$(dirname "$0")/.."
umask 077

say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

random_hex() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

value_of() { sed -n "s/^$1=//p" .env | tail -n 1; }

# in place: in JupyterLab's container another file is mounted over this one, and a file that took its place would show
set_value() {
  lines=$(sed "s|^$1=.*|$1=$2|" .env)
  printf '%s\n' "$lines" >.env
}

fill() {
  case $1 in
  MLFLOW_WEBHOOK_FERNET_KEY) head -c 32 /dev/urandom | base64 | tr '+/' '-_' ;;
  *_PASSWORD | *_SECRET | *_TOKEN | S3_ACCESS_KEY | S3_SECRET_KEY) random_hex ;;
  HOST_UID) host_user u ;;
  HOST_GID) host_user g ;;
  esac
}

# an .env of before 0.4.0, when MinIO was the default: the stack stays on the store that has its artifacts
keep_store() {
  grep -q '^SEAWEEDFS_IMAGE=' .env || return 0
  grep -q '^COMPOSE_FILE=' .env || printf 'COMPOSE_FILE=docker-compose.yml\n' >>.env
  case $(value_of COMPOSE_FILE) in
  *docker-compose.seaweedfs.yml*) choose service/docker-compose.seaweedfs.yml no ;;
  *)
    choose service/docker-compose.minio.yml yes
    say 'the artifacts are on MinIO; to move them to SeaweedFS: make backup, make up S3=seaweedfs, make restore FILE=...'
    ;;
  esac
  lines=$(sed 's/^S3_IMAGE=/MINIO_IMAGE=/; s/^SEAWEEDFS_IMAGE=/S3_IMAGE=/' .env)
  printf '%s\n' "$lines" >.env
}

# the user who calls; under root the owner of the repository
host_user() {
  if [ "$(id -u)" != 0 ]; then
    id "-$1"
  elif [ "$1" = u ]; then
    stat -c %u .
  else
    stat -c %g .
  fi
}

# .env: what it lacks is added from .env.example, and secrets that are empty are filled in at random
make_env() {
  if [ ! -e .env ]; then
    say 'writing .env with new random secrets'
    cp .env.example .env
  fi
  chmod 600 .env
  keep_store
  while IFS= read -r line; do
    name=${line%%=*}
    case $line in '' | '#'*) continue ;; esac
    grep -q "^$name=" .env || printf '%s\n' "$line" >>.env
    if [ -z "$(value_of "$name")" ]; then
      new=$(fill "$name")
      [ -z "$new" ] || set_value "$name" "$new"
    fi
  done <.env.example
  [ "$(value_of HOST_UID)" != 0 ] ||
    die 'nothing in the stack runs as root: call make as an ordinary user, or set HOST_UID and HOST_GID in .env to those of one'
}

# an override in COMPOSE_FILE, or out of it
choose() { # file, yes or no
  others=$(value_of COMPOSE_FILE | tr ':' '\n' | grep -vxF "$1" | paste -sd : -)
  [ "$2" = no ] || others=$others:$1
  set_value COMPOSE_FILE "$others"
}

up() {
  make_env
  case ${GPU-} in
  '') ;;
  0 | no) choose service/docker-compose.gpu.yml no ;;
  *) choose service/docker-compose.gpu.yml yes ;;
  esac
  case ${S3-} in
  '') ;;
  seaweedfs) choose service/docker-compose.minio.yml no ;;
  minio) choose service/docker-compose.minio.yml yes ;;
  *) die "S3=$S3: the S3 store is seaweedfs or minio" ;;
  esac
  mkdir -p var/backups
  [ "$(id -u)" != 0 ] || chown "$(value_of HOST_UID):$(value_of HOST_GID)" var var/backups
  # PostgreSQL's user reads it, also from a clone that is private
  [ -n "$(find service/postgres-init.sh -perm -o=rx)" ] || chmod a+rx service/postgres-init.sh
  docker compose build
  if ! docker compose up --detach --wait --remove-orphans; then
    case $(value_of COMPOSE_FILE) in
    *docker-compose.gpu.yml*) die 'GPU=1 needs an NVIDIA GPU, its driver and the NVIDIA container toolkit: `make up GPU=0` does without' ;;
    *) die '`docker compose ps --all` and `make logs` tell more' ;;
    esac
  fi
  # an editor may have put another file in the place of .env, which then shows in JupyterLab's container
  docker compose exec -T jupyter test ! -s /project/.env || docker compose restart jupyter
  cat <<END

  API         http://localhost:$(value_of API_PUBLISHED_PORT)/docs
  MLflow      http://localhost:$(value_of MLFLOW_PUBLISHED_PORT)          user admin, password MLFLOW_ADMIN_PASSWORD in .env
  JupyterLab  http://localhost:$(value_of JUPYTER_PUBLISHED_PORT)/lab      token JUPYTER_TOKEN in .env
  first model: docker compose exec jupyter lending-club run, then docker compose exec jupyter lending-club promote
END
}

need_env() {
  [ -e .env ] || die 'there is no .env, so no stack: run `make up`'
  keep_store
}

is_up() { docker compose ps --status running --services | grep -qx "$1"; }

DATABASES='mlflow mlflow_auth optuna'

backup() {
  need_env
  for service in postgres s3 mlflow; do is_up "$service" || die "$service does not run: make up"; done
  file=${FILE:-var/backups/$(date +%Y%m%d-%H%M%S).tar}
  mkdir -p "$(dirname "$file")"
  part=$(mktemp -d "$(dirname "$file")/.backup.XXXXXX")
  trap 'rm -rf "$part"' EXIT
  trap 'exit 130' INT TERM
  # databases before artifacts: what a run refers to is older than the reference
  for name in $DATABASES; do
    docker compose exec -T postgres pg_dump --username=postgres --format=custom --dbname="$name" >"$part/$name.dump"
  done
  docker compose exec -T mlflow python artifacts.py dump >"$part/artifacts.tar"
  tar -tf "$part/artifacts.tar" >/dev/null
  (cd "$part" && sha256sum -- *.dump artifacts.tar >SHA256SUMS)
  tar -C "$part" -cf "$part.tar" SHA256SUMS $(printf '%s.dump ' $DATABASES) artifacts.tar
  mv "$part.tar" "$file"
  say "$file: $(du -h "$file" | cut -f1)"
}

restore() {
  need_env
  [ -n "${FILE-}" ] || die 'which backup? make restore FILE=var/backups/....tar'
  [ -r "$FILE" ] || die "$FILE cannot be read"
  for service in postgres s3; do is_up "$service" || die "$service does not run: make up"; done
  part=$(mktemp -d "${TMPDIR:-/tmp}/restore.XXXXXX")
  trap 'rm -rf "$part"' EXIT
  trap 'exit 130' INT TERM
  tar -C "$part" -xf "$FILE"
  (cd "$part" && sha256sum --quiet --check SHA256SUMS) || die "$FILE is damaged: nothing was changed"
  for name in $DATABASES artifacts; do
    [ -e "$part/$name.dump" ] || [ -e "$part/$name.tar" ] || die "$FILE has no $name: nothing was changed"
  done
  docker compose stop api jupyter mlflow
  docker compose run --rm --no-deps -T mlflow python artifacts.py load <"$part/artifacts.tar"
  for name in $DATABASES; do
    docker compose exec -T postgres psql --quiet --username=postgres --dbname=postgres --set ON_ERROR_STOP=1 \
      --command="drop database if exists $name with (force)" \
      --command="create database $name owner $name encoding 'UTF8' template template0" \
      --command="revoke all on database $name from public"
    docker compose exec -T postgres pg_restore --username=postgres --dbname="$name" --no-owner --role="$name" \
      --single-transaction <"$part/$name.dump"
    say "database $name restored"
  done
  docker compose up --detach --wait
}

case ${1-} in
up) up ;;
env) make_env ;;
down) need_env; docker compose down --remove-orphans ;;
logs) need_env; docker compose logs --follow --tail=100 ;;
backup) backup ;;
restore) restore ;;
*) die "usage: $0 up|env|down|logs|backup|restore" ;;
esac
