#!/usr/bin/env bash
# A base image for the examples without any registry: Debian by debootstrap. Usage: base-image.sh NAME;
# needs root, debootstrap and podman. What is there is kept. DEBIAN_MIRROR says where packages are.
set -euo pipefail
readonly NAME=${1:?usage: base-image.sh NAME} MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
for program in debootstrap podman; do
    command -v "$program" >/dev/null || { echo "$0: no program $program; install its package" >&2; exit 1; }
done
((EUID == 0)) || { echo "$0: must be root, as debootstrap must" >&2; exit 1; }
podman image exists "$NAME" && exit 0
root=$(mktemp -d)
trap 'rm -rf "$root" "$root.log"' EXIT
debootstrap --variant=minbase --include=python3 bookworm "$root" "$MIRROR" >"$root.log" 2>&1 ||
    { tail -n 20 "$root.log" >&2; exit 1; }
# Of this machine only the way to packages, not its sources: they may be another distribution's.
apt-config dump --format '%F "%v";%n' Acquire::http Acquire::https >"$root/etc/apt/apt.conf.d/99machine"
rm -rf "$root"/var/cache/apt/archives/*.deb
tar --directory "$root" --create . | podman import - "$NAME" >/dev/null
