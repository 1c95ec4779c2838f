#!/bin/sh
# install.sh: puts Holdfast onto this machine. `./run install [--prefix PATH]` calls it.
#
# Nothing that is there already is changed: a configuration, a user, another mail server's sendmail. With DESTDIR
# set, files go below it and neither users nor links of the machine are touched.
set -eu
BUILD=$1
shift
prefix=/usr/local
while [ $# -gt 0 ]; do
    case $1 in
    --prefix) [ $# -gt 1 ] || { echo "run: --prefix wants a path" >&2; exit 2; }; prefix=$2; shift 2 ;;
    *) echo "run: install: not understood: $1" >&2; exit 2 ;;
    esac
done
root=${DESTDIR:-}
[ -n "$root" ] || [ "$(id -u)" = 0 ] || { echo "run: install as root, or set DESTDIR" >&2; exit 1; }

[ -f "$BUILD/build.ninja" ] || meson setup "$BUILD" . --buildtype=release >/dev/null
had=$(meson introspect --buildoptions "$BUILD" | python3 -c 'import json, sys; print(*(row["value"] for row in json.load(sys.stdin) if row["name"] == "prefix"))')
[ "$had" = "$prefix" ] || meson configure "$BUILD" -Dprefix="$prefix"
ninja -C "$BUILD" holdfast etc/holdfast.8 etc/holdfast.conf.5 >/dev/null
meson install -C "$BUILD" --no-rebuild --quiet
echo "installed   $root$prefix/bin/holdfast, manual pages, $root$prefix/lib/systemd/system/holdfast.service"

if [ -z "$root" ] && ! getent passwd holdfast >/dev/null; then
    useradd --system --user-group --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin holdfast
    echo "made        the user holdfast"
fi

folder=$root/etc/holdfast
install -d -m 755 "$folder"
if [ ! -e "$folder/holdfast.conf" ]; then
    name=$(hostname -f 2>/dev/null || hostname 2>/dev/null || echo localhost)
    sed -e "s|@hostname@|$name|g" -e "s|@spool@|/var/spool/holdfast|g" -e "s|@confdir@|/etc/holdfast|g" \
        "$root$prefix/share/holdfast/holdfast.conf.in" >"$folder/holdfast.conf"
    [ -e "$folder/users" ] || printf '# A name a line; docs/directory.md in the sources tells the rest.\npostmaster\n' >"$folder/users"
    [ -e "$folder/aliases" ] || printf '# sendmail(8) form, for example:  root: postmaster\nroot: postmaster\nabuse: postmaster\n' >"$folder/aliases"
    echo "made        $folder/holdfast.conf for $name, users and aliases beside it"
else
    echo "kept        $folder/holdfast.conf"
fi

[ -n "$root" ] || for link in /usr/sbin/sendmail /usr/bin/mailq /usr/bin/newaliases; do
    if [ ! -e "$link" ]; then
        ln -s "$prefix/bin/holdfast" "$link"
        echo "linked      $link"
    elif [ "$(readlink -f "$link")" != "$prefix/bin/holdfast" ]; then
        echo "left alone  $link: another program's; for local mail through Holdfast: ln -sf $prefix/bin/holdfast $link"
    fi
done
cat <<END
next        edit $folder/holdfast.conf, then:
            holdfast config check && systemctl daemon-reload && systemctl enable --now holdfast
END
