# An S3 store as its makers publish it, with a folder for the data that an ordinary user may write.
ARG S3_IMAGE=chrislusf/seaweedfs:4.48
# hadolint ignore=DL3006
FROM ${S3_IMAGE}
USER 0:0
RUN mkdir -p /store && chown 1000:1000 /store
USER 1000:1000
