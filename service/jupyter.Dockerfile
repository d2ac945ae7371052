# JupyterLab with everything the pipeline needs. Built from the repository's root, which is mounted over /project.
ARG PYTHON_IMAGE=python:3.13-slim-bookworm
# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE}
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# git: a training run records its commit; libgomp1: LightGBM
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends git libgomp1 \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /project
COPY constraints.txt ./
# by default torch with its CUDA libraries; https://download.pytorch.org/whl/cpu has it without, 5 GB smaller
ARG TORCH_INDEX_URL=
# hadolint ignore=DL3013
RUN pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} "$(grep '^torch==' constraints.txt)"
# the package is installed as a link to /project, where the repository is mounted: its code is not in the image
COPY pyproject.toml ./
COPY lending_club/__init__.py lending_club/
RUN touch README.md \
 && pip install -c constraints.txt -e '.[notebooks]'
# the host's user, so that files in the mounted repository are the user's
ARG HOST_UID=1000
ARG HOST_GID=1000
RUN test "$HOST_UID" != 0 \
 && groupadd --force --non-unique --gid "$HOST_GID" jupyter \
 && useradd --non-unique --uid "$HOST_UID" --gid "$HOST_GID" --create-home --shell /bin/bash jupyter
USER ${HOST_UID}:${HOST_GID}
ENV HOME=/home/jupyter SHELL=/bin/bash
EXPOSE 8888
CMD ["jupyter", "lab", "--no-browser", "--ip=0.0.0.0", "--port=8888"]
