#!/usr/bin/env bash
# A registry behind its own htpasswd, which wants Basic with every request.
source "$(dirname "$0")/lib.sh"
source "$CLIENTS/upstreams.sh"

PASSWORD=clients-own-2cV6
start_htpasswd_registry
UPSTREAM_KEYS=$(robot)
LOG_LEVEL=trace,h2=trace
start_gateway
start_tap
make_image "$WORK/image" 8
TRUST=$(trust_dir)
LOGIN=$USER_NAME:$PASSWORD
IMAGE=docker://$HOST/shop/web:1

status_of() { gateway_curl -u "$LOGIN" -o /dev/null -w '%{http_code}' "$@"; }

refuses_everyone_else() {
    same 401 "$(upstream_curl -o /dev/null -w '%{http_code}' "https://$REGISTRY/v2/")"
    same 401 "$(upstream_curl -u "$LOGIN" -o /dev/null -w '%{http_code}' "https://$REGISTRY/v2/")"
}

pushes_and_pulls() {
    skopeo copy --quiet --dest-cert-dir "$TRUST" --dest-creds "$LOGIN" "oci:$WORK/image:1" "$IMAGE"
    skopeo copy --quiet --src-cert-dir "$TRUST" --src-creds "$LOGIN" "$IMAGE" "oci:$WORK/back:1"
    diff -r "$WORK/image/blobs" "$WORK/back/blobs"
}

deletes() {
    skopeo delete --cert-dir "$TRUST" --creds "$LOGIN" "$IMAGE"
    refused 'manifest unknown|not found' skopeo inspect --cert-dir "$TRUST" --creds "$LOGIN" "$IMAGE"
}

a_wrong_client_is_refused_here() {
    : >"$WORK/registry.log"
    same 401 "$(gateway_curl -u "robot:$ROBOT_PASSWORD" -o /dev/null -w '%{http_code}' /v2/shop/web/tags/list)"
    lacks 'shop/web/tags' "$WORK/registry.log"
}

a_wrong_password_upstream_is_our_fault() {
    same 502 "$(status_of /v2/shop/web/tags/list)"
    grep -a ' WARN ' "$WORK/gateway.log" | grep -q 'refuses .*upstream.credentials'
}

check "by itself the registry refuses everyone else" refuses_everyone_else
check "push and pull the same bytes" pushes_and_pulls
check "list tags" says '"1"' skopeo list-tags --cert-dir "$TRUST" --creds "$LOGIN" "docker://$HOST/shop/web"
check "delete" deletes
check "upstream has seen the robot alone" same robot "$(registry_users)"
check "no client was shown a secret of upstream's" holds_no_secret "$CAPTURE"
check "the gateway's log at trace level holds none, nor the client's" holds_no_secret "$WORK/gateway.log" "$PASSWORD" "$(basic "$LOGIN")"
check "upstream's account is no login here" a_wrong_client_is_refused_here
stop "$GATEWAY"
sed -i "s/$ROBOT_PASSWORD/wrong-$ROBOT_PASSWORD/" "$WORK/dockgate.toml"
run_gateway
check "a wrong password upstream is not asked of the client" a_wrong_password_upstream_is_our_fault

done_checking
