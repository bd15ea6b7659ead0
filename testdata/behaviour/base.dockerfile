# What every case is built on: a few users, and words to assert with.
FROM busybox
RUN printf '%s\n' 'root:x:0:0:root:/root:/bin/sh' 'builder:x:1000:1001::/home/builder:/bin/sh' \
        'lone:x:1100:1200::/:/bin/sh' '77:x:1177:1277::/:/bin/sh' > /etc/passwd \
    && printf '%s\n' 'root:x:0:' 'builder:x:1001:' 'staff:x:2000:builder,lone' 'wheel:x:2100:builder' > /etc/group \
    && rm -rf /words && mkdir /words

# is PATH KIND MODE UID GID: what stat says of it, in the words of busybox, links not followed.
COPY --chmod=755 <<'is' /bin/is
#!/bin/sh
path=$1; shift
found=$(stat -c '%F %a %u %g' "$path") || exit 1
[ "$found" = "$*" ] || { echo "$path is $found, not $*"; exit 1; }
is

# holds PATH TEXT: the file's text, without the last line's end.
COPY --chmod=755 <<'holds' /bin/holds
#!/bin/sh
found=$(cat "$1") || exit 1
[ "$found" = "$2" ] || { echo "$1 holds '$found', not '$2'"; exit 1; }
holds

# lists DIRECTORY NAME...: all of its entries, in order.
COPY --chmod=755 <<'lists' /bin/lists
#!/bin/sh
found=$(cd "$1" && ls -A1 | sort | tr '\n' ' ') || exit 1
shift
[ "$found" = "${*:+$* }" ] || { echo "there is '$found', not '$*'"; exit 1; }
lists

# same A B: two words are the same; what a step sees as a variable, say.
COPY --chmod=755 <<'same' /bin/same
#!/bin/sh
[ "$1" = "$2" ] || { echo "'$1' is not '$2'"; exit 1; }
same

# links PATH TARGET: a symbolic link that says this.
COPY --chmod=755 <<'links' /bin/links
#!/bin/sh
[ -L "$1" ] || { echo "$1 is no link"; exit 1; }
same "$(readlink "$1")" "$2"
links
