#!/bin/sh
# Installs Debian packages as programs alone, as root. PostgreSQL's and Redis's packages would also start a
# server each, on the usual ports. So while this runs a policy refuses all starts and no database cluster is
# made; both are taken back at the end. install.sh calls it.
#
# usage: apt-install.sh PACKAGE…
set -eu
policy=/usr/sbin/policy-rc.d
cluster=/etc/postgresql-common/createcluster.d/chatpulse.conf
take_back() {
    [ -z "$own_policy" ] || rm -f "$policy"
    rm -f "$cluster"
}
own_policy=
trap take_back EXIT
trap "exit 1" HUP INT TERM
if [ ! -e "$policy" ]; then
    own_policy=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
mkdir -p "${cluster%/*}"
echo 'create_main_cluster = false' >"$cluster"
export DEBIAN_FRONTEND=noninteractive
install() { apt-get install -y -q --no-install-recommends -o Dpkg::Use-Pty=0 "$@"; }
if [ -z "$(find /var/lib/apt/lists -name "*_Packages*" -mtime -2 2>/dev/null | head -n 1)" ]; then
    apt-get update -q
    install "$@"
else
    install "$@" || { apt-get update -q; install "$@"; }
fi
# Nor shall it start with the machine from now on.
case " $* " in *" redis-server "*) update-rc.d redis-server disable ;; esac
