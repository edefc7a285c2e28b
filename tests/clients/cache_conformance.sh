#!/usr/bin/env bash
# The read-only mode of the distribution specification's conformance suite, through a cold cache, a warm one, and a warm one
# without its registry: read_only.py asks what it asks. OCI_READ_ONLY_CONFORMANCE names the suite itself, compiled from the
# specification's main branch (`go build` in its directory `conformance`): then that is asked as well.
source "$(dirname "$0")/lib.sh"

LOGIN=$USER_NAME:$PASSWORD
REPOSITORY=suite/read

gateway_config() {
    server_config
    cat <<TOML

[[upstream]]
name = "registry"
url = "http://$UPSTREAM"
prefix = ""

[upstream.cache]
tag_ttl = "${TAG_TTL:-5m}"

[cache]
path = "cache"
min_free = "0%"
TOML
}

# The repository that is only read: an image, an index and what refers to the image. ITEMS is what of it is asked for.
fill_repository() {
    make_image "$WORK/image" 4
    make_image "$WORK/other" 2
    python3 "$CLIENTS/index.py" "$WORK/multi" "amd64=$WORK/image" "arm64=$WORK/other"
    put_image "$WORK/image" image
    put_image "$WORK/multi" index
    push_artifact
    TAGS="image index artifact"
    MANIFESTS="$(digest_of "$WORK/image") $(digest_of "$WORK/multi") $ARTIFACT"
    BLOBS="$(blobs_of "$WORK/image") $(blobs_of "$WORK/other" | head -n 1)"
    REFERRERS=$(digest_of "$WORK/image")
}

put_image() {
    skopeo copy --quiet --all --dest-tls-verify=false "oci:$1:1" "docker://$UPSTREAM/$REPOSITORY:$2"
}

digest_of() { manifest_digest "$1"; }

# The layers that are long enough for the ranges that are asked.
blobs_of() { jq -r '.layers[] | select(.size > 3000).digest' "$1/blobs/sha256/$(digest_of "$1" | cut -d: -f2)" | tr '\n' ' '; }

# An artifact of no bytes but its manifest's, about the image.
push_artifact() {
    local empty upload
    empty=$(printf '{}' | sha256sum | cut -d' ' -f1)
    upload=$(upstream_ask -X POST -D - -o /dev/null "/v2/$REPOSITORY/blobs/uploads/" | tr -d '\r' | sed -nE 's/^[Ll]ocation: //p')
    upload=${upload#http://"$UPSTREAM"}
    upstream_ask -X PUT -H 'Content-Type: application/octet-stream' --data-binary '{}' \
        "$upload$([[ $upload = *\?* ]] && echo '&' || echo '?')digest=sha256:$empty"
    artifact "sha256:$empty" >"$WORK/artifact.json"
    upstream_ask -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' --data-binary "@$WORK/artifact.json" \
        "/v2/$REPOSITORY/manifests/artifact"
    ARTIFACT=sha256:$(sha256sum <"$WORK/artifact.json" | cut -d' ' -f1)
}

artifact() {
    local empty="{\"mediaType\": \"application/vnd.oci.empty.v1+json\", \"digest\": \"$1\", \"size\": 2}"
    jq -n --argjson empty "$empty" --arg digest "$(digest_of "$WORK/image")" \
        --argjson size "$(stat -c %s "$WORK/image/blobs/sha256/$(digest_of "$WORK/image" | cut -d: -f2)")" '{
            schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json",
            artifactType: "application/vnd.example.note", config: $empty, layers: [$empty],
            subject: {mediaType: "application/vnd.oci.image.manifest.v1+json", digest: $digest, size: $size}}'
}

upstream_ask() { curl -fsS --max-time 20 "${@:1:$#-1}" "http://$UPSTREAM${*: -1}"; }

# ask RESULTS URL OPTIONS...: RESULTS.json says what came of each case.
ask() {
    # shellcheck disable=SC2086 # lists
    SSL_CERT_FILE=$CA python3 "$CLIENTS/read_only.py" "$2" "$REPOSITORY" --tags $TAGS --manifests $MANIFESTS --blobs $BLOBS \
        --referrers $REFERRERS "${@:3}" >"$WORK/$1.json"
}

cases() { jq -r 'keys_unsorted[]' "$WORK/$1.json"; }
result() { jq -r --arg name "$2" '.[$name]' "$WORK/$1.json"; }

# all_pass RESULTS [EXPRESSION]: but for cases that match.
all_pass() {
    local bad
    bad=$(jq --arg left "${2:-^$}" 'with_entries(select(.value != "passed" and (.key | test($left) | not)))' "$WORK/$1.json")
    echo "$bad"
    same '{}' "$bad"
}

# check_each NAME URL OPTIONS...
check_each() {
    local name
    check "read_only.py ran, $1" ask "$@"
    while IFS= read -r name; do
        check "$1, $name" same passed "$(result "$1" "$name")"
    done < <(cases "$1")
    [ -z "${OCI_READ_ONLY_CONFORMANCE:-}" ] || check "the specification's suite, $1" own_suite "$1" "$2"
}

# The specification's own suite, as protocol and host are in URL.
own_suite() {
    local tls=enabled
    [[ $2 = https://* ]] || tls=disabled
    mkdir -p "$WORK/own-$1"
    (cd "$WORK/own-$1" && env SSL_CERT_FILE="$CA" OCI_REGISTRY="${2#*://}" OCI_TLS=$tls OCI_REPO1=$REPOSITORY OCI_REPO2=$REPOSITORY-other \
        OCI_USERNAME="$USER_NAME" OCI_PASSWORD="$PASSWORD" OCI_VERSION=1.1 OCI_RESULTS_DIR="$WORK/own-$1" OCI_API_PUSH=false \
        OCI_API_BLOBS_DELETE=false OCI_API_MANIFESTS_DELETE=false OCI_API_TAGS_DELETE=false OCI_RO_DATA_TAGS="$TAGS" \
        OCI_RO_DATA_MANIFESTS="$MANIFESTS" OCI_RO_DATA_BLOBS="$BLOBS" OCI_RO_DATA_REFERRERS="$REFERRERS" \
        "$OCI_READ_ONLY_CONFORMANCE")
}

restart_gateway() {
    stop "$GATEWAY"
    gateway_config >"$WORK/dockgate.toml"
    run_gateway
}

blobs_come_from_the_cache() {
    local digest
    for digest in $BLOBS; do
        has '^[Xx]-[Cc]ache: HIT' "$(gateway_curl -u "$LOGIN" -D - -o /dev/null "/v2/$REPOSITORY/blobs/$digest")"
    done
}

start_demo
demo_ca
demo_upstream || { echo "  the demo does not say where its own registry is"; exit 1; }
DEMO_PID=$STARTED
fill_repository
start_gateway

check "read_only.py ran, directly" ask direct "http://$UPSTREAM"
check "directly, all pass" all_pass direct
check_each cold "https://$HOST" --login "$LOGIN"
check "the blobs are kept" blobs_come_from_the_cache
check_each warm "https://$HOST" --login "$LOGIN"
restart_gateway
check "read_only.py ran, after a restart" ask restarted "https://$HOST" --login "$LOGIN"
check "after a restart, all pass" all_pass restarted
TAG_TTL=1s
stop "$DEMO_PID"
restart_gateway
sleep 1
# What the registry alone knows is not made up: that something is missing there.
check "read_only.py ran, without the registry" ask alone "https://$HOST" --login "$LOGIN"
check "without the registry, all pass" all_pass alone missing

done_checking
