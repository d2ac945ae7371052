# The service: FastAPI, onnxruntime and MLflow's small client. Built from the repository's root.
ARG PYTHON_IMAGE=python:3.13-slim-bookworm
# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE}
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /app
# dependencies first: a change of the code below does not install them anew
COPY constraints.txt pyproject.toml ./
RUN pip install "$(grep '^pip==' constraints.txt)" \
 && pip install -c constraints.txt --group serve \
 && groupadd --system --gid 1000 app \
 && useradd --system --uid 1000 --gid app --home-dir /app --no-create-home --shell /usr/sbin/nologin app \
 && mkdir var \
 && chown app:app var
COPY settings.ini ./
COPY service/app.py service/
COPY lending_club lending_club
# also from a clone that only its owner may read
RUN chmod -R a+rX .
USER 1000:1000
ENV API_HOST=0.0.0.0
EXPOSE 8000
CMD ["python", "-c", "import sys; from lending_club.cli import main; sys.exit(main())", "serve"]
