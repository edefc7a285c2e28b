#!/usr/bin/env bash
# A registry whose storage redirects to a CDN, which serves requests with a signed URL and without credentials.
source "$(dirname "$0")/lib.sh"
source "$CLIENTS/upstreams.sh"

start_cdn
start_token_registry
make_image "$WORK/image" 8
DIGEST=$(manifest_digest "$WORK/image")
LAYER=$(jq -r '.layers[2].digest' "$WORK/image/blobs/sha256/${DIGEST#sha256:}")
BLOB=/v2/shop/web/blobs/$LAYER
LOGIN=$USER_NAME:$PASSWORD
FROM_CDN="redirect_hosts = [\"$CDN\"]"

layer() { cat "$WORK/image/blobs/sha256/${LAYER#sha256:}"; }
ask() { gateway_curl -u "$LOGIN" "$@"; }
status_of() { ask -o /dev/null -w '%{http_code}' "$@"; }
skopeo_pulls() { skopeo copy --quiet --src-cert-dir "$TRUST" --src-creds "$LOGIN" "docker://$HOST/shop/web:1" "oci:$WORK/$1:1"; }

# gateway_with LINES...: a new gateway with these in the upstream's table.
gateway_with() {
    [ -z "${GATEWAY:-}" ] || stop "$GATEWAY"
    : >"$WORK/cdn-access.log"
    UPSTREAM_KEYS=$(printf '%s\n' "$@"; robot)
    gateway_config >"$WORK/dockgate.toml"
    run_gateway
}

by_itself_it_redirects() {
    local token
    token=$(upstream_token repository:shop/web:pull)
    same 307 "$(upstream_curl -o /dev/null -w '%{http_code}' -H "Authorization: Bearer $token" "https://$REGISTRY$BLOB")"
    same 400 "$(upstream_curl -o /dev/null -w '%{http_code}' -H "Authorization: Bearer $token" "https://$CDN/docker/x")"
    : >"$WORK/cdn-access.log"
}

# The registry answers HEAD with a redirect, too: a client that pushes asks whether a layer is there.
pushes() {
    skopeo copy --quiet --dest-cert-dir "$TRUST" --dest-creds "$LOGIN" "oci:$WORK/image:1" "docker://$HOST/shop/web:1"
    skopeo copy --quiet --dest-cert-dir "$TRUST" --dest-creds "$LOGIN" "oci:$WORK/image:1" "docker://$HOST/shop/web:2"
}

pulls_the_same_bytes() {
    skopeo_pulls back
    diff -r "$WORK/image/blobs" "$WORK/back/blobs"
}

answers_200_at_once() {
    same '200 0' "$(ask -o "$WORK/blob" -w '%{http_code} %{num_redirects}' "$BLOB")"
    layer | cmp - "$WORK/blob"
    lacks '^[Ll]ocation:' <(ask -I "$BLOB")
}

a_range_is_followed() {
    same 206 "$(ask -r 1000-1999 -o "$WORK/part" -w '%{http_code}' "$BLOB")"
    test "$(stat -c %s "$WORK/part")" = 1000
    cmp -n 1000 -i 1000:0 "$WORK/image/blobs/sha256/${LAYER#sha256:}" "$WORK/part"
    has ' range="bytes=1000-1999"' "$(cat "$WORK/cdn-access.log")"
}

with_a_namespace() {
    skopeo copy --quiet --dest-cert-dir "$TRUST" --dest-creds "$LOGIN" "oci:$WORK/image:1" "docker://$HOST/team/web:1"
    same 200 "$(status_of "/v2/web/blobs/$LAYER?ns=team.example")"
}

nothing_foreign_reached_it() {
    has '^200 GET /signed/' "$(cat "$WORK/cdn-access.log")"
    lacks '^400|foreign="[^"]*[a-z]' "$WORK/cdn-access.log"
}

an_unnamed_host_is_refused() {
    same 502 "$(status_of "$BLOB")"
    has 'redirect_hosts' "$(cat "$WORK/gateway.log")"
    test ! -s "$WORK/cdn-access.log"
}

the_client_gets_the_redirect() {
    same 307 "$(status_of "$BLOB")"
    has "^[Ll]ocation: https://$CDN/docker/" "$(ask -I -X GET "$BLOB")"
    upstream_curl -L "$(ask -o /dev/null -w '%{redirect_url}' "$BLOB")" -o "$WORK/blob"
    layer | cmp - "$WORK/blob"
}

UPSTREAM_KEYS=$(echo "$FROM_CDN"; robot)
start_gateway
TRUST=$(trust_dir)

check "push, and push again what is there" pushes
check "by itself the registry redirects, and the CDN refuses credentials" by_itself_it_redirects
check "pull gives the same bytes" pulls_the_same_bytes
check "the client sees 200 and no redirect" answers_200_at_once
check "a range goes to the CDN" a_range_is_followed
check "with ?ns=" with_a_namespace
check "the CDN has seen no credentials, cookies or ns" nothing_foreign_reached_it
gateway_with
check "a host on a private address that is not named is refused" an_unnamed_host_is_refused
gateway_with 'redirect_hosts = ["cdn.example"]'
check "a host that is not among the named is refused" an_unnamed_host_is_refused
gateway_with "$FROM_CDN" 'redirects = "pass"'
check "redirects = pass hands it to the client" the_client_gets_the_redirect

done_checking
