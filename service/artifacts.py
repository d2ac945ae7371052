"""MLflow's artifacts in the S3 store, whichever that is.

python artifacts.py bucket          make the bucket, unless it is there
python artifacts.py list            every object's size and name
python artifacts.py dump > A.tar    all objects as a tar file
python artifacts.py load < A.tar    the tar file's objects and no others
"""

import os
import sys
import tarfile
import tempfile
import time
from datetime import UTC, datetime

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

BUCKET = os.environ["S3_BUCKET"]


def connect():
    return boto3.client(
        "s3",
        endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"],
        region_name="us-east-1",
        config=Config(connect_timeout=5, read_timeout=60, retries={"max_attempts": 5, "mode": "standard"}),
    )


def objects(s3):
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        yield from page.get("Contents", ())


def make_bucket(s3, attempts: int = 15):
    "A store may say that it is healthy a moment before it takes a bucket."
    for attempt in range(attempts):
        try:
            s3.head_bucket(Bucket=BUCKET)
            break
        except (BotoCoreError, ClientError) as error:
            status = getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status == 403:
                sys.exit(f"the S3 store refuses these credentials for the bucket {BUCKET}")
            try:
                if status == 404:
                    s3.create_bucket(Bucket=BUCKET)
                    break
            except (BotoCoreError, ClientError) as again:
                error = again
            if attempt == attempts - 1:
                sys.exit(f"the bucket {BUCKET} can be neither found nor made: {error}")
            time.sleep(1)
    print(f"the bucket {BUCKET} is there")


def list_objects(s3):
    for item in objects(s3):
        print(f"{item['Size']:>12} {item['Key']}")


def dump(s3):
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        for item in objects(s3):
            body = s3.get_object(Bucket=BUCKET, Key=item["Key"])
            member = tarfile.TarInfo(item["Key"])
            member.size, member.mtime = body["ContentLength"], item["LastModified"].timestamp()
            archive.addfile(member, body["Body"])


def load(s3):
    "Objects first, then what is not among them goes: a load that breaks off has removed nothing."
    make_bucket_quietly(s3)
    kept, size, start = set(), 0, datetime.now(UTC)
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
        for member in archive:
            if not member.isfile():
                continue
            with tempfile.TemporaryFile() as part:
                source = archive.extractfile(member)
                while block := source.read(2**20):
                    part.write(block)
                part.seek(0)
                s3.upload_fileobj(part, BUCKET, member.name)
            kept.add(member.name)
            size += member.size
    others = [item["Key"] for item in objects(s3) if item["Key"] not in kept]
    for key in others:
        s3.delete_object(Bucket=BUCKET, Key=key)
    seconds = (datetime.now(UTC) - start).total_seconds()
    print(f"{len(kept)} artifacts ({size / 2**20:.1f} MiB) restored in {seconds:.0f} s, {len(others)} others removed")


def make_bucket_quietly(s3):
    try:
        s3.head_bucket(Bucket=BUCKET)
    except ClientError:
        s3.create_bucket(Bucket=BUCKET)


COMMANDS = {"bucket": make_bucket, "list": list_objects, "dump": dump, "load": load}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    COMMANDS[sys.argv[1]](connect())
