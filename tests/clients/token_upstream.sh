#!/usr/bin/env bash
# A registry that wants tokens: docker, containerd, podman and skopeo push and pull through the gateway, each with nothing
# but the gateway's own password. Then: which users the registry saw, and which tools sent them.
source "$(dirname "$0")/lib.sh"
source "$CLIENTS/upstreams.sh"

# Nothing else that is written or sent may happen to contain it.
PASSWORD=clients-own-2cV6
start_token_registry
UPSTREAM_KEYS=$(robot)
LOG_LEVEL=trace,h2=trace
start_gateway
start_tap
make_image "$WORK/image" 8
DIGEST=$(manifest_digest "$WORK/image")
LAYER=$(jq -r '.layers[0].digest' "$WORK/image/blobs/sha256/${DIGEST#sha256:}")
TRUST=$(trust_dir)
LOGIN=$USER_NAME:$PASSWORD
ACCEPT='Accept: application/vnd.oci.image.manifest.v1+json'
start_dockerd
start_containerd
hosts_toml "$HOST" "https://$HOST" "https://$HOST"

# The registry has no OCI manifest for who does not name its type.
ask() { gateway_curl -u "$LOGIN" -H "$ACCEPT" "$@"; }
status_of() { ask -o /dev/null -w '%{http_code}' "$@"; }

refuses_clients_without_a_token() {
    same 401 "$(upstream_curl -o /dev/null -w '%{http_code}' "https://$REGISTRY/v2/shop/web/tags/list")"
    same 401 "$(upstream_curl -u "robot:$ROBOT_PASSWORD" -o /dev/null -w '%{http_code}' "https://$REGISTRY/v2/shop/web/tags/list")"
}

docker_pushes_and_pulls() {
    skopeo copy --quiet "oci:$WORK/image:1" "docker-archive:$WORK/docker.tar:$HOST/shop/docker:1"
    docker load --quiet --input "$WORK/docker.tar"
    docker login --username "$USER_NAME" --password-stdin "$HOST" <<<"$PASSWORD"
    docker push "$HOST/shop/docker:1"
    docker image rm "$HOST/shop/docker:1"
    docker pull "$HOST/shop/docker:1"
}

# The layers are in shop/docker already: one token must be good for both repositories.
docker_mounts() {
    docker tag "$HOST/shop/docker:1" "$HOST/shop/mounted:1"
    says 'Mounted from shop/docker' docker push "$HOST/shop/mounted:1"
}

containerd_pushes_and_pulls() {
    skopeo copy --quiet "oci:$WORK/image:1" "oci-archive:$WORK/containerd.tar:$HOST/shop/containerd:1"
    tr_ images import --snapshotter native "$WORK/containerd.tar"
    tr_ images push --hosts-dir "$WORK/hosts" --user "$LOGIN" "$HOST/shop/containerd:1"
    tr_ images rm --sync "$HOST/shop/containerd:1"
    tr_ images pull --snapshotter native --hosts-dir "$WORK/hosts" --user "$LOGIN" "$HOST/shop/containerd:1"
    same "$DIGEST" "$(tr_ images ls "name==$HOST/shop/containerd:1" | awk 'NR == 2 { print $3 }')"
}

podman_pushes_and_pulls() {
    skopeo copy --quiet "oci:$WORK/image:1" "docker-archive:$WORK/podman.tar:$HOST/shop/podman:1"
    pod load --quiet --input "$WORK/podman.tar"
    pod login --cert-dir "$TRUST" -u "$USER_NAME" --password-stdin "$HOST" <<<"$PASSWORD"
    pod push --quiet --cert-dir "$TRUST" "$HOST/shop/podman:1"
    pod rmi --all --force
    pod pull --quiet --cert-dir "$TRUST" "$HOST/shop/podman:1"
    pod logout "$HOST"
}

skopeo_pushes_and_pulls() {
    skopeo --debug copy --dest-cert-dir "$TRUST" --dest-creds "$LOGIN" "oci:$WORK/image:1" "docker://$HOST/shop/web:1" 2>>"$WORK/skopeo.out"
    skopeo --debug copy --src-cert-dir "$TRUST" --src-creds "$LOGIN" "docker://$HOST/shop/web:1" "oci:$WORK/back:1" 2>>"$WORK/skopeo.out"
    diff -r "$WORK/image/blobs" "$WORK/back/blobs"
}

skopeo_deletes() {
    skopeo copy --quiet --dest-cert-dir "$TRUST" --dest-creds "$LOGIN" "oci:$WORK/image:1" "docker://$HOST/shop/gone:1"
    skopeo delete --cert-dir "$TRUST" --creds "$LOGIN" "docker://$HOST/shop/gone:1"
    same 404 "$(status_of /v2/shop/gone/manifests/1)"
}

# The account may use `web`, which is `team/web` here.
pushes_under_a_prefix() {
    skopeo copy --quiet --dest-cert-dir "$TRUST" --dest-creds "$LOGIN" "oci:$WORK/image:1" "docker://$HOST/team/web:1"
    says '"name":"team/web"' ask /v2/team/web/tags/list
}

# Every kind of request, with all that curl shows of it.
curl_asks_everything() {
    local method path
    while read -r method path; do
        ask -v -X "$method" -o /dev/null "$path" 2>>"$WORK/curl.out"
    done <<END
GET /v2/
GET /v2/_catalog
GET /v2/shop/web/tags/list
GET /v2/shop/web/manifests/1
GET /v2/shop/web/manifests/$DIGEST
GET /v2/shop/web/manifests/none
GET /v2/shop/web/blobs/$LAYER
GET /v2/shop/web/blobs/$DIGEST
GET /v2/shop/web/referrers/$DIGEST
POST /v2/shop/web/blobs/uploads/
POST /v2/shop/other/blobs/uploads/?mount=$LAYER&from=shop/web
PUT /v2/shop/web/manifests/bad
DELETE /v2/shop/web/manifests/sha256:$(printf 'x' | sha256sum | cut -d' ' -f1)
GET /v2/secret/web/manifests/1
END
    ask -v -I /v2/shop/web/manifests/1 >>"$WORK/curl.out" 2>&1
    has '^< HTTP/[0-9.]+ 200' "$(cat "$WORK/curl.out")"
}

# What is searched for secrets below has seen everyone. (Old podmans go by the name of their library.)
the_capture_holds_all_clients() {
    local client
    for client in docker containerd '(libpod|containers)' skopeo curl; do
        grep -aqiE "^user-agent: $client/" "$CAPTURE" || { echo "nothing of $client's"; return 1; }
    done
    grep -aq ' TRACE ' "$WORK/gateway.log"
}

lists_the_catalogue() { says '"shop/web"' ask /v2/_catalog; }

# Upstream answers 401 to a valid token without that right, as Docker Hub does for what is not there.
what_the_account_may_not_read_is_not_there() {
    same 404 "$(status_of /v2/secret/web/manifests/1)"
    has 'NAME_UNKNOWN|MANIFEST_UNKNOWN' "$(ask /v2/secret/web/manifests/1)"
}

# In the script's own shell, or nothing would end it.
restart_gateway() {
    stop "$GATEWAY"
    run_gateway
    : >"$WORK/tokens.log"
}

a_pull_asks_for_pull_alone() {
    same 200 "$(status_of /v2/shop/web/manifests/1)"
    has 'scopes="repository:shop/web:pull"' "$(cat "$WORK/tokens.log")"
    same 1 "$(token_requests)"
}

a_hundred_at_once_cost_one_token() {
    seq 100 | xargs -P 100 -I{} curl -s --cacert "$CA" -u "$LOGIN" --max-time 60 -o /dev/null -w '%{http_code}\n' \
        "https://$GATED/v2/shop/web/blobs/$LAYER" | sort | uniq -c >"$WORK/statuses"
    same '100 200' "$(awk '{ print $1, $2 }' "$WORK/statuses")"
    same 1 "$(token_requests)"
}

gets() { [ "$(status_of "$1")" = "$2" ]; }

# fail_tokens STATUS TIMES [RETRY-AFTER]: the next token requests.
fail_tokens() { upstream_curl -X POST "https://$TOKENS/control?status=$1&next=$2&retry_after=${3:-}"; }

a_token_server_that_fails_once() {
    fail_tokens 503 1
    within 15 gets /v2/shop/web/manifests/1 200
}

a_token_server_that_limits() {
    fail_tokens 429 1000 30
    has '429|502|503' "$(status_of /v2/shop/web/manifests/1)"
    for _ in {1..20}; do status_of /v2/shop/web/manifests/1; done
    test "$(token_requests)" -le 10
    fail_tokens 429 0
}

a_wrong_password_upstream_is_our_fault() {
    same 502 "$(status_of /v2/shop/web/manifests/1)"
    lacks '[Ww][Ww][Ww]-[Aa]uthenticate' <(ask -i /v2/shop/web/manifests/1)
    grep -a ' WARN ' "$WORK/gateway.log" | grep -q 'refuses the credentials'
}

check "by itself the registry refuses clients without a token" refuses_clients_without_a_token
check "skopeo pushes and pulls the same bytes" skopeo_pushes_and_pulls
check "docker pushes and pulls" docker_pushes_and_pulls
check "docker mounts from another repository" docker_mounts
check "containerd pushes and pulls" containerd_pushes_and_pulls
check "podman pushes and pulls" podman_pushes_and_pulls
check "skopeo deletes" skopeo_deletes
check "push under a prefix" pushes_under_a_prefix
check "the catalogue" lists_the_catalogue
check "what the account may not read is not there" what_the_account_may_not_read_is_not_there
check "curl asks everything" curl_asks_everything
check "upstream has seen the robot alone" same robot "$(registry_users)"
check "the token server has seen the robot alone" same robot "$(token_accounts)"
check "the capture holds all clients" the_capture_holds_all_clients
check "no client was shown a secret of upstream's" holds_no_secret "$CAPTURE"
check "curl shows none" holds_no_secret "$WORK/curl.out"
check "skopeo --debug shows none" holds_no_secret "$WORK/skopeo.out"
check "the gateway's log at trace level holds none, nor the client's" holds_no_secret "$WORK/gateway.log" "$PASSWORD" "$(basic "$LOGIN")"
check "the registry's log holds none of the client's" lacks "$USER_NAME|$PASSWORD" "$WORK/registry.log"

sed -i 's/^level = .*/level = "info"/' "$WORK/dockgate.toml"
restart_gateway
check "a pull asks for pull alone" a_pull_asks_for_pull_alone
restart_gateway
check "a hundred at once through a cold gateway cost one token" a_hundred_at_once_cost_one_token
restart_gateway
check "a token server that fails once is asked again" a_token_server_that_fails_once
restart_gateway
check "a token server that limits is left alone for a while" a_token_server_that_limits
sed -i "s/$ROBOT_PASSWORD/wrong-$ROBOT_PASSWORD/" "$WORK/dockgate.toml"
restart_gateway
check "a wrong password upstream is not asked of the client" a_wrong_password_upstream_is_our_fault

done_checking
