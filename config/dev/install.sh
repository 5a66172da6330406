#!/bin/sh
# Installs what `make run`, `make test` or `make lint` need and this machine lacks, with the system's own
# package manager. Nothing missing: silent and instant. Rights missing: says the one command to run.
#
# usage: install.sh run|test|lint
set -eu

postgres_major_min=15
redis_major_min=7

say() { printf '%s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

# The first number in what a program says about its version.
major_of() { "$1" --version 2>/dev/null | sed -n 's/^[^0-9]*\([0-9][0-9]*\).*/\1/p' | head -n 1; }

has_postgres() {
    for program in "$(command -v postgres || true)" /usr/lib/postgresql/*/bin/postgres /usr/pgsql-*/bin/postgres \
        /usr/libexec/postgresql*/postgres /opt/homebrew/opt/postgresql@*/bin/postgres \
        /usr/local/opt/postgresql@*/bin/postgres /home/linuxbrew/.linuxbrew/opt/postgresql@*/bin/postgres; do
        [ -x "$program" ] && [ "$(major_of "$program" || echo 0)" -ge "$postgres_major_min" ] && return 0
    done
    return 1
}

has_redis() {
    for program in redis-server valkey-server; do
        has "$program" && [ "$(major_of "$program")" -ge "$redis_major_min" ] && return 0
    done
    return 1
}

has_chromium() { has chromium || has chromium-browser || has google-chrome; }

has_plpgsql_check() {
    for file in /usr/lib/postgresql/*/lib/plpgsql_check.so /usr/lib64/pgsql/plpgsql_check.so; do
        [ -e "$file" ] && return 0
    done
    return 1
}

package_manager() {
    for manager in apt-get dnf pacman apk brew; do
        if has "$manager"; then echo "$manager"; return; fi
    done
}

# What the package manager calls the packages of one need.
packages_of() {
    case "$manager:$1" in
        apt-get:compiler) echo gcc libc6-dev ;;
        apk:compiler) echo build-base ;;
        *:compiler) echo gcc ;;
        dnf:postgres) echo postgresql-server postgresql-contrib ;;
        apk:postgres) echo postgresql postgresql-contrib ;;
        brew:postgres) echo postgresql@17 ;;
        *:postgres) echo postgresql ;;
        apt-get:redis) echo redis-server ;;
        dnf:redis) echo /usr/bin/redis-server ;;
        pacman:redis) echo valkey ;;
        *:redis) echo redis ;;
        apt-get:chromium) echo chromium fonts-dejavu-core ;;
        *:chromium) echo chromium ;;
        apt-get:chromedriver) echo chromium-driver ;;
        pacman:chromedriver) echo chromium ;;
        apk:chromedriver) echo chromium-chromedriver ;;
        *:chromedriver) echo chromedriver ;;
        apt-get:luacheck) echo lua-check ;;
        *:luacheck) echo luacheck ;;
        dnf:shellcheck) echo ShellCheck ;;
        *:shellcheck) echo shellcheck ;;
        apt-get:plpgsql_check) echo "postgresql-$(debian_postgres_major)-plpgsql-check" ;;
        *:plpgsql_check) echo plpgsql_check ;;
        *:strace) echo strace ;;
    esac
}

# The major version of PostgreSQL that is installed, else the one that Debian's package postgresql brings.
debian_postgres_major() {
    for folder in /usr/lib/postgresql/*/bin/postgres; do
        [ -x "$folder" ] && major_of "$folder"
    done | sort -n | tail -n 1 | grep . || apt-cache show postgresql 2>/dev/null |
        sed -n 's/^Depends:.*postgresql-\([0-9][0-9]*\).*/\1/p' | head -n 1
}

missing_for() {
    # Given both, no private server is started.
    if [ -z "${DATABASE_URL:-}" ] || [ -z "${REDIS_URL:-}" ]; then
        has_postgres || echo postgres
        has_redis || echo redis
    fi
    has cc || has gcc || has clang || echo compiler
    case "$1" in
        test)
            has_chromium || echo chromium
            has chromedriver || echo chromedriver
            # The test that a vote's answer waits for the disk is for Linux.
            [ "$(uname -s)" != Linux ] || has strace || echo strace
            ;;
        lint)
            has luacheck || echo luacheck
            has shellcheck || echo shellcheck
            has_plpgsql_check || echo plpgsql_check
            ;;
    esac
}

# Runs as root: directly, or by a sudo that asks nothing. 126: no rights.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif has sudo && sudo -n true 2>/dev/null; then sudo -n "$@"
    else return 126
    fi
}

install_packages() {
    case "$manager" in
        apt-get) as_root sh "${0%/*}/apt-install.sh" "$@" ;;
        dnf) as_root dnf install -y "$@" ;;
        pacman) as_root pacman -S --needed --noconfirm "$@" ;;
        apk) as_root apk add "$@" ;;
        brew) brew install "$@" ;;
    esac
}

describe() {
    for need in "$@"; do
        case "$need" in
            postgres) printf ', PostgreSQL %s+' "$postgres_major_min" ;;
            redis) printf ', Redis %s+' "$redis_major_min" ;;
            compiler) printf ', a C compiler' ;;
            chromium) printf ', Chromium' ;;
            chromedriver) printf ', ChromeDriver' ;;
            *) printf ', %s' "$need" ;;
        esac
    done | sed 's/^, //'
}

purpose=${1:-}
case "$purpose" in
    run | test | lint) ;;
    *) fail "usage: install.sh run|test|lint" ;;
esac
# Not under sudo, where root's path need not have the user's cargo.
if [ -z "${SUDO_USER:-}" ] && ! has cargo; then
    fail "Rust is missing: install it from https://rustup.rs, then start again."
fi

missing=$(missing_for "$purpose" | tr '\n' ' ')
[ -n "$missing" ] || exit 0
# shellcheck disable=SC2086 # a list of words
names=$(describe $missing)
manager=$(package_manager)
[ -n "$manager" ] || fail "Missing: $names. No package manager known here was found: install them by hand, or use \`docker compose up\`."

say "Installing what is missing with $manager: $names. This takes a minute or two, once."
packages=$(for need in $missing; do packages_of "$need"; done | tr '\n' ' ')
status=0
# shellcheck disable=SC2086 # a list of words
install_packages $packages >&2 || status=$?
case "$status" in
    0) ;;
    126) fail "Installing needs root: run \`sudo sh $0 $purpose\` once, then start again (or use \`docker compose up\`)." ;;
    *) fail "$manager could not install ${packages% }: see its message above, install $names by hand, or use \`docker compose up\`." ;;
esac
hash -r
missing=$(missing_for "$purpose" | tr '\n' ' ')
# shellcheck disable=SC2086 # a list of words
[ -z "$missing" ] || fail "Still missing after the installation: $(describe $missing). $manager has no version that is new enough: install it by hand."
say "Installed."
