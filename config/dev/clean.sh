#!/bin/sh
# Deletes a data directory of private servers, with what lies outside (see src/local/home.rs).
#
# usage: clean.sh DATA_DIR
set -eu
outside=$(readlink "$1/postgres" || true)
case "$outside" in
    /var/lib/chatpulse/?*/postgres) rm -rf "${outside%/postgres}" ;;
esac
rm -rf "$1"
