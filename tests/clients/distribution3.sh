#!/usr/bin/env bash
# Distribution 3 behind token authentication, by crane.
source "$(dirname "$0")/lib.sh"
source "$CLIENTS/upstreams.sh"

need_crane
need_distribution
# As GitLab's: no POST. And tokens as short as they may be.
TOKEN_OPTIONS=(--no-post --ttl 60)
start_distribution
UPSTREAM_KEYS=$(robot)
start_gateway
make_image "$WORK/image" 8
export SSL_CERT_FILE=$CA
IMAGE=$HOST/shop/web:1
DIGEST=$(manifest_digest "$WORK/image")

pulls_the_same_bytes() {
    crane pull --format oci "$IMAGE" "$WORK/back"
    diff -r "$WORK/image/blobs" "$WORK/back/blobs"
}

copies() {
    crane copy "$IMAGE" "$HOST/shop/api:1"
    same "$DIGEST" "$(crane digest "$HOST/shop/api:1")"
}

lists_the_catalogue() {
    crane catalog "$HOST" >"$WORK/catalog"
    grep -qx shop/web "$WORK/catalog"
}

deletes() {
    crane delete "$HOST/shop/api@$DIGEST"
    refused 'MANIFEST_UNKNOWN|404' crane digest "$HOST/shop/api:1"
}

refuses_clients_without_a_token() { same 401 "$(upstream_curl -o /dev/null -w '%{http_code}' "https://$REGISTRY/v2/shop/web/tags/list")"; }

check "by itself the registry refuses clients without a token" refuses_clients_without_a_token
check "login" crane auth login "$HOST" --username "$USER_NAME" --password-stdin <<<"$PASSWORD"
check "push" crane push "$WORK/image" "$IMAGE"
check "pull gives the same bytes" pulls_the_same_bytes
check "copy to another repository" copies
check "tag" crane tag "$IMAGE" second
check "list tags" says '^second$' crane ls "$HOST/shop/web"
check "list the catalogue" lists_the_catalogue
check "validate" crane validate --remote "$IMAGE"
check "delete" deletes
check "what the account may not read is not there" refused 'NAME_UNKNOWN|MANIFEST_UNKNOWN|404' crane digest "$HOST/secret/web:1"
check "upstream has seen the robot alone" same robot "$(registry_users)"
check "the token server has seen the robot alone" same robot "$(token_accounts)"

done_checking
