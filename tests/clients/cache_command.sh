#!/usr/bin/env bash
# dockgate cache stats, list, verify, remove and warm: with a gateway that runs, and with a directory that no gateway uses.
source "$(dirname "$0")/lib.sh"

LOGIN=$USER_NAME:$PASSWORD

gateway_config() {
    server_config
    cat <<TOML

[[upstream]]
name = "docker.io"
url = "http://$REGISTRY"
prefix = "docker.io"

[upstream.cache]
tag_ttl = "1h"

[cache]
path = "cache"
min_free = "0%"
TOML
}

# cache_ COMMAND ARGUMENTS...
cache_() { "$DOCKGATE" cache "$@" --config "$WORK/dockgate.toml"; }

put_image() { skopeo copy --quiet --all --dest-tls-verify=false "oci:$1:1" "docker://$REGISTRY/$2"; }

# pulls NAME ARCHITECTURE
pulls() {
    rm -rf "$WORK/back"
    skopeo --override-os linux --override-arch "$2" copy --quiet --src-cert-dir "$TRUST" --src-creds "$LOGIN" \
        "docker://$HOST/docker.io/$1" "oci:$WORK/back:1"
}

layer() { jq -r '.layers[-1].digest' "$1/blobs/sha256/$(manifest_digest "$1" | cut -d: -f2)"; }

file_of() { find "$WORK/cache/blobs" -type f -name "${1#sha256:}"; }

is_kept() { [ -s "$(file_of "$1")" ]; }
is_gone() { [ -z "$(file_of "$1")" ]; }

exits() {
    local expected=$1 status=0
    shift
    "$@" || status=$?
    same "$expected" "$status"
}

counts_what_is_there() {
    says 'docker\.io' cache_ stats
    cache_ stats --json >"$WORK/stats.json"
    cat "$WORK/stats.json"
    same "$(find "$WORK/cache/blobs" -type f | wc -l)" "$(jq .blobs.count "$WORK/stats.json")"
}

# lists WHICH PATTERN...
lists() { says "$1" cache_ list "${@:2}"; }
lists_not() { ! cache_ list "${@:2}" | grep -E "$1"; }

lists_in_json() {
    cache_ list --json >"$WORK/list.json"
    same "$(manifest_digest "$WORK/image")" "$(jq -r '.[] | select(.repository == "docker.io/shop/web" and .tag == "1") | .digest' "$WORK/list.json")"
}

# One byte in the middle of it.
damage() {
    local file
    file=$(file_of "$1")
    python3 - "$file" <<'PYTHON'
import pathlib, sys
file = pathlib.Path(sys.argv[1])
content = bytearray(file.read_bytes())
content[len(content) // 2] ^= 1
with file.open("r+b") as out:  # in place: a process that has the file open would not see a new one
    out.write(content)
PYTHON
}

# What is wrong is named and goes; the second time all is well.
verify_finds_it() {
    local digest=$1 output status=0
    damage "$digest"
    output=$(cache_ verify 2>&1) || status=$?
    echo "$output"
    same 1 "$status"
    has "${digest#sha256:}" "$output"
    is_gone "$digest"
    cache_ verify
}

# Plain lines, because the output is no terminal.
warms() {
    local output
    output=$(cache_ warm "$@" 2>&1)
    echo "$output"
    [ -n "$output" ]
    ! grep -q $'\e' <<<"$output"
}

warms_one_platform() {
    warms shop/multi:1 --platform linux/amd64
    is_kept "$(layer "$WORK/image")"
    is_gone "$(layer "$WORK/other")"
}

warms_another() {
    warms docker.io/shop/multi:1 --platform linux/arm64
    is_kept "$(layer "$WORK/other")"
}

warms_what_is_not_there() {
    exits 1 cache_ warm shop/none:1 --platform linux/amd64
    exits 1 cache_ warm shop/none:1 shop/web:1 --platform linux/amd64
}

# On a terminal progress is drawn: `script` gives it one.
draws_progress() {
    script -qec "'$DOCKGATE' cache warm shop/late:1 --platform linux/amd64 --config '$WORK/dockgate.toml'" /dev/null >"$WORK/terminal"
    cat -v "$WORK/terminal"
    grep -q $'\e\\[' "$WORK/terminal"
    is_kept "$(layer "$WORK/late")"
}

removes() {
    says '.' cache_ remove docker.io/shop/web
    lists_not 'shop/web' '**'
    lists 'shop/multi' 'docker.io/**'
}

# The layers that shop/multi has too are still there.
removes_no_content_that_is_needed() {
    is_kept "$(layer "$WORK/image")"
    cache_ remove '**'
    is_gone "$(layer "$WORK/image")"
    [ -z "$(cache_ list --json | jq -r '.[]')" ]
}

pulls_without_the_registry() {
    pulls shop/multi:1 amd64
    pulls shop/multi:1 arm64
}

says_how() {
    says 'Example' "$DOCKGATE" cache --help
    says 'Example' "$DOCKGATE" cache warm --help
    exits 2 cache_ list 'a b c'
    exits 2 cache_ warm
}

# round WHERE: all of it, with an empty cache at first. `$1` is said in the names of the checks.
round() {
    check "$1: warm, one platform" warms_one_platform
    check "$1: warm, another platform" warms_another
    check "$1: warm what is not there" warms_what_is_not_there
    check "$1: warm on a terminal draws progress" draws_progress
    check "$1: warm, by its full name" warms docker.io/shop/web:1
    check "$1: stats" counts_what_is_there
    check "$1: list" lists 'docker\.io/shop/web.*1'
    check "$1: list some" lists 'docker\.io/shop/multi' 'docker.io/shop/m*'
    check "$1: list leaves out the others" lists_not 'shop/web' 'docker.io/shop/m*'
    check "$1: list by tag" lists 'shop/web' '**:1'
    check "$1: list JSON" lists_in_json
    check "$1: verify, all is well" exits 0 cache_ verify
    check "$1: verify finds one wrong bit" verify_finds_it "$(layer "$WORK/image")"
    check "$1: what was wrong can be had again" warms shop/multi:1 --platform linux/amd64
}

make_image "$WORK/image" 8
make_image "$WORK/other" 4
make_image "$WORK/late" 6
python3 "$CLIENTS/index.py" "$WORK/multi" "amd64=$WORK/image" "arm64=$WORK/other"
start_registry
put_image "$WORK/image" shop/web:1
put_image "$WORK/multi" shop/multi:1
put_image "$WORK/late" shop/late:1
start_gateway
TRUST=$(trust_dir)

check "it says how it is used" says_how
round "running"
kill -STOP "$REGISTRY_PID"
check "running: what was warmed is pulled without the registry" pulls_without_the_registry
kill -CONT "$REGISTRY_PID"
check "running: remove" removes
check "running: remove leaves what others need" removes_no_content_that_is_needed

stop "$GATEWAY"
round "cold"
check "cold: remove" removes
run_gateway
stop "$REGISTRY_PID"
check "what was warmed cold is pulled without the registry" pulls_without_the_registry
check "a damaged directory is found while a gateway uses it" verify_finds_it "$(layer "$WORK/other")"
stop "$GATEWAY"
check "cold: remove leaves what others need" removes_no_content_that_is_needed

done_checking
