#!/usr/bin/env bash
# Make the kernel that tests run inside (tests/uml) of the distribution's own sources, where it has no
# package of one: Ubuntu. Takes some 5 minutes of two processors, once for each version of the sources.
#
#   tools/kernel.sh    into .uml/linux.uml and .uml/lib/modules
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

sources=$(ls /usr/src/linux-source-*/linux-source-*.tar.* /usr/src/linux-source-*.tar.* 2> /dev/null | tail -n 1)
[ -n "$sources" ] || { echo "kernel: no sources; install linux-source" >&2; exit 1; }
made_of="$sources $(sha256sum < tests/uml/kernel.config)"
[ "$(cat .uml/made-of 2> /dev/null)" != "$made_of" ] || exit 0

echo "kernel: making one of $sources for the tests, which takes a while" >&2
work=$(mktemp -d -p "${TMPDIR:-/var/tmp}" breezeblock-kernel-XXXXXX)
trap 'rm -rf "$work"' EXIT
tar -xf "$sources" -C "$work" --strip-components=1
make="make -C $work ARCH=um -j$(nproc)"
{
    $make defconfig
    cat tests/uml/kernel.config >> "$work/.config"
    $make olddefconfig
    $make linux modules
    rm -rf .uml
    $make INSTALL_MOD_PATH="$PWD/.uml" INSTALL_MOD_STRIP=1 modules_install
} > "$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; exit 1; }
install -s "$work/linux" .uml/linux.uml
echo "$made_of" > .uml/made-of
