#!/usr/bin/env bash
# Builds an example's image on this machine without any registry: build-image.sh DIRECTORY IMAGE.
# Needs root, podman with runc, and debootstrap.
set -euo pipefail
readonly DIRECTORY=${1:?usage: build-image.sh DIRECTORY IMAGE} IMAGE=${2:?usage: build-image.sh DIRECTORY IMAGE}
readonly BASE=localhost/muster-example-base:1
here=$(dirname "$0")
"$here/base-image.sh" "$BASE"
# chroot and the host's network: no right is needed that a container on a CI machine may lack.
podman --runtime runc build --isolation chroot --network host \
    --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 \
    --build-arg "BASE=$BASE" --tag "$IMAGE" "$DIRECTORY"
