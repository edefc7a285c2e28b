#!/usr/bin/env bash
# skopeo: copies from and to directories, inspects, lists and deletes.
source "$(dirname "$0")/lib.sh"

start_registry
start_gateway
make_image "$WORK/image"
TRUST=$(trust_dir)
IMAGE=docker://$HOST/shop/web:1

login() { skopeo login --cert-dir "$TRUST" -u "$USER_NAME" --password-stdin "$HOST" <<<"$1"; }
push() { skopeo copy --quiet --dest-cert-dir "$TRUST" "$@"; }
pull() { skopeo copy --quiet --src-cert-dir "$TRUST" "$@"; }
inspect() { skopeo inspect --cert-dir "$TRUST" "$@"; }
digest() { inspect --format '{{.Digest}}' "$1"; }
with_password() { inspect --creds "$USER_NAME:$1" "$IMAGE"; }

pulls_the_same_bytes() {
    pull "$IMAGE" "oci:$WORK/back:1"
    same "$(manifest_digest "$WORK/image")" "$(manifest_digest "$WORK/back")"
    diff -r "$WORK/image/blobs" "$WORK/back/blobs"
}

round_trip_as_directory() {
    pull "$IMAGE" "dir:$WORK/dir"
    push "dir:$WORK/dir" "docker://$HOST/shop/dir:1"
    same "$(digest "$IMAGE")" "$(digest "docker://$HOST/shop/dir:1")"
}

copies_within_the_gateway() {
    skopeo copy --quiet --src-cert-dir "$TRUST" --dest-cert-dir "$TRUST" "$IMAGE" "docker://$HOST/team/web:1"
    same "$(digest "$IMAGE")" "$(digest "docker://$HOST/team/web:1")"
}

converts_to_docker_manifests() {
    push --format v2s2 "oci:$WORK/image:1" "docker://$HOST/shop/docker:1"
    says 'manifest.v2' inspect --raw "docker://$HOST/shop/docker:1"
}

pushes_a_list_of_platforms() {
    make_list "$WORK/list"
    push --all "oci:$WORK/list:1" "docker://$HOST/shop/list:1"
    says 'image.index' inspect --raw "docker://$HOST/shop/list:1"
    pull --all "docker://$HOST/shop/list:1" "oci:$WORK/list-back:1"
    same "$(manifest_digest "$WORK/list")" "$(manifest_digest "$WORK/list-back")"
}

# The image as the only entry of an index, which is what a multi-platform image looks like.
make_list() {
    cp -r "$WORK/image" "$1"
    jq -c '.manifests[0] |= (del(.annotations) + {platform: {architecture: "amd64", os: "linux"}})
        | .mediaType = "application/vnd.oci.image.index.v1+json"' "$WORK/image/index.json" >"$WORK/list.json"
    local sum
    sum=$(sha256sum <"$WORK/list.json" | cut -d' ' -f1)
    cp "$WORK/list.json" "$1/blobs/sha256/$sum"
    jq -n --arg digest "sha256:$sum" --argjson size "$(stat -c %s "$WORK/list.json")" '{schemaVersion: 2, manifests: [{
        mediaType: "application/vnd.oci.image.index.v1+json", digest: $digest, size: $size,
        annotations: {"org.opencontainers.image.ref.name": "1"}}]}' >"$1/index.json"
}

deletes() {
    push "oci:$WORK/image:1" "docker://$HOST/shop/gone:1"
    skopeo delete --cert-dir "$TRUST" "docker://$HOST/shop/gone:1"
    refused 'manifest unknown|not found' inspect "docker://$HOST/shop/gone:1"
}

logs_out() {
    skopeo logout "$HOST"
    refused 'authentication required|unauthorized' inspect "$IMAGE"
}

check "copy without login is refused" refused 'authentication required|unauthorized' push "oci:$WORK/image:1" "$IMAGE"
check "a wrong password is refused" refused 'invalid username/password' login wrong
check "the right password logs in" says 'Login Succeeded' login "$PASSWORD"
check "copy from an OCI layout" push "oci:$WORK/image:1" "$IMAGE"
check "inspect" says "$(manifest_digest "$WORK/image")" inspect "$IMAGE"
check "inspect with credentials of its own" with_password "$PASSWORD"
check "inspect with a wrong password is refused" refused 'authentication required|unauthorized|invalid username' with_password wrong
check "copy back gives the same bytes" pulls_the_same_bytes
check "copy by digest" pull "docker://$HOST/shop/web@$(manifest_digest "$WORK/image")" "oci:$WORK/by-digest:1"
check "copy through a directory" round_trip_as_directory
check "copy from repository to repository" copies_within_the_gateway
check "copy converted to docker's manifest" converts_to_docker_manifests
check "copy of an image of several platforms" pushes_a_list_of_platforms
check "list tags" says '"1"' skopeo list-tags --cert-dir "$TRUST" "docker://$HOST/shop/web"
check "delete" deletes
check "logout" logs_out

done_checking
