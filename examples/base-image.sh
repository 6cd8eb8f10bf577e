#!/usr/bin/env bash
# A base image for the examples without any registry: Debian by debootstrap, with this machine's own
# way to packages. Usage: base-image.sh NAME; needs root, debootstrap and podman. What is there is kept.
set -euo pipefail
readonly NAME=${1:?usage: base-image.sh NAME}
podman image exists "$NAME" && exit 0
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include=ca-certificates,python3 bookworm "$root" >"$root.log" 2>&1 ||
    { tail -n 20 "$root.log" >&2; exit 1; }
rm -f "$root.log" "$root/etc/apt/sources.list"
cp -a /etc/apt/apt.conf.d /etc/apt/sources.list.d "$root/etc/apt/"
for file in /etc/apt/sources.list /etc/ssl/certs/ca-certificates.crt; do
    [[ ! -e $file ]] || cp --dereference "$file" "$root$file"
done
tar --directory "$root" --create . | podman import - "$NAME" >/dev/null
