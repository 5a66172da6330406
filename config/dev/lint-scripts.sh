#!/bin/sh
# Checks what the Rust compiler does not see: shell, Lua and SQL. For SQL the judge is PostgreSQL itself: the
# migrations run on a private server, then plpgsql_check looks into the body of every function.
set -eu
cd "$(dirname "$0")/../.."

shellcheck .ci/run config/dev/*.sh

set -- lua/*.lua
if [ -e "$1" ]; then
    luacheck --quiet --no-color --config config/dev/luacheckrc "$@"
fi

work=$(mktemp -d)
# The servers end when this script does: their standard input is the pipe it holds open.
mkfifo "$work/hold" "$work/told"
"${CARGO_TARGET_DIR:-target}/debug/chatpulse" local-servers --throwaway --data-dir "$work/servers" \
    <"$work/hold" >"$work/told" 2>/dev/null &
keeper=$!
exec 3>"$work/hold" 4<"$work/told"
end() {
    exec 3>&-
    wait "$keeper" || true
    rm -rf "$work"
}
trap end EXIT
read -r line <&4
url_of() { printf '%s' "$line" | sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }
owner=$(url_of migrate_url)
superuser=$(url_of superuser_url | sed 's|/postgres$|/chatpulse|')
if [ -z "$owner" ]; then
    printf '%s\n' "$line" >&2
    exit 1
fi

sql() { psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 "$@"; }

DATABASE_URL=$(url_of database_url) CHATPULSE_DATABASE__MIGRATE_URL=$owner \
    "${CARGO_TARGET_DIR:-target}/debug/chatpulse" migrate >/dev/null

sql --dbname "$superuser" --command 'CREATE EXTENSION plpgsql_check'
findings=$(sql --dbname "$superuser" --tuples-only --no-align --file config/dev/lint.sql)
if [ -n "$findings" ]; then
    printf '%s\n' "$findings" >&2
    exit 1
fi
