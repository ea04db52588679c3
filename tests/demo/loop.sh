#!/bin/sh
# The usual loop, run hourly from a timer, which ecr_swarm_login.py replaces.
set -eu

REGION=eu-central-1
REGISTRY=123456789012.dkr.ecr.$REGION.amazonaws.com

aws ecr get-login-password --region $REGION |
    docker login --username AWS --password-stdin $REGISTRY

SERVICES=$(docker service ls --format '{{.Name}}')
for SERVICE in $SERVICES; do
    docker service update -d -q --with-registry-auth "$SERVICE"
done
