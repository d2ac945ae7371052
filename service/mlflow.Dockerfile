# MLflow's server, and the tools for its artifacts in the S3 store. Built from the repository's root.
ARG PYTHON_IMAGE=python:3.13-slim-bookworm
# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE}
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /app
COPY constraints.txt pyproject.toml ./
RUN pip install "$(grep '^pip==' constraints.txt)" \
 && pip install -c constraints.txt --group mlflow-server \
 && groupadd --system --gid 1000 app \
 && useradd --system --uid 1000 --gid app --home-dir /tmp --no-create-home --shell /usr/sbin/nologin app
COPY service/mlflow_server.py service/artifacts.py ./
# also from a clone that only its owner may read
RUN chmod -R a+rX .
USER 1000:1000
EXPOSE 5000
CMD ["python", "mlflow_server.py"]
