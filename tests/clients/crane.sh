#!/usr/bin/env bash
# crane, that is go-containerregistry: the client of ko, kaniko, cosign and many CI tools.
source "$(dirname "$0")/lib.sh"

need_crane
start_registry
start_gateway
make_image "$WORK/image"
export SSL_CERT_FILE=$CA
IMAGE=$HOST/shop/web:1
DIGEST=$(manifest_digest "$WORK/image")

login() { crane auth login "$HOST" --username "$USER_NAME" --password-stdin <<<"$1"; }

# crane stores a login without asking the registry.
a_wrong_password_is_refused() {
    login wrong
    refused 'UNAUTHORIZED|401' crane digest "$IMAGE"
    crane auth logout "$HOST"
}

pulls_the_same_bytes() {
    crane pull --format oci "$IMAGE" "$WORK/back"
    same "$DIGEST" "$(manifest_digest "$WORK/back")"
    diff -r "$WORK/image/blobs" "$WORK/back/blobs"
}

appends_a_layer() {
    head -c 5000000 /dev/urandom >"$WORK/payload"
    tar -C "$WORK" -cf "$WORK/payload.tar" payload
    crane append --base "$IMAGE" --new_layer "$WORK/payload.tar" --new_tag "$HOST/shop/appended:1"
    crane validate --remote "$HOST/shop/appended:1"
    crane export "$HOST/shop/appended:1" - | tar -xO payload | cmp - "$WORK/payload"
}

mutates() {
    crane mutate --label made=here --tag "$HOST/shop/web:labelled" "$IMAGE"
    says 'made' crane config "$HOST/shop/web:labelled"
}

# To another repository, where crane asks to mount the layers, and to another prefix.
copies() {
    crane copy "$IMAGE" "$HOST/shop/api:1"
    crane copy "$IMAGE" "$HOST/team/api:1"
    same "$DIGEST" "$(crane digest "$HOST/shop/api:1")"
    same "$DIGEST" "$(crane digest "$HOST/team/api:1")"
}

lists_the_catalogue() {
    crane catalog "$HOST" >"$WORK/catalog"
    grep -qx shop/web "$WORK/catalog"
    grep -qx shop/api "$WORK/catalog"
}

pushes_an_index() {
    crane index append --manifest "$IMAGE" --manifest "$HOST/shop/appended:1" --tag "$HOST/shop/index:1"
    says 'image.index|manifest.list' crane manifest "$HOST/shop/index:1"
    crane validate --remote "$HOST/shop/index:1"
}

deletes() {
    crane delete "$HOST/shop/appended@$(crane digest "$HOST/shop/appended:1")"
    refused 'MANIFEST_UNKNOWN|404' crane digest "$HOST/shop/appended:1"
}

reads_a_blob() { crane blob "$HOST/shop/web@$1" | sha256sum | grep -q "${1#sha256:}"; }

logs_out() {
    crane auth logout "$HOST"
    refused 'UNAUTHORIZED|401' crane digest "$IMAGE"
}

check "push without login is refused" refused 'UNAUTHORIZED|401' crane push "$WORK/image" "$IMAGE"
check "pull without login is refused" refused 'UNAUTHORIZED|401' crane manifest "$IMAGE"
check "a wrong password is refused" a_wrong_password_is_refused
check "login" login "$PASSWORD"
check "push" crane push "$WORK/image" "$IMAGE"
check "digest" same "$DIGEST" "$(crane digest "$IMAGE" 2>&1)"
check "pull gives the same bytes" pulls_the_same_bytes
check "a large blob" reads_a_blob "$(jq -r '.layers[2].digest' "$WORK/image/blobs/sha256/${DIGEST#sha256:}")"
check "append a layer, validate and export it" appends_a_layer
check "mutate" mutates
check "copy to another repository and prefix" copies
check "tag" crane tag "$IMAGE" second
check "list tags" says '^second$' crane ls "$HOST/shop/web"
check "list the catalogue" lists_the_catalogue
check "an index of two images" pushes_an_index
check "delete" deletes
check "logout" logs_out

done_checking
