#!/usr/bin/env bash
# Install what is missing, and nothing else. Safe to run again at any time.
#
#   tools/setup.sh run     what the service needs, and the OpenStack client to try it with
#   tools/setup.sh test    that, and what the tests, linters and docs need
#   tools/setup.sh python  only the virtual environment with everything in it; no system packages
#
# System packages come through apt (as root or by sudo), Python packages go into .venv, each checked
# against the hash in requirements/. PYTHON=/path/to/python chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mode=${1:-run}
case $mode in run | test | python) ;; *) echo "usage: $0 run|test|python" >&2; exit 2 ;; esac

say() { printf '%s\n' "$*" >&2; }
fail() { say "setup: $*"; exit 1; }
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # where Debian keeps mount.nfs and its like from other users

# --- system packages ---------------------------------------------------------------------------

# "package:what shows that it is there", so that a machine without apt, or with its own builds, will do.
for_run=(qemu-utils:qemu-img nfs-common:mount.nfs cifs-utils:mount.cifs util-linux:setpriv)
for_test=(
    postgresql:/usr/lib/postgresql/*/bin/initdb
    nfs-kernel-server:rpc.nfsd
    samba:smbd
    samba-common-bin:testparm
    smbclient:smbclient
    strace:strace
    e2fsprogs:mkfs.ext4
    kmod:modprobe
    iproute2:ip
    rpcbind:rpcbind
    netbase:/etc/protocols
    git:git
    nodejs:node
    npm:npm
    apache2-bin:/usr/sbin/apache2
    nginx-core:nginx
    libnginx-mod-http-dav-ext:/usr/lib/nginx/modules/ngx_http_dav_ext_module.so
    rclone:rclone
    libnbd-bin:nbdinfo
    python3-libnbd:nbdsh
    nbdkit:nbdkit
    fio:fio
    xfsprogs:mkfs.xfs
    btrfs-progs:mkfs.btrfs
    lvm2:lvm
    dmsetup:dmsetup
    thin-provisioning-tools:thin_check
    nbd-client:nbd-client
    fuse3:/usr/lib/*/libfuse3.so.*
)

# Ubuntu has another name for 7-Zip, and of a kernel to run tests in only what it is made of (tools/kernel.sh).
if [[ " $(. /etc/os-release 2> /dev/null && echo "${ID:-} ${ID_LIKE:-}") " = *" ubuntu "* ]]; then
    for_test+=(
        linux-source:/usr/src/linux-source-*/linux-source-*.tar.*
        gcc:gcc
        libc6-dev:/usr/include/stdio.h
        make:make
        flex:flex
        bison:bison
        bc:bc
        bzip2:bzip2
    )
    for_test+=(7zip:7z)
    own_kernel=yes
else
    for_test+=(7zip:7zz user-mode-linux:linux.uml)
fi

there() {
    case $1 in
        */*) compgen -G "$1" > /dev/null ;;
        *) command -v "$1" > /dev/null ;;
    esac
}

missing_packages() {
    local pair
    for pair in "$@"; do
        there "${pair#*:}" || printf '%s\n' "${pair%%:*}"
    done
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo > /dev/null; then
        sudo "$@"
    else
        fail "run as root (there is no sudo here): $*"
    fi
}

apt_install() {
    command -v apt-get > /dev/null || fail "please install: $* (this machine has no apt-get)"
    say "setup: installing $*"
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends
        -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold)
    # Package lists may be missing or old. That an installed service may not start (policy-rc.d in a
    # container, no systemd) is none of our business: what counts is whether the programs are there.
    as_root "${apt[@]}" install "$@" > /dev/null && return
    say "setup: again, after refreshing the package lists"
    as_root apt-get -qq update || say "setup: apt-get update had errors"
    as_root "${apt[@]}" install "$@" > /dev/null || say "setup: apt-get had errors"
}

if [ "$mode" != python ]; then
    wanted=("${for_run[@]}")
    [ "$mode" = test ] && wanted+=("${for_test[@]}")
    mapfile -t missing < <(missing_packages "${wanted[@]}")
    if [ ${#missing[@]} -gt 0 ]; then
        apt_install "${missing[@]}"
        mapfile -t missing < <(missing_packages "${wanted[@]}")
        [ ${#missing[@]} = 0 ] || fail "could not install: ${missing[*]}"
    fi
fi

if [ "$mode" = test ] && [ -n "${own_kernel:-}" ]; then
    tools/kernel.sh
fi

# --- Python ------------------------------------------------------------------------------------

usable() { # a Python that is new enough and can make a virtual environment with pip in it
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null
}

find_python() {
    local name
    if [ -n "${PYTHON:-}" ]; then
        usable "$PYTHON" || return 1
        printf '%s\n' "$PYTHON"
        return
    fi
    for name in python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11; do
        if usable "$name"; then
            printf '%s\n' "$name"
            return
        fi
    done
    return 1
}

# The environment moves with neither the checkout nor the interpreter: make it anew when it is broken.
if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
    if ! python=$(find_python); then
        [ -z "${PYTHON:-}" ] || fail "PYTHON=$PYTHON is not Python 3.11 or later with the venv module"
        [ "$mode" = python ] || apt_install python3-venv
        python=$(find_python) || fail "Python 3.11 or later with the venv module is needed; found: $(
            python3 --version 2>&1 || true
        ). Set PYTHON to its path."
    fi
    rm -rf .venv
    "$python" -m venv .venv
fi

locked=requirements/try.txt # requirements/run.txt without the client, for packagers
[ "$mode" = run ] || locked=requirements/dev.txt
stamp=.venv/breezeblock-$(basename "$locked" .txt).sha256
inputs=(requirements/build.txt "$locked" pyproject.toml)
if ! sha256sum --status --check "$stamp" 2> /dev/null; then
    say "setup: installing the Python packages of $locked"
    .venv/bin/python -m pip --version > /dev/null 2>&1 || .venv/bin/python -m ensurepip > /dev/null
    pip=(.venv/bin/python -m pip --quiet --disable-pip-version-check --no-input)
    "${pip[@]}" install --require-hashes -r requirements/build.txt -r "$locked"
    "${pip[@]}" install --no-deps --no-build-isolation --editable .
    sha256sum "${inputs[@]}" > "$stamp"
fi

# Xen Orchestra's client judges the simulated XenServer pool, Azurite is Azure's storage for the tests.
# Nothing that they bring is run here.
for foreign in tests/xenapi tests/objects; do
    stamp=$foreign/node_modules/breezeblock.sha256
    if [ "$mode" = test ] && ! sha256sum --status --check "$stamp" 2> /dev/null; then
        say "setup: installing the npm packages of $foreign"
        npm ci --prefix "$foreign" --ignore-scripts --omit=optional --no-audit --no-fund --loglevel=error > /dev/null
        sha256sum "$foreign"/package.json "$foreign"/package-lock.json > "$stamp"
    fi
done

# Cinder has its own environment: it is what writes the shares that the tests take over, and its
# requirements are not ours.
stamp=.venv-cinder/breezeblock-cinder.sha256
if [ "$mode" = test ] && ! sha256sum --status --check "$stamp" 2> /dev/null; then
    say "setup: installing Cinder for the tests"
    rm -rf .venv-cinder
    .venv/bin/python -m venv .venv-cinder
    .venv-cinder/bin/python -m pip --quiet --disable-pip-version-check --no-input \
        install --require-hashes -r requirements/cinder.txt
    sha256sum requirements/cinder.txt > "$stamp"
fi
